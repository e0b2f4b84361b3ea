//! Conv and ConvTranspose: kernel_shape, strides, dilations, pads and group written out, `auto_pad` and `output_shape`
//! turned into pads.

use super::{Draft, spatial};
use crate::ir::Dim;
use crate::ops::Fault;

pub fn conv(d: &mut Draft) -> Result<(), Fault> {
    d.fill("group", 1);
    let Some(kernel) = kernel(d) else { return Ok(()) };
    spatial::fill(d, kernel.len(), true);
    spatial::resolve_auto_pad(d, &kernel)
}

/// The kernel's size, from the attribute or the weight's shape.
fn kernel(d: &mut Draft) -> Option<Vec<i64>> {
    if let Some(kernel) = d.attrs.ints("kernel_shape") {
        return Some(kernel.to_vec());
    }
    let sizes: Option<Vec<i64>> = d.shape(1)?.iter().skip(2).map(Dim::fixed).collect();
    let sizes = sizes?;
    d.set("kernel_shape", sizes.clone());
    Some(sizes)
}

pub fn conv_transpose(d: &mut Draft) -> Result<(), Fault> {
    d.fill("group", 1);
    let Some(kernel) = kernel(d) else { return Ok(()) };
    let axes = kernel.len();
    spatial::fill(d, axes, true);
    d.fill("output_padding", vec![0; axes]);
    let mode = d.take_str("auto_pad").unwrap_or("NOTSET".into());
    match mode.as_str() {
        "NOTSET" | "" | "VALID" | "SAME_UPPER" | "SAME_LOWER" => {}
        _ => return Err(spatial::unknown_mode(&mode)),
    }
    let wanted = d.take_ints("output_shape").filter(|s| !s.is_empty());
    if wanted.is_none() && !mode.starts_with("SAME") {
        let none = vec![0; 2 * axes];
        if mode == "VALID" {
            d.set("pads", none)
        } else {
            d.fill("pads", none)
        }
        return Ok(());
    }
    let strides = spatial::per_axis(d, "strides", axes, 1)?;
    let dilations = spatial::per_axis(d, "dilations", axes, 1)?;
    let mut extra = spatial::per_axis(d, "output_padding", axes, 0)?;
    let shape = d.shape(0).filter(|s| s.len() == axes + 2);
    let total = |i: usize| -> Option<i64> {
        let reach = (kernel[i] - 1).checked_mul(dilations[i])?.checked_add(1)?.checked_add(extra[i])?;
        match &wanted {
            // SAME: the output has `in · stride` elements.
            None => reach.checked_sub(strides[i]),
            Some(wanted) => {
                let size = shape.as_ref()?.get(i + 2).and_then(Dim::fixed)?;
                let full = (size - 1).checked_mul(strides[i])?.checked_add(reach)?;
                full.checked_sub(*wanted.get(wanted.len().checked_sub(axes)? + i)?)
            }
        }
    };
    let Some(mut totals) = (0..axes).map(total).collect::<Option<Vec<i64>>>() else {
        if let Some(wanted) = wanted {
            d.set("output_shape", wanted);
        }
        d.set("auto_pad", mode.as_str());
        return Ok(());
    };
    // Fewer than no pads: the output is longer than what the kernel reaches.
    for (total, extra) in totals.iter_mut().zip(&mut extra) {
        *extra += (-*total).max(0);
        *total = (*total).max(0);
    }
    d.set("output_padding", extra);
    d.set("pads", spatial::halves(&totals, mode == "SAME_UPPER"));
    Ok(())
}
