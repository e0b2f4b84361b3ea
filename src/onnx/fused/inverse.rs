//! Inverses of matrices.

use super::{Fused, unsupported};
use crate::ir::{Attrs, Dim, Tensor, Val};
use crate::lower::normalization::working_type;
use crate::ops::Fault;

/// y = A⁻¹ by elimination of `[A | 1]` with the largest pivot of each column: after step k column k is a unit vector, and
/// which one is the place of row k.
pub fn inverse<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    let (x, shape) = f.shaped(0)?;
    let rank = shape.len() as i64;
    let size = shape.iter().rev().take(2).find_map(Dim::fixed).and_then(|n| usize::try_from(n).ok());
    let (Some(n), true) = (size, rank >= 2) else {
        return Err(unsupported("elimination has as many steps as rows, whose number is not known"));
    };
    let (b, own) = (f.b, x.dtype());
    let x = x.cast(working_type(own));
    let one = (0..n * n).map(|k| f64::from(u8::from(k / n == k % n)));
    let one = b.constant(Tensor::from_f64(x.dtype(), &[n, n], one.collect::<Vec<_>>()));
    let mut batch = shape.clone();
    batch[rank as usize - 2..].fill(Dim::from(n));
    let concat = |parts: &[Val<'g>], axis: i64| b.op("Concat", parts, Attrs::new().with("axis", axis));
    let mut rows = concat(&[x, one.expand(&batch)], rank - 1);
    let (depth, values) = (b.ints(&[n as i64]), b.constant(Tensor::from_f64(x.dtype(), &[2], [0.0, 1.0])));
    let (mut places, mut left): (Vec<Val<'g>>, Option<Val<'g>>) = (Vec::new(), None);
    for k in 0..n as i64 {
        let column = rows.slice(rank - 1, k, k + 1);
        let candidates = left.map_or(column.abs(), |left| column.abs() * left);
        // Rows that have been pivots are 0 among the candidates, and so come last.
        let best = b.op("ArgMax", &[candidates], Attrs::new().with("axis", rank - 2).with("keepdims", 0));
        let place = b.op("OneHot", &[best, depth, values], Attrs::new().with("axis", rank - 2));
        left = Some(left.map_or(1.0 - place, |left| left - place));
        let pivot = place.transpose().matmul(rows);
        let pivot = pivot / pivot.slice(rank - 1, k, k + 1);
        rows = rows - (column - place).matmul(pivot);
        places.push(place.transpose());
    }
    let eliminated = rows.slice(rank - 1, n as i64, 2 * n as i64);
    Ok(vec![if places.is_empty() { eliminated } else { concat(&places, rank - 2).matmul(eliminated) }.cast(own)])
}
