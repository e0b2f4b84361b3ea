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
use crate::ir::{Builder, DType, Graph, Model};
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
    let inference = onnx::read_bytes(&exported.bytes, None)?;
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
    fn definition(&self, view: &[usize]) -> Result<f64> {
        let (d, m) = (self.layer.d, self.layer.m);
        let weight: Vec<f64> = self.weight()?.iter_f64().collect();
        let gradient = ad::grad_model(self.model, self.loss, std::slice::from_ref(&self.layer.weight))?;
        let mut gradient = Double::new(self.runtime, &gradient.model, &gradient.outputs, &self.case.wide)?;
        let at = |s: usize, t: usize| view[s * m + t];
        let inner = |s: usize, k: usize| (0..m).map(|t| weight[at(s, t)] * weight[at(k, t)]).sum::<f64>();
        let gram: Vec<f64> = (0..d * d).map(|i| inner(i / d, i % d)).collect();
        let scale = (norm(&weight) / (weight.len().max(1) as f64).sqrt()).max(1e-3);
        let (mut neuronwise, mut trace) = (0.0, 0.0);
        for (s, t) in (0..d).flat_map(|s| (0..m).map(move |t| (s, t))) {
            let column = Difference::of(|step| self.moved(&mut gradient, &weight, at(s, t), step * scale))?;
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

    /// `∂L/∂W` with one weight moved.
    fn moved(&self, gradient: &mut Double, weight: &[f64], at: usize, by: f64) -> Result<Vec<f64>> {
        let mut moved = weight.to_vec();
        moved[at] += by;
        let tensor = float64(self.weight()?.shape().to_vec(), moved)?;
        let changed = Tensors::from([(self.layer.weight.clone(), tensor)]);
        let found = gradient.run(Feeds { base: &self.case.wide, changed: &changed })?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    fn weight(&self) -> Result<&Tensor> {
        let missing = || Error::MissingInput { tensor: self.layer.weight.clone() };
        self.case.wide.get(&self.layer.weight).ok_or_else(missing)
    }
}

struct Estimate {
    mean: f64,
    error: f64,
}

/// Where `W[s, t]` stands in the stored weight, row by row; `None` if the layer is not found or its weight is not only moved
/// about.
fn view(inference: &Graph, layer: &Layer) -> Result<Option<Vec<usize>>> {
    let found = flatness::layers(inference).into_iter().find(|l| inference.name_of(l.weight) == layer.weight);
    let Some(found) = found else { return Ok(None) };
    let b = Builder::of(Graph { outputs: Vec::new(), ..inference.clone() });
    let root = b.val(found.weight);
    let shape = inference.value(found.weight).data.as_ref().map(|data| data.shape.clone()).unwrap_or_default();
    b.output(found.view(root), "view");
    let graph = simplify::dead_code(&b.finish()?);
    let count: usize = shape.iter().product();
    let places = Array::from_vec(DType::F64, &shape, (0..count).map(|i| i as f64).collect());
    let Ok(places) = places else { return Ok(None) };
    let values = eval::evaluate(&graph, &HashMap::from([(layer.weight.clone(), places)]))?;
    let moved = graph.outputs.first().and_then(|id| values.get(id));
    let moved: Vec<usize> = moved.map(|a| a.data.iter().map(|&v| v as usize).collect()).unwrap_or_default();
    let mut sorted = moved.clone();
    sorted.sort_unstable();
    Ok((sorted.len() == count && sorted.into_iter().eq(0..count)).then_some(moved))
}
