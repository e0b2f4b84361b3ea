//! Artifacts of the fixtures against their float64 oracles: loss, κ, gradients, running statistics, optimiser steps.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::rng::Rng;
use common::step::*;
use fam_onnx::artifact::manifest::Dim;
use fam_onnx::artifact::{Options, Plan};
use fam_onnx::eval::evaluate;
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::{self, Attrs, Builder, DType, Fact, Model};
use fam_onnx::ops::Array;
use fam_onnx::optim::{Optimizer, Sgd};
use fam_onnx::tensor::{Tensor, Tensors};

const LOSS: f64 = 1e-6;
const KAPPA: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;

/// λ of the oracles.
const LAMBDA: f64 = 0.1;

/// What one run of `gradient.onnx` gives.
struct Step {
    plan: Plan,
    outputs: Tensors,
}

impl Step {
    fn new(fixture: &str, oracle: &Oracle, options: &Options) -> Step {
        let plan = plan(&model(fixture), options);
        let mut session = session(fixture, graph(&plan, "gradient.onnx"));
        let outputs = run(&mut session, &feeds(&plan, oracle));
        Step { plan, outputs }
    }

    fn loss(&self) -> f64 {
        scalar(&self.outputs, &self.plan.manifest.graphs.gradient.loss)
    }

    fn objective(&self) -> f64 {
        scalar(&self.outputs, &self.plan.manifest.graphs.gradient.objective)
    }

    fn kappa(&self, layer: usize) -> f64 {
        scalar(&self.outputs, &self.plan.manifest.graphs.gradient.kappa[layer])
    }

    fn gradients(&self) -> HashMap<String, Vec<f64>> {
        let named = &self.plan.manifest.graphs.gradient.gradients;
        named.iter().map(|(parameter, output)| (parameter.clone(), values(&self.outputs[output]))).collect()
    }
}

/// The oracle's batch and the parameters.
fn feeds(plan: &Plan, oracle: &Oracle) -> Tensors {
    let mut feeds = initial(plan);
    feeds.insert("x".to_string(), oracle.tensor("x").clone());
    let labels = plan.manifest.labels.clone().expect("labels");
    feeds.insert(labels, oracle.tensor("labels").clone());
    feeds
}

/// The gradient with a detached trace; arrays that equal the plain gradient are left out of large oracles.
fn detached(oracle: &Oracle, layer: &str) -> BTreeMap<String, Vec<f64>> {
    let mut expected = oracle.below("grad_plain");
    expected.extend(oracle.below(&format!("grad_detached/{layer}")));
    expected
}

/// Faults of one layer, in every way that the oracle speaks of.
fn layer_faults(fixture: &str, oracle: &Oracle, layer: &str) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    let base = exact(&[(layer, LAMBDA)]);
    let kappa = oracle.scalar(&format!("kappa/{layer}"));
    let loss = oracle.scalar("loss");

    let step = Step::new(fixture, oracle, &base);
    faults.extend(differs("loss", step.loss(), loss, LOSS));
    faults.extend(differs("κ", step.kappa(0), kappa, KAPPA));
    faults.extend(differs("objective", step.objective(), loss + LAMBDA * kappa, KAPPA));
    faults.extend(gradients_differ(&step.gradients(), &oracle.below(&format!("grad/{layer}")), GRADIENT));

    let step = Step::new(fixture, oracle, &Options { detach_trace: true, ..base.clone() });
    faults.extend(differs("detached κ", step.kappa(0), kappa, KAPPA));
    let expected = detached(oracle, layer);
    faults
        .extend(gradients_differ(&step.gradients(), &expected, GRADIENT).into_iter().map(|f| format!("detached {f}")));

    let step = Step::new(fixture, oracle, &Options { measure: Measure::Layerwise, ..base.clone() });
    faults.extend(differs("κ̂", step.kappa(0), oracle.scalar(&format!("kappa_hat/{layer}")), KAPPA));

    let step = Step::new(fixture, oracle, &Options { per_fan_in: true, ..base });
    let m = step.plan.manifest.layers[0].m as f64;
    faults.extend(differs("κ/m", step.kappa(0), kappa / m, KAPPA));
    faults
}

/// The plain gradient, with λ = 0: no κ in the graphs that train, but in the one that evaluates.
fn plain_faults(fixture: &str, oracle: &Oracle, layer: &str) -> Vec<String> {
    let options = Options { estimator: None, ..exact(&[(layer, 0.0)]) };
    let step = Step::new(fixture, oracle, &options);
    let mut faults: Vec<String> = differs("loss", step.loss(), oracle.scalar("loss"), LOSS).into_iter().collect();
    faults.extend(differs("objective", step.objective(), oracle.scalar("loss"), LOSS));
    let expected = oracle.below("grad_plain");
    if !expected.is_empty() {
        faults.extend(gradients_differ(&step.gradients(), &expected, GRADIENT));
    }
    let graphs = &step.plan.manifest.graphs;
    if !graphs.gradient.kappa.is_empty() || !graphs.train.kappa.is_empty() {
        faults.push("κ is computed where λ = 0".to_string());
    }
    let key = format!("kappa/{layer}");
    if oracle.has(&key) {
        let mut session = session(fixture, graph(&step.plan, "evaluate.onnx"));
        let outputs = run(&mut session, &feeds(&step.plan, oracle));
        faults.extend(differs(
            "κ of evaluate.onnx",
            scalar(&outputs, &graphs.evaluate.kappa[0]),
            oracle.scalar(&key),
            KAPPA,
        ));
        let logits: Vec<f64> = values(&outputs[&graphs.evaluate.predictions[0]]);
        let expected = oracle.values("logits");
        let off: Vec<f64> = logits.iter().zip(&expected).map(|(a, b)| a - b).collect();
        if exceeds(norm(&off), 1e-5 * norm(&expected)) {
            faults.push(format!("logits are off by {:.1e}", norm(&off)));
        }
    }
    faults.into_iter().map(|f| format!("λ = 0: {f}")).collect()
}

#[test]
fn every_fixture_agrees_with_its_oracle() {
    let mut faults = Vec::new();
    let mut checked = 0;
    for fixture in fixtures() {
        let oracle = Oracle::read(&fixture, "oracle.npz");
        let layers = oracle.layers();
        let any = layers.first().cloned().unwrap_or("penultimate".to_string());
        faults.extend(plain_faults(&fixture, &oracle, &any).into_iter().map(|f| format!("{fixture}: {f}")));
        for layer in layers {
            let found = layer_faults(&fixture, &oracle, &layer);
            faults.extend(found.into_iter().map(|f| format!("{fixture} {layer}: {f}")));
            checked += 1;
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(checked >= 20, "{checked} layers have an oracle");
}

#[test]
fn two_layers_with_their_own_lambdas() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let lambdas = [("fc1", 0.3), ("fc2", 0.05)];
    let step = Step::new("mlp", &oracle, &exact(&lambdas));
    let mut faults = Vec::new();
    // Objective and gradient are affine in each λ.
    let mut objective = oracle.scalar("loss");
    let mut expected = oracle.below("grad_plain");
    for (k, (layer, lambda)) in lambdas.iter().enumerate() {
        let kappa = oracle.scalar(&format!("kappa/{layer}"));
        faults.extend(differs(&format!("κ of {layer}"), step.kappa(k), kappa, KAPPA));
        objective += lambda * kappa;
        for (parameter, gradient) in oracle.below(&format!("grad/{layer}")) {
            let plain = oracle.values(&format!("grad_plain/{parameter}"));
            let sum = expected.get_mut(&parameter).expect("a gradient of every parameter");
            for (sum, (all, plain)) in sum.iter_mut().zip(gradient.iter().zip(plain)) {
                *sum += lambda / LAMBDA * (all - plain);
            }
        }
    }
    faults.extend(differs("objective", step.objective(), objective, KAPPA));
    faults.extend(gradients_differ(&step.gradients(), &expected, GRADIENT));
    let inputs: Vec<_> = step.plan.manifest.layers.iter().filter_map(|l| l.lambda_input.as_deref()).collect();
    assert_eq!(inputs, ["lambda.fc1", "lambda.fc2"]);
    assert_eq!(step.plan.manifest.graphs.gradient.kappa, ["kappa.fc1", "kappa.fc2"]);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn lambda_is_an_input_with_the_chosen_value_as_default() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let plan = plan(&model("mlp"), &exact(&[("fc2", LAMBDA)]));
    let mut session = session("mlp", graph(&plan, "gradient.onnx"));
    let mut feeds = feeds(&plan, &oracle);
    let at_default = run(&mut session, &feeds);
    feeds.insert("lambda".to_string(), Tensor::scalar(LAMBDA as f32));
    assert_eq!(at_default, run(&mut session, &feeds));
    feeds.insert("lambda".to_string(), Tensor::scalar(0.0));
    let at_zero = run(&mut session, &feeds);
    let named = &plan.manifest.graphs.gradient.gradients;
    let found = named.iter().map(|(p, output)| (p.clone(), values(&at_zero[output]))).collect();
    let faults = gradients_differ(&found, &oracle.below("grad_plain"), GRADIENT);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Statistics of the batch in the forward pass, PyTorch's running ones as state.
#[test]
fn batch_norm_that_trains() {
    let mut faults: Vec<String> = Vec::new();
    for fixture in ["resnet", "resnet-dynamo"] {
        let oracle = Oracle::read(fixture, "oracle_train.npz");
        for layer in oracle.layers() {
            let options = Options { train_batch_norm: true, ..exact(&[(&layer, LAMBDA)]) };
            let step = Step::new(fixture, &oracle, &options);
            let mut found: Vec<String> =
                differs("loss", step.loss(), oracle.scalar("loss"), LOSS).into_iter().collect();
            found.extend(differs("κ", step.kappa(0), oracle.scalar(&format!("kappa/{layer}")), KAPPA));
            found.extend(gradients_differ(&step.gradients(), &oracle.below(&format!("grad/{layer}")), GRADIENT));
            let running = oracle.below("running");
            let updates = &step.plan.manifest.graphs.gradient.updates;
            assert_eq!(updates.keys().collect::<Vec<_>>(), running.keys().collect::<Vec<_>>());
            for (name, expected) in running {
                let difference: Vec<f64> =
                    values(&step.outputs[&updates[&name]]).iter().zip(&expected).map(|(a, b)| a - b).collect();
                if exceeds(norm(&difference), 1e-5 * norm(&expected)) {
                    found.push(format!("{name} is off by {:.1e} of its norm", norm(&difference) / norm(&expected)));
                }
            }
            faults.extend(found.into_iter().map(|f| format!("{fixture} {layer}: {f}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The loss that `options` give the edited model on the oracle's batch, and what the plan notes.
fn loss_of(model: &Model, oracle: &Oracle, options: &Options) -> (f64, Vec<String>) {
    let plan = plan(model, options);
    let outputs = run(&mut session("edited", graph(&plan, "gradient.onnx")), &feeds(&plan, oracle));
    (scalar(&outputs, &plan.manifest.graphs.gradient.loss), plan.report.notes)
}

#[test]
fn logits_are_read_before_a_softmax_and_what_passes_it_on() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let mut model = model("mlp");
    let b = Builder::of(std::mem::take(&mut model.graph));
    let logits = b.find("logits").expect("logits");
    let probabilities = b.op("Softmax", &[logits], Attrs::new().with("axis", 1));
    b.copy(probabilities, "probabilities");
    model.graph = b.finish().expect("a graph");
    model.graph.outputs = vec![output_id(&model, "probabilities")];
    let (loss, notes) = loss_of(&model, &oracle, &exact(&[("fc2", LAMBDA)]));
    assert_eq!(differs("loss", loss, oracle.scalar("loss"), LOSS), None);
    assert_eq!(
        notes,
        ["the model ends in Softmax: softmax-cross-entropy reads its input \"logits\" instead of \"probabilities\""]
    );
}

fn output_id(model: &Model, name: &str) -> ir::ValueId {
    model.graph.find(name).expect("a value of that name")
}

/// Rows that a reshape made out of several axes are no samples that a driver could count, so all share one matrix of signs.
#[test]
fn rows_that_are_not_the_batch_share_their_probe() {
    let mut model = model("mlp");
    let b = Builder::new();
    let x =
        b.input("x", Fact::new(DType::F32, vec![ir::Dim::symbol("N"), ir::Dim::symbol("T"), ir::Dim::Fixed(20)]), None);
    let rows = x.reshape(&[ir::Dim::symbol("N") * ir::Dim::symbol("T"), ir::Dim::Fixed(20)]);
    let weight = |name: &str, shape: [usize; 2]| {
        let values = (0..shape[0] * shape[1]).map(|i| (i % 7) as f64 - 3.0);
        b.initializer(name, ir::Tensor::from_f64(DType::F32, &shape, values))
    };
    let hidden = rows.matmul(weight("first.weight", [20, 8])).tanh();
    b.output(hidden.matmul(weight("last.weight", [8, 5])), "logits");
    model.graph = b.finish().expect("a graph");
    let options = Options { estimator: Some(Estimator::Hutchinson), ..exact(&[("first.weight", LAMBDA)]) };
    let probes = plan(&model, &options).manifest.layers[0].probes.clone();
    let shapes: Vec<_> = probes.iter().map(|p| p.shape.as_slice()).collect();
    assert_eq!(shapes, [[Dim::Fixed(20)]]);
}

/// An export in training mode is used as any other: frozen batch norm goes by the running statistics.
#[test]
fn training_modes_of_the_export_are_settled() {
    let oracle = Oracle::read("resnet", "oracle.npz");
    let mut model = model("resnet");
    for node in model.graph.nodes.iter_mut().filter(|n| n.op == "BatchNormalization") {
        node.attrs = std::mem::take(&mut node.attrs).with("training_mode", 1);
    }
    let (loss, notes) = loss_of(&model, &oracle, &exact(&[("neck", LAMBDA)]));
    assert_eq!(differs("loss", loss, oracle.scalar("loss"), LOSS), None);
    assert_eq!(
        notes,
        ["20 batch norms were exported in training mode; they use their running statistics here, unless they train"]
    );
}

/// The interpreter computes in f64, so the graph shows its mathematics without float32's rounding.
#[test]
fn the_graph_is_exact_in_double_precision() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let mut faults = Vec::new();
    for layer in oracle.layers() {
        let plan = plan(&model("mlp"), &exact(&[(&layer, LAMBDA)]));
        let mut inputs: HashMap<String, Array> = HashMap::new();
        for (name, tensor) in feeds(&plan, &oracle) {
            let dtype = if tensor.dtype().is_float() { DType::F64 } else { tensor.dtype() };
            inputs.insert(name, Array::from_vec(dtype, tensor.shape(), values(&tensor)).expect("fits"));
        }
        inputs.insert("lambda".to_string(), Array::from_vec(DType::F64, &[], vec![LAMBDA]).expect("fits"));
        let graph = &graph(&plan, "gradient.onnx").graph;
        let results = evaluate(graph, &inputs).expect("a graph that runs");
        let output =
            |name: &str| results[&graph.find(name).expect("an output")].data.iter().copied().collect::<Vec<_>>();
        let names = &plan.manifest.graphs.gradient;
        faults.extend(differs("loss", output(&names.loss)[0], oracle.scalar("loss"), 1e-9));
        faults.extend(differs("κ", output(&names.kappa[0])[0], oracle.scalar(&format!("kappa/{layer}")), 1e-9));
        let found = names.gradients.iter().map(|(p, name)| (p.clone(), output(name))).collect();
        faults.extend(gradients_differ(&found, &oracle.below(&format!("grad/{layer}")), 1e-9));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

const DRAWS: usize = 1024;

/// Runs a graph of the plan with fresh probes, [`DRAWS`] times; each of `outputs` flattened to one row a draw.
fn draws(plan: &Plan, file: &str, feeds: &Tensors, outputs: &[&str]) -> Vec<Vec<f64>> {
    let mut session = session(file, graph(plan, file));
    let batch = feeds["x"].shape()[0];
    let mut feeds = feeds.clone();
    let mut rng = Rng(7);
    let mut draw = |_| {
        for probe in plan.manifest.probes() {
            let size = |dim: &Dim| if let Dim::Fixed(n) = dim { *n } else { batch };
            let shape: Vec<usize> = probe.shape.iter().map(size).collect();
            feeds.insert(probe.name.clone(), rng.signs(&shape));
        }
        let results = run(&mut session, &feeds);
        outputs.iter().flat_map(|name| values(&results[*name])).collect()
    };
    (0..DRAWS).map(&mut draw).collect()
}

/// The fault of a mean that is further from `expected` than `limit` standard errors.
fn biased(what: &str, draws: impl Iterator<Item = f64> + Clone, expected: f64, limit: f64) -> Option<String> {
    let n = draws.clone().count() as f64;
    let mean = draws.clone().sum::<f64>() / n;
    let error = (draws.map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    // float32 rounds what does not vary.
    let off = (mean - expected).abs() / error.max(1e-6 * expected.abs());
    let text = || format!("{what}: mean {mean:e}, expected {expected:e}, {off:.1} standard errors of {error:.1e}");
    exceeds(off, limit).then(text)
}

/// `E ⟨WR, H[WR]⟩ = κ`, and the same of its gradient: signs of their own for each sample where the layer acts once a
/// sample (`fc1`), a shared matrix of signs where it acts at many positions (`encoder.proj`).
#[test]
fn probes_estimate_kappa_without_bias() {
    let mut faults = Vec::new();
    for (fixture, layer) in [("mlp", "fc1"), ("mlp", "fc"), ("tokens", "encoder.proj")] {
        let oracle = Oracle::read(fixture, "oracle.npz");
        let base = Options { estimator: Some(Estimator::Hutchinson), ..exact(&[(layer, LAMBDA)]) };
        let plan_of = |options: &Options| plan(&model(fixture), options);
        let plan = plan_of(&base);
        let batched = matches!(plan.manifest.layers[0].probes[0].shape[0], Dim::Symbol(_));
        assert_eq!(batched, fixture == "mlp", "{:?}", plan.manifest.layers[0].probes);
        let weight = plan.manifest.layers[0].weight.clone();
        let names = &plan.manifest.graphs.gradient;
        let rows = draws(&plan, "gradient.onnx", &feeds(&plan, &oracle), &[&names.kappa[0], &names.gradients[&weight]]);
        let kappa = oracle.scalar(&format!("kappa/{layer}"));
        faults.extend(biased(&format!("{fixture} {layer}: κ"), rows.iter().map(|r| r[0]), kappa, 4.0));
        for (k, expected) in oracle.values(&format!("grad/{layer}/{weight}")).into_iter().enumerate() {
            // Several hundred elements: the largest of them strays further.
            let what = format!("{fixture} {layer}: gradient of {weight}, element {k}");
            faults.extend(biased(&what, rows.iter().map(|r| r[k + 1]), expected, 5.0));
        }
        let layerwise = plan_of(&Options { measure: Measure::Layerwise, ..base });
        let output = layerwise.manifest.graphs.evaluate.kappa[0].clone();
        let rows = draws(&layerwise, "evaluate.onnx", &feeds(&layerwise, &oracle), &[&output]);
        let kappa_hat = oracle.scalar(&format!("kappa_hat/{layer}"));
        faults.extend(biased(&format!("{fixture} {layer}: κ̂"), rows.iter().map(|r| r[0]), kappa_hat, 4.0));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `logits = V tanh(U x + b) + c`: a layer `U` with a smooth head.
fn smooth_model(rng: &mut Rng) -> Model {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [ir::Dim::symbol("batch"), ir::Dim::Fixed(4)]), None);
    let mut weight = |name: &str, shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        let data: Vec<f64> = (0..n).map(|_| 2.0 * rng.uniform()).collect();
        b.initializer(name, ir::Tensor::from_f64(DType::F32, shape, data))
    };
    let weights = [weight("hidden.weight", &[5, 4]), weight("hidden.bias", &[5]), weight("fc.weight", &[3, 5])];
    let fc_bias = weight("fc.bias", &[3]);
    let transposed = || Attrs::new().with("transB", 1);
    b.scope("/hidden/Gemm");
    let z = b.op("Gemm", &[x, weights[0], weights[1]], transposed());
    b.scope("/Tanh");
    let hidden = b.op("Tanh", &[z], Attrs::new());
    b.scope("/fc/Gemm");
    let logits = b.op("Gemm", &[hidden, weights[2], fc_bias], transposed());
    b.output(logits, "logits");
    Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() }
}

/// κ by its definition: `Σ_{t,j} D²L[u_j e_tᵀ, u_j e_tᵀ]` with `u_j` the columns of `W`, by second differences.
fn kappa_by_definition(loss: &dyn Fn(&[f64]) -> f64, weight: &[f64], d: usize, m: usize) -> f64 {
    const H: f64 = 1e-3;
    let at = |j: usize, t: usize, step: f64| {
        let moved = (0..d * m).map(|k| weight[k] + if k % m == t { step * weight[k - t + j] } else { 0.0 });
        loss(&moved.collect::<Vec<f64>>())
    };
    let centre = loss(weight);
    let pairs = (0..m).flat_map(|j| (0..m).map(move |t| (j, t)));
    pairs.map(|(j, t)| (at(j, t, H) - 2.0 * centre + at(j, t, -H)) / (H * H)).sum()
}

#[test]
fn a_smooth_head_is_estimated() {
    let mut rng = Rng(3);
    let model = smooth_model(&mut rng);
    let x: Vec<f64> = (0..24).map(|_| f64::from(2.0 * rng.uniform() as f32)).collect();
    let labels: Vec<i64> = vec![0, 1, 2, 2, 1, 0];
    let plan = plan(&model, &Options { estimator: None, ..exact(&[("hidden", LAMBDA)]) });
    assert_eq!(plan.report.layers[0].estimator, Estimator::Hutchinson);
    let evaluated = graph(&plan, "evaluate.onnx");
    let mut inputs: HashMap<String, Array> = HashMap::new();
    let mut put = |name: &str, dtype, shape: &[usize], data: Vec<f64>| {
        inputs.insert(name.to_string(), Array::from_vec(dtype, shape, data).expect("fits"));
    };
    put("x", DType::F64, &[6, 4], x.clone());
    put("labels", DType::I64, &[6], labels.iter().map(|&l| l as f64).collect());
    put("probe.hidden", DType::F64, &[6, 4], vec![1.0; 24]);
    for (name, tensor) in initial(&plan) {
        put(&name, DType::F64, tensor.shape(), values(&tensor));
    }
    let loss_id = evaluated.graph.find("loss").expect("an output");
    let loss = |weight: &[f64]| {
        let mut inputs = inputs.clone();
        let weight = Array::from_vec(DType::F64, &[5, 4], weight.to_vec()).expect("fits");
        inputs.insert("hidden.weight".to_string(), weight);
        evaluate(&evaluated.graph, &inputs).expect("runs")[&loss_id].data.sum()
    };
    let expected = kappa_by_definition(&loss, &values(&initial(&plan)["hidden.weight"]), 5, 4);
    let mut feeds = initial(&plan);
    feeds.insert("x".to_string(), f32s(&[6, 4], &x));
    let bytes = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    feeds.insert("labels".to_string(), Tensor::new(DType::I64, vec![6], bytes).expect("fits"));
    let rows = draws(&plan, "evaluate.onnx", &feeds, &["kappa"]);
    let fault = biased("κ", rows.iter().map(|r| r[0]), expected, 4.0);
    assert!(fault.is_none(), "{}", fault.unwrap_or_default());
}

/// A ReLU net computes the same where a layer is scaled by α and the next by 1/α; so does κ stay, and κ̂.
#[test]
fn kappa_does_not_depend_on_the_parametrisation_and_the_trace_does() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let mut faults = Vec::new();
    for measure in [Measure::Neuronwise, Measure::Layerwise] {
        let plan = plan(&model("mlp"), &Options { measure, ..exact(&[("fc1", LAMBDA)]) });
        let mut session = session("mlp", graph(&plan, "evaluate.onnx"));
        let key = if measure == Measure::Neuronwise { "kappa/fc1" } else { "kappa_hat/fc1" };
        for alpha in [1e-3, 1e-1, 1.0, 1e1, 1e3] {
            let mut feeds = feeds(&plan, &oracle);
            for (name, factor) in [("fc1.weight", alpha), ("fc1.bias", alpha), ("fc2.weight", 1.0 / alpha)] {
                let scaled: Vec<f64> = feeds[name].iter_f64().map(|v| v * factor).collect();
                let scaled = f32s(feeds[name].shape(), &scaled);
                feeds.insert(name.to_string(), scaled);
            }
            let outputs = run(&mut session, &feeds);
            let what = |of: &str| format!("{of} at α = {alpha}");
            faults.extend(differs(&what("loss"), scalar(&outputs, "loss"), oracle.scalar("loss"), LOSS));
            let kappa = scalar(&outputs, "kappa");
            faults.extend(differs(&what(key), kappa, oracle.scalar(key), KAPPA));
            if measure == Measure::Layerwise {
                let squared_norm = |tensor: &Tensor| tensor.iter_f64().map(|v| v * v).sum::<f64>();
                let before = oracle.scalar(key) / squared_norm(&initial(&plan)["fc1.weight"]);
                let trace = kappa / squared_norm(&feeds["fc1.weight"]);
                faults.extend(differs(&what("Tr H"), trace, before * alpha.powi(-2), KAPPA));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// PyTorch's SGD in f64.
struct Reference {
    sgd: Sgd,
    parameters: BTreeMap<String, Vec<f64>>,
    velocities: BTreeMap<String, Vec<f64>>,
}

impl Reference {
    fn step(&mut self, gradients: &HashMap<String, Vec<f64>>, rate: f64) {
        let Sgd { momentum, nesterov, weight_decay } = self.sgd;
        for (name, weights) in &mut self.parameters {
            let velocity = self.velocities.entry(name.clone()).or_insert_with(|| vec![0.0; weights.len()]);
            for ((w, v), g) in weights.iter_mut().zip(velocity).zip(&gradients[name]) {
                let g = g + weight_decay * *w;
                *v = momentum * *v + g;
                *w -= rate * if nesterov { g + momentum * *v } else { *v };
            }
        }
    }
}

/// `optimizer.onnx` after `gradient.onnx` is `train.onnx`, and both are PyTorch's step.
#[test]
fn three_steps_of_every_optimiser() {
    let oracle = Oracle::read("mlp", "oracle.npz");
    let sgd = |momentum, nesterov, weight_decay| Sgd { momentum, nesterov, weight_decay };
    let mut faults = Vec::new();
    for sgd in
        [sgd(0.0, false, 0.0), sgd(0.9, false, 0.0), sgd(0.9, true, 0.0), sgd(0.0, false, 0.1), sgd(0.8, true, 0.1)]
    {
        let plan = plan(&model("mlp"), &Options { optimizer: Optimizer::Sgd(sgd), ..exact(&[("fc2", LAMBDA)]) });
        let open = |file: &str| session(file, graph(&plan, file));
        let (mut gradient, mut optimizer, mut train) =
            (open("gradient.onnx"), open("optimizer.onnx"), open("train.onnx"));
        let rates = [0.5, 0.1, 0.02];
        let mut fused = feeds(&plan, &oracle);
        let mut apart = fused.clone();
        let parameters = plan.manifest.parameters.iter().map(|p| (p.name.clone(), values(&fused[&p.name]))).collect();
        let mut reference = Reference { sgd, parameters, velocities: BTreeMap::new() };
        let graphs = &plan.manifest.graphs;
        for rate in rates {
            let learning_rate = Tensor::scalar(rate as f32);
            fused.insert(graphs.train.learning_rate.clone(), learning_rate.clone());
            apart.insert(graphs.optimizer.learning_rate.clone(), learning_rate);
            let outputs = run(&mut train, &fused);
            for (name, next) in &graphs.train.updates {
                fused.insert(name.clone(), outputs[next].clone());
            }
            let gradients = run(&mut gradient, &apart);
            assert_eq!(gradients["loss"], outputs["loss"]);
            let named = graphs.gradient.gradients.iter();
            let by_parameter = named.map(|(p, output)| (p.clone(), values(&gradients[output]))).collect();
            reference.step(&by_parameter, f64::from(rate as f32));
            apart.extend(gradients);
            let outputs = run(&mut optimizer, &apart);
            for (name, next) in &graphs.optimizer.updates {
                apart.insert(name.clone(), outputs[next].clone());
            }
        }
        let mut expected = reference.parameters;
        if sgd.momentum > 0.0 {
            expected.extend(reference.velocities.into_iter().map(|(name, v)| (format!("{name}.momentum"), v)));
        }
        assert!(graphs.train.updates.keys().eq(expected.keys()));
        for (name, expected) in &expected {
            for (graphs, tensors) in [("train.onnx", &fused), ("optimizer.onnx", &apart)] {
                let found = values(&tensors[name]);
                let difference: Vec<f64> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
                if exceeds(norm(&difference), 1e-5 * norm(expected)) {
                    faults.push(format!("{sgd:?} {graphs} {name}: off by {:.1e}", norm(&difference) / norm(expected)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
