//! Losses that are a mean over all elements: the loss, and its second derivative element by element.

use super::Curvature;
use crate::ir::{Val, count};

type Parts<'g> = (Val<'g>, Option<Curvature<'g>>);

/// Below `e^−100` the logarithm stays at −100, as in PyTorch's binary cross-entropy.
const LOWEST_LOG: f64 = -100.0;

/// `softplus(f) − f t`
pub(super) fn bce_with_logits<'g>(f: Val<'g>, t: Val<'g>) -> Parts<'g> {
    let loss = (f.builder().op("Softplus", &[f], Default::default()) - f * t).mean_all();
    let p = f.sigmoid();
    (loss, diagonal(p * (1.0 - p) * share(f)))
}

/// `−t log p − (1 − t) log(1 − p)`. Where a logarithm is held at its bound it has no slope.
pub(super) fn bce<'g>(p: Val<'g>, t: Val<'g>) -> Parts<'g> {
    let (yes, no) = (Bounded::log(p), Bounded::log(1.0 - p));
    let loss = -(t * yes.log + (1.0 - t) * no.log).mean_all();
    let second = t * yes.inverse_square + (1.0 - t) * no.inverse_square;
    (loss, diagonal(second * share(p)))
}

/// `max(log v, −100)`
struct Bounded<'g> {
    log: Val<'g>,
    /// `1/v²`, and 0 at the bound.
    inverse_square: Val<'g>,
}

impl<'g> Bounded<'g> {
    fn log(v: Val<'g>) -> Bounded<'g> {
        let above = v.gt(v.like(LOWEST_LOG.exp()));
        // The branch that is not taken must be finite: its slope is multiplied by 0.
        let safe = above.select(v, v.like(1.0));
        Bounded {
            log: above.select(safe.log(), v.like(LOWEST_LOG)),
            inverse_square: above.select(safe.square().reciprocal(), v.like(0.0)),
        }
    }
}

/// `(f − t)²`
pub(super) fn mse<'g>(f: Val<'g>, t: Val<'g>) -> Parts<'g> {
    ((f - t).square().mean_all(), diagonal(zeros_like(f) + 2.0 * share(f)))
}

/// `|f − t|`
pub(super) fn mae<'g>(f: Val<'g>, t: Val<'g>) -> Parts<'g> {
    ((f - t).abs().mean_all(), diagonal(zeros_like(f)))
}

/// `e²/2` where `|e| < 1`, else `|e| − 1/2`; `e = f − t`
pub(super) fn huber<'g>(f: Val<'g>, t: Val<'g>) -> Parts<'g> {
    let e = f - t;
    let small = e.abs().lt(e.like(1.0));
    let loss = small.select(e.square() * 0.5, e.abs() - 0.5).mean_all();
    (loss, diagonal(small.select(e.like(1.0), e.like(0.0)) * share(f)))
}

/// What one element counts in the mean.
fn share<'g>(f: Val<'g>) -> Val<'g> {
    1.0 / f.builder().dim_scalar(&count(&f.shape()), f.dtype())
}

fn diagonal(second: Val<'_>) -> Option<Curvature<'_>> {
    Some(Curvature::Diagonal { second })
}

pub(super) fn zeros_like<'g>(f: Val<'g>) -> Val<'g> {
    f.builder().zeros(f.dtype(), &f.shape())
}
