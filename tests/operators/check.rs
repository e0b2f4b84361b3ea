//! The checks. Each says what is wrong, so that a test can show that a wrong rule is found.

use crate::problem::{Problem, size_of};
use fam_onnx::ad::Linearised;
use fam_onnx::ir::{Dim, Fact, Val};
use fam_onnx::linear::Cotangent;
use fam_onnx::ops::Array;
use ndarray::{Axis, Dimension};

type Checked = Result<(), String>;

/// Values and what claims to be their derivative.
pub struct Order<'a, 'g> {
    pub p: &'a Problem<'g>,
    pub of: &'a [Val<'g>],
    pub lin: &'a Linearised<'g>,
}

/// `found` agrees with `expected` to `tolerance`, relative where they are large.
pub fn close(what: &str, found: &Array, expected: &Array, tolerance: f64) -> Checked {
    if found.shape() != expected.shape() {
        return Err(format!("{what}: shape {:?}, expected {:?}", found.shape(), expected.shape()));
    }
    for ((at, &x), &y) in found.data.indexed_iter().zip(&expected.data) {
        let same = x == y || (x.is_nan() && y.is_nan());
        // A NaN or an infinity on one side only is not below the tolerance.
        let near = (x - y).abs() <= tolerance * x.abs().max(y.abs()).max(1.0);
        if !(same || near && (x - y).is_finite()) {
            return Err(format!("{what}{:?}: {x}, expected {y} (relative tolerance {tolerance:e})", at.slice()));
        }
    }
    Ok(())
}

fn zeros_like(array: &Array) -> Array {
    Array::new(array.dtype, ndarray::ArrayD::zeros(array.shape()))
}

/// Values of which some are structurally zero, with their shapes taken from `like`.
fn eval_or_zero<'g>(p: &Problem<'g>, of: &[Option<Val<'g>>], like: &[Array]) -> Result<Vec<Array>, String> {
    let present: Vec<Val> = of.iter().flatten().copied().collect();
    let mut computed = p.eval(&present)?.into_iter();
    let each = of.iter().zip(like).map(|(v, like)| match v {
        Some(_) => computed.next().unwrap_or_else(|| zeros_like(like)),
        None => zeros_like(like),
    });
    Ok(each.collect())
}

fn dot(a: &[Array], b: &[Array]) -> (f64, f64) {
    let products: Vec<f64> =
        a.iter().zip(b).flat_map(|(a, b)| a.data.iter().zip(&b.data).map(|(x, y)| x * y)).collect();
    (products.iter().sum(), products.iter().map(|v| v.abs()).sum())
}

fn agree(what: &str, (left, size): (f64, f64), (right, other): (f64, f64)) -> Checked {
    let scale = size.max(other).max(1.0);
    if (left - right).abs() <= 1e-11 * scale { Ok(()) } else { Err(format!("{what}: {left} and {right}")) }
}

/// The facts say what the interpreter sees.
pub fn facts(p: &Problem) -> Checked {
    let arrays = p.eval(&p.outs)?;
    p.outs.iter().zip(&arrays).enumerate().try_for_each(|(k, (out, array))| fact_holds(k, &out.fact(), array))
}

pub fn fact_holds(k: usize, fact: &Fact, array: &Array) -> Checked {
    let seen = || format!("output {k}: fact {fact}, seen {}{:?}", array.dtype, array.shape());
    let Some(shape) = &fact.shape else { return Err(seen()) };
    let fits = shape.len() == array.shape().len()
        && shape.iter().zip(array.shape()).all(|(d, &n)| size_of(d).is_none_or(|d| d == n as i64));
    if !fits || fact.dtype != array.dtype {
        return Err(seen());
    }
    let Some(ints) = &fact.ints else { return Ok(()) };
    let values = array.ints();
    let equal = ints.len() == values.len() && ints.iter().zip(&values).all(|(d, &n)| size_of(d).is_none_or(|d| d == n));
    if equal { Ok(()) } else { Err(format!("output {k}: known elements {ints:?}, seen {values:?}")) }
}

/// `(f(x − 2s) − 8 f(x − s) + 8 f(x + s) − f(x + 2s)) / 12s`: exact for polynomials of degree 4.
fn difference<'g>(at: &Order<'_, 'g>, along: &[Val<'g>], step: f64) -> Result<Vec<Array>, String> {
    let weights = [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)];
    let mut sum: Vec<Array> = at.p.eval(at.of)?.iter().map(zeros_like).collect();
    for (k, weight) in weights {
        let moved = at.p.eval_moved(at.of, along, k * step)?;
        for (sum, moved) in sum.iter_mut().zip(&moved) {
            if sum.shape() != moved.shape() {
                return Err(format!("the shape depends on the elements: {:?}, {:?}", sum.shape(), moved.shape()));
            }
            sum.data += &(&moved.data * (weight / (12.0 * step)));
        }
    }
    Ok(sum)
}

fn all_close(what: &str, found: &[Array], expected: &[Array], tolerance: f64) -> Checked {
    found.iter().zip(expected).enumerate().try_for_each(|(k, (x, y))| close(&format!("{what} {k}"), x, y, tolerance))
}

/// The tangent is the derivative along a random direction.
pub fn tangent(at: &Order) -> Checked {
    let p = at.p;
    let v = p.directions(&p.wrt, None)?;
    let given: Vec<Option<Val>> = v.iter().copied().map(Some).collect();
    let claimed = eval_or_zero(p, &at.lin.jvp(&given, None), &p.eval(at.of)?)?;
    // A polynomial of low degree has the same quotient for every step, without any error but rounding.
    if let (Ok(large), Ok(half)) = (difference(at, &v, 1.0), difference(at, &v, 0.5)) {
        let finite = large.iter().all(|a| a.data.iter().all(|x| x.is_finite()));
        if finite && all_close("", &large, &half, 1e-10).is_ok() {
            return all_close("tangent", &claimed, &large, 1e-10);
        }
    }
    // Richardson's extrapolation takes away the error's leading term, of fourth order.
    let (whole, half) = (difference(at, &v, 1e-3)?, difference(at, &v, 5e-4)?);
    let extrapolated =
        |(whole, half): (&Array, &Array)| Array::new(half.dtype, (&half.data * 16.0 - &whole.data) * (1.0 / 15.0));
    let expected: Vec<Array> = whole.iter().zip(&half).map(extrapolated).collect();
    all_close("tangent", &claimed, &expected, 1e-7)
}

/// `⟨J v, u⟩ = ⟨v, Jᵀ u⟩`, where `reverse` gives `Jᵀ`.
pub fn adjoint<'g>(at: &Order<'_, 'g>, reverse: &Linearised<'g>) -> Checked {
    let p = at.p;
    let (v, u) = (p.directions(&p.wrt, None)?, p.directions(at.of, None)?);
    let given: Vec<Option<Val>> = v.iter().copied().map(Some).collect();
    let pushed = at.lin.jvp(&given, None);
    let pulled = pull(reverse, &u, None);
    let (v, u) = (p.eval(&v)?, p.eval(&u)?);
    let (pushed, pulled) = (eval_or_zero(p, &pushed, &u)?, eval_or_zero(p, &pulled, &v)?);
    for (k, (ct, x)) in pulled.iter().zip(&v).enumerate() {
        if ct.shape() != x.shape() {
            return Err(format!("cotangent of input {k} has shape {:?}, expected {:?}", ct.shape(), x.shape()));
        }
    }
    agree("⟨J v, u⟩ and ⟨v, Jᵀ u⟩", dot(&pushed, &u), dot(&v, &pulled))
}

fn pull<'g>(lin: &Linearised<'g>, u: &[Val<'g>], axis: Option<&Dim>) -> Vec<Option<Val<'g>>> {
    let given: Vec<Option<Cotangent>> = u.iter().map(|&u| Some(Cotangent::new(u))).collect();
    lin.vjp(&given, axis).into_iter().map(|ct| ct.map(|ct| ct.materialise())).collect()
}

/// A random projection of the derivative: one value an input, as far as they are not structurally zero.
pub fn next_order<'g>(at: &Order<'_, 'g>) -> Vec<Option<Val<'g>>> {
    match at.p.directions(at.of, None) {
        Ok(u) => pull(at.lin, &u, None),
        Err(_) => Vec::new(),
    }
}

/// `⟨H v, w⟩ = ⟨H w, v⟩`, where `gradient` is one value an input and `at` its derivative.
pub fn symmetry<'g>(at: &Order<'_, 'g>, gradient: &[Option<Val<'g>>]) -> Checked {
    let p = at.p;
    let (v, w) = (p.directions(&p.wrt, None)?, p.directions(&p.wrt, None)?);
    let product = |given: &[Val<'g>]| -> Result<Vec<Array>, String> {
        let given: Vec<Option<Val>> = given.iter().copied().map(Some).collect();
        let mut pushed = at.lin.jvp(&given, None).into_iter();
        let aligned: Vec<Option<Val>> = gradient.iter().map(|g| g.and_then(|_| pushed.next().flatten())).collect();
        eval_or_zero(p, &aligned, &p.eval(&p.wrt)?)
    };
    let (hv, hw) = (product(&v)?, product(&w)?);
    agree("⟨H v, w⟩ and ⟨H w, v⟩", dot(&hv, &p.eval(&w)?), dot(&hw, &p.eval(&v)?))
}

/// The size of the leading axis.
const LEAD: usize = 3;

/// With a leading axis, `batched` gives what three separate derivatives give.
pub fn lead<'g>(at: &Order<'_, 'g>, batched: &Linearised<'g>) -> Checked {
    let p = at.p;
    let axis = Dim::from(LEAD);
    let push = |lin: &Linearised<'g>, v: &[Val<'g>], axis: Option<&Dim>| {
        lin.jvp(&v.iter().copied().map(Some).collect::<Vec<_>>(), axis)
    };
    stacked(p, "tangent", &p.wrt, |v| push(at.lin, v, None), |v| push(batched, v, Some(&axis)))?;
    stacked(p, "cotangent", at.of, |u| pull(at.lin, u, None), |u| pull(batched, u, Some(&axis)))
}

fn stacked<'g>(
    p: &Problem<'g>,
    what: &str,
    like: &[Val<'g>],
    single: impl Fn(&[Val<'g>]) -> Vec<Option<Val<'g>>>,
    batched: impl Fn(&[Val<'g>]) -> Vec<Option<Val<'g>>>,
) -> Checked {
    let (many, one) = (p.directions(like, Some(LEAD))?, p.directions(like, None)?);
    let (stack, separate) = (batched(&many), single(&one));
    let (stack, separate): (Vec<_>, Vec<_>) = stack.into_iter().zip(separate).filter_map(|(a, b)| a.zip(b)).unzip();
    let stack = p.eval(&stack)?;
    for i in 0..LEAD {
        for (many, one) in many.iter().zip(&one) {
            let all = p.data(*many);
            p.feed(*one, Array::new(all.dtype, all.data.index_axis(Axis(0), i).to_owned()));
        }
        for (k, (all, separate)) in stack.iter().zip(p.eval(&separate)?).enumerate() {
            if all.shape().first() != Some(&LEAD) {
                return Err(format!("{what} {k} with a leading axis has shape {:?}", all.shape()));
            }
            let slice = Array::new(all.dtype, all.data.index_axis(Axis(0), i).to_owned());
            close(&format!("{what} {k} at {i} of the leading axis"), &slice, &separate, 1e-12)?;
        }
    }
    Ok(())
}
