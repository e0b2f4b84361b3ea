//! Squeeze and Unsqueeze: axes as an input (an attribute before opset 13), counted from the front.

use super::{Draft, all_from_front};
use crate::ops::Fault;

pub fn squeeze(d: &mut Draft) -> Result<(), Fault> {
    let rank = d.rank(0);
    axes(d, rank)
}

pub fn unsqueeze(d: &mut Draft) -> Result<(), Fault> {
    let attr = d.attrs.ints("axes").map(<[i64]>::len);
    // Axes count in the result's rank.
    let new = attr.or_else(|| d.known_ints(1).map(|v| v.len()));
    let rank = d.rank(0).zip(new).map(|(rank, new)| rank + new as i64);
    axes(d, rank)
}

fn axes(d: &mut Draft, rank: Option<i64>) -> Result<(), Fault> {
    if let Some(axes) = d.take_ints("axes") {
        d.set_ints(1, &axes);
    }
    if let (Some(axes), Some(rank)) = (d.known_ints(1), rank)
        && axes.iter().any(|&a| a < 0)
    {
        d.set_ints(1, &all_from_front(&axes, rank)?);
    }
    Ok(())
}
