//! What elementwise operators share.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Dim, Fact};

pub(super) type Rule = for<'g> fn(&Cx<'g>) -> Tan<'g>;
pub(super) type Eval = fn(&EvalCx) -> Result<Vec<Array>, Fault>;
pub(super) type Cases = fn() -> Vec<Case>;

/// The broadcast shape of all inputs, the type of input 0.
pub(super) fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.elementwise(c.dtype(0)?)
}

/// The broadcast shape of all inputs, bool.
pub(super) fn bool_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(0)?;
    c.elementwise(DType::Bool)
}

/// A differentiable operator with elementwise facts.
pub(super) const fn smooth(name: &'static str, rule: Rule, eval: Eval, cases: Cases) -> Op {
    Op { name, facts, tangent: Tangent::Rule(rule), eval, cases }
}

/// An operator with elementwise facts that is constant almost everywhere.
pub(super) const fn constant(name: &'static str, eval: Eval, cases: Cases) -> Op {
    Op { name, facts, tangent: Tangent::Zero, eval, cases }
}

/// An elementwise operator whose result is bool.
pub(super) const fn predicate(name: &'static str, eval: Eval, cases: Cases) -> Op {
    Op { name, facts: bool_facts, tangent: Tangent::Zero, eval, cases }
}

/// A matrix, a scalar, an empty tensor.
pub(super) fn unary_cases(low: f64, high: f64) -> Vec<Case> {
    [&[2, 3][..], &[], &[0, 2]].iter().map(|shape| Case::new().within(shape, low, high)).collect()
}

/// The same, with no element near 0.
pub(super) fn kinked_cases() -> Vec<Case> {
    [&[3, 4][..], &[], &[0, 2]].iter().map(|shape| Case::new().distinct(shape)).collect()
}

/// `f` of the elements of two known integer tensors, broadcast; `None` if the elements or the result are not known.
pub(super) fn zip_ints(c: &FactCx, a: usize, b: usize, f: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    let (a, b) = (c.ints(a)?, c.ints(b)?);
    let n = match (a.len(), b.len()) {
        (n, m) if n == m || m == 1 => n,
        (1, m) => m,
        _ => return None,
    };
    let at = |v: &'_ [Dim], i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned();
    (0..n).map(|i| f(&at(a, i)?, &at(b, i)?)).collect()
}
