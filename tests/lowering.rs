//! Lowered graphs compute the same under the same names.

use fam_onnx::ad::{Tape, linearise};
use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Tensor, Val, verify};
use fam_onnx::linear::Cotangent;
use fam_onnx::lower::composites;
use fam_onnx::ops::Array;
use fam_onnx::simplify::dead_code;
use std::collections::HashMap;

fn input<'g>(b: &'g Builder, name: &str, shape: &[i64]) -> Val<'g> {
    let dims: Vec<Dim> = shape.iter().copied().map(Dim::Fixed).collect();
    b.input(name, Fact::new(DType::F64, dims), None)
}

fn data(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::from_vec(DType::F64, shape, (0..n).map(|i| (i as f64 * 1.7).sin()).collect()).expect("fits")
}

/// The outputs by name.
fn run(graph: &Graph, inputs: &HashMap<String, Array>) -> HashMap<String, Array> {
    let values = evaluate(graph, inputs).expect("evaluates");
    graph.outputs.iter().map(|id| (graph.name_of(*id).to_string(), values[id].clone())).collect()
}

#[test]
fn names_and_values_stay() {
    let b = Builder::new();
    let (x, scale, bias) = (input(&b, "x", &[2, 3, 4]), input(&b, "scale", &[3]), input(&b, "bias", &[3]));
    let labels = b.input("labels", Fact::new(DType::I64, [2, 4].map(Dim::Fixed)), None);
    b.scope("norm");
    let normal = b.op("InstanceNormalization", &[x, scale, bias], Attrs::new());
    // Takes a name that the lowering of `norm` might want.
    b.scope("norm/Sub");
    let shifted = normal + 1.0;
    b.scope("log_p");
    let log_p = b.op("LogSoftmax", &[shifted], Attrs::new().with("axis", 1));
    b.scope("loss");
    let loss = b.node("SoftmaxCrossEntropyLoss", &[Some(shifted), Some(labels)], Attrs::new(), 2);
    for (val, name) in [(normal, "normal"), (log_p, "log_p"), (loss[0], "loss"), (loss[1], "also_log_p")] {
        b.output(val, name);
    }
    let graph = b.finish().expect("a sound graph");
    let lowered = composites(graph.clone(), |_| true).expect("lowers");
    verify(&lowered).expect("sound");
    assert!(lowered.nodes.iter().all(|n| n.op != "InstanceNormalization" && n.op != "SoftmaxCrossEntropyLoss"));
    let mut inputs: HashMap<String, Array> =
        [("x", data(&[2, 3, 4])), ("scale", data(&[3])), ("bias", data(&[3]))].map(|(k, v)| (k.into(), v)).into();
    let classes = [0, 2, 1, 1, 2, 0, 0, 1].map(f64::from).to_vec();
    inputs.insert("labels".into(), Array::from_vec(DType::I64, &[2, 4], classes).expect("fits"));
    let (before, after) = (run(&graph, &inputs), run(&lowered, &inputs));
    assert_eq!(before.len(), 4);
    for (name, array) in before {
        let difference = (&array.data - &after[&name].data).mapv(f64::abs).sum();
        assert!(difference < 1e-12, "{name} differs by {difference}");
    }
    let kept = composites(graph, |node| node.op == "SoftmaxCrossEntropyLoss").expect("lowers");
    assert!(kept.nodes.iter().any(|n| n.op == "InstanceNormalization"));
}

#[test]
fn the_indices_of_a_max_pool_come_from_the_forward_node() {
    let b = Builder::new();
    let x = input(&b, "x", &[1, 2, 4, 4]);
    let attrs = Attrs::new().with("kernel_shape", [2, 2]).with("strides", [2, 2]);
    let y = b.op("MaxPool", &[x], attrs.clone());
    let tape = Tape::new(&b);
    let pulled = linearise(&tape, &[y], &[x]).expect("a rule").vjp(&[Some(Cotangent::new(y))], None);
    assert!(pulled[0].is_some());
    assert_eq!(b.read(|g| g.nodes.iter().filter(|n| n.op == "MaxPool").count()), 1);
    assert_eq!(b.op("MaxPool", &[x], attrs).id(), y.id());
}

/// The operators of a node and of its gradient in the first input.
fn operators(op: &str, shape: &[i64], scales: &[f64], attrs: Attrs) -> Vec<String> {
    let b = Builder::new();
    let x = input(&b, "x", shape);
    let scales = b.constant(Tensor::from_f64(DType::F32, &[scales.len()], scales.iter().copied()));
    let y = b.node(op, &[Some(x), None, Some(scales)], attrs, 1)[0];
    let seed = b.input("seed", y.fact(), None);
    let tape = Tape::new(&b);
    let pulled = linearise(&tape, &[y], &[x]).expect("a rule").vjp(&[Some(Cotangent::new(seed))], None);
    b.output(y, "y");
    b.output(pulled[0].as_ref().expect("a gradient").materialise(), "x.grad");
    let graph = dead_code(&b.finish().expect("a sound graph"));
    graph.nodes.iter().map(|n| n.op.clone()).collect()
}

#[test]
fn a_resize_stays_and_its_gradient_is_short() {
    let shape = [2, 3, 4, 4];
    let twice = [1.0, 1.0, 2.0, 2.0];
    assert_eq!(operators("Resize", &shape, &twice, Attrs::new()), ["Resize", "Reshape", "ReduceSum"]);
    let linear = Attrs::new().with("mode", "linear");
    assert_eq!(operators("Resize", &shape, &twice, linear), ["Resize", "MatMul", "MatMul"]);
}
