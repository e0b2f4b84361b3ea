//! Powers and remainders.

use super::case::broadcasts;
use super::elementwise::smooth;
use super::{Case, Cx, EvalCx, Op};
use crate::ad::Tan;
use crate::ir::{DType, Tensor, Val};

/// z = xʸ               dz = dx ⊙ y xʸ⁻¹ + dy ⊙ z log x
///
/// No term is `0 · ∞`: `0 · 0⁻¹` counts as 0 where `x = y = 0`, and `0ʸ log 0` where `y ≥ 0`.
fn pow<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, y], [dx, dy]) = c.args();
    if let (true, Some(exponent)) = (dy.is_zero(), constant(c)) {
        return constant_power(dx, x, exponent);
    }
    let exponent = if y.dtype() == x.dtype() { y } else { y.cast(x.dtype()) };
    let at_zero = x.equal(x.like(0.0));
    let base = if dx.is_zero() {
        dx
    } else {
        let both = at_zero.and(exponent.equal(exponent.like(0.0)));
        dx * (exponent * x.pow(both.select(x.like(1.0), exponent - 1.0)))
    };
    if dy.is_zero() {
        return base;
    }
    let vanishes = at_zero.and(y.ge(y.like(0.0)));
    base + dy.cast(x.dtype()) * (c.out(0) * vanishes.select(x.like(1.0), x).log())
}

/// The exponent, where it is one constant number.
fn constant(c: &Cx) -> Option<f64> {
    let data = c.b.constant_data(c.has(1).then(|| c.x(1))?)?;
    match data.to_f64().as_slice() {
        [one] if data.shape.len() <= c.x(0).rank() => Some(*one),
        _ => None,
    }
}

/// z = xᵉ               dz = dx ⊙ e xᵉ⁻¹
fn constant_power<'g>(dx: Tan<'g>, x: Val<'g>, e: f64) -> Tan<'g> {
    let below = || match e - 1.0 {
        1.0 => x,
        2.0 => x.square(),
        e => x.pow(x.like(e)),
    };
    match e {
        0.0 => dx * 0.0,
        1.0 => dx,
        e => dx * (below() * e),
    }
}

/// z = x − k y          dz = dx − dy ⊙ k,  k = x/y truncated, or rounded down if `fmod` is 0
fn modulo<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, y], [dx, dy]) = c.args();
    if dy.is_zero() {
        return dx;
    }
    let quotient = x / y;
    let k = match c.int("fmod", 0) {
        0 => quotient.floor(),
        _ => quotient.sign() * quotient.abs().floor(),
    };
    dx - dy * k
}

fn eval_mod(c: &EvalCx) -> Result<Vec<super::Array>, super::Fault> {
    let floored = c.int("fmod", 0) == 0;
    c.zip(c.dtype(0), |x, y| match floored {
        true => x - y * (x / y).floor(),
        false => x % y,
    })
}

fn eval_pow(c: &EvalCx) -> Result<Vec<super::Array>, super::Fault> {
    let integer = c.dtype(0).is_int();
    c.zip(c.dtype(0), |x, y| if integer { x.powf(y).trunc() } else { x.powf(y) })
}

pub static POW: Op = smooth("Pow", pow, eval_pow, || {
    let exponents = [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 2.5];
    let mut cases = broadcasts(0.5, 1.5);
    cases.extend(exponents.map(|e| Case::new().within(&[2, 3], 0.5, 1.5).const_real(e)));
    cases.push(Case::new().real(&[2, 3]).const_ints(&[], &[3]));
    cases.push(Case::new().real(&[2, 3]).ints(&[3], &[0, 1, 3]));
    // A base of 0, where the exponents are known only at run time and so are the powers' derivatives.
    let exponents = Tensor::from_f64(DType::F64, &[4], [1.0, 2.0, 3.0, 4.0]);
    cases.push(Case::new().within(&[4], 0.0, 0.0).data(exponents));
    cases
});
pub static MOD: Op = smooth("Mod", modulo, eval_mod, || {
    let mut cases: Vec<Case> = broadcasts(0.6, 1.0).into_iter().map(|case| case.attr("fmod", 1)).collect();
    cases.push(Case::new().within(&[3], -2.9, -2.1).within(&[3], 0.98, 1.0).attr("fmod", 1));
    cases.push(Case::new().ints(&[4], &[-4, 7, 5, 4]).ints(&[4], &[2, -3, 8, -3]));
    cases
});
