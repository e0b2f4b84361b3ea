//! Operators of any number of inputs: Max, Min, Sum, Mean.

use super::case::broadcasts;
use super::elementwise::smooth;
use super::eval_cx::zip;
use super::{Array, Case, Cx, EvalCx, Fault, Op};
use crate::ad::Tan;
use crate::ir::Val;

/// z = max(x₁, x₂, …)   dz = Σ (dxᵢ where xᵢ = z) / n,  n = how many xᵢ are z
fn extremum<'g>(c: &Cx<'g>) -> Tan<'g> {
    let z = c.out(0);
    if c.arity() < 2 {
        return c.dx(0);
    }
    let attained: Vec<Val<'g>> = (0..c.arity()).map(|i| c.x(i).equal(z)).collect();
    let ones = attained.iter().map(|cond| cond.cast(z.dtype()));
    let parts = attained.iter().enumerate().map(|(i, &cond)| c.dx(i).gate(cond));
    match (parts.reduce(|a, b| a + b), ones.reduce(|a, b| a + b)) {
        (Some(sum), Some(n)) => sum / n,
        _ => c.zero(),
    }
}

/// z = x₁ + x₂ + …      dz = dx₁ + dx₂ + …
fn sum<'g>(c: &Cx<'g>) -> Tan<'g> {
    (0..c.arity()).map(|i| c.dx(i)).fold(c.zero(), |a, b| a + b)
}

/// z = (x₁ + … + xₙ)/n  dz = (dx₁ + … + dxₙ)/n
fn mean<'g>(c: &Cx<'g>) -> Tan<'g> {
    sum(c) * (1.0 / c.arity().max(1) as f64)
}

fn fold(c: &EvalCx, f: impl Fn(f64, f64) -> f64) -> Result<Vec<Array>, Fault> {
    let mut all = c.data(0)?.clone();
    for i in 1..c.inputs.len() {
        all = zip(&all, c.data(i)?, &f)?;
    }
    Ok(vec![Array::new(c.dtype(0), all)])
}

/// The one of two numbers that `first` picks; NaN if one is.
fn pick(first: fn(&f64, &f64) -> bool) -> impl Fn(f64, f64) -> f64 {
    move |x, y| if x.is_nan() || first(&x, &y) { x } else { y }
}

fn cases() -> Vec<Case> {
    let mut cases = broadcasts(-1.5, 1.5);
    cases.push(Case::new().distinct(&[2, 3]));
    cases.push(Case::new().distinct(&[2, 3]).distinct(&[3]).distinct(&[2, 1]));
    cases.push(Case::new().distinct(&[2, 3]).const_real(0.0));
    cases.push(Case::new().distinct(&[0, 3]).distinct(&[3]));
    cases
}

pub static MAX: Op = smooth("Max", extremum, |c| fold(c, pick(f64::gt)), cases);
pub static MIN: Op = smooth("Min", extremum, |c| fold(c, pick(f64::lt)), cases);
pub static SUM: Op = smooth("Sum", sum, |c| fold(c, |x, y| x + y), cases);
pub static MEAN: Op = smooth(
    "Mean",
    mean,
    |c| {
        let n = c.inputs.len().max(1) as f64;
        let sum = fold(c, |x, y| x + y)?;
        Ok(sum.into_iter().map(|a| Array::new(a.dtype, a.data / n)).collect())
    },
    cases,
);
