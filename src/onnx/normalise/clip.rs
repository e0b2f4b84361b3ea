//! Clip: bounds as inputs (attributes before opset 11).

use super::Draft;
use crate::ir::Tensor;
use crate::ops::Fault;

pub fn clip(d: &mut Draft) -> Result<(), Fault> {
    let x = d.needs(0, "the tensor")?;
    for (i, name) in [(1, "min"), (2, "max")] {
        if let Some(bound) = d.take_float(name) {
            d.set_input(i, d.builder.constant(Tensor::scalar(x.dtype(), f64::from(bound))));
        }
    }
    Ok(())
}
