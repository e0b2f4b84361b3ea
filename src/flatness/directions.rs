//! κ by second derivatives along directions, all of a chunk at once along a leading axis.
//!
//! Where positions are independent, `κ = Σ_j D²L[‖a_r‖ u_j, ‖a_r‖ u_j]` in the layer's output, over the columns `u_j` of
//! `W`, or with `G = W Wᵀ` over the neurons, `Σ_s D²L[e_s, ‖a_r‖² G e_s]`. For anything else the definition:
//! `κ = Σ_{t,j} D²L[u_j e_tᵀ, u_j e_tᵀ] = Σ_{t,s} D²L[e_s e_tᵀ, G e_s e_tᵀ]` in the weight.

use super::curvature;
use super::kappa::Measure;
use super::layer::Layer;
use crate::ad::{Linearised, Second, Tape, linearise};
use crate::error::Result;
use crate::ir::{Builder, Dim, Val};
use crate::linear::Cotangent;
use crate::loss::Curvature;

/// A quadratic form in the layer's output or weight: the loss's second derivative, or its Gauss–Newton part.
pub enum Quadratic<'a, 'g> {
    Full(Second<'g>),
    GaussNewton { head: &'a Linearised<'g>, curvature: Curvature<'g> },
}

impl<'g> Quadratic<'_, 'g> {
    /// Its value for two directions, summed over the leading axis; rank 0.
    pub fn along(&self, b: &'g Builder, v: Val<'g>, w: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
        let none = || b.scalar(v.dtype(), 0.0);
        match self {
            Quadratic::Full(second) => second.along(v, w, lead).unwrap_or_else(none),
            Quadratic::GaussNewton { head, curvature } => {
                let push = |t: Val<'g>| head.jvp(&[Some(t)], lead).pop().flatten();
                match (push(v), push(w)) {
                    (Some(t), Some(u)) => curvature::product(*curvature, t, u, lead),
                    _ => none(),
                }
            }
        }
    }
}

/// Exact κ by directions: what it is built from.
pub struct Directions<'a, 'g> {
    pub layer: &'a Layer,
    /// The initialiser, in which the loss is differentiated by definition.
    pub root: Val<'g>,
    /// `W[d, m]`
    pub weight: Val<'g>,
    pub measure: Measure,
    /// Directions that go through the head together.
    pub chunk: i64,
}

/// How many directions [`Directions::by_neuron`] takes.
pub fn per_position(layer: &Layer, measure: Measure) -> i64 {
    match measure {
        Measure::Neuronwise => layer.d.min(layer.m),
        Measure::Layerwise => layer.d,
    }
}

/// How many directions [`Directions::by_definition`] takes.
pub fn by_definition(layer: &Layer, measure: Measure) -> i64 {
    per_position(layer, measure).saturating_mul(layer.m)
}

/// Directions, each a pair, by rows: `v[L, d]` and, where it is another, `w[L, d]`.
struct Rows<'g> {
    v: Val<'g>,
    w: Option<Val<'g>>,
}

impl<'g> Directions<'_, 'g> {
    /// κ in the layer's output, whose positions are independent.
    pub fn by_neuron(&self, form: &Quadratic<'_, 'g>) -> Val<'g> {
        let b = self.weight.builder();
        let (z, a) = (b.val(self.layer.output), b.val(self.layer.activation));
        let squared = self.layer.squared_norms(a);
        let rows = self.rows();
        let rank = z.rank();
        let feature = self.layer.form.feature_axis(rank).unwrap_or(rank - 1);
        let count = per_position(self.layer, self.measure);
        let sum = self.chunks(count, |start, end| {
            let lead = Dim::Fixed(end - start);
            let mut along = vec![Dim::Fixed(1); rank + 1];
            along[0] = lead.clone();
            along[feature + 1] = Dim::Fixed(self.layer.d);
            let part = |v: Val<'g>| part(v, 0, start, end, count).reshape(&along);
            let whole = crate::linear::with_lead(&z.shape(), Some(&lead));
            let (v, w) = match rows.w {
                Some(w) => (part(rows.v).expand(&whole), squared * part(w)),
                None => {
                    let v = norms(squared) * part(rows.v);
                    (v, v)
                }
            };
            form.along(b, v, w, Some(&lead))
        });
        self.finish(sum)
    }

    /// κ by its definition, in the weight.
    ///
    /// # Errors
    /// As [`linearise`].
    pub fn by_definition(&self, form: &Quadratic<'_, 'g>) -> Result<Val<'g>> {
        let b = self.weight.builder();
        let rows = self.rows();
        let (d, m) = (Dim::Fixed(self.layer.d), Dim::Fixed(self.layer.m));
        let each = per_position(self.layer, self.measure);
        // A chunk is some of the inputs, each with all rows.
        let inputs = Directions { chunk: (self.chunk / each.max(1)).max(1), ..*self };
        let unit = identity(self.weight, self.layer.m);
        let tape = Tape::new(b);
        let stored = Stored::new(&tape, self.layer, self.root)?;
        let sum = inputs.chunks(self.layer.m, |start, end| {
            let lead = Dim::Fixed((end - start) * each);
            let columns = part(unit, 0, start, end, self.layer.m).reshape(&[
                Dim::Fixed(end - start),
                Dim::Fixed(1),
                Dim::Fixed(1),
                m.clone(),
            ]);
            let outer = |v: Val<'g>| {
                let v = v.reshape(&[Dim::Fixed(1), Dim::Fixed(each), d.clone(), Dim::Fixed(1)]);
                let product = (v * columns).reshape(&[lead.clone(), d.clone(), m.clone()]);
                b.val(stored.of(product, Some(&lead)).id())
            };
            let v = outer(rows.v);
            form.along(b, v, rows.w.map_or(v, outer), Some(&lead))
        });
        Ok(self.finish(sum))
    }

    fn rows(&self) -> Rows<'g> {
        let w = self.weight;
        match self.measure {
            Measure::Layerwise => Rows { v: identity(w, self.layer.d), w: None },
            Measure::Neuronwise if self.layer.m <= self.layer.d => Rows { v: w.transpose(), w: None },
            Measure::Neuronwise => Rows { v: identity(w, self.layer.d), w: Some(w.matmul(w.transpose())) },
        }
    }

    /// The sum of `f(start, end)` over the chunks of `count`.
    fn chunks(&self, count: i64, mut f: impl FnMut(i64, i64) -> Val<'g>) -> Val<'g> {
        let step = self.chunk.clamp(1, count.max(1));
        let parts: Vec<Val<'g>> =
            (0..count).step_by(step as usize).map(|start| f(start, (start + step).min(count))).collect();
        let scope = format!("kappa/{}/", self.layer.name);
        self.weight.builder().scope(&scope);
        let none = self.weight.like(0.0);
        parts.into_iter().reduce(|sum, part| sum + part).unwrap_or(none)
    }

    fn finish(&self, sum: Val<'g>) -> Val<'g> {
        match self.measure {
            Measure::Neuronwise => sum,
            Measure::Layerwise => self.weight.square().sum_all() * sum,
        }
    }
}

/// `√v`, with slope 0 at 0: κ has none there, and a sample whose activations are all 0 is left out.
pub fn norms(squared: Val<'_>) -> Val<'_> {
    let active = squared.gt(squared.like(0.0));
    let norm = active.select(squared, squared.like(1.0)).sqrt();
    active.select(norm, norm.like(0.0))
}

fn part(v: Val<'_>, axis: i64, start: i64, end: i64, count: i64) -> Val<'_> {
    if end - start == count { v } else { v.slice(axis, start, end) }
}

fn identity<'g>(like: Val<'g>, n: i64) -> Val<'g> {
    let size = n.max(0) as usize;
    like.builder().tabulated(like.dtype(), &[size, size], |i| f64::from(u8::from(i / size == i % size)))
}

/// From directions `V[d, m]` of the weight to directions of the initialiser that stores it. Storing only moves
/// elements, so the way back is the transpose of the view.
pub struct Stored<'g> {
    view: Linearised<'g>,
    root: Val<'g>,
}

impl<'g> Stored<'g> {
    /// The way back of `layer.view(root)`.
    ///
    /// # Errors
    /// As [`linearise`].
    pub fn new(tape: &'g Tape<'g>, layer: &Layer, root: Val<'g>) -> Result<Stored<'g>> {
        Ok(Stored { view: linearise(tape, &[layer.view(root)], &[root])?, root })
    }

    pub fn of(&self, v: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
        let back = self.view.vjp(&[Some(Cotangent::new(v))], lead).pop().flatten();
        back.map_or_else(
            || self.root.like(0.0).expand(&crate::linear::with_lead(&self.root.shape(), lead)),
            |ct| ct.materialise(),
        )
    }
}
