//! Split: sizes as an input (an attribute before opset 13), written out where the dimension is known. Where it is not,
//! `num_outputs` says how many equal parts there are.

use super::{Draft, from_front};
use crate::ops::Fault;

pub fn split(d: &mut Draft) -> Result<(), Fault> {
    let axis = d.attrs.int("axis").unwrap_or(0);
    let axis = d.rank(0).map_or(Ok(axis), |rank| from_front(axis, rank))?;
    d.set("axis", axis);
    if let Some(sizes) = d.take_ints("split") {
        d.set_ints(1, &sizes);
    }
    let parts = d.outputs.len() as i64;
    d.take("num_outputs");
    if d.input(1).is_some() || parts == 0 {
        return Ok(());
    }
    let dim = d.shape(0).and_then(|s| s.get(usize::try_from(axis).ok()?)?.fixed());
    match dim {
        Some(dim) => {
            if d.opset < 18 && dim % parts != 0 {
                let expected = format!("a multiple of {parts}");
                return Err(Fault::Shape { what: "the dimension that is split", found: dim.to_string(), expected });
            }
            // The last part is the smaller one.
            let size = dim.max(0).div_euclid(parts) + i64::from(dim % parts != 0);
            let sizes: Vec<i64> = (0..parts).map(|k| (dim - k * size).clamp(0, size)).collect();
            d.set_ints(1, &sizes);
        }
        None => d.set("num_outputs", parts),
    }
    Ok(())
}
