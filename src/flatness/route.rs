//! The way to a layer's κ: what its head allows, and how many passes of it that takes.

use super::directions;
use super::exact::Samples;
use super::head::{Axis, Class, Head};
use super::hutchinson::Probes;
use super::kappa::Measure;
use super::layer::Layer;
use crate::ir::{Builder, Dim, Graph, Val, ValueId};
use std::collections::HashSet;

/// Directions, or reverse passes, up to which κ is computed exactly.
pub const PASSES_LIMIT: i64 = 4096;

/// A way to κ without randomness.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// The loss moves by jumps only: κ = 0.
    Nothing,
    /// A reverse pass of the head for each output of a sample; the loss's curvature is known.
    Reverse { samples: Samples, passes: i64 },
    /// Directions in the layer's output, whose positions are independent. `flat`: the head bends nowhere, or its
    /// bending is left out, so that the loss's curvature suffices.
    ByNeuron { passes: i64, flat: bool },
    /// Directions in the weight.
    ByDefinition { passes: i64, flat: bool },
}

impl Route {
    pub fn passes(&self) -> i64 {
        match self {
            Route::Nothing => 0,
            Route::Reverse { passes, .. } | Route::ByNeuron { passes, .. } | Route::ByDefinition { passes, .. } => {
                *passes
            }
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Route::Nothing => "the loss moves by jumps only".to_string(),
            Route::Reverse { passes: 0, .. } => "closed form".to_string(),
            Route::Reverse { passes, .. } => {
                format!("closed form, {} of the head", passes_text(*passes, "reverse pass"))
            }
            Route::ByNeuron { passes, flat: true } => format!("{} of the head", passes_text(*passes, "forward pass")),
            Route::ByNeuron { passes, flat: false } => passes_text(*passes, "second derivative"),
            Route::ByDefinition { passes, .. } => {
                format!("by definition, {}", passes_text(*passes, "second derivative"))
            }
        }
    }
}

fn passes_text(n: i64, what: &str) -> String {
    let ending = if n == 1 {
        ""
    } else if what.ends_with('s') {
        "es"
    } else {
        "s"
    };
    format!("{n} {what}{ending}")
}

/// Why there is no such way.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub reason: String,
}

/// What a layer's head was found to be, with what the ways to κ depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub head: Head,
    /// The loss's tangent in the layer is zero.
    pub no_slope: bool,
    /// The second derivative is taken in the weight: it acts at several places, or not by one matrix.
    pub in_weight: bool,
    /// The shape of the layer's output and of what the loss reads.
    pub output: Vec<Dim>,
    pub prediction: Vec<Dim>,
    pub has_curvature: bool,
    /// The first axis counts samples as whoever drives the graph counts them.
    pub counts_samples: bool,
}

impl Site {
    /// All samples have the same Jacobian.
    pub fn shares_jacobian(&self) -> bool {
        matches!(self.head.class, Class::Logits | Class::Affine)
    }

    fn feature(&self, layer: &Layer) -> Option<usize> {
        layer.form.feature_axis(self.output.len())
    }

    /// Every position is independent of every other.
    pub fn positions_independent(&self, layer: &Layer) -> bool {
        let Some(feature) = self.feature(layer).filter(|_| !self.in_weight && layer.form.shares_activations()) else {
            return false;
        };
        self.head.axes.iter().enumerate().all(|(i, axis)| i == feature || axis.is_independent())
    }

    /// The node in which positions of one sample meet, if they do.
    pub fn positions_meet(&self, layer: &Layer) -> Option<&str> {
        let feature = self.feature(layer);
        self.head.axes.iter().enumerate().find_map(|(i, axis)| match axis {
            Axis::Meets(at) if Some(i) != feature && i > 0 => Some(at.as_str()),
            _ => None,
        })
    }

    /// What counts as a sample in closed forms; `None` where there is nothing to count.
    fn samples(&self, layer: &Layer) -> Option<Samples> {
        let feature = self.feature(layer).filter(|_| !self.in_weight)?;
        let image = |i: usize| match &self.head.axes[i] {
            Axis::Independent(image) => Some((i, *image)),
            Axis::Meets(_) => None,
        };
        if self.positions_independent(layer) {
            let axes: Vec<_> = (0..self.output.len()).filter(|&i| i != feature).filter_map(image).collect();
            let seen = |(i, image): &(usize, Option<usize>)| image.is_some() || self.output[*i].is_one();
            return axes.iter().all(seen).then_some(Samples { once: true, axes });
        }
        let first = if feature == 0 { None } else { image(0) }.filter(|(_, image)| image.is_some())?;
        // The first axis of what the node reads has to be the samples too.
        self.counts_first(layer).then_some(Samples { once: false, axes: vec![first] })
    }

    fn counts_first(&self, layer: &Layer) -> bool {
        let behind = if matches!(layer.form, super::Form::Rows { .. }) { 2 } else { 3 };
        self.output.len() >= behind
    }

    /// The way to exact κ, or with `gauss_newton` to κ without the head's own second derivatives.
    ///
    /// # Errors
    /// Where there is none, or it takes more than [`PASSES_LIMIT`] passes.
    pub fn route(&self, layer: &Layer, measure: Measure, gauss_newton: bool) -> Result<Route, Refusal> {
        if self.no_slope {
            return Ok(Route::Nothing);
        }
        if gauss_newton && !self.has_curvature {
            let reason = "Gauss–Newton needs a loss whose second derivative is known in closed form".to_string();
            return Err(Refusal { reason });
        }
        let flat = self.has_curvature && (gauss_newton || self.head.flat);
        let reverse = if flat { self.reverse(layer) } else { None };
        let by_neuron = self
            .positions_independent(layer)
            .then(|| Route::ByNeuron { passes: directions::per_position(layer, measure), flat });
        let shared = self.shares_jacobian();
        let best = match (reverse, by_neuron) {
            // Where all samples share the Jacobian, it is there once a step.
            (Some(reverse), Some(forward)) if shared || reverse.passes() <= forward.passes() => reverse,
            (_, Some(forward)) => forward,
            (Some(reverse), None) => reverse,
            (None, None) => Route::ByDefinition { passes: directions::by_definition(layer, measure), flat },
        };
        if best.passes() <= PASSES_LIMIT {
            return Ok(best);
        }
        let reason = format!("{} are needed, more than {PASSES_LIMIT}", best.describe());
        Err(Refusal { reason })
    }

    fn reverse(&self, layer: &Layer) -> Option<Route> {
        let samples = self.samples(layer)?;
        let outputs = samples.outputs(self.prediction.len());
        let sizes: Option<Vec<i64>> = outputs.iter().map(|&i| self.prediction[i].fixed()).collect();
        let passes = sizes?.into_iter().try_fold(1i64, i64::checked_mul)?;
        // The Jacobian of the logits is the identity.
        let free = samples.once && self.head.class == Class::Logits;
        Some(Route::Reverse { samples, passes: if free { 0 } else { passes } })
    }

    /// Kinds of probes that are unbiased here.
    pub fn probes(&self, layer: &Layer) -> Vec<Probes> {
        let independent = self.positions_independent(layer);
        let own = independent && self.output.len() == 2 && self.feature(layer) == Some(1) && self.counts_samples;
        let allowed = |kind: &Probes| match kind {
            Probes::PerSample => own,
            Probes::Shared => independent,
            Probes::LowRank | Probes::Full => true,
        };
        Probes::ALL.into_iter().filter(allowed).collect()
    }
}

/// The sizes of the inputs' first axes: batches that whoever drives the graph knows.
pub struct Batches(HashSet<Dim>);

impl Batches {
    pub fn of(b: &Builder) -> Batches {
        let first = |g: &Graph, id: &ValueId| g.value(*id).fact.shape.as_ref().and_then(|s| s.first().cloned());
        Batches(b.read(|g| g.inputs.iter().filter_map(|id| first(g, id)).collect()))
    }

    /// Whether the first axis is a batch that whoever drives the graph knows: fixed, or the first axis of an input.
    pub fn counts_samples(&self, a: Val<'_>) -> bool {
        let batch = a.dim(0);
        // Labels have the first axis of what the loss reads, be it a product of axes.
        batch.fixed().is_some() || (batch.as_symbol().is_some() && self.0.contains(&batch))
    }
}
