//! κ of one layer in the graph: the head classified, the way chosen, the value built.

use super::directions::{Directions, Quadratic};
use super::exact::Exact;
use super::head::Class;
use super::hutchinson::{Hutchinson, Probe, Probes};
use super::layer::Layer;
use super::route::{Route, Site};
use super::stretch::Tapes;
use super::survey::{Survey, Way};
use crate::ad::{Second, TanNode, Tape, linearise};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::ir::{Builder, Val};
use crate::loss::Curvature;
use std::rc::Rc;

/// `Σ_s ⟨w_s, w_s'⟩ Tr H_{s,s'}` or `‖W‖² Tr H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Neuronwise,
    Layerwise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    Exact,
    /// `JᵀSJ` in place of the second derivative: exact where the head bends nowhere.
    GaussNewton,
    Hutchinson,
}

impl Estimator {
    pub const ALL: [Estimator; 3] = [Estimator::Exact, Estimator::GaussNewton, Estimator::Hutchinson];

    pub fn name(self) -> &'static str {
        match self {
            Estimator::Exact => "exact",
            Estimator::GaussNewton => "gauss-newton",
            Estimator::Hutchinson => "hutchinson",
        }
    }
}

/// What κ is computed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Every step of training.
    Training,
    /// Now and then, without a gradient: a second a batch is cheap.
    Measuring,
}

impl Purpose {
    /// What a step with exact κ may cost, in plain steps, where no estimator is asked for.
    pub fn limit(self, plain: Cost) -> f64 {
        match self {
            Purpose::Training => EXACT_LIMIT,
            Purpose::Measuring => (1.0 + 1.0 / plain.time()).max(MEASURED_LIMIT),
        }
    }
}

/// Predicted cost, in plain steps, up to which κ is exact where no estimator is asked for.
pub const EXACT_LIMIT: f64 = 1.10;

/// The same where κ is only measured, if it takes more than a second.
const MEASURED_LIMIT: f64 = 100.0;

#[derive(Clone, Debug)]
pub struct Request {
    pub measure: Measure,
    /// κ/m, the scale of the published code.
    pub per_fan_in: bool,
    /// `None`: exact where that is possible, else Hutchinson.
    pub estimator: Option<Estimator>,
    /// The gradient stops at everything but the outer `W`.
    pub detach_trace: bool,
    /// `None`: the kind with the least noise for its cost.
    pub probes: Option<Probes>,
    /// Directions that one estimate is the mean of.
    pub samples: i64,
    /// What a plain step costs; by it exact and estimated are weighed where no estimator is asked for.
    pub plain: Option<Cost>,
    /// What κ is for; it says what exact κ may cost.
    pub purpose: Purpose,
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
    pub kind: Option<Probes>,
    pub probes: Vec<Probe>,
    /// With the trace detached: the copy of the weight that the gradient goes through.
    pub outer_weight: Option<Val<'g>>,
}

/// Whether second derivatives are taken in the weight: it acts at several places, in parts, or not by one matrix.
pub(super) fn in_weight(layer: &Layer, z: Val<'_>) -> bool {
    layer.is_tied() || layer.in_parts || layer.form.feature_axis(z.rank()).is_none()
}

/// Elements of the largest tangent on a tape.
fn width(nodes: &[Rc<TanNode<'_>>]) -> f64 {
    nodes.iter().map(|node| crate::cost::elements_of(&node.shape)).fold(1.0, f64::max)
}

/// Numbers that the directions of one chunk may hold in the largest tensor of the head.
const CHUNK_ELEMENTS: f64 = 16_777_216.0;

/// Builds κ of `layer`.
///
/// # Errors
/// [`Error::NotExact`] if κ without randomness is asked for and takes too many passes or a curvature that is not known,
/// [`Error::ProbesNotAllowed`] if the kind of probes would give a wrong mean, [`Error::NotOnPath`] if the loss does not
/// depend on the layer.
pub fn build<'g>(b: &'g Builder, layer: &Layer, on: Objective<'g>, request: &Request) -> Result<Kappa<'g>> {
    if !b.read(|g| g.ancestors(&[on.loss.id()]).contains(&layer.output)) {
        return Err(Error::NotOnPath { layer: layer.name.clone(), output: on.prediction.name() });
    }
    let (root, z) = (b.val(layer.weight), b.val(layer.output));
    let tape = Tape::new(b);
    let variable = if in_weight(layer, z) { root } else { z };
    let linear = linearise(&tape, &[on.loss, on.prediction], &[variable])?;
    let nodes = linear.tape_nodes();
    let found = Survey::of(&[(layer, variable)], on, &Tapes::new(b, &nodes, &linear));
    let [found] = found.as_slice() else {
        return Err(Error::NotOnPath { layer: layer.name.clone(), output: on.prediction.name() });
    };
    let site = &found.site;
    let outer_weight = request.detach_trace.then(|| b.copy(root, &format!("kappa/{}/weight", layer.name)));
    b.scope(&format!("kappa/{}/", layer.name));
    let weight = layer.view(outer_weight.unwrap_or(root));
    let chosen = found.choose(layer, request)?;
    let work = Work { b, layer, on, root, weight, measure: request.measure, site, width: width(&nodes) };
    let (value, probes) = match &chosen.way {
        Way::Exactly(route) => (work.exactly(route)?, Vec::new()),
        Way::Estimated(kind) => work.estimated(*kind, request.samples)?,
    };
    b.scope(&format!("kappa/{}/", layer.name));
    let value = if request.per_fan_in { value * (1.0 / layer.m as f64) } else { value };
    b.check()?;
    let kind = if let Way::Estimated(kind) = chosen.way { Some(kind) } else { None };
    Ok(Kappa {
        value,
        class: site.head.class.clone(),
        estimator: chosen.estimator,
        why: chosen.why,
        kind,
        probes,
        outer_weight,
    })
}

/// What the value is built from.
struct Work<'a, 'g> {
    b: &'g Builder,
    layer: &'a Layer,
    on: Objective<'g>,
    root: Val<'g>,
    weight: Val<'g>,
    measure: Measure,
    site: &'a Site,
    /// Elements of the head's largest tensor.
    width: f64,
}

impl<'g> Work<'_, 'g> {
    fn exactly(&self, route: &Route) -> Result<Val<'g>> {
        let (b, on) = (self.b, self.on);
        b.scope(&format!("kappa/{}/", self.layer.name));
        match (route, on.curvature) {
            (Route::Nothing, _) => Ok(on.loss.like(0.0)),
            (Route::Reverse { samples, .. }, Some(curvature)) => {
                let tape = Tape::new(b);
                let is_logits = self.site.head.class == Class::Logits;
                let head = linearise(&tape, &[on.prediction], &[b.val(self.layer.output)])?;
                let exact = Exact {
                    layer: self.layer,
                    weight: self.weight,
                    activation: b.val(self.layer.activation),
                    head: (!is_logits).then_some(&head),
                    logits: on.prediction,
                    curvature,
                    samples: samples.clone(),
                    measure: self.measure,
                };
                b.scope(&format!("kappa/{}/", self.layer.name));
                Ok(b.val(exact.kappa().id()))
            }
            (Route::Reverse { .. }, None) => Ok(on.loss.like(0.0)),
            (Route::ByNeuron { flat, .. }, _) => {
                self.along(*flat, b.val(self.layer.output), &Along::Neurons).map(|(value, _)| value)
            }
            (Route::ByDefinition { flat, .. }, _) => {
                self.along(*flat, self.root, &Along::Definition).map(|(value, _)| value)
            }
        }
    }

    fn estimated(&self, kind: Probes, samples: i64) -> Result<(Val<'g>, Vec<Probe>)> {
        let in_output = kind.by_position() || (kind == Probes::LowRank && self.layer.form.shares_activations());
        let in_weight = self.site.in_weight || !in_output;
        let variable = if in_weight { self.root } else { self.b.val(self.layer.output) };
        let flat = self.site.head.flat && self.site.has_curvature && !self.site.no_slope;
        self.along(flat, variable, &Along::Random { kind, in_weight, samples })
    }

    /// A sum of second derivatives in `variable`, or where the head is `flat` of their Gauss–Newton part.
    fn along(&self, flat: bool, variable: Val<'g>, what: &Along) -> Result<(Val<'g>, Vec<Probe>)> {
        let (b, scope) = (self.b, format!("kappa/{}/", self.layer.name));
        let (first, slopes) = (Tape::new(b), Tape::new(b));
        let head;
        let form = match (flat, self.on.curvature) {
            (true, Some(curvature)) => {
                head = linearise(&first, &[self.on.prediction], &[variable])?;
                Quadratic::GaussNewton { head: &head, curvature }
            }
            _ => Quadratic::Full(Second::new(&first, &slopes, self.on.loss, variable)?),
        };
        b.scope(&scope);
        let &Work { layer, root, weight, measure, .. } = self;
        let chunk = (CHUNK_ELEMENTS / self.width).max(1.0) as i64;
        let directions = Directions { layer, root, weight, measure, chunk };
        let (value, probes) = match *what {
            Along::Neurons => (directions.by_neuron(&form), Vec::new()),
            Along::Definition => (directions.by_definition(&form)?, Vec::new()),
            Along::Random { kind, in_weight, samples } => {
                Hutchinson { layer, root, weight, measure, probes: kind, in_weight, samples }.kappa(&form)?
            }
        };
        Ok((b.val(value.id()), probes))
    }
}

/// Which directions.
enum Along {
    Neurons,
    Definition,
    Random { kind: Probes, in_weight: bool, samples: i64 },
}
