//! BatchNormalization of opset 15: `training_mode` says what more than one output said before opset 14.

use super::{Draft, unsupported};
use crate::ops::Fault;

pub fn batch_norm(d: &mut Draft) -> Result<(), Fault> {
    if d.take_int("spatial") == Some(0) {
        return Err(unsupported("statistics for every element (spatial = 0) were removed from ONNX in opset 9"));
    }
    d.fill("epsilon", 1e-5f32);
    d.fill("momentum", 0.9f32);
    if d.opset >= 14 {
        d.drop_default("training_mode", 0);
        return Ok(());
    }
    // Outputs 3 and 4 of the old form are statistics saved for a backward pass that exporters do not write.
    if d.outputs.len() > 1 {
        d.set("training_mode", 1);
        d.outputs.truncate(3);
    }
    Ok(())
}
