//! RoiAlign: before opset 16 pixels are not shifted by half.

use super::Draft;
use crate::ops::Fault;

pub fn roi_align(d: &mut Draft) -> Result<(), Fault> {
    let default = if d.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    d.fill("coordinate_transformation_mode", default);
    Ok(())
}
