//! Softmax of a biased input.

use super::Fused;
use crate::ir::{Attrs, Dim, Val, count};
use crate::ops::Fault;

/// y = softmax(x + b) over all axes from `axis` on
pub fn bias_softmax<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    let (x, shape) = f.shaped(0)?;
    let (biased, rank) = (x + f.x(1)?, shape.len() as i64);
    let axis = f.int("axis", 1);
    let axis = if axis < 0 { axis + rank } else { axis }.clamp(0, rank - 1) as usize;
    let softmax = |x: Val<'g>| f.b.op("Softmax", &[x], Attrs::new().with("axis", x.rank() as i64 - 1));
    if axis + 1 == shape.len() {
        return Ok(vec![softmax(biased)]);
    }
    let flat: Vec<Dim> = shape[..axis].iter().cloned().chain([count(&shape[axis..])]).collect();
    Ok(vec![softmax(biased.reshape(&flat)).reshape(&shape)])
}
