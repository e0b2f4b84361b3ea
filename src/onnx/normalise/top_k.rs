//! TopK: k as an input (an attribute before opset 10).

use super::{Draft, from_front};
use crate::ops::Fault;

pub fn top_k(d: &mut Draft) -> Result<(), Fault> {
    if let Some(k) = d.take_int("k") {
        d.set_ints(1, &[k]);
    }
    let axis = d.attrs.int("axis").unwrap_or(-1);
    let axis = d.rank(0).map_or(Ok(axis), |rank| from_front(axis, rank))?;
    d.set("axis", axis);
    d.fill("largest", 1);
    d.fill("sorted", 1);
    Ok(())
}
