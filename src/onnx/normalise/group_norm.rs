//! GroupNormalization of opset 21: scale and bias for every channel (for every group in opset 18).

use super::{Draft, unsupported};
use crate::ir::{Attrs, Val};
use crate::ops::Fault;

pub fn group_norm(d: &mut Draft) -> Result<(), Fault> {
    d.fill("epsilon", 1e-5f32);
    if d.opset >= 21 {
        return Ok(());
    }
    let groups = d.attrs.int("num_groups").filter(|&g| g > 0);
    let groups = groups.ok_or_else(|| unsupported("num_groups is not a positive number"))?;
    let channels = d.shape(0).and_then(|s| s.get(1)?.fixed());
    let channels = channels.ok_or_else(|| unsupported("the number of channels must be known before opset 21"))?;
    for i in [1, 2] {
        let per_group = d.needs(i, "scale and bias")?;
        let each = d.emit("Unsqueeze", &[Some(per_group), Some(d.builder.ints(&[1]))], Attrs::new());
        let shape = d.builder.ints(&[groups, channels / groups]);
        let wide = d.emit("Expand", &[each, Some(shape)], Attrs::new());
        let flat = d.emit("Reshape", &[wide, Some(d.builder.ints(&[-1]))], Attrs::new());
        let flat: Option<Val> = flat;
        d.inputs[i] = flat;
    }
    Ok(())
}
