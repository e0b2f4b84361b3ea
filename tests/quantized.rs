//! Layers whose weight is quantised: against the definition in the numbers that the integers stand for
//! (`fixtures/quantized`), by every route, trained and not; and what `export` stores.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::fixture;
use common::step::*;
use fam_onnx::artifact::{self, Options, manifest::Source};
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::Model;
use fam_onnx::onnx;
use fam_onnx::tensor::Tensors;
use fam_onnx::verify::{self, Verdict, What};

const FIXTURE: &str = "quantized";
const LAMBDA: f64 = 0.1;

/// Model, layer, and whether anything but quantised weights trains.
const CASES: &[(&str, &str, bool)] = &[
    ("linear", "fc1", true),
    ("linear", "fc2", true),
    ("linear", "fc3", true),
    ("linear", "fc", true),
    ("conv", "conv", false),
    ("conv", "fc", false),
    ("tied", "tied", true),
    ("clipped", "w", true),
];

fn read(name: &str) -> Model {
    onnx::read(&fixture(FIXTURE).join(format!("{name}.onnx"))).expect("a model")
}

/// A node's name or a parameter's: ONNX Runtime's quantiser keeps neither module paths nor names.
fn layer_name(model: &str, layer: &str) -> String {
    if model == "clipped" { layer.to_string() } else { format!("{layer}.weight") }
}

fn options(model: &str, layer: &str, train_quantized: bool) -> Options {
    Options { train_quantized, ..exact(&[(&layer_name(model, layer), LAMBDA)]) }
}

/// Losses, κ and gradients of a step against the oracle.
fn faults(model: &str, layer: &str, oracle: &Oracle, options: &Options) -> Vec<String> {
    let plan = plan(&read(model), options);
    let mut feeds: Tensors = initial(&plan);
    feeds.insert("x".to_string(), oracle.tensor(&format!("{model}/x")).clone());
    feeds.insert("labels".to_string(), oracle.tensor(&format!("{model}/labels")).clone());
    let outputs = run(&mut session(model, graph(&plan, "gradient.onnx")), &feeds);
    let names = &plan.manifest.graphs.gradient;
    let mut faults = Vec::new();
    faults.extend(differs("loss", scalar(&outputs, &names.loss), oracle.scalar(&format!("{model}/loss")), 1e-6));
    let key = match options.measure {
        Measure::Neuronwise => "kappa",
        Measure::Layerwise => "kappa_hat",
    };
    let kappa = oracle.scalar(&format!("{model}/{layer}/{key}"));
    faults.extend(differs(key, scalar(&outputs, &names.kappa[0]), kappa, 1e-5));
    if options.measure == Measure::Neuronwise {
        let found: HashMap<String, Vec<f64>> =
            names.gradients.iter().map(|(p, output)| (p.clone(), values(&outputs[output]))).collect();
        let mut expected: BTreeMap<String, Vec<f64>> = oracle.below(&format!("{model}/{layer}/grad"));
        if !options.train_quantized {
            expected.retain(|name, _| !name.ends_with("_quantized"));
        }
        faults.extend(gradients_differ(&found, &expected, 1e-4));
    }
    let why = &plan.report.layers[0].why;
    faults.into_iter().map(|f| format!("{model} {layer}, trained: {}: {f} ({why})", options.train_quantized)).collect()
}

#[test]
fn every_layout_keeps_to_the_definition() {
    let oracle = Oracle::read(FIXTURE, "oracle.npz");
    let mut all = Vec::new();
    for &(model, layer, floats) in CASES {
        for train in [true, false].into_iter().filter(|&train| train || floats) {
            let options = options(model, layer, train);
            all.extend(faults(model, layer, &oracle, &options));
            all.extend(faults(model, layer, &oracle, &Options { measure: Measure::Layerwise, ..options }));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// A model whose every weight is stored as integers has nothing to train, and says what to do; κ can be measured.
#[test]
fn integers_alone_do_not_train() {
    let source = Source { name: "conv.onnx".to_string(), sha256: String::new() };
    let error = artifact::plan(&read("conv"), &options("conv", "fc", false), source).expect_err("nothing to train");
    assert_eq!(error.to_string(), "no parameter is left to train");
    let measured = artifact::measurement(&read("conv"), &["*".to_string()], &options("conv", "fc", false));
    let measured = measured.expect("a measurement");
    let rows: Vec<String> =
        measured.layers.iter().map(|l| format!("{} {} {}", l.name, l.weight, l.estimator)).collect();
    expect_test::expect![[r#"
        conv conv.weight_quantized exact
        fc fc.weight_quantized exact"#]]
    .assert_eq(&rows.join("\n"));
}

/// With the trace detached the gradient of κ reaches a rounded weight through its rounding.
#[test]
fn detached_traces_reach_the_float_weight() {
    let oracle = Oracle::read(FIXTURE, "oracle.npz");
    let step = |lambda: f64, detach_trace: bool| {
        let options = Options { detach_trace, ..exact(&[("w", lambda)]) };
        let plan = plan(&read("clipped"), &options);
        let mut feeds: Tensors = initial(&plan);
        feeds.insert("x".to_string(), oracle.tensor("clipped/x").clone());
        feeds.insert("labels".to_string(), oracle.tensor("clipped/labels").clone());
        let outputs = run(&mut session("clipped", graph(&plan, "gradient.onnx")), &feeds);
        let output = &plan.manifest.graphs.gradient.gradients["w"];
        (values(&outputs[output]), values(&initial(&plan)["w"]))
    };
    let (plain, _) = step(0.0, false);
    let (detached, weight) = step(LAMBDA, true);
    let part: Vec<f64> = detached.iter().zip(&plain).map(|(a, b)| a - b).collect();
    // κ is quadratic in the outer W: the gradient along what is not clipped, with what is clipped at its bound, is 2κ
    // less the share of the clipped elements, which have none.
    let clipped: Vec<bool> = weight.iter().map(|w| !(-128.5..=127.5).contains(&(w / f64::from(0.008f32)))).collect();
    assert!(clipped.iter().any(|&c| c) && clipped.iter().any(|&c| !c));
    for (gradient, clipped) in part.iter().zip(&clipped) {
        assert!(!clipped || gradient.abs() < 1e-7, "{gradient}");
    }
    assert!(norm(&part) > 1e-2);
}

#[test]
fn estimates_and_gauss_newton_take_quantised_weights() {
    for estimator in [Estimator::Hutchinson, Estimator::GaussNewton] {
        for &(model, layer, _) in CASES {
            let options = Options { estimator: Some(estimator), ..options(model, layer, true) };
            let plan = plan(&read(model), &options);
            assert_eq!(plan.report.layers[0].estimator, estimator);
            session(model, graph(&plan, "gradient.onnx"));
        }
    }
}

/// The artifact of a layer on disk, its quantised weights training.
fn written(model: &str, layer: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = plan(&read(model), &options(model, layer, true));
    let names: Vec<String> = plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
    let source = fixture(FIXTURE).join(format!("{model}.onnx"));
    let inference = onnx::without_weights(&source, &names).expect("a model without weights");
    artifact::write(&plan, &inference, &directory.path().join("model.fam"), false).expect("an artifact");
    directory
}

/// What is exported holds integers where the model did, the same ones where nothing has trained.
#[test]
fn integers_come_back() {
    for (model, layer) in [("linear", "fc2"), ("conv", "conv"), ("tied", "tied"), ("clipped", "w")] {
        let directory = written(model, layer);
        let exported = artifact::export(&directory.path().join("model.fam"), None, false).expect("a model");
        let (before, after) =
            (read(model).graph, onnx::read_bytes(&exported.what.to_bytes(), None).expect("a model").graph);
        for id in before.initializers() {
            let name = before.name_of(id);
            let found = after.find(name).map(|id| after.value(id).data.clone());
            assert_eq!(found, Some(before.value(id).data.clone()), "{model} {name}");
        }
    }
}

/// Rounding has no derivative; differences are taken of what it stands for.
#[test]
fn verify_looks_through_rounding() {
    for (model, layer) in [("linear", "fc3"), ("conv", "conv"), ("tied", "tied"), ("clipped", "w")] {
        let directory = written(model, layer);
        let options = verify::Options { data: None, batch: 3, directions: 2, definition: 64, probes: 64, seed: 5 };
        let report = verify::verify(&directory.path().join("model.fam"), &common::runtime(), &options);
        let report = report.expect("a report");
        let other = report.checks.iter().filter(|check| check.verdict != Verdict::Agrees);
        let faults: Vec<String> =
            other.map(|c| format!("{model} {layer}: {:?} of {}: {:?}", c.what, c.of, c)).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(report.checks.iter().any(|check| check.what == What::Kappa));
    }
}
