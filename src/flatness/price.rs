//! What κ of a layer is predicted to cost, without building it.

use super::head::{Dependence, Stretch};
use super::hutchinson::Probes;
use super::layer::Layer;
use super::route::{Route, Site};
use crate::ad::{Kind, TanNode};
use crate::cost::{Cost, elements_of, elementwise, product, size_of};
use crate::ir::Dim;
use crate::linear::Linear;

/// A reverse pass through a graph takes about twice what the graph does: a product has two factors.
const WITH_GRADIENT: f64 = 3.0;

/// What one direction through the head costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadCost {
    /// A tangent to what the loss reads.
    pub first: Cost,
    /// A second derivative to the loss.
    pub second: Cost,
}

impl HeadCost {
    pub fn of(stretch: &Stretch<'_, '_>, depends: &Dependence) -> HeadCost {
        let mut cost = HeadCost::default();
        for (id, node) in stretch.maps() {
            let step = step(stretch.nodes(), node);
            if stretch.before_prediction(id) {
                cost.first = cost.first + step;
            }
            // The tangent, and the tangent of the tangent.
            cost.second = cost.second + step + step;
            let Kind::Apply(map, _) = &node.kind else { continue };
            if map.coefficient().is_some_and(|c| depends.smoothly[c.id().0 as usize]) {
                // The coefficient's own derivative, its product, their sum.
                let elements = elements_of(&node.shape);
                cost.second = cost.second + elementwise(elements) + elementwise(elements) + elementwise(elements);
            }
        }
        cost
    }
}

/// One map applied to one tangent.
fn step(nodes: &[TanNode<'_>], node: &TanNode<'_>) -> Cost {
    let out = elements_of(&node.shape);
    let (map, x) = match &node.kind {
        Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => return Cost::default(),
        Kind::Sum(..) => return elementwise(out),
        Kind::Apply(map, x) => (map, *x),
    };
    let from = &nodes[x].shape;
    let read = elements_of(from);
    let inner = |shape: &[Dim]| shape.iter().skip(1).map(size_of).product::<f64>();
    match map {
        Linear::MatMulRight(_) => product(2.0 * out * from.last().map_or(1.0, size_of), read, out),
        Linear::MatMulLeft(v) => product(2.0 * out * size_of(&v.dim(-1)), read, out),
        Linear::Conv { w, .. } => product(2.0 * out * inner(&w.shape()), read, out),
        Linear::ConvTranspose { w, .. } => product(2.0 * read * inner(&w.shape()), read, out),
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
}

impl Numbers {
    fn of(layer: &Layer, site: &Site) -> Numbers {
        let (d, m) = (layer.d as f64, layer.m as f64);
        let positions = elements_of(&site.output) / d.max(1.0);
        Numbers { d, m, positions: positions.max(1.0), samples: site.output.first().map_or(1.0, size_of) }
    }

    /// `[rows, d] · [d, min(d, m)]`
    fn rows(&self, rows: f64) -> Cost {
        let width = self.d.min(self.m);
        product(2.0 * rows * self.d * width, rows * self.d, rows * width) + elementwise(rows * width)
    }

    /// The layer once more, with another weight.
    fn layer(&self, times: f64) -> Cost {
        product(
            2.0 * times * self.positions * self.d * self.m,
            self.positions * self.m,
            times * self.positions * self.d,
        )
    }

    /// `‖a_r‖²`, or `q·a_r` for one `q`.
    fn activations(&self) -> Cost {
        product(2.0 * self.positions * self.m, self.positions * self.m, self.positions)
    }
}

/// The cost of κ and its gradient by that way.
pub fn exactly(layer: &Layer, site: &Site, head: &HeadCost, route: &Route) -> Cost {
    let numbers = Numbers::of(layer, site);
    let along = |flat: bool| if flat { head.first } else { head.second };
    let value = match route {
        Route::Nothing => return Cost::default(),
        Route::Reverse { samples, passes } => {
            let passes = *passes as f64;
            let shared = site.shares_jacobian();
            let batch = if shared { numbers.samples.max(1.0).recip() } else { 1.0 };
            let rows = numbers.positions * batch;
            if samples.once {
                head.first * (passes * batch)
                    + numbers.rows(passes * rows)
                    + head.first
                    + numbers.rows(numbers.positions)
                    + numbers.activations()
            } else {
                let gradients = numbers.layer(1.0) * (passes + 1.0);
                head.first * (passes * batch)
                    + head.first
                    + gradients
                    + numbers.rows((passes + 1.0) * numbers.samples * numbers.m)
            }
        }
        Route::ByNeuron { passes, flat } => along(*flat) * (*passes as f64) + numbers.activations(),
        Route::ByDefinition { passes, flat } => numbers.layer(*passes as f64) + along(*flat) * (*passes as f64),
    };
    value * WITH_GRADIENT
}

/// The cost of the mean of `samples` estimates and its gradient.
pub fn estimated(layer: &Layer, site: &Site, head: &HeadCost, kind: Probes, samples: i64) -> Cost {
    let numbers = Numbers::of(layer, site);
    let outer = elementwise(numbers.positions * numbers.d);
    let direction = match kind {
        Probes::PerSample => {
            product(2.0 * numbers.positions * numbers.d * numbers.m, numbers.positions * numbers.m, numbers.positions)
                + numbers.activations()
                + outer
        }
        Probes::Shared | Probes::LowRank => numbers.activations() + outer,
        Probes::Full => {
            let (d, m) = (numbers.d, numbers.m);
            product(2.0 * d * m * m, m * m, d * m) + numbers.layer(1.0)
        }
    };
    let flat = site.head.flat && site.has_curvature;
    (direction + if flat { head.first } else { head.second }) * (samples as f64) * WITH_GRADIENT
}
