//! GridSample and AffineGrid.

use super::along;
use super::normalization::working_type;
use super::sampling::{Rows, Taps, taps};
use crate::ir::{Attrs, DType, Dim, Val};
use crate::ops::Cx;
use crate::ops::grid_sample::{Padding, Sampling};

/// y = Σ w ⊙ x over the elements next to each place of the grid, whose weights w are polynomials in the place
pub fn grid_sample<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, sampling) = (c.x(0), Sampling::of(c.attrs()));
    let (spatial, s) = match (x.rank().checked_sub(2), sampling) {
        (Some(spatial), Ok(s)) => (spatial, s),
        (_, Err(fault)) => {
            c.fault(fault);
            return vec![x];
        }
        _ => return vec![x],
    };
    let work = working_type(x.dtype());
    let channels_last: Vec<i64> = [0].into_iter().chain(2..x.rank() as i64).chain([1]).collect();
    let rows = Rows::of(x.cast(work).permute(&channels_last), spatial);
    let grid = c.x(1).cast(work);
    let axes: Vec<Taps<'g>> = (0..spatial)
        .map(|axis| {
            // The last axis comes first in the grid.
            let at = (spatial - 1 - axis) as i64;
            let place = grid.slice(spatial as i64 + 1, at, at + 1).squeeze(&[spatial as i64 + 1]);
            on_axis(&s, place, &x.dim(axis as i64 + 2))
        })
        .collect();
    let image = along::lay(c.b.range(&x.dim(0)), 0, spatial + 1);
    let y = rows.pick(&axes, image).sum();
    let channels_second: Vec<i64> = [0, spatial as i64 + 1].into_iter().chain(1..=spatial as i64).collect();
    vec![y.permute(&channels_second).cast(x.dtype())]
}

/// The taps at places −1..1 of an axis.
fn on_axis<'g>(s: &Sampling, place: Val<'g>, size: &Dim) -> Taps<'g> {
    let b = place.builder();
    let size = b.dim_scalar(size, place.dtype());
    let (zero, last) = (size.like(0.0), size - 1.0);
    let place = match s.align_corners {
        true => (place + 1.0) * (last * 0.5),
        false => ((place + 1.0) * size - 1.0) * 0.5,
    };
    let mut around = taps(place, s.filter);
    if s.padding == Padding::Reflection {
        let (low, high) = if s.align_corners { (zero, last) } else { (size.like(-0.5), size - 0.5) };
        around.positions = reflected(around.positions, low, high);
    }
    around.within(last, s.padding)
}

/// Places reflected at the edges until they are between them.
fn reflected<'g>(place: Val<'g>, low: Val<'g>, high: Val<'g>) -> Val<'g> {
    let b = place.builder();
    let span = high - low;
    // An axis without extent has one place, which is found by clipping.
    let span = span.le(span.like(0.0)).select(span.like(1.0), span);
    let turn = b.op("Mod", &[(place - low).abs(), span * 2.0], Attrs::new().with("fmod", 1));
    low + span - (turn - span).abs()
}

/// y = θ · (x, y, …, 1) at the centres of the elements of an image of the given size
pub fn affine_grid<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (theta, y) = (c.x(0), c.out(0));
    let work = working_type(theta.dtype());
    let spatial = y.rank().saturating_sub(2);
    let align = c.int("align_corners", 0) == 1;
    let column = |k: usize| {
        let column = theta.cast(work).slice(2, k as i64, k as i64 + 1).squeeze(&[2]);
        column.unsqueeze(&(1..=spatial as i64).collect::<Vec<_>>())
    };
    let mut sum = column(spatial);
    for k in 0..spatial {
        let axis = spatial - k;
        let centres = along::lay(centres(c, &y.dim(axis as i64), work, align), axis, spatial + 2);
        sum = column(k) * centres + sum;
    }
    vec![sum.cast(theta.dtype())]
}

/// The centres of `n` elements between −1 and 1, or those of the outermost ones at −1 and 1.
fn centres<'g>(c: &Cx<'g>, n: &Dim, work: DType, align: bool) -> Val<'g> {
    let (at, n) = (c.b.range(n).cast(work), c.b.dim_scalar(n, work));
    let steps = if align { n - 1.0 } else { n };
    // One element alone stands at −1.
    let step = steps.equal(steps.like(0.0)).select(steps.like(1.0), steps).reciprocal() * 2.0;
    at * step + if align { step.like(-1.0) } else { step * 0.5 - 1.0 }
}
