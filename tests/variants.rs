//! Layerwise, divided by the fan-in, with the trace detached: by every route to κ, against definitions in float64.

mod common;

use std::collections::HashMap;

use common::fixture;
use common::rng::Rng;
use common::step::*;
use fam_onnx::artifact::{self, Options, Plan, Target};
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::Model;
use fam_onnx::loss::Loss;
use fam_onnx::ops::Array;
use fam_onnx::tensor::{DType, Tensor};
use fam_onnx::verify::{self, Verdict};
use fam_onnx::{ad, eval, onnx};

const LAMBDA: f64 = 0.3;

/// File and loss of `fixtures/flatness`, layer, and how its κ is exact.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("affine", "softmax-cross-entropy", "fc1", "closed form"),
    ("relu", "softmax-cross-entropy", "fc1", "closed form"),
    ("conv2d", "softmax-cross-entropy", "conv1", "closed form"),
    ("tanh", "softmax-cross-entropy", "fc1", "second derivatives"),
    ("wide", "mse", "fc1", "forward passes"),
    ("tied-smooth", "softmax-cross-entropy", "tied", "by definition"),
    ("attention", "softmax-cross-entropy", "proj", "by definition"),
    ("contrastive", "output", "fc1", "by definition"),
];

fn read(file: &str) -> Model {
    onnx::read(&fixture("flatness").join(format!("{file}.onnx"))).expect("a model")
}

fn options(loss: &str, layer: &str) -> Options {
    let target = match loss {
        "output" => Target::Output("logits".to_string()),
        name => Target::Loss(Loss::from_name(name).expect("a loss").into()),
    };
    Options { target, ..exact(&[(layer, LAMBDA)]) }
}

/// What `verify` finds that does not agree.
fn disagreements(file: &str, options: &Options) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = plan(&read(file), options);
    let names: Vec<String> = plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
    let source = fixture("flatness").join(format!("{file}.onnx"));
    let inference = onnx::without_weights(&source, &names).expect("a model without weights");
    let path = directory.path().join("model.fam");
    artifact::write(&plan, &inference, &path, false).expect("an artifact");
    let how = verify::Options { data: None, batch: 3, directions: 2, definition: 64, probes: 200, seed: 3 };
    let report = verify::verify(&path, &common::runtime(), &how).expect("a report");
    let layer = &plan.report.layers[0];
    let at = format!(
        "{file} {} {} detached: {}",
        layer.estimator.name(),
        plan.manifest.layers[0].measure,
        options.detach_trace
    );
    let wrong = report.checks.iter().filter(|check| check.verdict == Verdict::Disagrees);
    wrong.map(|c| format!("{at}: {:?} of {}: off by {:.1e}, limit {:.1e}", c.what, c.of, c.off, c.limit)).collect()
}

#[test]
fn gradients_and_values_agree_by_every_route() {
    let mut faults = Vec::new();
    for (file, loss, layer, how) in CASES {
        let base = options(loss, layer);
        let why = &plan(&read(file), &base).report.layers[0].why;
        assert!(why.contains(how), "{file} {layer}: {why}");
        let scaled = Options { per_fan_in: true, ..base.clone() };
        let layerwise = Options { measure: Measure::Layerwise, per_fan_in: true, ..base.clone() };
        let detached = Options { detach_trace: true, ..base.clone() };
        let both = Options { measure: Measure::Layerwise, detach_trace: true, ..base };
        for options in [scaled, layerwise, detached, both] {
            faults.extend(disagreements(file, &options));
            // A loss of its own has no curvature that Gauss–Newton could take.
            for estimator in [Estimator::Hutchinson, Estimator::GaussNewton] {
                if estimator == Estimator::Hutchinson || *loss != "output" {
                    faults.extend(disagreements(file, &Options { estimator: Some(estimator), ..options.clone() }));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The outputs of `model` by the interpreter.
fn interpret(model: &Model, inputs: &HashMap<String, Array>, outputs: &[&str]) -> Vec<Vec<f64>> {
    let computed = eval::evaluate(&model.graph, inputs).expect("values");
    let value = |name: &&str| computed[&model.graph.find(name).expect("an output")].data.iter().copied().collect();
    outputs.iter().map(value).collect()
}

/// Random samples, and the parameters.
fn inputs(plan: &Plan, model: &Model) -> HashMap<String, Array> {
    let mut rng = Rng(5);
    let wide = |t: &Tensor| Array::from_vec(t.dtype(), t.shape(), values(t)).expect("an array");
    let mut inputs: HashMap<String, Array> = initial(plan).iter().map(|(name, t)| (name.clone(), wide(t))).collect();
    for id in &model.graph.inputs {
        let value = model.graph.value(*id);
        if inputs.contains_key(&value.name) || value.data.is_some() {
            continue;
        }
        let sizes = value.fact.shape.iter().flatten().map(|dim| dim.evaluate(&|_| 3) as usize);
        let shape: Vec<usize> = sizes.collect();
        let count: usize = shape.iter().product();
        let drawn = rng.signs(&[count]);
        let of = |(k, sign): (usize, f64)| match value.fact.dtype {
            DType::I64 => (k % 3) as f64,
            _ => sign * (0.3 + 0.1 * (k % 7) as f64),
        };
        let data = values(&drawn).into_iter().enumerate().map(of).collect();
        inputs.insert(value.name.clone(), Array::from_vec(value.fact.dtype, &shape, data).expect("an array"));
    }
    inputs
}

/// With the trace detached, `∂κ/∂w_s = 2 Σ_{s'} Tr H_{s,s'} w_{s'}` and nothing else: against Hessians by differences.
#[test]
fn a_detached_gradient_is_the_first_part_of_lemma_1() {
    let mut faults = Vec::new();
    // Layers whose weight is stored as W[d, m], so that H is laid out as it is.
    for (file, loss, layer) in [
        ("relu", "softmax-cross-entropy", "fc1"),
        ("tanh", "softmax-cross-entropy", "fc1"),
        ("tied-smooth", "softmax-cross-entropy", "tied"),
        ("contrastive", "output", "fc1"),
    ] {
        let options = Options { detach_trace: true, ..options(loss, layer) };
        let plan = plan(&read(file), &options);
        let (gradient, manifest) = (graph(&plan, "gradient.onnx"), &plan.manifest);
        let (weight, d, m) = (manifest.layers[0].weight.clone(), manifest.layers[0].d, manifest.layers[0].m);
        assert_eq!(manifest.parameters.iter().find(|p| p.name == weight).expect("the weight").shape, [d, m]);
        let mut feeds = inputs(&plan, gradient);
        feeds.insert("lambda".to_string(), Array::from_vec(DType::F32, &[], vec![LAMBDA]).expect("an array"));
        let loss = manifest.graphs.gradient.loss.clone();
        let plain = ad::grad_model(gradient, &loss, std::slice::from_ref(&weight)).expect("a gradient");
        let slope =
            |feeds: &HashMap<String, Array>| interpret(&plain.model, feeds, &[plain.outputs[0].as_str()]).remove(0);
        let base: Vec<f64> = feeds[&weight].data.iter().copied().collect();
        let moved = |k: usize, by: f64| {
            let mut values = base.clone();
            values[k] += by;
            let array = Array::from_vec(DType::F32, &[d, m], values).expect("an array");
            slope(&feeds.clone().into_iter().chain([(weight.clone(), array)]).collect())
        };
        let mut traces = vec![0.0; d * d];
        for k in 0..d * m {
            let (after, before) = (moved(k, 1e-5), moved(k, -1e-5));
            let (s, t) = (k / m, k % m);
            for other in 0..d {
                traces[s * d + other] += (after[other * m + t] - before[other * m + t]) / 2e-5;
            }
        }
        let plain = slope(&feeds);
        let expected: Vec<f64> = (0..d * m)
            .map(|k| {
                let row: f64 = (0..d).map(|other| traces[k / m * d + other] * base[other * m + k % m]).sum();
                plain[k] + LAMBDA * 2.0 * row
            })
            .collect();
        let found = interpret(gradient, &feeds, &[manifest.graphs.gradient.gradients[&weight].as_str()]).remove(0);
        let off: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        if exceeds(norm(&off), 1e-6 * norm(&expected)) {
            faults.push(format!("{file}: off by {:.1e} of {:.1e}", norm(&off), norm(&expected)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
