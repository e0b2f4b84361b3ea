//! Comparisons.

use super::case::broadcasts;
use super::elementwise::{bool_facts, predicate, zip_ints};
use super::{Array, EvalCx, FactCx, Fault, Op};
use crate::ir::{DType, Dim, Fact};

/// Equality of dimensions is known where they are the same, or one is negative and the other a size.
fn equal_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let known = |a: &Dim, b: &Dim| match (a, b) {
        (a, b) if a == b => Some(Dim::Fixed(1)),
        (Dim::Fixed(_), Dim::Fixed(_)) => Some(Dim::Fixed(0)),
        (Dim::Fixed(n), size) | (size, Dim::Fixed(n)) if *n < 0 && is_size(size) => Some(Dim::Fixed(0)),
        _ => None,
    };
    let ints = zip_ints(c, 0, 1, known);
    Ok(bool_facts(c)?.into_iter().map(|f| f.with_ints(ints.clone())).collect())
}

/// A sum of products of dimensions, so not negative.
fn is_size(dim: &Dim) -> bool {
    match dim {
        Dim::Fixed(n) => *n >= 0,
        Dim::Symbol(poly) => poly.terms().all(|(_, c)| c >= 0),
    }
}

fn compare(c: &EvalCx, f: impl Fn(&f64, &f64) -> bool) -> Result<Vec<Array>, Fault> {
    c.zip(DType::Bool, |x, y| f64::from(u8::from(f(&x, &y))))
}

pub static EQUAL: Op =
    Op { facts: equal_facts, ..predicate("Equal", |c| compare(c, f64::eq), || broadcasts(-1.5, 1.5)) };
pub static GREATER: Op = predicate("Greater", |c| compare(c, f64::gt), || broadcasts(-1.5, 1.5));
pub static LESS: Op = predicate("Less", |c| compare(c, f64::lt), || broadcasts(-1.5, 1.5));
pub static GREATER_OR_EQUAL: Op = predicate("GreaterOrEqual", |c| compare(c, f64::ge), || broadcasts(-1.5, 1.5));
pub static LESS_OR_EQUAL: Op = predicate("LessOrEqual", |c| compare(c, f64::le), || broadcasts(-1.5, 1.5));
