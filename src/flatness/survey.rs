//! What can be said of κ of a layer before it is built: its head, the ways to κ, what each costs, which one is taken.

use super::head::{self, Class, Head, Seen};
use super::hutchinson::Probes;
use super::kappa::{Estimator, Measure, Objective, Request, in_weight};
use super::lanes::Lanes;
use super::layer::Layer;
use super::price::{self, HeadCost};
use super::route::{Batches, Route, Site};
use super::stretch::{Source, Stretches, Tapes};
use crate::ad::{Tape, linearise};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::ir::{Builder, Val};

/// Share of a step with exact κ that an estimate has to save to be worth its noise.
const WORTH_NOISE: f64 = 0.05;

/// What full probes may cost, in estimates with probes of rank one, which are noisier.
const FULL_LIMIT: f64 = 1.25;

/// A way to κ.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    Exactly(Route),
    Estimated(Probes),
}

/// The way that is taken, and why.
pub struct Chosen {
    pub estimator: Estimator,
    pub way: Way,
    pub why: String,
}

/// What one estimator would take.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub estimator: Estimator,
    /// Of κ and its gradient; `None` where the estimator cannot be had.
    pub cost: Option<Cost>,
    /// How, or why not.
    pub note: String,
}

/// A layer's head, and what passes through it cost.
pub struct Survey {
    pub site: Site,
    head: HeadCost,
}

/// A layer, and the variable that second derivatives are taken in: its output or its weight.
pub type Placed<'a, 'g> = (&'a Layer, Val<'g>);

impl Survey {
    /// Looks at the stretches of the tape from the places of the layers' variables.
    pub fn of<'g>(layers: &[Placed<'_, 'g>], on: Objective<'g>, tapes: &Tapes<'_, 'g>) -> Vec<Survey> {
        let batches = Batches::of(on.loss.builder());
        let mut stretches = Stretches::new(tapes);
        layers.chunks(Lanes::MOST).flat_map(|layers| Survey::of_some(layers, on, &mut stretches, &batches)).collect()
    }

    fn of_some<'g>(
        layers: &[Placed<'_, 'g>],
        on: Objective<'g>,
        stretches: &mut Stretches<'_, 'g>,
        batches: &Batches,
    ) -> Vec<Survey> {
        let (b, tapes) = (on.loss.builder(), stretches.tapes);
        let mut seen = Vec::new();
        let mut sources = Vec::new();
        let mut lanes = Vec::new();
        for &(layer, variable) in layers {
            let z = b.val(layer.output);
            let place = tapes.linear.place_of(variable.id()).filter(|&place| tapes.to_loss[place]);
            lanes.push(place.map(|_| sources.len()));
            let Some(place) = place else { continue };
            sources.push(Source { place, variable: variable.id() });
            let feature = if in_weight(layer, z) { None } else { layer.form.feature_axis(z.rank()) };
            let is_logits = on.curvature.is_some() && on.prediction.id() == variable.id();
            seen.push(Seen { shape: variable.shape(), feature, is_logits });
        }
        stretches.begin(b, &sources);
        let (heads, costs) = (head::classify(stretches, &seen), price::heads(stretches, &sources));
        let prediction = on.prediction.shape();
        let survey = |(&(layer, _), lane): (&Placed<'_, 'g>, Option<usize>)| {
            let z = b.val(layer.output);
            let nothing = || Head { class: Class::Affine, flat: true, axes: Vec::new() };
            let site = Site {
                head: lane.map_or_else(nothing, |lane| heads[lane].clone()),
                no_slope: lane.is_none(),
                in_weight: in_weight(layer, z),
                output: z.shape(),
                prediction: prediction.clone(),
                has_curvature: on.curvature.is_some(),
                counts_samples: batches.counts_samples(b.val(layer.activation)),
            };
            Survey { site, head: lane.map_or_else(HeadCost::default, |lane| costs[lane]) }
        };
        layers.iter().zip(lanes).map(survey).collect()
    }

    /// Every estimator, with what κ and its gradient would cost.
    pub fn offers(&self, layer: &Layer, request: &Request) -> Vec<Offer> {
        let exact = |gauss_newton: bool| match self.site.route(layer, request.measure, gauss_newton) {
            Ok(route) => (Some(self.exactly(layer, &route)), route.describe()),
            Err(refusal) => (None, refusal.reason),
        };
        let offer = |estimator: Estimator| {
            let (cost, note) = match estimator {
                Estimator::Exact => exact(false),
                Estimator::GaussNewton => exact(true),
                Estimator::Hutchinson => {
                    let kind = self.probes(layer, request);
                    (Some(self.estimated(layer, kind, request.samples)), format!("{} probes", kind.name()))
                }
            };
            Offer { estimator, cost, note }
        };
        Estimator::ALL.into_iter().map(offer).collect()
    }

    fn exactly(&self, layer: &Layer, route: &Route) -> Cost {
        price::exactly(layer, &self.site, &self.head, route)
    }

    fn estimated(&self, layer: &Layer, kind: Probes, samples: i64) -> Cost {
        price::estimated(layer, &self.site, &self.head, kind, samples)
    }

    /// The kind asked for, or the one with the least noise for its cost: signs for positions before signs for the weight,
    /// of these own ones for each sample unless that is too dear and shared ones save enough, and a full matrix for the
    /// weight where it costs little more than one of rank one.
    fn probes(&self, layer: &Layer, request: &Request) -> Probes {
        let allowed = self.site.probes(layer);
        let time = |kind| self.estimated(layer, kind, request.samples).time();
        let too_dear = |kind| request.plain.is_some_and(|p| 1.0 + time(kind) / p.time() > request.purpose.limit(p));
        let shared_saves = || {
            let plain = request.plain.map_or(0.0, |p| p.time());
            let (own, shared) = (time(Probes::PerSample), time(Probes::Shared));
            (own - shared) / (plain + own) >= WORTH_NOISE
        };
        let by_default = || match allowed.first() {
            Some(Probes::PerSample) if too_dear(Probes::PerSample) && shared_saves() => Probes::Shared,
            Some(Probes::LowRank) if time(Probes::Full) > FULL_LIMIT * time(Probes::LowRank) => Probes::LowRank,
            Some(Probes::LowRank) | None => Probes::Full,
            Some(first) => *first,
        };
        request.probes.unwrap_or_else(by_default)
    }

    /// The way asked for, or the exact one where it is predicted to cost at most what the purpose allows.
    ///
    /// # Errors
    /// [`Error::NotExact`] and [`Error::ProbesNotAllowed`] where what is asked for cannot be had.
    pub fn choose(&self, layer: &Layer, request: &Request) -> Result<Chosen> {
        match request.estimator {
            Some(Estimator::Hutchinson) => self.estimate(layer, request, None),
            Some(Estimator::GaussNewton) => {
                let route = self.route(layer, request.measure, true)?;
                let why = match &self.site.head {
                    head if head.flat => format!("{}; exact, the head does not bend", route.describe()),
                    head => {
                        let at = head.class.decided_by().unwrap_or("the loss");
                        format!("{}; drops Σ ∂ℓ/∂f · ∇²f, not 0 at {at}", route.describe())
                    }
                };
                Ok(Chosen { estimator: Estimator::GaussNewton, way: Way::Exactly(route), why })
            }
            Some(Estimator::Exact) => Ok(exactly(self.route(layer, request.measure, false)?)),
            None => self.weigh(layer, request),
        }
    }

    fn weigh(&self, layer: &Layer, request: &Request) -> Result<Chosen> {
        let route = match self.site.route(layer, request.measure, false) {
            Ok(route) => route,
            Err(refusal) => return self.estimate(layer, request, Some(refusal.reason)),
        };
        let Some(plain) = request.plain else { return Ok(exactly(route)) };
        let exact = self.exactly(layer, &route);
        let predicted = 1.0 + exact.time() / plain.time();
        let estimate = self.estimated(layer, self.probes(layer, request), request.samples);
        let saved = (exact.time() - estimate.time()) / (plain.time() + exact.time());
        let limit = request.purpose.limit(plain);
        if predicted <= limit || saved < WORTH_NOISE {
            return Ok(exactly(route));
        }
        let why = format!("exact is predicted to cost {predicted:.2} plain steps, above {limit:.2}");
        self.estimate(layer, request, Some(why))
    }

    fn route(&self, layer: &Layer, measure: Measure, gauss_newton: bool) -> Result<Route> {
        self.site.route(layer, measure, gauss_newton).map_err(|refusal| Error::NotExact {
            layer: layer.name.clone(),
            class: self.site.head.class.name(),
            reason: refusal.reason,
        })
    }

    fn estimate(&self, layer: &Layer, request: &Request, why: Option<String>) -> Result<Chosen> {
        let kind = self.probes(layer, request);
        let allowed = self.site.probes(layer);
        if !allowed.contains(&kind) {
            return Err(Error::ProbesNotAllowed {
                layer: layer.name.clone(),
                probes: kind.name(),
                allowed: allowed.iter().map(|k| k.name()).collect(),
            });
        }
        let why = why.unwrap_or_else(|| format!("asked for; {} probes", kind.name()));
        Ok(Chosen { estimator: Estimator::Hutchinson, way: Way::Estimated(kind), why })
    }
}

fn exactly(route: Route) -> Chosen {
    let why = route.describe();
    Chosen { estimator: Estimator::Exact, way: Way::Exactly(route), why }
}

/// What was found of a layer.
pub struct Finding {
    pub class: Class,
    /// The node in which positions of one sample meet, if they do.
    pub positions_meet: Option<String>,
    pub offers: Vec<Offer>,
    pub estimator: Estimator,
    pub why: String,
}

/// What is found of each layer, by one linearisation of the whole graph in its `variables` (parameters) for all of
/// them.
pub fn survey<'g>(
    b: &'g Builder,
    layers: &[Layer],
    on: Objective<'g>,
    variables: &[Val<'g>],
    request: &Request,
) -> Vec<Result<Finding>> {
    let tape = Tape::new(b);
    let whole = linearise(&tape, &[on.loss, on.prediction], variables).ok();
    let above = b.read(|g| g.ancestors(&[on.loss.id()]));
    let variable = |layer: &Layer| {
        let z = b.val(layer.output);
        if in_weight(layer, z) { b.val(layer.weight) } else { z }
    };
    let placed = |layer: &Layer| whole.as_ref().is_some_and(|linear| linear.place_of(variable(layer).id()).is_some());
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for (at, layer) in layers.iter().enumerate().filter(|(_, layer)| above.contains(&layer.output)) {
        if placed(layer) { together.push(at) } else { alone.push(at) }
    }
    let mut found: Vec<Result<Survey>> = layers
        .iter()
        .map(|layer| Err(Error::NotOnPath { layer: layer.name.clone(), output: on.prediction.name() }))
        .collect();
    if let Some(linear) = &whole {
        let nodes = linear.tape_nodes();
        let layers: Vec<Placed> = together.iter().map(|&at| (&layers[at], variable(&layers[at]))).collect();
        let surveys = Survey::of(&layers, on, &Tapes::new(b, &nodes, linear));
        together.into_iter().zip(surveys).for_each(|(at, survey)| found[at] = Ok(survey));
    }
    // No parameter stands before it, or a node without derivative somewhere, which need not stand between this layer and
    // the loss.
    for at in alone {
        found[at] = by_itself(b, &layers[at], on, variable(&layers[at]));
    }
    let finding = |(layer, found): (&Layer, Result<Survey>)| {
        let found = found?;
        let chosen = found.choose(layer, request)?;
        Ok(Finding {
            positions_meet: found.site.positions_meet(layer).map(str::to_string),
            offers: found.offers(layer, request),
            class: found.site.head.class,
            estimator: chosen.estimator,
            why: chosen.why,
        })
    };
    layers.iter().zip(found).map(finding).collect()
}

/// What is found of one layer by a linearisation of its own.
fn by_itself<'g>(b: &'g Builder, layer: &Layer, on: Objective<'g>, variable: Val<'g>) -> Result<Survey> {
    let tape = Tape::new(b);
    let linear = linearise(&tape, &[on.loss, on.prediction], &[variable])?;
    let nodes = linear.tape_nodes();
    let found = Survey::of(&[(layer, variable)], on, &Tapes::new(b, &nodes, &linear)).pop();
    found.ok_or_else(|| Error::NotOnPath { layer: layer.name.clone(), output: on.prediction.name() })
}
