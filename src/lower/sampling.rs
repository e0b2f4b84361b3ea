//! Elements of an image at real positions: rows picked by whole positions, weighted by the rest.

use super::along;
use crate::ir::{Attrs, DType, Dim, Tensor, Val, count};
use crate::ops::grid_sample::Padding;
use crate::ops::resize::Filter;

/// Images `[batch, spatial…, channels]` as rows of channels.
pub struct Rows<'g> {
    rows: Val<'g>,
    /// Sizes of the spatial axes.
    sizes: Vec<Dim>,
}

/// What is picked at each place: elements `[…, taps, channels]` and their weights `[…, taps]`.
pub struct Picked<'g> {
    pub elements: Val<'g>,
    pub weights: Val<'g>,
}

impl<'g> Picked<'g> {
    /// `Σ weight · element`, `[…, channels]`
    pub fn sum(&self) -> Val<'g> {
        let rank = self.weights.rank() as i64;
        self.weights.unsqueeze(&[rank - 1]).matmul(self.elements).squeeze(&[rank - 1])
    }
}

/// The elements next to a place on one axis: whole positions and weights `[…, taps]`.
#[derive(Clone, Copy)]
pub struct Taps<'g> {
    pub positions: Val<'g>,
    pub weights: Val<'g>,
}

/// Coefficients of the weights as polynomials in what a place exceeds the whole position before it, highest first, a
/// row a power.
fn polynomials(filter: Filter) -> Vec<Vec<f64>> {
    match filter {
        Filter::Nearest(_) => vec![vec![1.0]],
        Filter::Linear => vec![vec![-1.0, 1.0], vec![1.0, 0.0]],
        Filter::Cubic(a) => vec![
            vec![a, a + 2.0, -a - 2.0, -a],
            vec![-2.0 * a, -a - 3.0, 2.0 * a + 3.0, a],
            vec![a, 0.0, -a, 0.0],
            vec![0.0, 1.0, 0.0, 0.0],
        ],
    }
}

/// The elements around places `[…]` that a filter reads, wherever they are.
pub(crate) fn taps<'g>(place: Val<'g>, filter: Filter) -> Taps<'g> {
    let b = place.builder();
    let vector = |values: &[f64]| b.constant(Tensor::from_f64(place.dtype(), &[values.len()], values.iter().copied()));
    let last = [place.rank() as i64];
    if let Filter::Nearest(_) = filter {
        let whole = b.op("Round", &[place], Attrs::new()).unsqueeze(&last);
        return Taps { positions: whole, weights: whole.like(1.0).expand(&whole.shape()) };
    }
    let whole = place.floor();
    let beyond = (place - whole).unsqueeze(&last);
    let mut weights: Option<Val<'g>> = None;
    for row in polynomials(filter) {
        weights = Some(match weights {
            None => vector(&row),
            Some(sum) => sum * beyond + vector(&row),
        });
    }
    let reach = filter.support();
    let steps: Vec<f64> = (1 - reach..=reach).map(|k| k as f64).collect();
    Taps { positions: whole.unsqueeze(&last) + vector(&steps), weights: weights.unwrap_or(beyond) }
}

impl<'g> Taps<'g> {
    /// The same on an axis whose last position is `last`: what is outside weighs nothing, or is the nearest inside.
    pub(crate) fn within(self, last: Val<'g>, padding: Padding) -> Taps<'g> {
        let zero = last.like(0.0);
        let clipped = last.builder().op("Clip", &[self.positions, zero, last], Attrs::new());
        let weights = match padding {
            Padding::Zeros => self.positions.equal(clipped).select(self.weights, zero),
            _ => self.weights,
        };
        Taps { positions: clipped, weights }
    }
}

impl<'g> Rows<'g> {
    /// Of images whose axes are `[batch, spatial…, channels]`.
    pub fn of(images: Val<'g>, spatial: usize) -> Rows<'g> {
        let shape = images.shape();
        let split = shape.len().saturating_sub(1);
        let rows = images.reshape(&[count(&shape[..split]), count(&shape[split..])]);
        Rows { rows, sizes: shape[split.saturating_sub(spatial)..split].to_vec() }
    }

    /// What taps of each spatial axis pick, of shapes that broadcast; `image` says which image of the batch.
    pub fn pick(&self, axes: &[Taps<'g>], image: Val<'g>) -> Picked<'g> {
        let b = self.rows.builder();
        let spatial = axes.len();
        // The taps of axis `k` stand at place `k` behind the places; all of them are one axis in the end.
        let apart = |v: Val<'g>, k: usize| {
            let first = v.rank() as i64 - 1;
            let others: Vec<i64> = (0..spatial as i64).filter(|&a| a != k as i64).map(|a| first + a).collect();
            v.unsqueeze(&others)
        };
        let behind: Vec<i64> = (0..spatial as i64).map(|a| image.rank() as i64 + a).collect();
        let mut at = image.unsqueeze(&behind) * b.dim_value(&count(&self.sizes)).squeeze(&[0]);
        let mut weights: Option<Val<'g>> = None;
        for (k, taps) in axes.iter().enumerate() {
            let step = b.dim_value(&count(&self.sizes[k + 1..])).squeeze(&[0]);
            at = at + apart(taps.positions.cast(DType::I64), k) * step;
            let own = apart(taps.weights, k);
            weights = Some(weights.map_or(own, |product| product * own));
        }
        let merged = |v: Val<'g>| {
            let shape = v.shape();
            let (places, taps) = shape.split_at(shape.len().saturating_sub(spatial));
            v.reshape(&[places, &[count(taps)]].concat())
        };
        let elements = along::pick(self.rows, 0, merged(at));
        Picked { elements, weights: merged(weights.unwrap_or(self.rows)) }
    }
}
