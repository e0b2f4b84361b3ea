//! RoiAlign by linear interpolation at the samples of each region's bins.

use super::normalization::working_type;
use super::sampling::{Rows, Taps, taps};
use crate::ir::{Attrs, DType, Dim, Tensor, Val};
use crate::ops::Cx;
use crate::ops::grid_sample::Padding;
use crate::ops::resize::Filter;
use crate::ops::roi_align::Regions;

/// y = the mean of all samples of a bin, or the largest of the products that they are sums of
pub fn roi_align<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let x = c.x(0);
    let r = match Regions::of(c.attrs()) {
        Ok(r) => r,
        Err(fault) => {
            c.fault(fault);
            return vec![x];
        }
    };
    let work = working_type(x.dtype());
    let rows = Rows::of(x.cast(work).permute(&[0, 2, 3, 1]), 2);
    let [tall, wide] = [0, 1].map(|axis| Samples::of(c, &r, axis, work));
    let image = c.x(2).cast(DType::I64).unsqueeze(&[1, 2]);
    // Places [R, rows, columns], each a number of bins times samples.
    let axes = [tall.broadcast(2), wide.broadcast(1)];
    let picked = rows.pick(&axes, image);
    let bins = |v: Val<'g>, rest: &[Dim]| {
        let [height, width] = r.size.map(Dim::Fixed);
        let shape = [v.dim(0), height, tall.each.clone(), width, wide.each.clone()];
        v.reshape(&[&shape[..], rest].concat())
    };
    let channels = x.dim(1);
    let y = if r.max {
        let products = picked.elements * picked.weights.unsqueeze(&[4]);
        let products = bins(products, &[products.dim(3), channels]);
        largest(products, &tall, &wide)
    } else {
        let sum = bins(picked.sum(), &[channels]).sum(&[2, 4]);
        let count = |s: &Samples<'g>| s.count.map(|n| n.unsqueeze(&[1, 2, 3]));
        match (count(&tall), count(&wide)) {
            (Some(n), Some(m)) => sum / at_least(n * m, 1.0),
            _ => sum * (1.0 / r.samples.map_or(1.0, |n| (n * n) as f64)),
        }
    };
    vec![y.permute(&[0, 3, 1, 2]).cast(x.dtype())]
}

/// `max(v, least)`
fn at_least(v: Val<'_>, least: f64) -> Val<'_> {
    v.builder().op("Max", &[v, v.like(least)], Attrs::new())
}

/// The largest of `[R, bins, samples, bins, samples, taps, C]` in each bin; 0 where a bin has no samples.
fn largest<'g>(products: Val<'g>, tall: &Samples<'g>, wide: &Samples<'g>) -> Val<'g> {
    let Some((rows, columns)) = tall.real.zip(wide.real) else { return reduce_max(products) };
    // [R, samples] of each axis: those beyond a region's own number are none.
    let real = rows.unsqueeze(&[1, 3, 4, 5, 6]).and(columns.unsqueeze(&[1, 2, 3, 5, 6]));
    let y = reduce_max(real.select(products, products.like(f64::NEG_INFINITY)));
    y.equal(y.like(f64::NEG_INFINITY)).select(y.like(0.0), y)
}

fn reduce_max(v: Val<'_>) -> Val<'_> {
    v.builder().op("ReduceMax", &[v, v.builder().ints(&[2, 4, 5])], Attrs::new().with("keepdims", 0))
}

/// The samples of all bins along one axis of each region.
struct Samples<'g> {
    taps: Taps<'g>,
    /// Samples a bin, for the region that has most.
    each: Dim,
    /// Their number `[R]`, and which of them are the region's own `[R, samples]`, where that differs.
    count: Option<Val<'g>>,
    real: Option<Val<'g>>,
}

impl<'g> Samples<'g> {
    fn of(c: &Cx<'g>, r: &Regions, axis: usize, work: DType) -> Samples<'g> {
        let b = c.b;
        // A region is (x, y, x, y), the axes are (y, x).
        let edge = |at: i64| {
            let edge = c.x(1).slice(1, at, at + 1).cast(work) * r.scale;
            if r.half_pixel { edge - 0.5 } else { edge }
        };
        let (start, end) = (edge(1 - axis as i64), edge(3 - axis as i64));
        let extent = if r.half_pixel { end - start } else { at_least(end - start, 1.0) };
        let bins = r.size[axis];
        let bin = extent * (1.0 / bins as f64);
        let size = b.dim_scalar(&c.x(0).dim(axis as i64 + 2), work);
        match r.samples {
            Some(each) => {
                let places = usize::try_from(bins.saturating_mul(each)).unwrap_or(0);
                let place = |k: i64| (k / each) as f64 + ((k % each) as f64 + 0.5) / each as f64;
                let at = b.tabulated(work, &[places], |k| place(k as i64));
                let taps = interpolation(start + bin * at, size);
                Samples { taps, each: Dim::Fixed(each), count: None, real: None }
            }
            None => Samples::as_many_as_elements(start, bin, bins, size),
        }
    }

    /// A sample for each element that a bin spans, which differs from region to region.
    fn as_many_as_elements(start: Val<'g>, bin: Val<'g>, bins: i64, size: Val<'g>) -> Samples<'g> {
        let (b, work) = (start.builder(), start.dtype());
        let int = |v: i64| b.constant(Tensor::ints(&[], &[v]));
        let count = b.op("Ceil", &[bin], Attrs::new());
        let most = b.op("ReduceMax", &[count, b.ints(&[0, 1])], Attrs::new().with("keepdims", 0));
        let order = b.op("Range", &[int(0), at_least(most, 1.0).cast(DType::I64), int(1)], Attrs::new()).cast(work);
        let (regions, each) = (start.dim(0), order.dim(0));
        let places = Dim::Fixed(bins) * each.clone();
        let within = ((order + 0.5) / at_least(count, 1.0)).unsqueeze(&[1]);
        let at = within + b.range(&Dim::Fixed(bins)).cast(work).unsqueeze(&[1]);
        let mut taps = interpolation(start + bin * at.reshape(&[regions.clone(), places.clone()]), size);
        let real = order.lt(count);
        let own = real.unsqueeze(&[1]).expand(&[regions.clone(), Dim::Fixed(bins), each.clone()]);
        let own = own.reshape(&[regions, places, Dim::Fixed(1)]);
        taps.weights = own.select(taps.weights, taps.weights.like(0.0));
        Samples { taps, each, count: Some(at_least(count, 0.0).squeeze(&[1])), real: Some(real) }
    }

    /// The taps `[R, places, taps]` with an axis of size 1 for the other's places.
    fn broadcast(&self, axis: i64) -> Taps<'g> {
        Taps { positions: self.taps.positions.unsqueeze(&[axis]), weights: self.taps.weights.unsqueeze(&[axis]) }
    }
}

/// Linear interpolation at places of an axis; those more than one element outside weigh nothing.
fn interpolation<'g>(place: Val<'g>, size: Val<'g>) -> Taps<'g> {
    let b = place.builder();
    let zero = size.like(0.0);
    let outside = place.lt(place.like(-1.0)).or(place.gt(size)).unsqueeze(&[place.rank() as i64]);
    let clipped = b.op("Clip", &[place, zero, size - 1.0], Attrs::new());
    let around = taps(clipped, Filter::Linear).within(size - 1.0, Padding::Border);
    Taps { weights: outside.select(zero, around.weights), ..around }
}
