//! Negations move outwards until they cancel or become a subtraction.

use super::{Site, operand, splat};
use crate::ir::{Tensor, Val};

/// `−(−x) = x`, `−(x − y) = y − x`
pub(super) fn double<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Neg" {
        return None;
    }
    let x = s.x(0)?;
    if let Some(inner) = operand(x, "Neg") {
        return Some(inner);
    }
    let difference = super::made_by(x, "Sub")?;
    let (a, b) = (difference.input(0)?, difference.input(1)?);
    Some(s.b.val(b) - s.b.val(a))
}

/// `x + (−y) = x − y`, `x − (−y) = x + y`, `(−x) + y = y − x`, `(−x) − y = −(x + y)`, `0 − x = −x`
pub(super) fn in_sum<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let (x, y) = (s.x(0)?, s.x(1)?);
    match (s.op, operand(x, "Neg"), operand(y, "Neg")) {
        ("Add", None, Some(y)) => Some(x - y),
        ("Add", Some(x), None) => Some(y - x),
        ("Add", Some(x), Some(y)) => Some(-(x + y)),
        ("Sub", None, Some(y)) => Some(x + y),
        ("Sub", Some(x), None) => Some(-(x + y)),
        ("Sub", Some(x), Some(y)) => Some(y - x),
        ("Sub", None, None) if splat(x) == Some(0.0) && x.fact().rank() == Some(0) => Some(-y),
        _ => None,
    }
}

/// `f(−x) = −f(x)` for every operator that is linear in that input
pub(super) fn outwards<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let places: &[usize] = match s.op {
        "Mul" | "MatMul" | "Div" => &[0, 1],
        "ReduceSum" | "ReduceMean" | "Reshape" | "Transpose" | "Expand" | "Squeeze" | "Unsqueeze" | "Slice"
        | "Gather" | "GatherND" | "CumSum" => &[0],
        "Conv" | "ConvTranspose" if s.inputs.len() == 2 => &[0, 1],
        "Gemm" if s.inputs.len() == 2 => &[0, 1],
        "Pad" if s.inputs.len() == 2 && s.attrs.str("mode").is_none_or(|m| m == "constant") => &[0],
        "ScatterND" | "ScatterElements" if scatters_linearly(s) => &[2],
        "Where" => {
            let (yes, no) = (s.x(1)?, s.x(2)?);
            return match (operand(yes, "Neg"), splat(no) == Some(0.0), operand(no, "Neg"), splat(yes) == Some(0.0)) {
                (Some(yes), true, ..) => Some(-s.with(&[s.x(0)?, yes, no])),
                (_, _, Some(no), true) => Some(-s.with(&[s.x(0)?, yes, no])),
                _ => None,
            };
        }
        _ => return None,
    };
    for &i in places {
        let x = s.x(i)?;
        if let Some(inner) = operand(x, "Neg") {
            return Some(-s.replacing(i, inner));
        }
    }
    // A negative constant factor is a negation too: `(−c)·x = −(c·x)`.
    if s.op == "Mul" {
        for (i, other) in [(0, 1), (1, 0)] {
            let (c, x) = (s.x(i)?, s.x(other)?);
            if let Some(number) = splat(c)
                && number < 0.0
                && c.dtype().is_float()
                && c.fact().rank() == Some(0)
            {
                return Some(-(x * s.b.constant(Tensor::scalar(c.dtype(), -number))));
            }
        }
    }
    None
}

/// Whether a scatter writes or adds into zeros; a maximum or minimum with zero is not linear.
fn scatters_linearly(s: &Site<'_, '_>) -> bool {
    let linear = s.attrs.str("reduction").is_none_or(|r| matches!(r, "none" | "add"));
    linear && s.x(0).is_some_and(|v| splat(operand(v, "Expand").unwrap_or(v)) == Some(0.0))
}
