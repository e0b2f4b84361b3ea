//! GridSample: the modes' names of opset 20.

use super::Draft;
use crate::ops::Fault;

pub fn grid_sample(d: &mut Draft) -> Result<(), Fault> {
    match d.attrs.str("mode") {
        None | Some("bilinear") => d.set("mode", "linear"),
        Some("bicubic") => d.set("mode", "cubic"),
        Some(_) => {}
    }
    Ok(())
}
