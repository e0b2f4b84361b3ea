//! Shape and Size: dimensions as integers.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact, count};
use std::ops::Range;

/// The attributes `start` and `end`, counted from the front and clamped.
fn range(attrs: &Attrs, rank: usize) -> Range<usize> {
    let at = |v: i64| {
        let v = if v < 0 { v.saturating_add(rank as i64) } else { v };
        v.clamp(0, rank as i64) as usize
    };
    let (start, end) = (at(attrs.int("start").unwrap_or(0)), at(attrs.int("end").unwrap_or(i64::MAX)));
    start..end.max(start)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::new(DType::I64, [c.unknown(0)])]) };
    let dims = x[range(c.attrs, x.len())].to_vec();
    Ok(vec![Fact::new(DType::I64, [Dim::from(dims.len())]).with_ints(Some(dims))])
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let shape = c.input(0)?.shape();
    let dims: Vec<f64> = shape[range(c.attrs, shape.len())].iter().map(|&n| n as f64).collect();
    Ok(vec![Array::from_vec(DType::I64, &[dims.len()], dims)?])
}

pub static SHAPE: Op = Op {
    name: "Shape",
    facts,
    tangent: Tangent::Zero,
    eval,
    cases: || {
        let x = || Case::new().real(&[2, 3, 0]);
        vec![x(), x().attr("start", 1), x().attr("start", -2).attr("end", -1), x().attr("start", 2).attr("end", 1)]
    },
};

pub static SIZE: Op = Op {
    name: "Size",
    facts: |c| {
        let ints = c.input(0)?.shape.as_deref().map(|x| vec![count(x)]);
        Ok(vec![Fact::new(DType::I64, []).with_ints(ints)])
    },
    tangent: Tangent::Zero,
    eval: |c| Ok(vec![Array::from_vec(DType::I64, &[], vec![c.data(0)?.len() as f64])?]),
    cases: || vec![Case::new().real(&[2, 3]), Case::new().real(&[])],
};
