//! What κ of a layer is predicted to cost, without building it.

use super::exact::gram_pays;
use super::form::Form;
use super::hutchinson::Probes;
use super::lanes::Lanes;
use super::layer::Layer;
use super::route::{Route, Site};
use super::stretch::{Source, Stretches, Tapes};
use crate::ad::{Kind, TanNode};
use crate::cost::{Cost, Kernel, convolution, elements_of, elementwise, product, size_of, stacked};
use crate::ir::Dim;
use crate::linear::Linear;
use foldhash::HashMap;

/// A reverse pass through a graph takes about twice what the graph does: a product has two factors.
const WITH_GRADIENT: f64 = 3.0;

/// The same where one factor is a constant of the step: a mask, probes.
const WITH_ONE_GRADIENT: f64 = 2.0;

/// Nodes that do not depend on the head, such as norms, sums and reshapes: of a closed form, of an estimate.
const CLOSED_FORM: Cost = Cost { flops: 0.0, busy: 0.0, held: 0.0, nodes: 11.0 };
const ESTIMATE: Cost = Cost { nodes: 13.0, ..CLOSED_FORM };

/// What one direction through the head costs, with its gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadCost {
    /// A tangent to what the loss reads.
    pub first: Cost,
    /// A second derivative to the loss.
    pub second: Cost,
    /// The part of the elements of the layer's output that a cotangent from what the loss reads holds: it is the same
    /// along axes that the head sums.
    pub share: f64,
}

/// What passes through the head of each layer cost, a lane each. Places that the same layers pass are added up once.
pub fn heads(stretches: &Stretches<'_, '_>, sources: &[Source]) -> Vec<HeadCost> {
    let tapes = stretches.tapes;
    let mut sums = Sums::default();
    for (id, node) in tapes.nodes.iter().enumerate().skip(stretches.first).filter(|(id, _)| tapes.to_loss[*id]) {
        let applied = match &node.kind {
            Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => continue,
            // Where one of them has no tangent there is nothing to add.
            Kind::Sum(x, y) => stretches.reached(*x) & stretches.reached(*y),
            Kind::Apply(..) => stretches.passes(id),
        };
        if applied.is_empty() {
            continue;
        }
        let first = if tapes.to_prediction[id] { step(tapes, node, tapes.share(id)) } else { Cost::default() };
        // The tangent, and the tangent of the tangent.
        sums.add(applied, first, step(tapes, node, 1.0).repeated(2.0));
        let bent = stretches.smoothly(id) & stretches.passes(id);
        // The coefficient's own derivative, its product, their sum.
        let bending = elementwise(elements_of(&node.shape)).repeated(3.0 * WITH_GRADIENT);
        sums.add(bent, Cost::default(), bending);
    }
    let mut costs: Vec<HeadCost> =
        sources.iter().map(|source| HeadCost { share: tapes.share(source.place), ..HeadCost::default() }).collect();
    for (lanes, first, second) in sums.all {
        for lane in lanes.iter() {
            let cost = &mut costs[lane];
            (cost.first, cost.second) = (cost.first + first, cost.second + second);
        }
    }
    costs
}

/// Costs by the lanes that have them.
#[derive(Default)]
struct Sums {
    at: HashMap<Lanes, usize>,
    all: Vec<(Lanes, Cost, Cost)>,
}

impl Sums {
    fn add(&mut self, lanes: Lanes, first: Cost, second: Cost) {
        if lanes.is_empty() {
            return;
        }
        let at = *self.at.entry(lanes).or_insert(self.all.len());
        match self.all.get_mut(at) {
            Some((_, a, b)) => (*a, *b) = (*a + first, *b + second),
            None => self.all.push((lanes, first, second)),
        }
    }
}

/// One map applied to one tangent, or a sum of two, with the gradient: in the tangent, and in a weight that the map
/// multiplies by. The cotangent of the result holds `share` of its elements.
fn step(tapes: &Tapes<'_, '_>, node: &TanNode<'_>, share: f64) -> Cost {
    let out = elements_of(&node.shape);
    let (map, x) = match &node.kind {
        Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => return Cost::default(),
        Kind::Sum(..) => return elementwise(out) + elementwise(out) * share,
        Kind::Apply(map, x) => (map, *x),
    };
    let forward = applied(map, &tapes.nodes[x].shape, out);
    let reverse = match map {
        // An expansion that is delayed.
        Linear::Sum { .. } => Cost::default(),
        _ if map.coefficient().is_some_and(|c| c.dtype().is_float()) => forward.repeated(WITH_GRADIENT - 1.0),
        _ => forward.repeated(WITH_ONE_GRADIENT - 1.0),
    };
    forward + reverse * share
}

/// A map from a tangent of that shape to one of `out` elements.
fn applied(map: &Linear<'_>, from: &[Dim], out: f64) -> Cost {
    let read = elements_of(from);
    let inner = |shape: &[Dim]| shape.iter().skip(1).map(size_of).product::<f64>();
    match map {
        Linear::MatMulRight(_) => product(2.0 * out * from.last().map_or(1.0, size_of), read, out),
        Linear::MatMulLeft(v) => product(2.0 * out * size_of(&v.dim(-1)), read, out),
        Linear::Conv { w, g } => {
            let made = size_of(&w.dim(0)) / g.group.max(1) as f64;
            convolution(2.0 * out * inner(&w.shape()), made, read, out)
        }
        Linear::ConvTranspose { w, .. } => convolution(2.0 * read * inner(&w.shape()), size_of(&w.dim(1)), read, out),
        Linear::Mask { gate: true, .. } => elementwise(out),
        Linear::Mask { .. } => Kernel::Selection.cost(out, 2.0 * out, out),
        Linear::PoolPick { .. } | Linear::ScatterElements { .. } | Linear::ScatterNd { .. } => {
            Kernel::Scatter.cost(out, read + out, out)
        }
        Linear::ConvFilter { .. } => product(2.0 * out * inner(from), read, out),
        Linear::ConvTransposeFilter { x, .. } => product(2.0 * elements_of(&x.shape()) * inner(from), read, out),
        Linear::Reshape(_) => Cost::default(),
        Linear::Permute(_) | Linear::Pad(_) | Linear::Expand(_) | Linear::Gather { .. } => {
            Cost { flops: 0.0, ..elementwise(out) }
        }
        Linear::Sum { .. } | Linear::SumAt { .. } => product(read, read, out),
        _ => elementwise(out),
    }
}

/// What a layer's κ is made of, in numbers.
struct Numbers {
    d: f64,
    m: f64,
    /// Positions of the whole batch.
    positions: f64,
    samples: f64,
    /// Whether rows are multiplied by `W Wᵀ` in place of `W`.
    by_gram: bool,
}

impl Numbers {
    fn of(layer: &Layer, site: &Site, passes: f64) -> Numbers {
        let (d, m) = (layer.d as f64, layer.m as f64);
        let positions = (elements_of(&site.output) / d.max(1.0)).max(1.0);
        let samples = site.output.first().map_or(1.0, size_of);
        Numbers { d, m, positions, samples, by_gram: gram_pays(layer, passes * positions) }
    }

    /// `[rows, d] · [d, d]` or `[rows, d] · [d, m]`
    fn rows(&self, rows: f64) -> Cost {
        self.wide_rows(rows, if self.by_gram { self.d } else { self.m })
    }

    /// `[rows, d] · [d, width]`
    fn wide_rows(&self, rows: f64, width: f64) -> Cost {
        product(2.0 * rows * self.d * width, rows * self.d, rows * width) + elementwise(rows * width)
    }

    /// `W Wᵀ`; the gradient in `W` is one product, as what it has to be multiplied with is symmetric.
    fn gram(&self) -> Cost {
        let (d, m) = (self.d, self.m);
        if self.by_gram {
            product(2.0 * d * d * m, 2.0 * d * m, d * d).repeated(WITH_ONE_GRADIENT)
        } else {
            Cost::default()
        }
    }

    /// `‖Wᵀ v‖²` of rows with the gradient, which takes `v·(W Wᵀ)` as it is there.
    fn squared(&self, rows: f64) -> Cost {
        self.rows(rows).repeated(if self.by_gram { WITH_ONE_GRADIENT } else { WITH_GRADIENT })
    }

    /// The layer once more, with another weight.
    fn layer(&self, times: f64) -> Cost {
        product(
            2.0 * times * self.positions * self.d * self.m,
            self.positions * self.m,
            times * self.positions * self.d,
        )
    }

    /// The layer applied to directions in its weight, where that is no part of the head.
    fn through_weight(&self, site: &Site, times: f64) -> Cost {
        if site.in_weight { Cost::default() } else { self.layer(times) }
    }

    /// `‖a_r‖²`, or `q·a_r` for one `q`.
    fn activations(&self) -> Cost {
        product(2.0 * self.positions * self.m, self.positions * self.m, self.positions)
    }
}

/// The loss's second derivative times what it is applied to: two products, a square, a sum.
fn curvature(site: &Site) -> Cost {
    elementwise(elements_of(&site.prediction)) * 4.0
}

/// The cost of κ and its gradient by that way.
pub fn exactly(layer: &Layer, site: &Site, head: &HeadCost, route: &Route) -> Cost {
    let passes = if let Route::Reverse { passes, .. } = route { (*passes).max(1) as f64 } else { 1.0 };
    let numbers = Numbers::of(layer, site, passes);
    let along = |flat: bool| if flat { head.first } else { head.second };
    let (head, layer) = match route {
        Route::Nothing => return Cost::default(),
        Route::Reverse { samples, passes } => {
            let passes = *passes as f64;
            let batch = if site.shares_jacobian() { numbers.samples.max(1.0).recip() } else { 1.0 };
            let products = if samples.once {
                let others = numbers.rows(numbers.positions) + numbers.activations();
                numbers.squared(passes * numbers.positions * batch) + numbers.gram() + others.repeated(WITH_GRADIENT)
            } else {
                let gradients = (passes + 1.0) * numbers.samples;
                let products = numbers.wide_rows(gradients * numbers.m, numbers.d.min(numbers.m));
                let pulled = numbers.layer(1.0) * (passes + 1.0) + products;
                (pulled + stacked(2.0 * gradients)).repeated(WITH_GRADIENT)
            };
            // The activation's gradient is summed over the passes.
            let summed = if samples.once { 0.0 } else { passes * numbers.positions * numbers.m };
            (head.first * (passes * batch) + head.first + elementwise(summed), products)
        }
        Route::ByNeuron { passes, flat } => {
            (along(*flat) * (*passes as f64), numbers.activations().repeated(WITH_GRADIENT))
        }
        Route::ByDefinition { passes, flat } => {
            let through = numbers.through_weight(site, *passes as f64);
            (along(*flat) * (*passes as f64), through.repeated(WITH_GRADIENT))
        }
    };
    head + layer + (CLOSED_FORM + curvature(site)).repeated(WITH_GRADIENT)
}

/// The cost of the mean of `samples` estimates and its gradient.
pub fn estimated(layer: &Layer, site: &Site, head: &HeadCost, kind: Probes, samples: i64) -> Cost {
    let numbers = Numbers::of(layer, site, 1.0);
    let (d, m, positions) = (numbers.d, numbers.m, numbers.positions);
    let outer = elementwise(positions * d);
    let layer_again = numbers.through_weight(site, 1.0);
    // A product's gradient in its weight sums the rows of equal cotangents first; a convolution's does not.
    let share = if matches!(layer.form, Form::Rows { .. }) { head.share } else { 1.0 };
    let through_weight = layer_again + layer_again.repeated(WITH_GRADIENT - 1.0) * share;
    let direction = match kind {
        Probes::PerSample => {
            let signs = product(2.0 * positions * d * m, positions * m + d * m, positions * d);
            signs.repeated(WITH_ONE_GRADIENT) + (numbers.activations() + outer).repeated(WITH_GRADIENT)
        }
        Probes::Shared | Probes::LowRank => {
            let in_weight = kind == Probes::LowRank && !layer.form.shares_activations();
            // `W r`, and its gradient's sum with the weight's other one.
            let turned = product(2.0 * d * m, d * m + m, d).repeated(WITH_ONE_GRADIENT) + elementwise(d * m);
            let applied = match in_weight {
                true => through_weight,
                false => {
                    let activations = numbers.activations();
                    let back = activations.repeated(WITH_GRADIENT - 1.0) * head.share;
                    activations + back + outer.repeated(WITH_GRADIENT)
                }
            };
            turned + applied
        }
        Probes::Full => {
            let signs = product(2.0 * d * m * m, m * m + d * m, d * m);
            signs.repeated(WITH_ONE_GRADIENT) + through_weight
        }
    };
    let flat = site.head.flat && site.has_curvature;
    let passes = if flat { head.first } else { head.second };
    (direction + passes + (ESTIMATE + curvature(site)).repeated(WITH_GRADIENT)) * (samples as f64)
}
