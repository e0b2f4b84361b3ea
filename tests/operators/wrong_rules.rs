//! A wrong rule does not pass the checks.

use crate::check::{Order, adjoint, fact_holds, lead, symmetry, tangent};
use crate::problem::Problem;
use fam_onnx::ad::{Tape, linearise};
use fam_onnx::ir::{Builder, DType, Dim, Fact};
use fam_onnx::ops::Array;

const SHAPE: [usize; 2] = [2, 3];

/// Checks `x·y` against derivatives of what `wrong` makes of it.
macro_rules! with_wrong {
    (|$at:ident, $right:ident, $wrong:ident| $check:expr) => {{
        let b = Builder::new();
        let (tape, other) = (Tape::new(&b), Tape::new(&b));
        let mut p = Problem::empty(&b, 7);
        p.wrt = vec![p.real(&SHAPE), p.real(&SHAPE)];
        let z = p.wrt[0] * p.wrt[1];
        let perturbed = p.wrt[0] * (p.wrt[1] + 1e-5);
        let $right = linearise(&tape, &[z], &p.wrt).unwrap();
        let $wrong = linearise(&other, &[perturbed], &p.wrt).unwrap();
        let of = [z];
        let $at = |lin| Order { p: &p, of: &of, lin };
        $check
    }};
}

#[test]
fn a_wrong_tangent_is_found() {
    with_wrong!(|at, right, wrong| {
        tangent(&at(&right)).unwrap();
        tangent(&at(&wrong)).unwrap_err();
    });
}

#[test]
fn a_wrong_transpose_is_found() {
    with_wrong!(|at, right, wrong| {
        adjoint(&at(&right), &right).unwrap();
        adjoint(&at(&right), &wrong).unwrap_err();
    });
}

#[test]
fn a_wrong_leading_axis_is_found() {
    with_wrong!(|at, right, wrong| {
        lead(&at(&right), &right).unwrap();
        lead(&at(&right), &wrong).unwrap_err();
    });
}

#[test]
fn a_wrong_smooth_tangent_is_found() {
    let b = Builder::new();
    let tape = Tape::new(&b);
    let mut p = Problem::empty(&b, 7);
    p.wrt = vec![p.real(&SHAPE)];
    let (y, wrong) = (1.0 / (p.wrt[0] + 2.0), 1.0 / (p.wrt[0] + 2.00001));
    let lin = linearise(&tape, &[wrong], &p.wrt).unwrap();
    tangent(&Order { p: &p, of: &[wrong], lin: &lin }).unwrap();
    tangent(&Order { p: &p, of: &[y], lin: &lin }).unwrap_err();
}

#[test]
fn a_field_that_is_no_gradient_is_found() {
    let b = Builder::new();
    let tape = Tape::new(&b);
    let mut p = Problem::empty(&b, 7);
    p.wrt = vec![p.real(&SHAPE), p.real(&SHAPE)];
    // (2y, x) is the gradient of nothing.
    let field = [p.wrt[1] * 2.0, p.wrt[0] * 1.0];
    let lin = linearise(&tape, &field, &p.wrt).unwrap();
    symmetry(&Order { p: &p, of: &field, lin: &lin }, &field.map(Some)).unwrap_err();
}

#[test]
fn wrong_facts_are_found() {
    let seen = Array::from_vec(DType::F64, &SHAPE, vec![0.0; 6]).unwrap();
    let fact = |dtype, shape: [Dim; 2]| Fact::new(dtype, shape);
    let (two, three) = (Dim::Fixed(2), Dim::Fixed(3));
    fact_holds(0, &fact(DType::F64, [two.clone(), three.clone()]), &seen).unwrap();
    fact_holds(0, &fact(DType::F64, [Dim::symbol("N2"), three.clone()]), &seen).unwrap();
    fact_holds(0, &fact(DType::F64, [Dim::symbol("N3"), three.clone()]), &seen).unwrap_err();
    fact_holds(0, &fact(DType::F32, [two.clone(), three.clone()]), &seen).unwrap_err();
    fact_holds(0, &fact(DType::F64, [three, two]), &seen).unwrap_err();
    fact_holds(0, &Fact::unknown(DType::F64), &seen).unwrap_err();
}
