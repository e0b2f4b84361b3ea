//! What convolutions and pools share: attributes per spatial axis, and `auto_pad` turned into pads.

use super::Draft;
use crate::ir::Dim;
use crate::ops::Fault;

/// Fills in `strides` (and `dilations` where the operator has them in every opset from 13 on).
pub fn fill(d: &mut Draft, axes: usize, dilations: bool) {
    d.fill("strides", vec![1; axes]);
    if dilations {
        d.fill("dilations", vec![1; axes]);
    }
}

/// An attribute of one element a spatial axis.
pub fn per_axis(d: &Draft, name: &'static str, axes: usize, default: i64) -> Result<Vec<i64>, Fault> {
    match d.attrs.ints(name) {
        None => Ok(vec![default; axes]),
        Some(values) if values.len() == axes => Ok(values.to_vec()),
        Some(values) => Err(Fault::Attribute {
            name,
            found: format!("{values:?}"),
            expected: format!("{axes} elements, one a spatial axis"),
        }),
    }
}

/// Replaces `auto_pad` by `pads` where the shapes suffice: `SAME` pads so that the output has `⌈in / stride⌉` elements.
pub fn resolve_auto_pad(d: &mut Draft, kernel: &[i64]) -> Result<(), Fault> {
    let axes = kernel.len();
    let mode = d.take_str("auto_pad").unwrap_or("NOTSET".into());
    let upper = match mode.as_str() {
        "NOTSET" | "" => {
            d.fill("pads", vec![0; 2 * axes]);
            return Ok(());
        }
        "VALID" => {
            d.set("pads", vec![0; 2 * axes]);
            return Ok(());
        }
        "SAME_UPPER" => true,
        "SAME_LOWER" => false,
        _ => return Err(unknown_mode(&mode)),
    };
    let strides = per_axis(d, "strides", axes, 1)?;
    let dilations = per_axis(d, "dilations", axes, 1)?;
    let shape = d.shape(0).filter(|s| s.len() == axes + 2);
    let total = |i: usize| -> Option<i64> {
        let reach = (kernel[i] - 1).checked_mul(dilations[i])?.checked_add(1)?;
        if strides[i] == 1 {
            return Some(reach - 1);
        }
        let size = shape.as_ref()?.get(i + 2).and_then(Dim::fixed)?;
        let out = size.checked_add(strides[i])?.checked_sub(1)?.checked_div(strides[i])?;
        Some((out - 1).checked_mul(strides[i])?.checked_add(reach)?.checked_sub(size)?.max(0))
    };
    match (0..axes).map(total).collect::<Option<Vec<i64>>>() {
        Some(totals) => d.set("pads", halves(&totals, upper)),
        None => {
            d.take("pads");
            d.set("auto_pad", mode.as_str());
        }
    }
    Ok(())
}

pub fn unknown_mode(mode: &str) -> Fault {
    Fault::Attribute {
        name: "auto_pad",
        found: format!("{mode:?}"),
        expected: "NOTSET, VALID, SAME_UPPER or SAME_LOWER".to_string(),
    }
}

/// Begins and ends; an odd one more goes to the end (`upper`) or the beginning.
pub fn halves(totals: &[i64], upper: bool) -> Vec<i64> {
    let small = |t: i64| t / 2;
    let big = |t: i64| t - t / 2;
    let begins = totals.iter().map(|&t| if upper { small(t) } else { big(t) });
    let ends = totals.iter().map(|&t| if upper { big(t) } else { small(t) });
    begins.chain(ends).collect()
}
