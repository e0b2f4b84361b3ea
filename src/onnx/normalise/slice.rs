//! Slice: starts, ends, axes and steps as inputs (attributes before opset 10), axes counted from the front.

use super::{Draft, all_from_front};
use crate::ops::Fault;

pub fn slice(d: &mut Draft) -> Result<(), Fault> {
    for (i, name) in ["starts", "ends", "axes"].into_iter().enumerate() {
        if let Some(values) = d.take_ints(name) {
            d.set_ints(i + 1, &values);
        }
    }
    d.needs(1, "starts")?;
    d.needs(2, "ends")?;
    if let (Some(axes), Some(rank)) = (d.known_ints(3), d.rank(0))
        && axes.iter().any(|&a| a < 0)
    {
        // Indices of a slice share one type, and the constants made here are int64.
        let axes = all_from_front(&axes, rank)?;
        let dtype = d.needs(1, "starts")?.dtype();
        let values = axes.iter().map(|&a| a as f64);
        let tensor = crate::ir::Tensor::from_f64(dtype, &[axes.len()], values);
        d.set_input(3, d.builder.constant(tensor));
    }
    Ok(())
}
