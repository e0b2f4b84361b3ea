//! Operators with one `axis`: written out, counted from the front where the rank is known.

use super::{Draft, from_front};
use crate::ops::Fault;

pub fn axis(d: &mut Draft) -> Result<(), Fault> {
    let default = match d.op.as_str() {
        "Flatten" => Some(1),
        "LayerNormalization" | "RMSNormalization" | "LpNormalization" => Some(-1),
        "Concat" => None,
        _ => Some(0),
    };
    let Some(axis) = d.attrs.int("axis").or(default) else {
        return Err(Fault::Attribute { name: "axis", found: "absent".into(), expected: "an integer".into() });
    };
    if matches!(d.op.as_str(), "ArgMax" | "ArgMin") {
        d.fill("keepdims", 1);
    }
    // Flatten's axis may be the rank itself: everything goes to the front.
    let axis = match d.rank(0) {
        Some(rank) if d.op == "Flatten" && axis == rank => axis,
        Some(rank) => from_front(axis, rank)?,
        None => axis,
    };
    d.set("axis", axis);
    Ok(())
}
