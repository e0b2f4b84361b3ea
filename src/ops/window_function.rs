//! Windows of a signal: HannWindow, HammingWindow, BlackmanWindow.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact};
use std::f64::consts::TAU;

/// The type that the attribute `output_datatype` names.
pub(super) fn output_type(attrs: &Attrs) -> Result<DType, Fault> {
    let Some(code) = attrs.int("output_datatype") else { return Ok(DType::F32) };
    i32::try_from(code).ok().and_then(DType::from_code).ok_or_else(|| Fault::Attribute {
        name: "output_datatype",
        found: code.to_string(),
        expected: "an element type".into(),
    })
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(0)?;
    let size = c.ints(0).and_then(<[Dim]>::first).cloned().unwrap_or_else(|| c.unknown(0));
    Ok(vec![Fact::new(output_type(c.attrs)?, [size])])
}

/// `Σₖ weights[k] · cos(2πkn/N)`, N the size or, where the window is not periodic, one less.
fn cosines(c: &EvalCx, weights: &[f64]) -> Result<Vec<Array>, Fault> {
    let size = c.ints(0).and_then(|v| v.first().copied()).ok_or(Fault::Missing { index: 0, needs: "a size" })?;
    let size = size.clamp(0, 1 << 24) as usize;
    let period = if c.int("periodic", 1) != 0 { size as f64 } else { size as f64 - 1.0 };
    let at = |n: usize| weights.iter().enumerate().map(|(k, w)| w * (TAU * k as f64 * n as f64 / period).cos()).sum();
    Ok(vec![Array::from_vec(output_type(c.attrs)?, &[size], (0..size).map(at).collect())?])
}

fn cases() -> Vec<Case> {
    vec![Case::new().const_ints(&[], &[6]), Case::new().ints(&[], &[5]).attr("periodic", 0)]
}

macro_rules! windows {
    ($($const:ident $name:literal $weights:expr;)+) => {$(
        pub static $const: Op = Op {
            name: $name,
            facts,
            tangent: Tangent::Zero,
            eval: |c| cosines(c, &$weights),
            cases,
        };
    )+};
}

windows! {
    HANN_WINDOW "HannWindow" [0.5, -0.5];
    HAMMING_WINDOW "HammingWindow" [25.0 / 46.0, -21.0 / 46.0];
    BLACKMAN_WINDOW "BlackmanWindow" [0.42, -0.5, 0.08];
}
