//! κ of one layer in the graph: the head classified, the way chosen, the value built.

use super::exact::{Exact, Measure};
use super::head::{Class, classify};
use super::hutchinson::{self, Probe};
use super::layer::Layer;
use crate::ad::{Tape, linearise};
use crate::error::{Error, Result};
use crate::ir::{Builder, Graph, Val, ValueId};
use crate::loss::Curvature;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    Exact,
    Hutchinson,
}

impl Estimator {
    pub fn name(self) -> &'static str {
        match self {
            Estimator::Exact => "exact",
            Estimator::Hutchinson => "hutchinson",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub measure: Measure,
    /// κ/m, the scale of the published code.
    pub per_fan_in: bool,
    /// `None`: exact where there is a closed form, else Hutchinson.
    pub estimator: Option<Estimator>,
    /// The gradient stops at everything but the outer `W`.
    pub detach_trace: bool,
    /// One matrix of signs for all samples, even where every sample could have its own.
    pub shared_probe: bool,
}

/// What κ is built on.
#[derive(Clone, Copy)]
pub struct Objective<'g> {
    pub loss: Val<'g>,
    /// What the loss reads.
    pub prediction: Val<'g>,
    pub curvature: Option<Curvature<'g>>,
}

pub struct Kappa<'g> {
    /// Rank 0.
    pub value: Val<'g>,
    pub class: Class,
    pub estimator: Estimator,
    pub why: String,
    pub probe: Option<Probe>,
    /// With the trace detached: the copy of the weight that the gradient goes through.
    pub outer_weight: Option<Val<'g>>,
}

/// Builds κ of `layer`.
///
/// # Errors
/// [`Error::NoClosedForm`] if the exact form is asked for and does not exist, [`Error::TiedWeight`] if the weight is used
/// elsewhere too, [`Error::NotOnPath`] if the loss does not depend on the layer.
pub fn build<'g>(b: &'g Builder, layer: &Layer, on: Objective<'g>, request: &Request) -> Result<Kappa<'g>> {
    let z = b.val(layer.output);
    if !b.read(|g| g.ancestors(&[on.prediction.id()]).contains(&z.id())) {
        return Err(Error::NotOnPath { layer: layer.name.clone(), output: on.prediction.name() });
    }
    if layer.uses > 1 {
        return Err(Error::TiedWeight {
            layer: layer.name.clone(),
            weight: b.val(layer.weight).name(),
            uses: layer.uses,
        });
    }
    let root = b.val(layer.weight);
    let outer_weight = request.detach_trace.then(|| b.copy(root, &format!("kappa/{}/weight", layer.name)));
    b.scope(&format!("kappa/{}/", layer.name));
    let weight = layer.view(outer_weight.unwrap_or(root));
    let tape = Tape::new(b);
    let head = linearise(&tape, &[on.prediction], &[z])?;
    let class = classify(&head, z, on.prediction);
    let single = b.read(|g| layer.single_position(g));
    let obstacle = obstacle(&class, on, b.read(|g| layer.batched(g)));
    let estimator = match (request.estimator, &obstacle) {
        (Some(Estimator::Exact), Some(reason)) => {
            return Err(Error::NoClosedForm { layer: layer.name.clone(), class: class.name(), reason: reason.clone() });
        }
        (Some(chosen), _) => chosen,
        (None, None) => Estimator::Exact,
        (None, Some(_)) => Estimator::Hutchinson,
    };
    let why = match (estimator, obstacle) {
        (Estimator::Exact, _) => format!("closed form of the {} head", class.name()),
        (Estimator::Hutchinson, Some(reason)) => reason,
        (Estimator::Hutchinson, None) => "asked for".to_string(),
    };
    b.scope(&format!("kappa/{}/", layer.name));
    let (value, probe) = match (estimator, on.curvature) {
        (Estimator::Exact, Some(curvature)) => {
            let exact = Exact {
                layer,
                weight,
                activation: b.val(layer.activation),
                head: (class != Class::Logits).then_some(&head),
                logits: on.prediction,
                curvature,
                single_position: single,
                measure: request.measure,
            };
            (b.val(exact.kappa().id()), None)
        }
        _ => {
            let separate = single
                && !request.shared_probe
                && !matches!(class, Class::Mixing { .. })
                && counts_samples(b, b.val(layer.activation));
            let (value, probe) = hutchinson::kappa(b, layer, weight, on.loss, separate, request.measure)?;
            (value, Some(probe))
        }
    };
    b.scope(&format!("kappa/{}/", layer.name));
    let value = if request.per_fan_in { value * (1.0 / layer.m as f64) } else { value };
    b.check()?;
    Ok(Kappa { value, class, estimator, why, probe, outer_weight })
}

/// Whether the first axis is a batch that whoever drives the graph knows: fixed, or the first axis of an input.
fn counts_samples(b: &Builder, a: Val<'_>) -> bool {
    let batch = a.dim(0);
    let first = |g: &Graph, id: &ValueId| g.value(*id).fact.shape.as_ref().and_then(|s| s.first().cloned());
    let of_input = || b.read(|g| g.inputs.iter().any(|id| first(g, id).as_ref() == Some(&batch)));
    // Labels have the first axis of what the loss reads, be it a product of axes.
    batch.fixed().is_some() || (batch.as_symbol().is_some() && of_input())
}

/// Why there is no closed form, if there is none.
fn obstacle(class: &Class, on: Objective<'_>, batched: bool) -> Option<String> {
    let shape = on.prediction.shape();
    match class {
        Class::Smooth { decided_by } => Some(format!("the head is smooth at {decided_by}")),
        Class::Mixing { decided_by } => Some(format!("samples are not proved independent at {decided_by}")),
        _ if on.curvature.is_none() => Some("the loss has no second derivative in closed form".to_string()),
        _ if !batched => Some("the layer's first axis is not the samples".to_string()),
        _ if shape.len() != 2 => Some(format!("the loss reads {} axes, not samples and classes", shape.len())),
        _ if shape[1].fixed().is_none() => Some("the number of classes is not known".to_string()),
        _ => None,
    }
}
