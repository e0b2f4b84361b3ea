//! Neutral elements, constant factors, inverse pairs.

use super::{Site, made_by, operand, splat};
use crate::ir::{Val, broadcast_named};

/// Whether `x op y` has the shape of `x` whatever is done with the constant `y`.
fn keeps_shape<'g>(x: Val<'g>, y: Val<'g>) -> bool {
    let (Some(a), Some(b)) = (x.fact().shape, y.fact().shape) else { return false };
    broadcast_named(&a, &b).is_some_and(|s| s == a)
}

/// `x + 0 = x − 0 = x·1 = x/1 = x`
pub(super) fn neutral<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let (x, y) = (s.x(0)?, s.x(1)?);
    let element = match s.op {
        "Add" | "Sub" => 0.0,
        "Mul" | "Div" => 1.0,
        _ => return None,
    };
    if splat(y) == Some(element) && keeps_shape(x, y) {
        return Some(x);
    }
    let commutes = s.is(&["Add", "Mul"]);
    (commutes && splat(x) == Some(element) && keeps_shape(y, x)).then_some(y)
}

/// A scalar factor and the rest, where `v = c·x`.
fn factor<'g>(v: Val<'g>) -> Option<(f64, Val<'g>)> {
    let b = v.builder();
    let node = made_by(v, "Mul")?;
    let (x, y) = (b.val(node.input(0)?), b.val(node.input(1)?));
    [(x, y), (y, x)].into_iter().find_map(|(c, rest)| Some((scalar(c)?, rest)))
}

/// The number in a constant of rank 0.
fn scalar(v: Val<'_>) -> Option<f64> {
    if v.fact().rank() == Some(0) { splat(v) } else { None }
}

/// `c·(d·x) = (cd)·x`, `(c·x)/d = (c/d)·x`, `(−1)·x = −x`
pub(super) fn constant_factors<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let (x, y) = (s.x(0)?, s.x(1)?);
    if !x.dtype().is_float() {
        return None;
    }
    match s.op {
        "Mul" => {
            let (c, rest) = match (scalar(x), scalar(y)) {
                (Some(c), None) => (c, y),
                (None, Some(c)) => (c, x),
                _ => return None,
            };
            if c == -1.0 {
                return Some(-rest);
            }
            let (d, inner) = factor(rest)?;
            Some(inner * (c * d))
        }
        "Div" => {
            let c = scalar(y)?;
            if c == 0.0 || scalar(x).is_some() {
                return None;
            }
            let (d, inner) = factor(x)?;
            Some(inner * (d / c))
        }
        _ => None,
    }
}

/// `not not x = x`, `1/(1/x) = x`, `(x as T) as T = x as T`, `Where(c, x, x) = x`, `Where(not c, x, y) = Where(c, y, x)`
pub(super) fn inverse<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let x = s.x(0)?;
    match s.op {
        "Not" => operand(x, "Not"),
        "Reciprocal" => operand(x, "Reciprocal"),
        "Cast" => {
            let to = s.attrs.int("to")?;
            (i64::from(x.dtype().code()) == to).then_some(x)
        }
        "Where" => {
            let (yes, no) = (s.x(1)?, s.x(2)?);
            if yes.id() == no.id() && keeps_shape(yes, x) {
                return Some(yes);
            }
            let negated = operand(x, "Not")?;
            Some(s.with(&[negated, no, yes]))
        }
        _ => None,
    }
}
