//! Pad: pads and value as inputs (attributes before opset 11), pads of some axes (opset 18) written out for all.

use super::{Draft, all_from_front};
use crate::ir::Tensor;
use crate::ops::Fault;

pub fn pad(d: &mut Draft) -> Result<(), Fault> {
    d.fill("mode", "constant");
    if let Some(pads) = d.take_ints("pads") {
        d.set_ints(1, &pads);
    }
    if let Some(value) = d.take_float("value")
        && value != 0.0
    {
        let x = d.needs(0, "the tensor")?;
        d.set_input(2, d.builder.constant(Tensor::scalar(x.dtype(), f64::from(value))));
    }
    let (Some(axes), Some(pads), Some(rank)) = (d.known_ints(3), d.known_ints(1), d.rank(0)) else {
        return Ok(());
    };
    let axes = all_from_front(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        let expected = format!("{} for the axes {axes:?}", 2 * axes.len());
        return Err(Fault::Shape { what: "the number of pads", found: pads.len().to_string(), expected });
    }
    let mut full = vec![0; 2 * rank as usize];
    for (k, &axis) in axes.iter().enumerate() {
        full[axis as usize] = pads[k];
        full[(axis + rank) as usize] = pads[k + axes.len()];
    }
    d.set_ints(1, &full);
    d.inputs.truncate(3);
    while d.inputs.last().is_some_and(Option::is_none) {
        d.inputs.pop();
    }
    Ok(())
}
