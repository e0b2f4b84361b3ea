//! Dropout: ratio and training mode as inputs (before opset 12 the ratio is an attribute and nothing is dropped).

use super::Draft;
use crate::ir::{Attrs, DType, Tensor};
use crate::ops::Fault;

pub fn dropout(d: &mut Draft) -> Result<(), Fault> {
    if d.opset >= 12 {
        return Ok(());
    }
    let x = d.needs(0, "the tensor")?;
    let ratio = d.take_float("ratio").unwrap_or(0.5);
    d.set_input(1, d.builder.constant(Tensor::scalar(DType::F32, f64::from(ratio))));
    let Some(mask) = d.outputs.get(1).cloned().flatten().filter(|_| d.opset < 10) else {
        return Ok(());
    };
    // The mask of opset 7 has the tensor's own type.
    let bools = d.builder.fresh_name(&format!("{}/mask", d.name));
    let outputs = [d.outputs[0].clone(), Some(bools)];
    let made = d.emit_as("Dropout", &d.inputs, d.attrs.clone(), &outputs, &d.name);
    d.name = d.builder.fresh_name(&format!("{}/Cast", d.name));
    let to = Attrs::new().with("to", i64::from(x.dtype().code()));
    d.outputs = vec![Some(mask)];
    d.become_op("Cast", vec![made.get(1).copied().flatten()], to);
    Ok(())
}
