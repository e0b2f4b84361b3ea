//! Trigonometric and hyperbolic functions and their inverses.

use super::elementwise::{smooth, unary_cases};
use super::{Cx, Op};
use crate::ad::Tan;

/// y = sin x            dy = dx ⊙ cos x
fn sin<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.x(0).cos()
}

/// y = cos x            dy = −dx ⊙ sin x
fn cos<'g>(c: &Cx<'g>) -> Tan<'g> {
    -(c.dx(0) * c.x(0).sin())
}

/// y = tan x            dy = dx ⊙ (1 + y²)
fn tan<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * (c.out(0).square() + 1.0)
}

/// y = arcsin x         dy = dx / √(1 − x²)
fn asin<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (1.0 - c.x(0).square()).sqrt()
}

/// y = arccos x         dy = −dx / √(1 − x²)
fn acos<'g>(c: &Cx<'g>) -> Tan<'g> {
    -(c.dx(0) / (1.0 - c.x(0).square()).sqrt())
}

/// y = arctan x         dy = dx / (1 + x²)
fn atan<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (c.x(0).square() + 1.0)
}

/// y = sinh x           dy = dx ⊙ cosh x
fn sinh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.x(0).cosh()
}

/// y = cosh x           dy = dx ⊙ sinh x
fn cosh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.x(0).sinh()
}

/// y = tanh x           dy = dx ⊙ (1 − y²)
fn tanh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * (1.0 - c.out(0).square())
}

/// y = arsinh x         dy = dx / √(x² + 1)
fn asinh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (c.x(0).square() + 1.0).sqrt()
}

/// y = arcosh x         dy = dx / √(x² − 1)
fn acosh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (c.x(0).square() - 1.0).sqrt()
}

/// y = artanh x         dy = dx / (1 − x²)
fn atanh<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (1.0 - c.x(0).square())
}

pub static SIN: Op = smooth("Sin", sin, |c| c.map(f64::sin), || unary_cases(-3.0, 3.0));
pub static COS: Op = smooth("Cos", cos, |c| c.map(f64::cos), || unary_cases(-3.0, 3.0));
pub static TAN: Op = smooth("Tan", tan, |c| c.map(f64::tan), || unary_cases(-1.0, 1.0));
pub static ASIN: Op = smooth("Asin", asin, |c| c.map(f64::asin), || unary_cases(-0.7, 0.7));
pub static ACOS: Op = smooth("Acos", acos, |c| c.map(f64::acos), || unary_cases(-0.7, 0.7));
pub static ATAN: Op = smooth("Atan", atan, |c| c.map(f64::atan), || unary_cases(-2.0, 2.0));
pub static SINH: Op = smooth("Sinh", sinh, |c| c.map(f64::sinh), || unary_cases(-1.5, 1.5));
pub static COSH: Op = smooth("Cosh", cosh, |c| c.map(f64::cosh), || unary_cases(-1.5, 1.5));
pub static TANH: Op = smooth("Tanh", tanh, |c| c.map(f64::tanh), || unary_cases(-1.5, 1.5));
pub static ASINH: Op = smooth("Asinh", asinh, |c| c.map(f64::asinh), || unary_cases(-2.0, 2.0));
pub static ACOSH: Op = smooth("Acosh", acosh, |c| c.map(f64::acosh), || unary_cases(1.5, 3.0));
pub static ATANH: Op = smooth("Atanh", atanh, |c| c.map(f64::atanh), || unary_cases(-0.7, 0.7));
