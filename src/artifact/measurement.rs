//! The graph that `measure` runs: the forward pass with κ by both measures of every layer that was named, and no gradients.

use super::manifest::{self, EvaluateGraph, Graphs, Manifest};
use super::standard::{self, Options};
use super::target::{self, Judged};
use super::trace::{self, Opened};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::flatness::{self, Kappa, Layer, Measure, Objective, Purpose, Request};
use crate::ir::{Builder, Graph, Model, Tensor, Val, ValueId};
use globset::Glob;
use std::collections::{BTreeMap, HashSet};

pub struct Measurement {
    /// What an evaluation needs to know of the graph; of the other graphs there are none. `layers` and the evaluation's
    /// `kappa` hold each measured layer twice: neuronwise, then layerwise. The squared norms of the weights follow.
    pub manifest: Manifest,
    pub model: Model,
    /// The model's parameters.
    pub tensors: BTreeMap<String, Tensor>,
    pub layers: Vec<MeasuredLayer>,
    pub skipped: Vec<SkippedLayer>,
    /// What the user should know of the loss.
    pub notes: Vec<String>,
}

/// How κ of a layer is computed.
#[derive(Clone, Debug)]
pub struct MeasuredLayer {
    pub name: String,
    pub weight: String,
    pub d: i64,
    pub m: i64,
    pub class: &'static str,
    pub decided_by: Option<String>,
    pub estimator: &'static str,
    pub why: String,
}

/// A layer that a pattern matches and that has no κ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedLayer {
    pub name: String,
    pub reason: String,
}

/// The measurement of `model` at the layers that `patterns` name, as `--layer` does or by `*`, `?` and `[…]`. Of `options`
/// count the target, the output name and the estimator: where that is `None`, exact if a batch is predicted to take at most
/// a second, or a hundred steps of training.
///
/// # Errors
/// As [`standard::plan`]; a layer that only a pattern names is left out where κ cannot be built.
pub fn measurement(model: &Model, patterns: &[String], options: &Options) -> Result<Measurement> {
    let mut notes = Vec::new();
    let opened = trace::open(model, options, &mut notes)?;
    let b = Builder::of(opened.parametric());
    let predicted = target::prediction(&opened.graph, &opened.outputs, options)?;
    let Judged { on, labels, label_spec } = target::objective(&b, predicted, &opened, options, &mut notes)?;
    let trained: Vec<Val> = opened.parameters.iter().filter(|p| p.trainable).map(|p| b.val(p.value)).collect();
    let plain = trace::pull(&b, on.loss, &trained).ok().map(|gradients| trace::plain_cost(&b, on, &gradients));
    let mut outputs = vec![b.output(on.loss, "loss"), b.output(on.loss, "objective")];
    let (mut layers, mut skipped, mut kappas, mut norms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (layer, by_pattern) in chosen(&opened.graph, patterns, predicted)? {
        let built = both(&b, &layer, on, options, plain);
        let (neuronwise, layerwise) = match built {
            Ok(pair) => pair,
            Err(error) if by_pattern => {
                let reason = error.to_string();
                skipped.push(SkippedLayer { name: layer.name, reason });
                continue;
            }
            Err(error) => return Err(error),
        };
        b.scope(&format!("norm/{}/", layer.name));
        let norm = layer.view(b.val(layer.weight)).square().sum_all();
        layers.push(described(&b, &layer, &neuronwise));
        for (kappa, measure) in [(neuronwise, "neuronwise"), (layerwise, "layerwise")] {
            let name = b.output(kappa.value, &format!("{measure}.{}", layer.name));
            kappas.push((name, recorded(&b, &layer, &kappa, measure)));
        }
        norms.push(b.output(norm, &format!("norm.{}", layer.name)));
    }
    outputs.extend(kappas.iter().map(|(name, _)| name.clone()).chain(norms.clone()));
    let labels = labels.map(|v| v.name());
    let model = graph_of(model, b.finish()?, &opened, &outputs)?;
    let manifest = Manifest {
        label_spec,
        labels,
        loss: options.target.name().to_string(),
        inputs: opened.inputs.clone(),
        layers: kappas.iter().map(|(_, layer)| layer.clone()).collect(),
        graphs: Graphs {
            evaluate: EvaluateGraph {
                path: "measure.onnx".to_string(),
                predictions: Vec::new(),
                loss: outputs[0].clone(),
                kappa: outputs[2..].to_vec(),
                objective: outputs[1].clone(),
            },
            ..Graphs::default()
        },
        ..Manifest::empty()
    };
    let tensors = opened.parameters.iter().filter_map(|p| {
        let value = opened.graph.value(p.value);
        Some((value.name.clone(), value.data.clone()?))
    });
    Ok(Measurement { manifest, model, tensors: tensors.collect(), layers, skipped, notes })
}

/// The layers of the patterns, each once, and whether only a pattern names it.
fn chosen(graph: &Graph, patterns: &[String], output: ValueId) -> Result<Vec<(Layer, bool)>> {
    let all = flatness::layers(graph);
    let mut found: Vec<(Layer, bool)> = Vec::new();
    let mut add = |layer: Layer, by_pattern: bool| match found.iter_mut().find(|(l, _)| l.weight == layer.weight) {
        Some((_, known)) => *known &= by_pattern,
        None => found.push((layer, by_pattern)),
    };
    for pattern in patterns {
        if !pattern.contains(['*', '?', '[']) {
            add(flatness::find(graph, pattern, output)?, false);
            continue;
        }
        let glob = Glob::new(pattern)
            .map_err(|error| Error::Pattern { glob: pattern.clone(), reason: error.kind().to_string() })?
            .compile_matcher();
        let matching: Vec<&Layer> =
            all.iter().filter(|l| glob.is_match(&l.name) || l.aliases.iter().any(|a| glob.is_match(a))).collect();
        if matching.is_empty() {
            let near = all.iter().map(|l| l.name.clone()).take(8).collect();
            return Err(Error::UnknownName { what: "layer", name: pattern.clone(), near });
        }
        matching.into_iter().for_each(|layer| add(layer.clone(), true));
    }
    Ok(found)
}

/// κ by neurons and by the whole layer.
fn both<'g>(
    b: &'g Builder,
    layer: &Layer,
    on: Objective<'g>,
    options: &Options,
    plain: Option<Cost>,
) -> Result<(Kappa<'g>, Kappa<'g>)> {
    let build = |measure| {
        let request = Request {
            measure,
            per_fan_in: false,
            estimator: options.estimator,
            detach_trace: false,
            probes: options.probes,
            samples: options.samples,
            plain,
            purpose: Purpose::Measuring,
        };
        flatness::build(b, layer, on, &request)
    };
    Ok((build(Measure::Neuronwise)?, build(Measure::Layerwise)?))
}

fn described(b: &Builder, layer: &Layer, kappa: &Kappa<'_>) -> MeasuredLayer {
    MeasuredLayer {
        name: layer.name.clone(),
        weight: b.val(layer.stored).name(),
        d: layer.d,
        m: layer.m,
        class: kappa.class.name(),
        decided_by: kappa.class.decided_by().map(str::to_string),
        estimator: kappa.estimator.name(),
        why: kappa.why.clone(),
    }
}

fn recorded(b: &Builder, layer: &Layer, kappa: &Kappa<'_>, measure: &str) -> manifest::Layer {
    manifest::Layer {
        name: layer.name.clone(),
        weight: b.val(layer.stored).name(),
        constant: false,
        d: layer.d.max(0) as usize,
        m: layer.m.max(0) as usize,
        lambda: 0.0,
        lambda_input: None,
        measure: measure.to_string(),
        estimator: kappa.estimator.name().to_string(),
        probes: kappa.probes.iter().map(standard::probe).collect(),
    }
}

/// The graph of these outputs, with the model's inputs and every parameter.
fn graph_of(model: &Model, whole: Graph, opened: &Opened, outputs: &[String]) -> Result<Model> {
    let own = opened.inputs.iter().filter_map(|name| whole.find(name));
    let keep: HashSet<ValueId> = own.chain(opened.parameters.iter().map(|p| p.value)).collect();
    standard::cut(model, &whole, "measure", outputs, &|id| keep.contains(&id))
}
