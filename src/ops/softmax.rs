//! Softmax and its kin.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::Fact;
use ndarray::{Axis, Zip};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    if let Some(rank) = x.rank() {
        c.axis(c.int("axis", -1), rank)?;
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

/// y = softmax(x)       dy = s − y Σs,  s = dx ⊙ y
fn softmax<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (y, axis) = (c.out(0), c.axis(-1));
    let s = c.dx(0) * y;
    s - s.sum_keep(&[axis]) * y
}

/// y = log softmax(x)   dy = dx − Σ dx ⊙ exp(y)
fn log_softmax<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (dx, axis) = (c.dx(0), c.axis(-1));
    dx - (dx * c.out(0).exp()).sum_keep(&[axis])
}

/// `f` applied to every line along the axis.
fn lines(c: &EvalCx, f: impl Fn(&[f64]) -> Vec<f64>) -> Result<Vec<Array>, Fault> {
    let mut y = c.input(0)?.clone();
    let axis = Axis(c.axis(c.int("axis", -1), y.data.ndim())?);
    Zip::from(y.data.lanes_mut(axis)).for_each(|mut line| {
        let values = f(&line.to_vec());
        line.iter_mut().zip(values).for_each(|(slot, v)| *slot = v);
    });
    Ok(vec![y])
}

fn largest(x: &[f64]) -> f64 {
    x.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// `log Σ exp(x)`
fn log_sum(x: &[f64]) -> f64 {
    let top = largest(x);
    x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() + top
}

fn cases() -> Vec<Case> {
    vec![
        Case::new().real(&[4]),
        Case::new().real(&[2, 3]),
        Case::new().real(&[2, 3, 2]).attr("axis", 1),
        Case::new().real(&[3, 2, 2]).attr("axis", 0),
        Case::new().real(&[2, 1, 2, 3]).attr("axis", -2),
    ]
}

pub static SOFTMAX: Op = Op {
    name: "Softmax",
    facts,
    tangent: Tangent::Rule(softmax),
    eval: |c| lines(c, |x| x.iter().map(|v| (v - log_sum(x)).exp()).collect()),
    cases,
};

pub static LOG_SOFTMAX: Op = Op {
    name: "LogSoftmax",
    facts,
    tangent: Tangent::Rule(log_softmax),
    eval: |c| lines(c, |x| x.iter().map(|v| v - log_sum(x)).collect()),
    cases,
};

/// 1 at the first maximum, else 0.
fn hard(x: &[f64]) -> Vec<f64> {
    let first = x.iter().position(|&v| v == largest(x));
    (0..x.len()).map(|i| f64::from(u8::from(Some(i) == first))).collect()
}

pub static HARDMAX: Op = Op {
    name: "Hardmax",
    facts,
    tangent: Tangent::Zero,
    eval: |c| lines(c, hard),
    cases: || vec![Case::new().distinct(&[2, 3]), Case::new().distinct(&[3, 2]).attr("axis", 0)],
};
