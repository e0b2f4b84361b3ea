//! Functions that are constant almost everywhere.

use super::elementwise::{constant, kinked_cases, predicate};
use super::{EvalCx, Op};

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        // 0 and NaN stay what they are.
        x
    }
}

fn truth(c: &EvalCx, f: impl Fn(f64) -> bool) -> Result<Vec<super::Array>, super::Fault> {
    let mut out = c.map(|x| f64::from(u8::from(f(x))))?;
    out.iter_mut().for_each(|a| a.dtype = crate::ir::DType::Bool);
    Ok(out)
}

pub static SIGN: Op = constant("Sign", |c| c.map(sign), kinked_cases);
pub static FLOOR: Op = constant("Floor", |c| c.map(f64::floor), kinked_cases);
pub static CEIL: Op = constant("Ceil", |c| c.map(f64::ceil), kinked_cases);
/// Halves go to the even neighbour.
pub static ROUND: Op = constant("Round", |c| c.map(f64::round_ties_even), kinked_cases);
pub static IS_NAN: Op = predicate("IsNaN", |c| truth(c, f64::is_nan), kinked_cases);
pub static IS_INF: Op = predicate(
    "IsInf",
    |c| {
        let (positive, negative) = (c.int("detect_positive", 1) != 0, c.int("detect_negative", 1) != 0);
        truth(c, move |x| x.is_infinite() && if x > 0.0 { positive } else { negative })
    },
    kinked_cases,
);
