//! DFT: the axis as an input (an attribute before opset 20, where it is 1 by default).

use super::Draft;
use crate::ir::Tensor;
use crate::ops::Fault;

pub fn dft(d: &mut Draft) -> Result<(), Fault> {
    if d.opset < 20 {
        let axis = d.take_int("axis").unwrap_or(1);
        d.set_input(2, d.builder.constant(Tensor::ints(&[], &[axis])));
    }
    Ok(())
}
