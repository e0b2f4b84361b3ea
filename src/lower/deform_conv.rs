//! DeformConv as linear interpolation at the moved taps, and a product with the filter.

use super::along;
use super::normalization::working_type;
use super::sampling::{Rows, Taps, taps};
use crate::ir::{DType, Dim, Tensor, Val, count};
use crate::ops::Cx;
use crate::ops::deform_conv::Deformation;
use crate::ops::grid_sample::Padding;
use crate::ops::resize::Filter;

/// `y[m, o] = b[m] + Σ w[m, c, t] · mask[t, o] · x[c, o·s + t·δ − p + offset[t, o]]`
pub fn deform_conv<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, w) = (c.x(0), c.x(1));
    let d = match Deformation::of(c.attrs(), &x.shape(), &w.shape()) {
        Ok(d) => d,
        Err(fault) => {
            c.fault(fault);
            return vec![x];
        }
    };
    let work = working_type(x.dtype());
    let y = c.out(0).shape();
    let [n, m, height, width] = y.as_slice() else { return vec![x] };
    let columns = columns(c, &d, work, &[height.clone(), width.clone()]);
    let depth = count(&w.shape()[1..]);
    let (group, area) = (Dim::Fixed(d.group), height.clone() * width.clone());
    let rows = m.div_exact(&group).unwrap_or_else(|| m.div_floor(d.group));
    let filter = w.cast(work).reshape(&[group.clone(), rows, depth.clone()]);
    let product = filter.matmul(columns.reshape(&[n.clone(), group, depth, area])).reshape(&y);
    let sum = if c.has(3) { product + c.x(3).cast(work).along_channel(4) } else { product };
    vec![sum.cast(x.dtype())]
}

/// What each tap reads, `[N, channels · taps, H, W]` in the order of the filter.
fn columns<'g>(c: &Cx<'g>, d: &Deformation, work: DType, out: &[Dim; 2]) -> Val<'g> {
    let (b, x) = (c.b, c.x(0));
    let (n, groups, taps_each) = (x.dim(0), Dim::Fixed(d.offset_group), Dim::Fixed(d.windows.taps()));
    // The filter, whose sizes are known, says how many channels there are.
    let channels = c.x(1).dim(1) * Dim::Fixed(d.group);
    let each = channels.div_exact(&groups).unwrap_or_else(|| channels.div_floor(d.offset_group));
    let images = x.cast(work).reshape(&[n.clone(), groups.clone(), each.clone(), x.dim(2), x.dim(3)]);
    let images = images.permute(&[0, 1, 3, 4, 2]);
    let merged = images.reshape(&[n.clone() * groups.clone(), x.dim(2), x.dim(3), each.clone()]);
    let rows = Rows::of(merged, 2);
    let places = [n.clone(), groups.clone(), taps_each, out[0].clone(), out[1].clone()];
    let axes = [0, 1].map(|axis| moved_taps(c, d, work, axis, &places));
    let image = b.range(&(n.clone() * groups.clone())).reshape(&[n.clone(), groups]).unsqueeze(&[2, 3, 4]);
    let mut read = rows.pick(&axes, image).sum();
    if c.has(4) {
        read = read * c.x(4).cast(work).reshape(&places).unsqueeze(&[5]);
    }
    // [N, groups, taps, H, W, channels of a group] → [N, groups, channels of a group, taps, H, W]
    read.permute(&[0, 1, 5, 2, 3, 4])
}

/// The taps of one axis at their moved places.
fn moved_taps<'g>(c: &Cx<'g>, d: &Deformation, work: DType, axis: usize, places: &[Dim; 5]) -> Taps<'g> {
    let (b, w) = (c.b, &d.windows);
    let [n, groups, taps_each, height, width] = places.clone();
    let both = c.x(2).cast(work).reshape(&[n, groups, taps_each, Dim::Fixed(2), height, width]);
    let offset = both.slice(3, axis as i64, axis as i64 + 1).squeeze(&[3]);
    let within = w.each_tap().map(|tap| (tap[axis] as i64 * w.dilations[axis] - w.pads[axis].0) as f64);
    let within = b.constant(Tensor::from_f64(work, &[w.taps() as usize], within.collect::<Vec<_>>()));
    let start = b.range(&places[3 + axis]).cast(work) * w.strides[axis] as f64;
    let place = offset + along::lay(within, 2, 5) + along::lay(start, 3 + axis, 5);
    let last = b.dim_scalar(&c.x(0).dim(axis as i64 + 2), work) - 1.0;
    taps(place, Filter::Linear).within(last, Padding::Zeros)
}
