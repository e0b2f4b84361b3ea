//! Softmax, LogSoftmax, Hardmax: along one axis. Before opset 13 they ran over all axes from `axis` on, of the input
//! seen as a matrix: that is the same where `axis` is the last one, and a Flatten and a Reshape around it elsewhere.

use super::{Draft, from_front};
use crate::ir::{Attrs, fixed};
use crate::ops::Fault;

pub fn softmax(d: &mut Draft) -> Result<(), Fault> {
    let old = d.opset < 13;
    let axis = d.attrs.int("axis").unwrap_or(if old { 1 } else { -1 });
    let rank = d.rank(0);
    let axis = rank.map_or(Ok(axis), |rank| from_front(axis, rank))?;
    d.set("axis", axis);
    let last = rank.is_some_and(|rank| axis == rank - 1) || axis == -1;
    // One axis of the matrix is the same where all the others behind `axis` have size 1.
    let alone = d.shape(0).is_some_and(|s| s.iter().skip(axis.max(0) as usize + 1).all(|dim| dim.is_one()));
    if !old || last || alone {
        return Ok(());
    }
    let x = d.needs(0, "the tensor")?;
    let flat = d.emit("Flatten", &[Some(x)], Attrs::new().with("axis", axis));
    let soft = d.emit(&d.op, &[flat], Attrs::new().with("axis", 1));
    let shape = match d.shape(0).as_deref().and_then(fixed) {
        Some(shape) => Some(d.builder.ints(&shape)),
        None => d.emit("Shape", &[Some(x)], Attrs::new()),
    };
    d.become_op("Reshape", vec![soft, shape], Attrs::new());
    Ok(())
}
