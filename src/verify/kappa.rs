//! κ of a layer against its definition: the Hessian of the loss in the layer's weight, column by column.

use super::difference::{Difference, norm};
use super::double::{Double, Feeds};
use super::sample::{Random, float64};
use super::{Case, Check, Options, Verdict, What};
use crate::ad;
use crate::artifact::{self, manifest::Layer};
use crate::error::{Error, Result};
use crate::eval;
use crate::flatness;
use crate::ir::{Builder, DType, Graph, Model, fixed};
use crate::onnx;
use crate::ops::Array;
use crate::runtime::Runtime;
use crate::simplify;
use crate::tensor::{Tensor, Tensors};
use std::collections::HashMap;
use std::path::Path;

/// κ in float64 against the definition by differences, relative.
const EXACT: f64 = 1e-5;
/// Standard errors of an estimate's mean.
const ERRORS: f64 = 4.0;

pub(super) fn checks(
    case: &Case,
    path: &Path,
    runtime: &Runtime,
    options: &Options,
    random: &mut Random,
) -> Result<Vec<Check>> {
    let graphs = &case.manifest().graphs;
    // The graph that trains, where κ is in it.
    let (model, names, loss) = match graphs.gradient.kappa.is_empty() {
        false => (&case.gradient, &graphs.gradient.kappa, &graphs.gradient.loss),
        true => (&case.evaluate, &graphs.evaluate.kappa, &graphs.evaluate.loss),
    };
    let exported = artifact::export(path, None, false)?;
    let inference = onnx::read_bytes(&exported.what.to_bytes(), None)?;
    let mut checks = Vec::new();
    for (layer, name) in case.manifest().layers.iter().zip(names) {
        let work = Work { case, runtime, model, loss, layer };
        checks.push(work.check(name, &inference.graph, options, random)?);
    }
    Ok(checks)
}

struct Work<'a> {
    case: &'a Case,
    runtime: &'a Runtime,
    /// The graph that computes κ.
    model: &'a Model,
    /// Its output that is the loss.
    loss: &'a str,
    layer: &'a Layer,
}

/// The numbers of a layer's weight: the parameter, or what is dequantised.
struct View {
    name: String,
    /// Where `W[s, t]` stands in it, row by row.
    places: Vec<usize>,
}

impl Work<'_> {
    fn check(&self, name: &str, inference: &Graph, options: &Options, random: &mut Random) -> Result<Check> {
        let layer = self.layer;
        let mut kappa = Double::new(self.runtime, self.model, &[name.to_string()], &self.case.wide)?;
        let probes = if layer.probes.is_empty() { 1 } else { options.probes.max(2) };
        let estimate = self.estimate(&mut kappa, probes, random)?;
        let weights = layer.d * layer.m;
        if weights > options.definition {
            let reason = format!("{weights} weights; the definition is computed for at most {}", options.definition);
            return Ok(Check::not_compared(What::Kappa, &layer.name, estimate.mean, reason));
        }
        let Some(view) = view(inference, layer)? else {
            let reason = "its weight is not found in the model as rows of neurons".to_string();
            return Ok(Check::not_compared(What::Kappa, &layer.name, estimate.mean, reason));
        };
        let expected = self.definition(&view)?;
        let size = expected.abs().max(f64::MIN_POSITIVE);
        let limit = EXACT + ERRORS * estimate.error / size;
        let off = (estimate.mean - expected).abs() / size;
        let off = if estimate.mean == expected { 0.0 } else { off };
        let check = Check::new(What::Kappa, &layer.name, estimate.mean, off, limit);
        if check.verdict == Verdict::Disagrees && layer.estimator == "gauss-newton" {
            let reason = format!("gauss-newton leaves out how the head bends; by definition it is {expected:.5e}");
            return Ok(Check { verdict: Verdict::NotCompared(reason), ..check });
        }
        Ok(check)
    }

    /// κ, or the mean of its estimates over fresh probes with its standard error.
    fn estimate(&self, kappa: &mut Double, probes: usize, random: &mut Random) -> Result<Estimate> {
        let mut values = Vec::with_capacity(probes);
        for _ in 0..probes {
            // A mask stays as it is: κ is that of the masked loss.
            let probes = self.case.manifest().layers.iter().flat_map(|layer| &layer.probes);
            let changed = random.draws(probes, self.case.samples)?;
            values.push(kappa.scalar(Feeds { base: &self.case.wide, changed: &changed })?);
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let error = match values.len() {
            1 => 0.0,
            _ => (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt(),
        };
        Ok(Estimate { mean, error })
    }

    /// `Σ_{s,s'} ⟨w_s, w_s'⟩ Tr H_{s,s'}`, or `‖W‖² Tr H`, with the scale that the artifact gives it.
    fn definition(&self, view: &View) -> Result<f64> {
        let (d, m) = (self.layer.d, self.layer.m);
        let base = self.weight(&view.name)?;
        let weight: Vec<f64> = base.iter_f64().collect();
        let mut feeds = self.case.wide.clone();
        feeds.insert(view.name.clone(), base.clone());
        let model = with_input(self.model, &view.name)?;
        let model = Model { graph: simplify::dead_code(&model.graph), ..model };
        let gradient = ad::grad_model(&model, self.loss, std::slice::from_ref(&view.name))?;
        let mut gradient = Double::new(self.runtime, &gradient.model, &gradient.outputs, &feeds)?;
        let at = |s: usize, t: usize| view.places[s * m + t];
        let inner = |s: usize, k: usize| (0..m).map(|t| weight[at(s, t)] * weight[at(k, t)]).sum::<f64>();
        let gram: Vec<f64> = (0..d * d).map(|i| inner(i / d, i % d)).collect();
        let scale = (norm(&weight) / (weight.len().max(1) as f64).sqrt()).max(1e-3);
        let (mut neuronwise, mut trace) = (0.0, 0.0);
        for (s, t) in (0..d).flat_map(|s| (0..m).map(move |t| (s, t))) {
            let column = Difference::of(|step| {
                let mut moved = weight.clone();
                moved[at(s, t)] += step * scale;
                let changed = Tensors::from([(view.name.clone(), float64(base.shape().to_vec(), moved)?)]);
                Ok(gradient.run(Feeds { base: &feeds, changed: &changed })?.into_iter().next().unwrap_or_default())
            })?;
            let second = |k: usize| column.value[at(k, t)] / scale;
            neuronwise += (0..d).map(|k| gram[s * d + k] * second(k)).sum::<f64>();
            trace += second(s);
        }
        let kappa = match self.layer.measure.as_str() {
            "layerwise" => weight.iter().map(|w| w * w).sum::<f64>() * trace,
            _ => neuronwise,
        };
        let per_fan_in = self.case.manifest().options.get("normalize").and_then(|v| v.as_str()) == Some("fan-in");
        Ok(if per_fan_in { kappa / m as f64 } else { kappa })
    }

    /// What the weight is at the artifact's parameters.
    fn weight(&self, name: &str) -> Result<Tensor> {
        if let Some(stored) = self.case.wide.get(name) {
            return Ok(stored.clone());
        }
        let graph = &self.model.graph;
        let missing = || Error::MissingInput { tensor: name.to_string() };
        let id = graph.find(name).ok_or_else(missing)?;
        let shape = graph.value(id).fact.shape.as_deref().and_then(fixed).ok_or_else(missing)?;
        let outputs = Graph { outputs: vec![id], ..graph.clone() };
        let model = Model { graph: outputs, ..self.model.clone() };
        let mut double = Double::new(self.runtime, &model, &[name.to_string()], &self.case.wide)?;
        let found = double.run(Feeds { base: &self.case.wide, changed: &Tensors::new() })?;
        float64(shape.iter().map(|&n| n.max(0) as usize).collect(), found.into_iter().next().unwrap_or_default())
    }
}

/// The model with that value an input, whatever computes it; its other values stay where they are.
fn with_input(model: &Model, name: &str) -> Result<Model> {
    let mut graph = model.graph.clone();
    let id = graph.find(name).ok_or_else(|| Error::MissingInput { tensor: name.to_string() })?;
    let Some(made_by) = graph.value(id).producer else { return Ok(model.clone()) };
    graph.value_mut(id).producer = None;
    graph.inputs.push(id);
    let outputs = &mut graph.nodes[made_by.0 as usize].outputs;
    outputs.iter_mut().filter(|out| **out == Some(id)).for_each(|out| *out = None);
    Ok(Model { graph, ..model.clone() })
}

struct Estimate {
    mean: f64,
    error: f64,
}

/// The layer's weight in the model; `None` if the layer is not found or its weight is not only moved about.
fn view(inference: &Graph, layer: &Layer) -> Result<Option<View>> {
    let found = flatness::layers(inference).into_iter().find(|l| inference.name_of(l.stored) == layer.weight);
    let Some(found) = found else { return Ok(None) };
    let name = inference.name_of(found.weight).to_string();
    let Some(shape) = inference.value(found.weight).fact.shape.as_deref().and_then(fixed) else { return Ok(None) };
    let shape: Vec<usize> = shape.iter().map(|&n| n.max(0) as usize).collect();
    let whole = with_input(&Model { graph: inference.clone(), ..Model::default() }, &name)?.graph;
    let weight = found.weight;
    let b = Builder::of(Graph { outputs: Vec::new(), ..whole });
    b.output(found.view(b.val(weight)), "view");
    let graph = simplify::dead_code(&b.finish()?);
    let count: usize = shape.iter().product();
    let places = Array::from_vec(DType::F64, &shape, (0..count).map(|i| i as f64).collect());
    let Ok(places) = places else { return Ok(None) };
    let values = eval::evaluate(&graph, &HashMap::from([(name.clone(), places)]))?;
    let moved = graph.outputs.first().and_then(|id| values.get(id));
    let moved: Vec<usize> = moved.map(|a| a.data.iter().map(|&v| v as usize).collect()).unwrap_or_default();
    let mut sorted = moved.clone();
    sorted.sort_unstable();
    Ok((sorted.len() == count && sorted.into_iter().eq(0..count)).then_some(View { name, places: moved }))
}
