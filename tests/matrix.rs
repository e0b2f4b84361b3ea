//! κ of every kind of layer and head against its definition: full Hessians in float64, made by `fixtures/flatness`.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::fixture;
use common::rng::Rng;
use common::step::*;
use fam_onnx::artifact::manifest::{Dim, Source};
use fam_onnx::artifact::{self, Options, Plan, Target};
use fam_onnx::eval;
use fam_onnx::flatness::{Estimator, Measure, Probes};
use fam_onnx::ir::Model;
use fam_onnx::loss::Loss;
use fam_onnx::onnx;
use fam_onnx::ops::Array;
use fam_onnx::tensor::{DType, Tensor, Tensors};
use serde::Deserialize;

const LOSS: f64 = 1e-6;
const KAPPA: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
/// Of the whole gradient's norm: what a gradient may be off by where it is small itself.
const FLOOR: f64 = 1e-6;
/// What the interpreter's float64 may be off by; constants of the graphs stay float32.
const DOUBLE: f64 = 1e-7;

/// λ of the oracle.
const LAMBDA: f64 = 0.1;

const FIXTURE: &str = "flatness";

#[derive(Deserialize)]
struct Index {
    cases: Vec<Case>,
    /// Of each file: PyTorch's parameter to the initialiser and whether that is transposed.
    initialisers: BTreeMap<String, BTreeMap<String, (String, bool)>>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    loss: String,
    layer: String,
    parameter: String,
    train: bool,
}

fn index() -> Index {
    let text = std::fs::read_to_string(fixture(FIXTURE).join("cases.json")).expect("an index");
    serde_json::from_str(&text).expect("an index of cases")
}

fn read(file: &str) -> Model {
    onnx::read(&fixture(FIXTURE).join(format!("{file}.onnx"))).expect("a model")
}

/// A case with one exporter's file.
struct Run<'a> {
    case: &'a Case,
    file: String,
    names: &'a BTreeMap<String, (String, bool)>,
    oracle: &'a Oracle,
}

impl Run<'_> {
    fn key(&self, what: &str) -> String {
        format!("{}/{}/{}/{what}", self.case.model, self.case.loss, self.case.layer)
    }

    fn label(&self) -> String {
        format!("{} {} {}", self.file, self.case.loss, self.case.layer)
    }

    fn options(&self, estimator: Estimator) -> Options {
        let layer = self.names[&self.case.parameter].0.as_str();
        let target = match self.case.loss.as_str() {
            "output" => Target::Output("logits".to_string()),
            name => Target::Loss(Loss::from_name(name).expect("a loss").into()),
        };
        Options { target, estimator: Some(estimator), train_batch_norm: self.case.train, ..exact(&[(layer, LAMBDA)]) }
    }

    fn feeds(&self, plan: &Plan) -> Tensors {
        let mut feeds = initial(plan);
        feeds.insert("x".to_string(), self.oracle.tensor(&format!("{}/x", self.case.model)).clone());
        if let Some(labels) = &plan.manifest.labels {
            let key = format!("{}/{}/labels", self.case.model, self.case.loss);
            feeds.insert(labels.clone(), self.oracle.tensor(&key).clone());
        }
        feeds
    }

    fn step(&self, options: &Options) -> (Plan, Tensors) {
        let plan = plan(&read(&self.file), options);
        let outputs = run(&mut session(&self.file, graph(&plan, "gradient.onnx")), &self.feeds(&plan));
        (plan, outputs)
    }

    /// The oracle's gradients by the names and in the layouts of the file.
    fn gradients(&self) -> BTreeMap<String, Vec<f64>> {
        let mut expected: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, gradient) in self.oracle.below(&self.key("grad")) {
            let (initialiser, transposed) = &self.names[&name];
            let shape = self.oracle.tensor(&self.key(&format!("grad/{name}"))).shape().to_vec();
            let gradient = if *transposed { transpose(&gradient, &shape) } else { gradient };
            let sum = expected.entry(initialiser.clone()).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(a, b)| *a += b);
        }
        expected
    }

    fn faults(&self) -> Vec<String> {
        let (plan, outputs) = self.step(&self.options(Estimator::Exact));
        let names = &plan.manifest.graphs.gradient;
        let loss = self.oracle.scalar(&format!("{}/{}/loss", self.case.model, self.case.loss));
        let mut faults: Vec<String> = differs("loss", scalar(&outputs, &names.loss), loss, LOSS).into_iter().collect();
        let kappa = self.oracle.scalar(&self.key("kappa"));
        faults.extend(differs("κ", scalar(&outputs, &names.kappa[0]), kappa, KAPPA));
        let found: HashMap<String, Vec<f64>> =
            names.gradients.iter().map(|(p, output)| (p.clone(), values(&outputs[output]))).collect();
        faults.extend(gradients_beyond(&found, &self.gradients(), GRADIENT, FLOOR));
        let hat = Options { measure: Measure::Layerwise, ..self.options(Estimator::Exact) };
        let (plan, outputs) = self.step(&hat);
        let found = scalar(&outputs, &plan.manifest.graphs.gradient.kappa[0]);
        faults.extend(differs("κ̂", found, self.oracle.scalar(&self.key("kappa_hat")), KAPPA));
        if self.oracle.has(&self.key("gauss_newton")) {
            let (plan, outputs) = self.step(&self.options(Estimator::GaussNewton));
            let found = scalar(&outputs, &plan.manifest.graphs.gradient.kappa[0]);
            faults.extend(differs("Gauss–Newton", found, self.oracle.scalar(&self.key("gauss_newton")), KAPPA));
        }
        let why = &plan.report.layers[0].why;
        let class = plan.report.layers[0].class;
        faults.into_iter().map(|f| format!("{}: {f} ({class}, {why})", self.label())).collect()
    }
}

impl Run<'_> {
    /// Loss, κ and gradients in float64, by the interpreter, and where they are not what the oracle says.
    fn faults_in_double(&self) -> Vec<String> {
        let plan = plan(&read(&self.file), &self.options(Estimator::Exact));
        let model = graph(&plan, "gradient.onnx");
        let mut feeds = self.feeds(&plan);
        feeds.retain(|name, _| model.graph.find(name).is_some());
        let array = |t: &Tensor| Array::from_vec(t.dtype(), t.shape(), values(t)).expect("an array");
        let mut inputs: HashMap<String, Array> = feeds.iter().map(|(name, t)| (name.clone(), array(t))).collect();
        inputs.insert("lambda".to_string(), Array::from_vec(DType::F64, &[], vec![LAMBDA]).expect("an array"));
        let computed = eval::evaluate(&model.graph, &inputs).expect("values");
        let output = |name: &str| {
            let id = model.graph.find(name).expect("an output");
            computed[&id].data.iter().copied().collect::<Vec<f64>>()
        };
        let names = &plan.manifest.graphs.gradient;
        let loss = self.oracle.scalar(&format!("{}/{}/loss", self.case.model, self.case.loss));
        let mut faults: Vec<String> = differs("loss", output(&names.loss)[0], loss, DOUBLE).into_iter().collect();
        let kappa = self.oracle.scalar(&self.key("kappa"));
        faults.extend(differs("κ", output(&names.kappa[0])[0], kappa, DOUBLE));
        let found: HashMap<String, Vec<f64>> = names.gradients.iter().map(|(p, o)| (p.clone(), output(o))).collect();
        faults.extend(gradients_beyond(&found, &self.gradients(), DOUBLE, FLOOR * DOUBLE));
        faults.into_iter().map(|f| format!("{}: {f}", self.label())).collect()
    }
}

fn transpose(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let (rows, columns) = (shape[0], shape[1]);
    (0..rows * columns).map(|k| values[k % rows * columns + k / rows]).collect()
}

fn runs<'a>(index: &'a Index, oracle: &'a Oracle) -> Vec<Run<'a>> {
    let files = |case: &'a Case| ["", "-dynamo"].map(|exporter| (case, format!("{}{exporter}", case.model)));
    index
        .cases
        .iter()
        .flat_map(files)
        .filter(|(_, file)| index.initialisers.contains_key(file))
        .map(|(case, file)| Run { case, names: &index.initialisers[&file], file, oracle })
        .collect()
}

#[test]
fn every_layer_and_head_keeps_to_the_definition() {
    let (index, oracle) = (index(), Oracle::read(FIXTURE, "oracle.npz"));
    let runs = runs(&index, &oracle);
    let faults: Vec<String> = runs.iter().flat_map(Run::faults).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(runs.len() >= 60, "{} cases", runs.len());
}

#[test]
fn in_float64_every_case_is_the_definition() {
    let (index, oracle) = (index(), Oracle::read(FIXTURE, "oracle.npz"));
    let faults: Vec<String> = runs(&index, &oracle).iter().flat_map(Run::faults_in_double).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Every head class and every way to κ occurs.
#[test]
fn heads_and_ways() {
    let (index, oracle) = (index(), Oracle::read(FIXTURE, "oracle.npz"));
    let mut text = String::new();
    for run in runs(&index, &oracle).iter().filter(|run| run.file == run.case.model) {
        let plan = plan(&read(&run.file), &run.options(Estimator::Exact));
        let layer = &plan.report.layers[0];
        let at = layer.decided_by.as_deref().unwrap_or("-");
        text += &format!("{} | {} | {at} | {}\n", run.label(), layer.class, layer.why);
    }
    expect_test::expect_file!["golden/heads.txt"].assert_eq(&text);
}

/// Model, loss, layer: one of each kind of head and layer.
const ESTIMATED: &[(&str, &str, &str)] = &[
    ("relu", "softmax-cross-entropy", "fc1"),
    ("wide", "mse", "fc2"),
    ("tanh", "softmax-cross-entropy", "fc1"),
    ("tagger-smooth", "softmax-cross-entropy", "fc1"),
    ("conv2d", "softmax-cross-entropy", "conv2"),
    ("transposed1d", "softmax-cross-entropy", "conv"),
    ("attention", "softmax-cross-entropy", "qkv"),
    ("tied-smooth", "softmax-cross-entropy", "tied"),
    ("autoencoder3d", "dice-with-logits", "down"),
    ("contrastive", "output", "fc1"),
];

/// Runs of the graph, and probes a run: 4,096 in all.
const RUNS: usize = 64;
const SAMPLES: i64 = 64;

/// The mean of the estimates and its standard error, over [`RUNS`] runs of [`SAMPLES`] probes.
fn estimate(run: &Run<'_>, options: &Options) -> (f64, f64) {
    let plan = plan(&read(&run.file), options);
    let mut session = session(&run.file, graph(&plan, "evaluate.onnx"));
    let (mut feeds, mut rng) = (run.feeds(&plan), Rng(11));
    let batch = feeds["x"].shape()[0];
    let draws: Vec<f64> = (0..RUNS)
        .map(|_| {
            for probe in plan.manifest.probes() {
                let size = |dim: &Dim| if let Dim::Fixed(n) = dim { *n } else { batch };
                let shape: Vec<usize> = probe.shape.iter().map(size).collect();
                feeds.insert(probe.name.clone(), rng.signs(&shape));
            }
            let outputs = common::step::run(&mut session, &feeds);
            scalar(&outputs, &plan.manifest.graphs.evaluate.kappa[0])
        })
        .collect();
    let mean = draws.iter().sum::<f64>() / RUNS as f64;
    let variance = draws.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (RUNS as f64 - 1.0);
    (mean, (variance / RUNS as f64).sqrt())
}

/// Every kind of probes that is unbiased for a layer, by both measures. With `--nocapture`, the spread of one probe.
#[test]
fn estimates_are_unbiased_with_every_kind_of_probes() {
    let (index, oracle) = (index(), Oracle::read(FIXTURE, "oracle.npz"));
    let runs = runs(&index, &oracle);
    let mut faults = Vec::new();
    for (model, loss, layer) in ESTIMATED {
        let run = runs.iter().find(|r| r.file == *model && r.case.loss == *loss && r.case.layer == *layer);
        let run = run.expect("a case of that name");
        for (measure, key) in [(Measure::Neuronwise, "kappa"), (Measure::Layerwise, "kappa_hat")] {
            let expected = oracle.scalar(&run.key(key));
            for probes in Probes::ALL {
                let base = run.options(Estimator::Hutchinson);
                let options = Options { measure, probes: Some(probes), samples: SAMPLES, ..base };
                let source = Source { name: String::new(), sha256: String::new() };
                if artifact::plan(&read(&run.file), &options, source).is_err() {
                    continue;
                }
                let (mean, error) = estimate(run, &options);
                // float32 rounds what does not vary.
                let off = (mean - expected).abs() / error.max(1e-6 * expected.abs());
                let spread = error * ((RUNS * SAMPLES as usize) as f64).sqrt() / expected.abs();
                println!(
                    "{model} {loss} {layer} {key} {}: {expected:.4}, one probe ± {:.0} %",
                    probes.name(),
                    100.0 * spread
                );
                if exceeds(off, 4.0) {
                    faults.push(format!(
                        "{} {key} {}: mean {mean:e}, expected {expected:e}, off by {off:.1} standard errors",
                        run.label(),
                        probes.name()
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
