//! Neutral elements, constant factors, inverse pairs.

use super::sums::axes_of;
use super::{Site, made_by, operand, same_shape, splat};
use crate::ir::{Attrs, Dim, Val, broadcast_named, count};

/// Whether `x op y` has the shape of `x` whatever is done with the constant `y`.
pub(super) fn keeps_shape<'g>(x: Val<'g>, y: Val<'g>) -> bool {
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

/// `a·s + a·x·t = a·(s + x·t)`, also with quotients by `t`, of equal shapes: the slopes of a product of two functions of
/// `x` are added before the cotangent `a` is multiplied with them
pub(super) fn common_factor<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Add" || !s.x(0)?.dtype().is_float() || !same_shape(s.x(0)?, s.x(1)?) {
        return None;
    }
    [(0, 1), (1, 0)].into_iter().find_map(|(i, j)| {
        let (plain, chain) = (s.x(i)?, s.x(j)?);
        factors(plain)?.into_iter().find_map(|(a, slope)| {
            let rest = same_shape(a, slope).then(|| without_factor(chain, a, LONGEST_CHAIN))??;
            Some(a * (slope + rest))
        })
    })
}

/// So many factors are looked through for a common one.
const LONGEST_CHAIN: usize = 3;

/// Both ways to see a product as a factor and the rest.
fn factors<'g>(v: Val<'g>) -> Option<[(Val<'g>, Val<'g>); 2]> {
    let node = made_by(v, "Mul")?;
    let (x, y) = (v.builder().val(node.input(0)?), v.builder().val(node.input(1)?));
    Some([(x, y), (y, x)])
}

/// `v / a`, where `v` is a product of `a` and further factors or divisors, each of its shape or a single number.
fn without_factor<'g>(v: Val<'g>, a: Val<'g>, depth: usize) -> Option<Val<'g>> {
    let fits = |t: Val<'g>| same_shape(t, v) || t.fact().rank() == Some(0);
    if let Some(quotient) = made_by(v, "Div") {
        let (x, t) = (v.builder().val(quotient.input(0)?), v.builder().val(quotient.input(1)?));
        let inner = (depth > 0 && fits(t)).then(|| without_factor(x, a, depth - 1))??;
        return Some(inner / t);
    }
    factors(v)?.into_iter().find_map(|(x, t)| {
        if x.id() == a.id() && same_shape(t, v) {
            return Some(t);
        }
        let inner = (depth > 0 && fits(t)).then(|| without_factor(x, a, depth - 1))??;
        Some(inner * t)
    })
}

/// `Σ_A x / n = mean_A x`, where `n` is the number of elements along the axes `A`
pub(super) fn mean<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Div" {
        return None;
    }
    let (sum, n) = (made_by(s.x(0)?, "ReduceSum")?, size(s.x(1)?)?);
    let (x, axes) = (s.b.val(sum.input(0)?), s.b.val(sum.input(1)?));
    let shape = x.fact().shape?;
    let size_of = |&a: &i64| shape.get(usize::try_from(a).ok()?).cloned();
    let along: Vec<Dim> = axes_of(x, Some(axes))?.iter().map(size_of).collect::<Option<_>>()?;
    let keep = sum.attrs.int("keepdims").unwrap_or(1);
    (count(&along) == n).then(|| s.b.op("ReduceMean", &[x, axes], Attrs::new().with("keepdims", keep)))
}

/// The size that a scalar holds as a float.
fn size(v: Val<'_>) -> Option<Dim> {
    match scalar(v) {
        Some(n) => (n.fract() == 0.0 && n.abs() < 1e15).then_some(Dim::Fixed(n as i64)),
        None if v.fact().rank() == Some(0) => operand(v, "Cast")?.fact().ints?.first().cloned(),
        None => None,
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
