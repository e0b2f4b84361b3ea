//! κ and its gradient do not depend on the form in which a graph stores a layer: in the interpreter, in f64.

mod common;

use std::collections::HashMap;

use common::step::{differs, exact, exceeds, graph, initial, norm, plan, values};
use fam_onnx::artifact::{Options, Target, manifest};
use fam_onnx::eval::evaluate;
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor, Val};
use fam_onnx::loss::Loss;
use fam_onnx::ops::Array;

/// Outputs and fan-in of the layer, samples.
const D: usize = 4;
const M: usize = 3;
const N: usize = 5;

/// Numbers without a pattern.
fn numbers(n: usize, seed: f64) -> Vec<f64> {
    (0..n).map(|i| f64::from((((i as f64 + seed) * 12.9898).sin() * 1.5) as f32)).collect()
}

fn weight<'g>(b: &'g Builder, name: &str, shape: &[usize], data: Vec<f64>) -> Val<'g> {
    b.initializer(name, Tensor::from_f64(DType::F32, shape, data))
}

/// `W[D, M]` transposed and scaled.
fn stored(factor: f64) -> (Vec<f64>, Vec<f64>) {
    let w: Vec<f64> = numbers(D * M, 0.3).iter().map(|v| v * factor).collect();
    let transposed = (0..D * M).map(|k| w[k % D * M + k / D]).collect();
    (w, transposed)
}

const FORMS: &[&str] =
    &["gemm", "gemm transB=0", "gemm alpha", "matmul", "transpose", "identity", "cast", "reshape", "left", "conv"];

/// `x → W a + b → ReLU → logits`, with the layer `fc` in one of [`FORMS`] on the activations `[N, M]`.
fn mlp(form: &str) -> Model {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::from(M)]), None);
    let (w, wt) = stored(if form == "gemm alpha" { 0.5 } else { 1.0 });
    let bias = weight(&b, "fc.bias", &[D], numbers(D, 7.7));
    b.scope("fc");
    let trans = Attrs::new().with("transB", 1);
    let rows = |w: Val<'_>| b.val(b.op("MatMul", &[x, b.val(w.id())], Attrs::new()).id()) + bias;
    let z = match form {
        "gemm" => b.op("Gemm", &[x, weight(&b, "fc.weight", &[D, M], w), bias], trans),
        "gemm alpha" => b.op("Gemm", &[x, weight(&b, "fc.weight", &[D, M], w), bias], trans.with("alpha", 2.0f32)),
        "gemm transB=0" => b.op("Gemm", &[x, weight(&b, "fc.weight", &[M, D], wt), bias], Attrs::new()),
        "matmul" => rows(weight(&b, "fc.weight", &[M, D], wt)),
        "transpose" => rows(weight(&b, "fc.weight", &[D, M], w).transpose()),
        "identity" => rows(b.copy(weight(&b, "fc.weight", &[M, D], wt), "copied")),
        "cast" => {
            let double = b.initializer("fc.weight", Tensor::from_f64(DType::F64, &[M, D], wt));
            rows(double.cast(DType::F32))
        }
        "reshape" => rows(weight(&b, "fc.weight", &[M * D], wt).reshape(&[M.into(), D.into()])),
        "left" => {
            let z = weight(&b, "fc.weight", &[D, M], w).matmul(x.unsqueeze(&[2]));
            z.squeeze(&[2]) + bias
        }
        "conv" => {
            let filter = weight(&b, "fc.weight", &[D, M, 1], w);
            b.op("Conv", &[x.unsqueeze(&[2]), filter, bias], Attrs::new().with("kernel_shape", vec![1])).squeeze(&[2])
        }
        other => panic!("{other}"),
    };
    let hidden = b.op("Relu", &[z], Attrs::new());
    let last = weight(&b, "out.weight", &[3, D], numbers(3 * D, 1.9));
    b.scope("out");
    b.output(b.op("Gemm", &[hidden, last], Attrs::new().with("transB", 1)), "logits");
    Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() }
}

/// κ and gradients by `gradient.onnx`, in f64.
fn step(model: &Model, options: &Options, x: &[usize], labels: Array) -> (f64, HashMap<String, Vec<f64>>) {
    let plan = plan(model, options);
    let mut inputs: HashMap<String, Array> = HashMap::new();
    let array = |shape: &[usize], data: Vec<f64>| Array::from_vec(DType::F64, shape, data).expect("fits");
    for (name, tensor) in initial(&plan) {
        inputs.insert(name, array(tensor.shape(), values(&tensor)));
    }
    inputs.insert("x".to_string(), array(x, numbers(x.iter().product(), 4.2)));
    for probe in plan.manifest.probes() {
        let columns = if let manifest::Dim::Fixed(n) = probe.shape[1] { n } else { 1 };
        inputs.insert(probe.name.clone(), array(&[x[0], columns], vec![1.0; x[0] * columns]));
    }
    inputs.insert("labels".to_string(), labels);
    inputs.insert("lambda".to_string(), array(&[], vec![0.1]));
    let graph = &graph(&plan, "gradient.onnx").graph;
    let results = evaluate(graph, &inputs).expect("a graph that runs");
    let output = |name: &str| results[&graph.find(name).expect("an output")].data.iter().copied().collect::<Vec<_>>();
    let names = &plan.manifest.graphs.gradient;
    (output("kappa")[0], names.gradients.iter().map(|(p, name)| (p.clone(), output(name))).collect())
}

fn classes() -> Array {
    Array::from_vec(DType::I64, &[N], vec![0.0, 2.0, 1.0, 1.0, 0.0]).expect("fits")
}

#[test]
fn every_stored_form_is_the_same_layer() {
    let options = exact(&[("fc.weight", 0.1)]);
    let (kappa, gradients) = step(&mlp("gemm"), &options, &[N, M], classes());
    let mut faults = Vec::new();
    for form in &FORMS[1..] {
        let (found, mut by) = step(&mlp(form), &options, &[N, M], classes());
        // W is alpha times what Gemm stores, so κ of the stored weight is the same number.
        faults.extend(differs(&format!("{form}: κ"), found, kappa, 1e-9));
        let stored = by.get_mut("fc.weight").expect("a gradient of the weight");
        if ["gemm transB=0", "matmul", "identity", "cast", "reshape"].contains(form) {
            *stored = (0..D * M).map(|k| stored[k % M * D + k / M]).collect();
        }
        if *form == "gemm alpha" {
            stored.iter_mut().for_each(|g| *g *= 0.5);
        }
        for (name, expected) in &gradients {
            let off: Vec<f64> = by[name].iter().zip(expected).map(|(a, b)| a - b).collect();
            if exceeds(norm(&off), 1e-9 * norm(expected)) {
                faults.push(format!("{form}: gradient of {name} is off by {:.1e}", norm(&off) / norm(expected)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// κ by its definition, `Σ_{t,j} D²L[u_j e_tᵀ, u_j e_tᵀ]`: for a loss quadratic in the weight second differences are exact.
fn by_definition(model: &Model, x: &[usize], labels: &Array, d: usize, m: usize) -> f64 {
    let mut options = exact(&[("fc.weight", 0.1)]);
    options.target = Target::Loss(Loss::Mse.into());
    let plan = plan(model, &options);
    let graph = &graph(&plan, "evaluate.onnx").graph;
    let array = |shape: &[usize], data: Vec<f64>| Array::from_vec(DType::F64, shape, data).expect("fits");
    let mut inputs: HashMap<String, Array> =
        initial(&plan).iter().map(|(name, t)| (name.clone(), array(t.shape(), values(t)))).collect();
    inputs.insert("x".to_string(), array(x, numbers(x.iter().product(), 4.2)));
    inputs.insert("labels".to_string(), labels.clone());
    let weight: Vec<f64> = inputs["fc.weight"].data.iter().copied().collect();
    let mut loss = |weight: Vec<f64>| {
        inputs.insert("fc.weight".to_string(), array(&[d, m], weight));
        evaluate(graph, &inputs).expect("runs")[&graph.find("loss").expect("a loss")].data.sum()
    };
    let centre = loss(weight.clone());
    let mut sum = 0.0;
    for (t, j) in (0..m).flat_map(|t| (0..m).map(move |j| (t, j))) {
        let mut moved = |step: f64| {
            loss((0..d * m).map(|k| weight[k] + if k % m == t { step * weight[k - t + j] } else { 0.0 }).collect())
        };
        sum += moved(1.0) - 2.0 * centre + moved(-1.0);
    }
    sum
}

/// Heads and layers whose Jacobian has an unusual shape, by mean squared error.
#[test]
fn unusual_heads_and_layers_keep_to_the_definition() {
    let mut options = exact(&[("fc.weight", 0.1)]);
    options.target = Target::Loss(Loss::Mse.into());
    let mut faults = Vec::new();
    for case in ["sum of the outputs", "no dependence", "weight on the left of a stack"] {
        let b = Builder::new();
        let shape: &[usize] = if case.contains("stack") { &[N, 2, M, 3] } else { &[N, M] };
        let dims: Vec<Dim> =
            std::iter::once(Dim::symbol("batch")).chain(shape[1..].iter().map(|&n| Dim::from(n))).collect();
        let x = b.input("x", Fact::new(DType::F32, dims), None);
        let w = weight(&b, "fc.weight", &[D, M], stored(1.0).0);
        b.scope("fc");
        let outputs = match case {
            "sum of the outputs" => {
                b.output(b.op("Gemm", &[x, w], Attrs::new().with("transB", 1)).sum_keep(&[1]), "y");
                1
            }
            "no dependence" => {
                b.output(b.op("Gemm", &[x, w], Attrs::new().with("transB", 1)).sign(), "y");
                D
            }
            _ => {
                let z = w.matmul(x);
                let factors = weight(&b, "scale", &[2, D, 3], numbers(6 * D, 2.2));
                b.output((z * factors).sum(&[1, 3]), "y");
                D
            }
        };
        let model = Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() };
        let labels = Array::from_vec(DType::F64, &[N, outputs], numbers(N * outputs, 5.5)).expect("fits");
        let expected = by_definition(&model, shape, &labels, D, M);
        let (found, _) = step(&model, &options, shape, labels);
        if case == "no dependence" {
            assert_eq!(found, 0.0, "{case}");
        } else {
            faults.extend(differs(case, found, expected, 1e-9));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A sample that reaches the layer as zeros only adds nothing to the gradient, where a norm has no slope.
#[test]
fn a_dead_sample_leaves_the_estimated_gradient_finite() {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::from(M)]), None);
    let hidden = x * weight(&b, "scale", &[M], vec![0.0; M]);
    let w = weight(&b, "fc.weight", &[D, M], stored(1.0).0);
    b.scope("fc");
    b.output(b.op("Gemm", &[hidden, w], Attrs::new().with("transB", 1)), "logits");
    let model = Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() };
    let options = Options { estimator: Some(Estimator::Hutchinson), ..exact(&[("fc.weight", 0.1)]) };
    let (kappa, gradients) = step(&model, &options, &[N, M], classes());
    assert_eq!(kappa, 0.0);
    assert!(gradients.values().flatten().all(|g| g.is_finite()), "{gradients:?}");
}

/// One sample that several rows of the head read: they are not samples of their own.
#[test]
fn rows_that_share_the_only_sample_are_not_independent() {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [1, M].map(Dim::from)), None);
    let w = weight(&b, "fc.weight", &[D, M], stored(1.0).0);
    b.scope("fc");
    let z = b.op("Gemm", &[x, w], Attrs::new().with("transB", 1));
    b.output(z * weight(&b, "scale", &[N, D], numbers(N * D, 2.2)), "y");
    let model = Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() };
    let target = Target::Loss(Loss::Mse.into());
    let options = Options { target, estimator: None, ..exact(&[("fc.weight", 0.1)]) };
    assert_eq!(plan(&model, &options).report.layers[0].class, "mixing");
}
