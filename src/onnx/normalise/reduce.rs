//! The reductions: axes as an input (an attribute before opset 18, of ReduceSum before 13), counted from the front.

use super::{Draft, all_from_front};
use crate::ops::Fault;

pub fn reduce(d: &mut Draft) -> Result<(), Fault> {
    d.fill("keepdims", 1);
    d.drop_default("noop_with_empty_axes", 0);
    // No axes as an attribute means all of them, as an absent input does.
    if let Some(axes) = d.take_ints("axes").filter(|axes| !axes.is_empty()) {
        d.set_ints(1, &axes);
    }
    if let (Some(axes), Some(rank)) = (d.known_ints(1), d.rank(0))
        && axes.iter().any(|&a| a < 0)
    {
        d.set_ints(1, &all_from_front(&axes, rank)?);
    }
    Ok(())
}
