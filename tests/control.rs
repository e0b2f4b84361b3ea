//! Control flow: derivatives in what bodies capture, branches that are certainly taken, what has no derivative.

use expect_test::expect;
use fam_onnx::ad::{grad_model, jvp_model};
use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Model, Node, Tensor, Val, verify};
use fam_onnx::onnx::{compact, read_bytes, to_bytes};
use fam_onnx::ops::Array;
use std::collections::HashMap;

fn fact(shape: &[i64]) -> Fact {
    Fact::new(DType::F64, shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>())
}

fn model(graph: Graph) -> Model {
    Model { graph, opset: 17, ir_version: 8, ..Model::default() }
}

/// A body made by `f` with the values of `outer` in reach.
fn body(f: impl FnOnce(&Builder)) -> Graph {
    let b = Builder::new();
    f(&b);
    b.finish().expect("a body")
}

/// `h' = tanh(h W + x) ⊙ v`, `y` the last h, with `W` and `v` captured and time on the second axis.
fn scan_model() -> Model {
    let b = Builder::new();
    let (x, w, v) =
        (b.input("x", fact(&[2, 4, 3]), None), b.input("W", fact(&[3, 3]), None), b.input("v", fact(&[3]), None));
    let inner = body(|i| {
        let (h, x) = (i.input("h", fact(&[2, 3]), None), i.input("slice", fact(&[2, 3]), None));
        i.output((h.matmul(i.capture(w)) + x).tanh() * i.capture(v), "h.next");
    });
    let attrs = Attrs::new().with("num_scan_inputs", 1).with("scan_input_axes", [1]).with("body", inner);
    let start = b.zeros(DType::F64, &[Dim::Fixed(2), Dim::Fixed(3)]);
    b.output(b.op("Scan", &[start, x], attrs), "y");
    model(b.finish().expect("a graph"))
}

/// `h' = sin(h W) ⊙ v` as long as `Σh' < 1`, at most 5 times.
fn loop_model() -> Model {
    let b = Builder::new();
    let (x, w, v) =
        (b.input("x", fact(&[2, 3]), None), b.input("W", fact(&[3, 3]), None), b.input("v", fact(&[3]), None));
    let inner = body(|i| {
        i.input("round", Fact::new(DType::I64, []), None);
        i.input("condition", Fact::new(DType::Bool, []), None);
        let h = i.input("h", fact(&[2, 3]), None);
        let next = h.matmul(i.capture(w)).sin() * i.capture(v);
        i.output(next.sum_all().lt(next.like(1.0)), "condition.next");
        i.output(next, "h.next");
    });
    let limit = b.constant(Tensor::ints(&[], &[5]));
    let out = b.node("Loop", &[Some(limit), None, Some(x)], Attrs::new().with("body", inner), 1);
    b.output(out[0], "y");
    model(b.finish().expect("a graph"))
}

/// `y = Σx < 0 ? x W : sin(x) ⊙ v`
fn if_model() -> Model {
    let b = Builder::new();
    let (x, w, v) =
        (b.input("x", fact(&[2, 3]), None), b.input("W", fact(&[3, 3]), None), b.input("v", fact(&[3]), None));
    let yes = body(|i| drop(i.output(i.capture(x).matmul(i.capture(w)), "yes")));
    let no = body(|i| drop(i.output(i.capture(x).sin() * i.capture(v), "no")));
    let attrs = Attrs::new().with("then_branch", yes).with("else_branch", no);
    b.output(b.op("If", &[x.sum_all().lt(x.like(0.0))], attrs), "y");
    model(b.finish().expect("a graph"))
}

/// Numbers for every input, the same each time.
fn feeds(graph: &Graph, shift: f64) -> HashMap<String, Array> {
    let mut k = shift;
    let mut data = HashMap::new();
    for &id in &graph.inputs {
        let fact = &graph.value(id).fact;
        let shape: Vec<usize> =
            fact.shape.iter().flatten().map(|d| d.fixed().expect("a fixed size") as usize).collect();
        let values = (0..shape.iter().product()).map(|_| {
            k += 1.0;
            0.6 * (k * 1.7).sin()
        });
        data.insert(
            graph.name_of(id).to_string(),
            Array::from_vec(fact.dtype, &shape, values.collect()).expect("as many as fit"),
        );
    }
    data
}

fn output(graph: &Graph, feeds: &HashMap<String, Array>, name: &str) -> Array {
    let values = evaluate(graph, feeds).expect("evaluates");
    values[&graph.find(name).expect("a value of that name")].clone()
}

/// `⟨∂⟨of, cotangent⟩/∂wrt, direction⟩` by the gradient, and by central differences.
fn both_ways(model: &Model, of: &str, wrt: &str, data: &HashMap<String, Array>) -> (f64, f64) {
    let made = grad_model(model, of, &[wrt.to_string()]).expect("a gradient");
    verify(&made.model.graph).expect("a sound graph");
    let seed = &made.inputs[0];
    let value = output(&model.graph, data, of);
    let weight = |k: usize| (k as f64 * 2.3).cos();
    let cotangent = value.data.iter().enumerate().map(|(k, _)| weight(k)).collect();
    let mut with_seed = data.clone();
    with_seed.insert(seed.clone(), Array::from_vec(DType::F64, value.shape(), cotangent).expect("fits"));
    let gradient = output(&made.model.graph, &with_seed, &made.outputs[0]);
    let along: f64 = gradient.data.iter().enumerate().map(|(k, g)| g * weight(k + 1)).sum();
    let moved = |step: f64| {
        let mut data = data.clone();
        let array = data.get_mut(wrt).expect("an input");
        array.data.iter_mut().enumerate().for_each(|(k, v)| *v += step * weight(k + 1));
        let value = output(&model.graph, &data, of);
        value.data.iter().enumerate().map(|(k, v)| v * weight(k)).sum::<f64>()
    };
    let step = 1e-4;
    let difference = (8.0 * (moved(step) - moved(-step)) - (moved(2.0 * step) - moved(-2.0 * step))) / (12.0 * step);
    (along, difference)
}

#[test]
fn derivatives_in_captured_values() {
    let models = [("scan", scan_model()), ("loop", loop_model()), ("if", if_model())];
    for (name, model) in &models {
        for shift in [0.0, 2.0] {
            let data = feeds(&model.graph, shift);
            for wrt in ["x", "W", "v"] {
                let (found, expected) = both_ways(model, "y", wrt, &data);
                assert!((found - expected).abs() < 1e-8, "{name} {wrt}: {found}, expected {expected}");
                let first = grad_model(model, "y", &[wrt.to_string()]).expect("a gradient").model;
                let data = feeds(&first.graph, shift);
                let of = format!("{wrt}.grad");
                let (found, expected) = both_ways(&first, &of, "W", &data);
                assert!((found - expected).abs() < 1e-7, "{name} {wrt} W: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn derivatives_go_through_a_file() {
    for model in [scan_model(), loop_model(), if_model()] {
        let names = ["x".to_string(), "W".to_string()];
        for made in [grad_model(&model, "y", &names), jvp_model(&model, "y", &names)] {
            let made = made.expect("a derivative").model;
            let again = read_bytes(&to_bytes(&made), None).expect("a model");
            let twice = read_bytes(&to_bytes(&again), None).expect("a model");
            assert_eq!(compact(&twice.graph), compact(&again.graph));
            let data = feeds(&made.graph, 1.0);
            let name = made.graph.name_of(*made.graph.outputs.last().expect("outputs")).to_string();
            assert_eq!(output(&again.graph, &data, &name), output(&made.graph, &data, &name));
        }
    }
}

/// The sequence is read again, the state is handed out, and the weight's part is summed up on the way back.
#[test]
fn the_gradient_of_a_scan_is_a_scan() {
    let made = grad_model(&scan_model(), "y", &["W".to_string(), "x".to_string()]).expect("a gradient");
    expect![[r#"
        graph (double[2,4,3] x, double[3,3] W, double[3] v, double[2,3] "y.cotangent") => (double[2,3] y, double[3,3] "W.grad", double[2,4,3] "x.grad")
        <
           double[2,3] const = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0},
           double[3,3] const_1 = {...}
        >
        {
           [Scan] y, "Scan:1", "Scan:2" = Scan <body = graph (double[2,3] h, double[2,3] slice) => (double[2,3] "h.next", double[2,3] "h.stacked", double[2,3] "Tanh.stacked")
           {
              MatMul = MatMul (h, W)
              Add = Add (MatMul, slice)
              Tanh = Tanh (Add)
              [Mul] "h.next" = Mul (Tanh, v)
              ["h.stacked/Identity"] "h.stacked" = Identity (h)
              ["Tanh.stacked/Identity"] "Tanh.stacked" = Identity (Tanh)
           }, num_scan_inputs = 1, scan_input_axes = [1]> (const, x)
           ["Scan.cotangent"] "Scan.cotangent:0", "W.grad", "x.grad" = Scan <body = graph (double[2,3] "h.next.cotangent", double[3,3] "W.sum", double[2,3] h_1, double[2,3] Tanh_1) => (double[2,3] "MatMul.cotangent/Gemm_1.next", double[3,3] "Scan.cotangent.next", double[2,3] "Tanh.cotangent.next")
           <
              double "const/1" = {1.0}
           >
           {
              "Tanh.linear" = Mul (Tanh_1, Tanh_1)
              "Tanh.linear/Sub" = Sub ("const/1", "Tanh.linear")
              "Mul.cotangent" = Mul ("h.next.cotangent", v)
              ["Tanh.cotangent"] "Tanh.cotangent.next" = Mul ("Mul.cotangent", "Tanh.linear/Sub")
              "MatMul.cotangent/Gemm" = Gemm <transA = 1> (h_1, "Tanh.cotangent.next")
              ["MatMul.cotangent/Gemm_1"] "MatMul.cotangent/Gemm_1.next" = Gemm <transB = 1> ("Tanh.cotangent.next", W)
              ["Scan.cotangent_1"] "Scan.cotangent.next" = Add ("W.sum", "MatMul.cotangent/Gemm")
           }, num_scan_inputs = 2, scan_input_directions = [1, 1], scan_output_axes = [1], scan_output_directions = [1]> ("y.cotangent", const_1, "Scan:1", "Scan:2")
        }
    "#]].assert_eq(&compact(&made.model.graph));
}

#[test]
fn a_branch_that_is_certainly_taken_stands_in_place_of_its_node() {
    let b = Builder::new();
    let x = b.input("x", fact(&[2, 3]), None);
    let yes = body(|i| drop(i.output(i.capture(x).sin(), "yes")));
    let no = body(|i| drop(i.output(i.capture(x).cos(), "no")));
    let attrs = Attrs::new().with("then_branch", yes).with("else_branch", no);
    let rank_is_2 = b.constant(Tensor::from_f64(DType::Bool, &[], [1.0]));
    b.output(b.op("If", &[rank_is_2], attrs), "y");
    let read = read_bytes(&to_bytes(&model(b.finish().expect("a graph"))), None).expect("a model");
    expect![[r#"
        graph (double[2,3] x) => (double[2,3] y)
        {
           [Sin] yes = Sin (x)
           ["If/Identity_0"] y = Identity (yes)
        }
    "#]]
    .assert_eq(&compact(&read.graph));
}

/// A loop-carried value that grows is named.
#[test]
fn a_state_that_changes_its_shape_has_no_derivative() {
    let b = Builder::new();
    let x = b.input("x", fact(&[2, 3]), None);
    let limit = b.input("limit", Fact::new(DType::I64, []), None);
    let inner = body(|i| {
        i.input("round", Fact::new(DType::I64, []), None);
        let condition = i.input("condition", Fact::new(DType::Bool, []), None);
        let rows = Dim::symbol("rows");
        let h = i.input("h", Fact::new(DType::F64, [rows, Dim::Fixed(3)]), None);
        i.output(condition, "condition.next");
        i.output(i.op("Concat", &[h, i.capture(x)], Attrs::new().with("axis", 0)), "h.next");
    });
    let out = b.node("Loop", &[Some(limit), None, Some(x)], Attrs::new().with("body", inner), 1);
    b.output(out[0], "y");
    let read = read_bytes(&to_bytes(&model(b.finish().expect("a graph"))), None).expect("a model");
    let error = grad_model(&read, "y", &["x".to_string()]).expect_err("no derivative");
    expect![[r#"
        1 node on the path has no derivative:
          Loop (Loop): its loop-carried value "h" is not known to keep its shape from one round to the next"#]]
    .assert_eq(&error.to_string());
}

/// Branches in branches, as deep as a file may have them.
#[test]
fn deep_nesting_is_differentiated() {
    fn level<'o>(depth: usize, x: Val<'o>, condition: Val<'o>) -> Graph {
        let b = Builder::new();
        let x = b.capture(x);
        let condition = b.capture(condition);
        let out = if depth == 0 {
            x.sin()
        } else {
            let no = body(|i| drop(i.output(i.capture(x) * i.capture(x), "no")));
            let attrs = Attrs::new().with("then_branch", level(depth - 1, x, condition)).with("else_branch", no);
            b.op("If", &[condition], attrs)
        };
        b.output(out, "out");
        b.finish().expect("a branch")
    }
    let b = Builder::new();
    let (x, condition) = (b.input("x", fact(&[2]), None), b.input("condition", Fact::new(DType::Bool, []), None));
    let attrs = Attrs::new().with("then_branch", level(20, x, condition)).with("else_branch", level(0, x, condition));
    b.output(b.op("If", &[condition], attrs), "y");
    let read = read_bytes(&to_bytes(&model(b.finish().expect("a graph"))), None).expect("a model");
    let made = grad_model(&read, "y", &["x".to_string()]).expect("a gradient");
    verify(&made.model.graph).expect("a sound graph");
    let mut data = feeds(&made.model.graph, 0.0);
    data.insert("condition".into(), Array::from_vec(DType::Bool, &[], vec![1.0]).expect("fits"));
    let expected = data["x"].data.mapv(f64::cos) * &data["y.cotangent"].data;
    assert_eq!(output(&made.model.graph, &data, "x.grad").data, expected);
}

/// A node of an operator that the builder does not know.
fn add<'g>(b: &'g Builder, op: &str, inputs: &[Val<'g>], attrs: Attrs, out: &str) -> Val<'g> {
    let node = Node {
        name: b.fresh_name(&format!("{out}/{op}")),
        op: op.to_string(),
        inputs: inputs.iter().map(|v| Some(v.id())).collect(),
        attrs,
        ..Node::default()
    };
    b.import(node, &[Some(out.to_string())], &[]).pop().flatten().expect("an output")
}

/// The rows of x as a sequence, the sine of one put in behind the first, the last taken away, the rest stacked again.
fn rows(b: &Builder, position: Val<'_>) {
    let x = b.find("x").expect("x");
    let int = |v: i64| b.constant(Tensor::ints(&[], &[v]));
    let split = add(b, "SplitToSequence", &[x], Attrs::new().with("keepdims", 0), "split");
    let position = b.val(position.id());
    let row = add(b, "SequenceAt", &[split, position], Attrs::new(), "row");
    let inserted = add(b, "SequenceInsert", &[split, row.sin(), int(1)], Attrs::new(), "inserted");
    let erased = add(b, "SequenceErase", &[inserted, int(-1)], Attrs::new(), "erased");
    let optional = add(b, "Optional", &[erased], Attrs::new(), "optional");
    let element = add(b, "OptionalGetElement", &[optional], Attrs::new(), "element");
    let joined = Attrs::new().with("axis", -1).with("new_axis", 1);
    b.output(add(b, "ConcatFromSequence", &[element], joined, "y"), "y");
    b.output(add(b, "SequenceLength", &[element], Attrs::new(), "n"), "n");
}

#[test]
fn sequences_that_are_known_are_gone() {
    let b = Builder::new();
    b.input("x", fact(&[3, 2]), None);
    rows(&b, b.constant(Tensor::ints(&[], &[-1])));
    let read = read_bytes(&to_bytes(&model(b.finish().expect("a graph"))), None).expect("a model");
    expect![[r#"
        graph (double[3,2] x) => (double[2,3] y, int64 n)
        <
           int64[3] "const/1_1_1" = {1, 1, 1},
           int64[1] "const/0" = {0},
           int64[1] "const/1_1" = {1},
           int64 "const/3" = {3}
        >
        {
           ["split/SplitToSequence/Split"] "split/SplitToSequence/Split:0", "split/SplitToSequence/Split:1", "split/SplitToSequence/Split:2" = Split <axis = 0> (x, "const/1_1_1")
           "split/SplitToSequence/Squeeze" = Squeeze ("split/SplitToSequence/Split:0", "const/0")
           "split/SplitToSequence/Squeeze_1" = Squeeze ("split/SplitToSequence/Split:1", "const/0")
           "split/SplitToSequence/Squeeze_2" = Squeeze ("split/SplitToSequence/Split:2", "const/0")
           ["row/SequenceAt/Identity_0"] row = Identity ("split/SplitToSequence/Squeeze_2")
           Sin = Sin (row)
           "y/ConcatFromSequence/Unsqueeze" = Unsqueeze ("split/SplitToSequence/Squeeze", "const/1_1")
           "y/ConcatFromSequence/Unsqueeze_1" = Unsqueeze (Sin, "const/1_1")
           "y/ConcatFromSequence/Unsqueeze_2" = Unsqueeze ("split/SplitToSequence/Squeeze_1", "const/1_1")
           "y/ConcatFromSequence/Concat" = Concat <axis = 1> ("y/ConcatFromSequence/Unsqueeze", "y/ConcatFromSequence/Unsqueeze_1", "y/ConcatFromSequence/Unsqueeze_2")
           ["y/ConcatFromSequence/Identity_0"] y = Identity ("y/ConcatFromSequence/Concat")
           ["n/SequenceLength/Identity_0"] n = Identity ("const/3")
        }
    "#]].assert_eq(&compact(&read.graph));
    let (found, expected) = both_ways(&read, "y", "x", &feeds(&read.graph, 0.0));
    assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
}

#[test]
fn a_sequence_that_only_a_run_knows_has_no_derivative() {
    let b = Builder::new();
    b.input("x", fact(&[3, 2]), None);
    rows(&b, b.input("position", Fact::new(DType::I64, []), None));
    let read = read_bytes(&to_bytes(&model(b.finish().expect("a graph"))), None).expect("a model");
    let error = grad_model(&read, "y", &["x".to_string()]).expect_err("no derivative");
    expect![[r#"
        1 node on the path has no derivative:
          split/SequenceConstruct (SequenceConstruct): there is no rule for this operator"#]]
    .assert_eq(&error.to_string());
}
