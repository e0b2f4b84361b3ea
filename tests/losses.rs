//! Losses and their options against PyTorch in float64: alone (value, gradient, second derivative), and above two nets.

mod common;

use std::collections::HashMap;

use common::fixture;
use common::step::*;
use fam_onnx::ad::grad_model;
use fam_onnx::artifact::{Options, Target, manifest};
use fam_onnx::eval::evaluate;
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Builder, DType, Dim, Fact, Model};
use fam_onnx::loss::{Curvature, Loss, Settings};
use fam_onnx::ops::Array;
use fam_onnx::tensor::Tensors;
use serde_json::Value;

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(fixture("losses").join("cases.json")).expect("cases.json");
    serde_json::from_str(&text).expect("a list of cases")
}

fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a name")
}

fn settings(case: &Value) -> Settings {
    let kind = Loss::from_name(case["loss"].as_str().expect("a loss")).expect("a known loss");
    let weights = case["class_weights"].as_array();
    Settings {
        soft_labels: case["soft_labels"].as_bool().unwrap_or(false),
        label_smoothing: case["label_smoothing"].as_f64().unwrap_or(0.0),
        class_weights: weights.map(|w| w.iter().map(|v| v.as_f64().expect("a number")).collect()),
        ignore_index: case["ignore_index"].as_i64(),
        ..kind.into()
    }
}

/// The array of an oracle in the type that the interpreter takes.
fn array(oracle: &Oracle, key: &str) -> Array {
    let tensor = oracle.tensor(key);
    let dtype = if tensor.dtype().is_float() { DType::F64 } else { DType::I64 };
    Array::from_vec(dtype, tensor.shape(), oracle.values(key)).expect("an array")
}

/// A loss of the input `f` in float64, with its second derivative as further outputs.
fn alone(settings: &Settings, shape: &[usize]) -> Model {
    let b = Builder::new();
    let dims: Vec<Dim> = shape.iter().map(|&n| Dim::from(n)).collect();
    let f = b.input("f", Fact::new(DType::F64, dims), None);
    settings.check(&f.fact(), "f").expect("settings that fit");
    let built = settings.build(&b, f);
    b.output(built.loss, "loss");
    match built.curvature {
        Some(Curvature::Softmax { probabilities, weight }) => {
            let places: Vec<Dim> =
                f.shape().into_iter().enumerate().filter(|(axis, _)| *axis != 1).map(|(_, d)| d).collect();
            b.output(probabilities, "probabilities");
            b.output(weight.expand(&places), "weight");
        }
        Some(Curvature::Diagonal { second }) => {
            b.output(second, "second");
        }
        None => {}
    }
    Model { graph: b.finish().expect("a graph"), opset: 21, ..Model::default() }
}

/// `S` as a matrix over the elements of `f`.
fn second_derivative(found: &HashMap<String, Array>, shape: &[usize]) -> Option<Vec<f64>> {
    let n: usize = shape.iter().product();
    let mut matrix = vec![0.0; n * n];
    if let Some(second) = found.get("second") {
        second.data.iter().enumerate().for_each(|(i, v)| matrix[i * n + i] = *v);
        return Some(matrix);
    }
    let p: Vec<f64> = found.get("probabilities")?.data.iter().copied().collect();
    let weight: Vec<f64> = found.get("weight")?.data.iter().copied().collect();
    let (classes, inner) = (shape[1], shape[2..].iter().product::<usize>());
    for (place, weight) in weight.iter().enumerate() {
        let at = |c: usize| (place / inner * classes + c) * inner + place % inner;
        for (c, k) in (0..classes).flat_map(|c| (0..classes).map(move |k| (c, k))) {
            let diagonal = if c == k { p[at(c)] } else { 0.0 };
            matrix[at(c) * n + at(k)] = weight * (diagonal - p[at(c)] * p[at(k)]);
        }
    }
    Some(matrix)
}

fn gap(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: Vec<f64> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(expected).max(1e-3)
}

#[test]
fn every_loss_equals_pytorch() {
    let oracle = Oracle::read("losses", "oracle.npz");
    let mut faults = Vec::new();
    for case in cases().iter().filter(|case| case["model"].is_null()) {
        let key = |what: &str| format!("{}/{what}", name(case));
        let f = array(&oracle, &key("f"));
        let shape = f.shape().to_vec();
        let model = alone(&settings(case), &shape);
        let model = grad_model(&model, "loss", &["f".to_string()]).expect("a gradient").model;
        let inputs = HashMap::from([("f".to_string(), f), ("labels".to_string(), array(&oracle, &key("labels")))]);
        let values = evaluate(&model.graph, &inputs).expect("values");
        let named = values.into_iter().map(|(id, v)| (model.graph.name_of(id).to_string(), v));
        let found: HashMap<String, Array> = named.collect();
        let flat = |name: &str| -> Vec<f64> { found[name].data.iter().copied().collect() };
        let mut compare = |what: &str, found: &[f64], expected: &str| {
            let off = gap(found, &oracle.values(&key(expected)));
            if exceeds(off, 1e-10) {
                faults.push(format!("{}: {what} is off by {off:.1e}", name(case)));
            }
        };
        compare("loss", &flat("loss"), "loss");
        if oracle.has(&key("grad")) {
            compare("gradient", &flat("f.grad"), "grad");
            if let Some(matrix) = second_derivative(&found, &shape) {
                compare("second derivative", &matrix, "hessian");
            }
        }
        assert!(found["f.grad"].data.iter().all(|v| v.is_finite()), "{}: a gradient that is not finite", name(case));
    }
    assert_eq!(faults, Vec::<String>::new());
}

/// A case above a net: its artifact, and what `gradient.onnx` gives.
fn above(case: &Value, oracle: &Oracle, lambda: f64, estimator: Option<Estimator>) -> (Tensors, Tensors, Options) {
    let (path, layer) = match case["model"].as_str() {
        Some("mlp") => (model_path("mlp"), "fc2"),
        _ => (fixture("losses").join("segment.onnx"), "conv"),
    };
    let target = Target::Loss(settings(case));
    let options = Options { target, estimator, ..exact(&[(layer, lambda)]) };
    let plan = plan(&fam_onnx::onnx::read(&path).expect("a model"), &options);
    let mut feeds = initial(&plan);
    let key = |what: &str| format!("{}/{what}", name(case));
    feeds.insert("x".to_string(), oracle.tensor(&key("x")).clone());
    feeds.insert(plan.manifest.labels.clone().expect("labels"), oracle.tensor(&key("labels")).clone());
    for probe in plan.manifest.probes() {
        let shape: Vec<usize> =
            probe.shape.iter().map(|d| if let manifest::Dim::Fixed(n) = d { *n } else { 4 }).collect();
        feeds.insert(probe.name.clone(), f32s(&shape, &vec![1.0; shape.iter().product()]));
    }
    let mut session = session(name(case), graph(&plan, "gradient.onnx"));
    let outputs = run(&mut session, &feeds);
    (outputs, feeds, options)
}

fn gradient_faults(case: &Value, oracle: &Oracle, outputs: &Tensors, prefix: &str) -> Vec<String> {
    let expected = oracle.below(&format!("{}/{prefix}", name(case)));
    let found = expected.keys().map(|p| (p.clone(), values(&outputs[&format!("{p}.grad")]))).collect();
    gradients_differ(&found, &expected, 1e-4).into_iter().map(|f| format!("{}: {prefix}: {f}", name(case))).collect()
}

#[test]
fn losses_above_nets_equal_pytorch() {
    let oracle = Oracle::read("losses", "oracle.npz");
    let mut faults = Vec::new();
    for case in cases().iter().filter(|case| !case["model"].is_null()) {
        let key = |what: &str| format!("{}/{what}", name(case));
        let (outputs, ..) = above(case, &oracle, 0.0, None);
        faults.extend(differs(&key("loss"), scalar(&outputs, "loss"), oracle.scalar(&key("loss")), 1e-6));
        faults.extend(gradient_faults(case, &oracle, &outputs, "grad_plain"));
        let (outputs, ..) = above(case, &oracle, 0.1, Some(Estimator::Exact));
        let (kappa, expected) = (scalar(&outputs, "kappa"), oracle.scalar(&key("kappa")));
        if exceeds((kappa - expected).abs(), 1e-5 * expected.abs()) {
            faults.push(format!("{}: κ is {kappa:e}, expected {expected:e}", name(case)));
        }
        faults.extend(gradient_faults(case, &oracle, &outputs, "grad"));
    }
    assert_eq!(faults, Vec::<String>::new());
}
