//! MaxPool, AveragePool, LpPool: strides and pads written out, `auto_pad` turned into pads.

use super::{Draft, spatial};
use crate::ops::Fault;

pub fn pool(d: &mut Draft) -> Result<(), Fault> {
    let Some(kernel) = d.attrs.ints("kernel_shape").map(<[i64]>::to_vec) else {
        let expected = "the window's sizes".to_string();
        return Err(Fault::Attribute { name: "kernel_shape", found: "absent".into(), expected });
    };
    // The others have dilations only in later opsets.
    spatial::fill(d, kernel.len(), d.op == "MaxPool");
    if d.op != "MaxPool" && d.attrs.ints("dilations").is_some_and(|v| v.iter().all(|&n| n == 1)) {
        d.take("dilations");
    }
    match d.op.as_str() {
        "LpPool" => d.drop_default("ceil_mode", 0),
        _ => d.fill("ceil_mode", 0),
    }
    if d.op == "AveragePool" {
        d.fill("count_include_pad", 0);
    }
    spatial::resolve_auto_pad(d, &kernel)
}
