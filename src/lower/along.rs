//! Linear maps along one axis.

use crate::ir::{Attrs, Dim, Fact, Val, count};

/// The matrix `w[out, in]` applied along an axis of `x`.
pub fn multiply<'g>(x: Val<'g>, axis: usize, w: Val<'g>) -> Val<'g> {
    let shape = x.shape();
    match shape.len().saturating_sub(axis) {
        0 => x,
        1 => x.matmul(w.transpose()),
        2 => w.matmul(x),
        _ => {
            let (before, after) = (count(&shape[..axis]), count(&shape[axis + 1..]));
            let product = w.matmul(x.reshape(&[before, shape[axis].clone(), after]));
            let mut whole = shape;
            whole[axis] = w.dim(0);
            product.reshape(&whole)
        }
    }
}

/// The elements at `indices` of an axis.
pub fn pick<'g>(x: Val<'g>, axis: usize, indices: Val<'g>) -> Val<'g> {
    x.builder().op("Gather", &[x, indices], Attrs::new().with("axis", axis as i64))
}

/// A vector along an axis of something of `rank` axes.
pub fn lay<'g>(v: Val<'g>, axis: usize, rank: usize) -> Val<'g> {
    let behind: Vec<i64> = (1..(rank.saturating_sub(axis)) as i64).collect();
    v.unsqueeze(&behind)
}

/// Each element of the axes repeated in place, `times` times.
pub fn repeat<'g>(x: Val<'g>, axes: &[(usize, i64)]) -> Val<'g> {
    let (mut apart, mut grown, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for (axis, size) in x.shape().into_iter().enumerate() {
        apart.push(size.clone());
        grown.push(size.clone());
        let times = axes.iter().find(|(a, _)| *a == axis).map_or(1, |(_, times)| *times);
        if times != 1 {
            apart.push(Dim::Fixed(1));
            grown.push(Dim::Fixed(times));
        }
        whole.push(size * Dim::Fixed(times));
    }
    x.reshape(&apart).expand(&grown).reshape(&whole)
}

/// As many of the first elements as `sizes` says, along the last axes.
pub fn first<'g>(x: Val<'g>, sizes: &[Dim]) -> Val<'g> {
    let (b, shape) = (x.builder(), x.shape());
    let behind = shape.len().saturating_sub(sizes.len());
    if shape[behind..] == *sizes {
        return x;
    }
    let axes: Vec<i64> = (behind as i64..shape.len() as i64).collect();
    let y = b.op("Slice", &[x, b.ints(&vec![0; sizes.len()]), b.shape_value(sizes), b.ints(&axes)], Attrs::new());
    b.refine_fact(y, &Fact::new(x.dtype(), [&shape[..behind], sizes].concat()));
    y
}
