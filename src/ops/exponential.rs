//! Exponentials, logarithms, roots, and the sigmoid and error function made of them.

use super::elementwise::{smooth, unary_cases};
use super::{Cx, Op};
use crate::ad::Tan;
use std::f64::consts::FRAC_2_SQRT_PI;

/// y = eˣ               dy = dx ⊙ y
fn exp<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.out(0)
}

/// y = log x            dy = dx / x
fn log<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / c.x(0)
}

/// y = √x               dy = dx / 2y
fn sqrt<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (c.out(0) * 2.0)
}

/// y = 1/x              dy = −dx ⊙ y²
fn reciprocal<'g>(c: &Cx<'g>) -> Tan<'g> {
    -(c.dx(0) * c.out(0).square())
}

/// y = erf x            dy = dx ⊙ 2/√π e^{−x²}
fn erf_rule<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * ((-c.x(0).square()).exp() * FRAC_2_SQRT_PI)
}

/// y = 1/(1 + e⁻ˣ)      dy = dx ⊙ y(1 − y)
fn sigmoid_rule<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0);
    c.dx(0) * (y * (1.0 - y))
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `erf x = 2/√π e^{−x²} Σ 2ⁿ x^{2n+1} / (2n+1)!!`: all terms have one sign, so nothing cancels.
pub(super) fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    // erf 6 is 1 to the last bit.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > f64::EPSILON * 1e-3 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

pub static EXP: Op = smooth("Exp", exp, |c| c.map(f64::exp), || unary_cases(-1.5, 1.5));
pub static LOG: Op = smooth("Log", log, |c| c.map(f64::ln), || unary_cases(0.5, 2.0));
pub static SQRT: Op = smooth("Sqrt", sqrt, |c| c.map(f64::sqrt), || unary_cases(0.5, 2.0));
pub static RECIPROCAL: Op = smooth("Reciprocal", reciprocal, |c| c.map(f64::recip), || unary_cases(-2.0, -0.5));
pub static ERF: Op = smooth("Erf", erf_rule, |c| c.map(erf), || unary_cases(-1.5, 1.5));
pub static SIGMOID: Op = smooth("Sigmoid", sigmoid_rule, |c| c.map(sigmoid), || unary_cases(-2.0, 2.0));

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn the_error_function_is_exact() {
        let known = [(0.0, 0.0), (0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (3.0, 0.9999779095030014)];
        for (x, y) in known {
            assert!((erf(x) - y).abs() < 1e-15 && erf(-x) == -erf(x), "erf {x} = {}", erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert!((erf(5.9) - 1.0).abs() < 1e-15);
    }
}
