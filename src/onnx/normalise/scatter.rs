//! Scatter is ScatterElements' old name.

use super::{Draft, from_front};
use crate::ops::Fault;

pub fn scatter(d: &mut Draft) -> Result<(), Fault> {
    d.op = "ScatterElements".to_string();
    let axis = d.attrs.int("axis").unwrap_or(0);
    let axis = d.rank(0).map_or(Ok(axis), |rank| from_front(axis, rank))?;
    d.set("axis", axis);
    Ok(())
}
