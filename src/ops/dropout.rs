//! Dropout.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Fact, Val};

const RATIO: f64 = 0.5;

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    Ok(vec![x.clone(), Fact { dtype: DType::Bool, shape: x.shape.clone(), ints: None }])
}

/// `1/(1 − ratio)`; 1 where the node turns out not to train.
fn scale<'g>(c: &Cx<'g>) -> Val<'g> {
    let x = c.x(0);
    let ratio = if c.has(1) { c.x(1).cast(x.dtype()) } else { x.like(RATIO) };
    let kept = (1.0 - ratio).reshape(&[]);
    match c.ints(2) {
        Some(_) => kept.reciprocal(),
        None => c.x(2).reshape(&[]).select(kept.reciprocal(), x.like(1.0)),
    }
}

/// y = x ⊙ mask/(1 − ratio)            dy = dx ⊙ mask/(1 − ratio); outside of training y = x
fn dropout<'g>(c: &Cx<'g>) -> Tan<'g> {
    let trains = c.has(2) && c.ints(2).is_none_or(|v| v.first().is_some_and(|&t| t != 0));
    if !trains {
        return c.dx(0);
    }
    let mask = if c.has_out(1) { c.out(1) } else { c.b.grow(c.out(0), 1, Fact { dtype: DType::Bool, ..c.out(0).fact() }) };
    c.dx(0).gate(mask) * scale(c)
}

/// A mask that is a fixed function of the position: the same on each evaluation.
fn kept(at: usize, ratio: f64) -> bool {
    super::random::uniform(at) >= ratio
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let one = |i: usize| c.get(i).and_then(|a| a.data.first().copied());
    let ratio = one(1).unwrap_or(RATIO);
    let trains = one(2).is_some_and(|t| t != 0.0) && ratio != 0.0;
    let mask: Vec<f64> = (0..x.data.len()).map(|k| f64::from(u8::from(!trains || kept(k, ratio)))).collect();
    let scale = if trains { 1.0 / (1.0 - ratio) } else { 1.0 };
    let y = x.data.iter().zip(&mask).map(|(&x, &m)| if m != 0.0 { x * scale } else { 0.0 }).collect();
    Ok(vec![Array::from_vec(x.dtype, x.shape(), y)?, Array::from_vec(DType::Bool, x.shape(), mask)?])
}

pub static DROPOUT: Op = Op {
    name: "Dropout",
    facts,
    tangent: Tangent::Rule(dropout),
    eval,
    cases: || {
        vec![
            Case::new().real(&[2, 3]),
            Case::new().real(&[2, 3]).const_real(0.25).bools(&[], &[false]).outputs(2),
            Case::new().real(&[3, 4]).const_real(0.25).bools(&[], &[true]).outputs(2),
            Case::new().real(&[3, 4]).absent().bools(&[], &[true]).outputs(2),
            Case::new().real(&[3, 4]).absent().bools(&[], &[true]),
        ]
    },
};
