//! Artifacts of the fixtures against their float64 oracles: loss, κ, gradients, running statistics, optimiser steps.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::step::*;
use fam_onnx::artifact::{Options, Plan};
use fam_onnx::flatness::Measure;
use fam_onnx::tensor::Tensors;

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
        if !(norm(&off) <= 1e-5 * norm(&expected)) {
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
