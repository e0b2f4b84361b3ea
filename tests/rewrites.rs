//! Rewrites compute what the nodes compute that they replace: small graphs run as imported and as simplified.

use std::collections::HashMap;

use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Node, Tensor, Val};
use fam_onnx::ops::Array;
use fam_onnx::simplify::simplify;

/// A node that no rewrite sees.
fn import<'g>(b: &'g Builder, op: &str, inputs: &[Val<'g>], attrs: Attrs) -> Val<'g> {
    let name = b.fresh_name(op);
    let inputs = inputs.iter().map(|v| Some(v.id())).collect();
    let node = Node { name: name.clone(), op: op.to_string(), inputs, attrs, ..Node::default() };
    b.import(node, &[Some(name)], &[None])[0].expect("an output")
}

/// The values of the output `y`, before and after the rewrites.
fn both(graph: &Graph, inputs: &[(&str, &[usize], &[f64])]) -> [Vec<f64>; 2] {
    let dtype = |name: &str| graph.value(graph.find(name).expect("an input")).fact.dtype;
    let feeds: HashMap<String, Array> = inputs
        .iter()
        .map(|(name, shape, data)| {
            (name.to_string(), Array::from_vec(dtype(name), shape, data.to_vec()).expect("as many values"))
        })
        .collect();
    let simplified = simplify(graph).expect("a sound graph");
    [graph, &simplified].map(|g| {
        let y = g.find("y").expect("the output keeps its name");
        assert_eq!(g.outputs, [y]);
        evaluate(g, &feeds).expect("a graph that runs")[&y].data.iter().copied().collect()
    })
}

fn float(shape: &[Dim]) -> Fact {
    Fact::new(DType::F32, shape)
}

#[test]
fn a_product_with_a_shifted_or_oblong_identity_stays() {
    for (shape, k) in [([3, 3], 1), ([2, 3], 0)] {
        let b = Builder::new();
        let like = b.input("like", float(&shape.map(Dim::Fixed)), None);
        let x = b.input("x", float(&[3, 2].map(Dim::Fixed)), None);
        let eye = import(&b, "EyeLike", &[like], Attrs::new().with("k", i64::from(k)));
        b.output(import(&b, "MatMul", &[eye, x], Attrs::new()), "y");
        let graph = b.finish().expect("a sound graph");
        let size = (shape[0] * shape[1]) as usize;
        let like: Vec<f64> = vec![0.0; size];
        let shape = shape.map(|n| n as usize);
        let [plain, rewritten] =
            both(&graph, &[("like", &shape, &like), ("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
        assert_eq!(plain, rewritten);
    }
}

#[test]
fn axes_that_are_joined_move_together_and_split_ones_stay() {
    // What the inner reshape gives, and how many reshapes are left.
    for (inner, left) in [([2, 1, 3, 4], 1), ([4, 3, 2, 1], 2)] {
        let b = Builder::new();
        let x = b.input("x", float(&[2, 3, 2, 2].map(Dim::Fixed)), None);
        let joined = import(&b, "Reshape", &[x, b.ints(&inner)], Attrs::new());
        let moved = import(&b, "Transpose", &[joined], Attrs::new().with("perm", vec![1, 2, 0, 3]));
        b.output(import(&b, "Reshape", &[moved, b.ints(&[3, -1])], Attrs::new()), "y");
        let graph = b.finish().expect("a sound graph");
        let data: Vec<f64> = (0..24).map(f64::from).collect();
        let [plain, rewritten] = both(&graph, &[("x", &[2, 3, 2, 2], &data)]);
        assert_eq!(plain, rewritten);
        let simplified = simplify(&graph).expect("a sound graph");
        assert_eq!(simplified.nodes.iter().filter(|node| node.op == "Reshape").count(), left);
    }
}

#[test]
fn a_sign_stays_inside_a_scatter_that_takes_the_maximum() {
    let b = Builder::new();
    let x = b.input("x", float(&[Dim::Fixed(1)]), None);
    let indices = b.ints(&[0]);
    let zeros = b.constant(Tensor::from_f64(DType::F32, &[1], [0.0]));
    let negated = import(&b, "Neg", &[x], Attrs::new());
    let attrs = Attrs::new().with("axis", 0).with("reduction", "max");
    b.output(import(&b, "ScatterElements", &[zeros, indices, negated], attrs), "y");
    let graph = b.finish().expect("a sound graph");
    let [plain, rewritten] = both(&graph, &[("x", &[1], &[1.0])]);
    assert_eq!(plain, rewritten);
}

/// Of two symbols either may be 1 at run time.
#[test]
fn an_expansion_stays_where_another_symbol_might_not_replace_it() {
    let b = Builder::new();
    let (n, m) = (Dim::symbol("N"), Dim::symbol("M"));
    let x = b.input("x", float(&[Dim::symbol("K")]), None);
    let z = b.input("z", float(&[m]), None);
    let like = b.input("like", float(&[n]), None);
    let shape = import(&b, "Shape", &[like], Attrs::new());
    let wide = import(&b, "Expand", &[x, shape], Attrs::new());
    b.output(import(&b, "Add", &[wide, z], Attrs::new()), "y");
    let graph = b.finish().expect("a sound graph");
    let [plain, rewritten] = both(&graph, &[("x", &[1], &[1.0]), ("z", &[1], &[2.0]), ("like", &[3], &[0.0; 3])]);
    assert_eq!(plain, rewritten);
}

#[test]
fn an_output_keeps_a_name_that_another_node_has() {
    let b = Builder::new();
    let x = b.input("x", float(&[Dim::Fixed(2)]), None);
    let node = Node { name: "y".into(), op: "Exp".into(), inputs: vec![Some(x.id())], ..Node::default() };
    let hidden = b.import(node, &[Some("hidden".into())], &[None])[0].expect("an output");
    let node = Node { name: "last".into(), op: "Tanh".into(), inputs: vec![Some(hidden.id())], ..Node::default() };
    let mut graph = {
        b.import(node, &[Some("y".into())], &[None]);
        b.finish().expect("a sound graph")
    };
    graph.outputs = graph.find("y").into_iter().collect();
    let [plain, rewritten] = both(&graph, &[("x", &[2], &[1.0, 2.0])]);
    assert_eq!(plain, rewritten);
}

type Ints = &'static [i64];
type Names = &'static [&'static str];

/// The operators that are left of a graph with the output `y`, and that it computes the same as before.
fn left_of(graph: &Graph, inputs: &[(&str, &[usize], &[f64])]) -> Vec<String> {
    let [plain, rewritten] = both(graph, inputs);
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
    assert!(plain.len() == rewritten.len() && plain.iter().zip(&rewritten).all(close), "{plain:?}\n{rewritten:?}");
    simplify(graph).expect("a sound graph").nodes.into_iter().map(|node| node.op).collect()
}

#[test]
fn a_sum_divided_by_its_size_is_a_mean_and_by_another_number_stays() {
    let n = Dim::symbol("N");
    for (divisor, left) in [(6.0, vec!["ReduceMean"]), (3.0, vec!["ReduceSum", "Div"])] {
        let b = Builder::new();
        let x = b.input("x", float(&[n.clone(), Dim::Fixed(2), Dim::Fixed(3)]), None);
        let sum = import(&b, "ReduceSum", &[x, b.ints(&[-1, 1])], Attrs::new().with("keepdims", 0));
        b.output(import(&b, "Div", &[sum, b.scalar(DType::F32, divisor)], Attrs::new()), "y");
        let data: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(left_of(&b.finish().expect("a sound graph"), &[("x", &[2, 2, 3], &data)]), left);
    }
    let b = Builder::new();
    let x = b.input("x", float(&[n.clone(), Dim::Fixed(2)]), None);
    let sum = import(&b, "ReduceSum", &[x, b.ints(&[0])], Attrs::new().with("keepdims", 1));
    b.output(import(&b, "Div", &[sum, b.dim_scalar(&n, DType::F32)], Attrs::new()), "y");
    let graph = b.finish().expect("a sound graph");
    assert_eq!(left_of(&graph, &[("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]), ["ReduceMean"]);
}

#[test]
fn a_sum_does_not_need_the_reshape_before_it() {
    let data: Vec<f64> = (0..24).map(f64::from).collect();
    // The shape from, the shape to, the axes, what is left.
    let cases: [(Ints, Ints, Ints, &[&str]); 6] = [
        (&[2, 3, 4], &[6, 4], &[0], &["ReduceSum"]),
        (&[6, 4], &[2, 3, 4], &[0, 1], &["ReduceSum"]),
        (&[2, 3, 4], &[2, 12], &[1], &["ReduceSum"]),
        (&[6, 4], &[2, 3, 4], &[1], &["Reshape", "ReduceSum"]),
        (&[6, 2, 2], &[2, 3, 4], &[0, 1], &["Reshape", "ReduceSum"]),
        (&[2, 3, 4], &[4, 6], &[0], &["Reshape", "ReduceSum"]),
    ];
    for (from, to, axes, left) in cases {
        let b = Builder::new();
        let shape: Vec<Dim> = from.iter().map(|&n| Dim::Fixed(n)).collect();
        let x = b.input("x", float(&shape), None);
        let reshaped = import(&b, "Reshape", &[x, b.ints(to)], Attrs::new());
        b.output(import(&b, "ReduceSum", &[reshaped, b.ints(axes)], Attrs::new().with("keepdims", 0)), "y");
        let sizes: Vec<usize> = from.iter().map(|&n| n as usize).collect();
        assert_eq!(
            left_of(&b.finish().expect("a sound graph"), &[("x", &sizes, &data)]),
            left,
            "{from:?} {to:?} {axes:?}"
        );
    }
}

#[test]
fn reshaped_summands_are_reshaped_once() {
    for op in ["Add", "Sub"] {
        let b = Builder::new();
        let [x, y] = ["x", "y1"].map(|name| b.input(name, float(&[6, 2].map(Dim::Fixed)), None));
        let z = b.input("z", float(&[2, 3, 2].map(Dim::Fixed)), None);
        let [x, y] = [x, y].map(|v| import(&b, "Reshape", &[v, b.ints(&[2, 3, 2])], Attrs::new()));
        let first = import(&b, "Add", &[z, x], Attrs::new());
        b.output(import(&b, op, &[first, y], Attrs::new()), "y");
        let data: [Vec<f64>; 3] = [1, 5, 7].map(|k| (0..12).map(|i| f64::from(i * k % 11)).collect());
        let inputs: [(&str, &[usize], &[f64]); 3] =
            [("x", &[6, 2], &data[0]), ("y1", &[6, 2], &data[1]), ("z", &[2, 3, 2], &data[2])];
        let left = left_of(&b.finish().expect("a sound graph"), &inputs);
        let expected: &[&str] =
            if op == "Add" { &["Add", "Reshape", "Add"] } else { &["Reshape", "Reshape", "Add", "Sub"] };
        assert_eq!(left, expected);
    }
    let b = Builder::new();
    let [x, y] = ["x", "y1"].map(|name| b.input(name, float(&[6, 2].map(Dim::Fixed)), None));
    let [x, y] = [x, y].map(|v| import(&b, "Reshape", &[v, b.ints(&[2, 3, 2])], Attrs::new()));
    b.output(import(&b, "Sub", &[x, y], Attrs::new()), "y");
    let data: [Vec<f64>; 2] = [1, 5].map(|k| (0..12).map(|i| f64::from(i * k % 11)).collect());
    let left = left_of(&b.finish().expect("a sound graph"), &[("x", &[6, 2], &data[0]), ("y1", &[6, 2], &data[1])]);
    assert_eq!(left, ["Sub", "Reshape"]);
}

#[test]
fn the_slopes_of_a_product_are_added_before_a_cotangent_comes_in() {
    // What the second summand is multiplied or divided with: a number, a whole tensor, a row, which would be broadcast.
    for (shape, left) in [(&[][..], 5), (&[2, 2], 5), (&[2], 6)] {
        let b = Builder::new();
        let [a, x, s] = ["a", "x", "s"].map(|name| b.input(name, float(&[2, 2].map(Dim::Fixed)), None));
        let t = b.input("t", float(&shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>()), None);
        let plain = import(&b, "Mul", &[s, a], Attrs::new());
        let scaled = import(&b, "Mul", &[a, x], Attrs::new());
        let bent = import(&b, "Mul", &[t, scaled], Attrs::new());
        let bent = import(&b, "Div", &[bent, s], Attrs::new());
        b.output(import(&b, "Add", &[bent, plain], Attrs::new()), "y");
        let data = [[2.0, 1.0, 5.0, 3.0], [1.0, 7.0, 2.0, 4.0], [8.0, 4.0, 2.0, 16.0], [3.0, 5.0, 7.0, 9.0]];
        let sizes: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let inputs: [(&str, &[usize], &[f64]); 4] = [
            ("a", &[2, 2], &data[0]),
            ("x", &[2, 2], &data[1]),
            ("s", &[2, 2], &data[2]),
            ("t", &sizes, &data[3][..sizes.iter().product()]),
        ];
        let operators = left_of(&b.finish().expect("a sound graph"), &inputs);
        assert_eq!(operators.len(), left - 1, "{operators:?}");
    }
}

#[test]
fn a_matrix_and_its_transpose_are_added_before_they_are_multiplied() {
    let square = [2, 2].map(Dim::Fixed);
    // Attributes of the two products, whether a third summand is there, what is left.
    let cases: [(Names, Names, bool, Names); 5] = [
        (&["transA"], &[], false, &["Transpose", "Add", "MatMul"]),
        (&["transA", "transB"], &["transB"], false, &["Transpose", "Add", "Gemm"]),
        (&["transB"], &[], false, &["Transpose", "Add", "MatMul"]),
        (&[], &["transA"], true, &["Transpose", "Add", "MatMul", "Add"]),
        (&["transA"], &["transB"], false, &["Gemm", "Gemm", "Add"]),
    ];
    for (first, second, more, left) in cases {
        let b = Builder::new();
        let [a, w, r] = ["a", "w", "r"].map(|name| b.input(name, float(&square), None));
        let product = |flags: &[&str]| {
            let attrs = flags.iter().fold(Attrs::new(), |attrs, flag| attrs.with(flag, 1));
            import(&b, "Gemm", &[a, w], attrs)
        };
        let first = product(first);
        let sum = if more { import(&b, "Add", &[r, first], Attrs::new()) } else { first };
        b.output(import(&b, "Add", &[sum, product(second)], Attrs::new()), "y");
        let data = [[2.0, 1.0, 5.0, 3.0], [1.0, 7.0, 2.0, 4.0], [8.0, 4.0, 2.0, 16.0]];
        let inputs: [(&str, &[usize], &[f64]); 3] =
            [("a", &[2, 2], &data[0]), ("w", &[2, 2], &data[1]), ("r", &[2, 2], &data[2])];
        assert_eq!(left_of(&b.finish().expect("a sound graph"), &inputs), left);
    }
}

#[test]
fn rows_and_columns_are_scaled_behind_a_product_that_is_there() {
    // The shape of the number, whether it scales the left factor, whether the product without it is there, how many
    // products are left.
    let cases: [(Ints, bool, bool, usize); 8] = [
        (&[3, 1], true, true, 1),
        (&[], true, true, 1),
        (&[1, 2], true, true, 2),
        (&[3, 1], true, false, 1),
        (&[1, 4], false, true, 1),
        (&[4], false, true, 1),
        (&[2, 1], false, true, 2),
        (&[2, 1, 1], true, true, 2),
    ];
    for (shape, left_factor, there, left) in cases {
        let b = Builder::new();
        let c = b.input("c", float(&shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>()), None);
        let v = b.input("v", float(&[3, 2].map(Dim::Fixed)), None);
        let w = b.input("w", float(&[2, 4].map(Dim::Fixed)), None);
        let plain = there.then(|| import(&b, "MatMul", &[v, w], Attrs::new()));
        let scaled = import(&b, "Mul", &[c, if left_factor { v } else { w }], Attrs::new());
        let product = import(&b, "MatMul", &if left_factor { [scaled, w] } else { [v, scaled] }, Attrs::new());
        b.output(plain.map_or(product, |plain| import(&b, "Sub", &[product, plain], Attrs::new())), "y");
        let sizes: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let data: Vec<f64> = (1..=8).map(f64::from).collect();
        let inputs: [(&str, &[usize], &[f64]); 3] =
            [("c", &sizes, &data[..sizes.iter().product()]), ("v", &[3, 2], &data[..6]), ("w", &[2, 4], &data)];
        let operators = left_of(&b.finish().expect("a sound graph"), &inputs);
        assert_eq!(operators.iter().filter(|op| *op == "MatMul").count(), left, "{operators:?}");
    }
}

#[test]
fn a_sum_drops_axes_of_size_one_itself() {
    let n = Dim::symbol("N");
    // The axes summed, whether they are kept, the target, what is left.
    let cases: [(Ints, i64, Ints, &[&str]); 4] = [
        (&[0], 0, &[3], &["ReduceSum"]),
        (&[0, 2], 1, &[3], &["ReduceSum"]),
        (&[1], 1, &[-1], &["ReduceSum"]),
        (&[0], 0, &[1, 3], &["ReduceSum", "Reshape"]),
    ];
    for (axes, keep, target, left) in cases {
        let b = Builder::new();
        let x = b.input("x", float(&[n.clone(), Dim::Fixed(3), Dim::Fixed(1)]), None);
        let sum = import(&b, "ReduceSum", &[x, b.ints(axes)], Attrs::new().with("keepdims", keep));
        b.output(import(&b, "Reshape", &[sum, b.ints(target)], Attrs::new()), "y");
        let graph = b.finish().expect("a sound graph");
        assert_eq!(left_of(&graph, &[("x", &[2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]), left);
    }
}

/// A rule that says what its operator is in terms of others reads its input; a rewrite may read what that is made of.
#[test]
fn a_tangent_is_found_behind_an_operand_that_a_rewrite_looks_through() {
    let b = Builder::new();
    let x = b.input("x", float(&[2].map(Dim::Fixed)), None);
    let negated = import(&b, "Neg", &[x], Attrs::new());
    let (scale, zero) = (b.scalar(DType::F32, 0.5), b.constant(Tensor::scalar(DType::U8, 9.0)));
    let rounded = import(&b, "QuantizeLinear", &[negated, scale, zero], Attrs::new());
    b.output(import(&b, "DequantizeLinear", &[rounded, scale, zero], Attrs::new()), "y");
    let model = fam_onnx::ir::Model { graph: b.finish().expect("a sound graph"), opset: 17, ..Default::default() };
    let gradient = fam_onnx::ad::grad_model(&model, "y", &["x".into()]).expect("rules").model.graph;
    let two = |a: f64, b: f64| Array::from_vec(DType::F32, &[2], vec![a, b]).expect("two values");
    let feeds = HashMap::from([("x".into(), two(1.0, -2.0)), ("y.cotangent".into(), two(3.0, 5.0))]);
    let found = evaluate(&gradient, &feeds).expect("a graph that runs");
    assert_eq!(found[&gradient.find("x.grad").expect("an output")], two(-3.0, -5.0));
}
