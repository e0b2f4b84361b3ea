//! Upsample and Resize: the Resize of opset 13, inputs (X, roi, scales, sizes).
//!
//! Before opset 11 coordinates are `out / scale` and the nearest one is the floor.

use super::Draft;
use crate::ir::{Attr, DType, Tensor};
use crate::ops::Fault;

pub fn resize(d: &mut Draft) -> Result<(), Fault> {
    if d.op == "Upsample" || d.opset < 11 {
        d.op = "Resize".to_string();
        if let Some(Attr::Floats(scales)) = d.take("scales") {
            let tensor = Tensor::from_f64(DType::F32, &[scales.len()], scales.iter().map(|&v| f64::from(v)));
            d.set_input(1, d.builder.constant(tensor));
        }
        let scales = d.needs(1, "scales")?;
        d.inputs.truncate(1);
        d.set_input(2, scales);
        d.set("coordinate_transformation_mode", "asymmetric");
        let mode = d.take_str("mode").unwrap_or("nearest".into());
        let mode = if mode == "bilinear" { "linear" } else { &mode };
        d.set("mode", mode);
        if mode == "nearest" {
            d.set("nearest_mode", "floor");
        }
    }
    d.fill("mode", "nearest");
    d.fill("coordinate_transformation_mode", "half_pixel");
    d.drop_default("antialias", 0);
    // Opset 11 says "not given" with an empty tensor.
    for i in [1, 2, 3] {
        let empty = d.shape(i).is_some_and(|s| s.first().is_some_and(|n| n.fixed() == Some(0)));
        if empty {
            d.inputs[i] = None;
        }
    }
    while d.inputs.last().is_some_and(Option::is_none) {
        d.inputs.pop();
    }
    Ok(())
}
