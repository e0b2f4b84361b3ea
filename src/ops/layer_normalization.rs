//! Layer normalisation.

use super::eval_cx::broadcast_to;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Val, count};
use crate::lower::normalization::working_type;
use ndarray::{ArrayD, Axis};

/// The type of the statistics.
fn stash(attrs: &Attrs) -> DType {
    let code = attrs.int("stash_type").and_then(|code| i32::try_from(code).ok());
    code.and_then(DType::from_code).unwrap_or(DType::F32)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, stash) = (c.input(0)?, stash(c.attrs));
    c.input(1)?;
    let Some(shape) = &x.shape else {
        return Ok(vec![x.clone(), Fact::unknown(stash), Fact::unknown(stash)]);
    };
    let axis = c.axis(c.int("axis", -1), shape.len())?;
    let ones = std::iter::repeat_n(Dim::Fixed(1), shape.len() - axis);
    let kept: Vec<Dim> = shape[..axis].iter().cloned().chain(ones).collect();
    Ok(vec![Fact { ints: None, ..x.clone() }, Fact::new(stash, kept.clone()), Fact::new(stash, kept)])
}

/// μ and r = 1/√(σ² + ε): what the node computes anyway where it keeps enough of them.
fn statistics<'g>(c: &Cx<'g>, x: Val<'g>, axes: &[i64]) -> (Val<'g>, Val<'g>) {
    if stash(c.attrs()) == c.x(0).dtype() {
        let inputs: Vec<Option<Val>> = (0..c.arity()).map(|i| c.has(i).then(|| c.x(i))).collect();
        if let [_, mean, r] = c.b.node("LayerNormalization", &inputs, c.attrs().clone(), 3).as_slice() {
            return (*mean, *r);
        }
    }
    let mean = x.mean_keep(axes);
    let variance = (x - mean).square().mean_keep(axes);
    (mean, (variance + c.float("epsilon", 1e-5)).sqrt().reciprocal())
}

/// y = x̂·γ + β, x̂ = (x − μ)·r, r = 1/√(σ² + ε), means over the axes from `axis` on
///
/// dy = r·(dx − mean dx − x̂·mean(dx ⊙ x̂))·γ + x̂·dγ + dβ,   dμ = mean dx,   dr = −r²·mean(dx ⊙ x̂)
fn layer_normalization<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, scale, _], [dx, dscale, dbias]) = c.args();
    let (own, work) = (x.dtype(), working_type(x.dtype()));
    let axes: Vec<i64> = (c.axis(-1)..x.rank() as i64).collect();
    let size = count(x.shape().get(axes.first().map_or(0, |&a| a as usize)..).unwrap_or_default());
    let (x, dx) = (x.cast(work), dx.cast(work));
    let mean_of = |t: Tan<'g>| t.sum_keep(&axes) / c.b.dim_scalar(&size, work);
    if c.output() == 1 {
        return mean_of(dx).cast(stash(c.attrs()));
    }
    let (mean, r) = statistics(c, x, &axes);
    let normal = (x - mean) * r;
    let along = mean_of(dx * normal);
    if c.output() == 2 {
        return (-(along * r.square())).cast(stash(c.attrs()));
    }
    let dnormal = (dx - mean_of(dx) - along * normal) * r;
    let [dscale, dbias] = [dscale, dbias].map(|t| t.cast(work));
    (dnormal * scale.cast(work) + dscale * normal + dbias).cast(own)
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let axis = c.axis(c.int("axis", -1), x.ndim())?;
    let mean_of = |v: &ArrayD<f64>| {
        let size: usize = v.shape()[axis..].iter().product();
        let sum = (axis..x.ndim()).fold(v.clone(), |sum, a| sum.sum_axis(Axis(a)).insert_axis(Axis(a)));
        sum / size as f64
    };
    let mean = mean_of(x);
    let centred = x - &mean;
    let r = mean_of(&(&centred * &centred)).mapv(|v| 1.0 / (v + c.float("epsilon", 1e-5)).sqrt());
    let mut y = &centred * &r * broadcast_to(c.data(1)?, x.shape())?;
    if c.get(2).is_some() {
        y += &broadcast_to(c.data(2)?, x.shape())?;
    }
    let kind = stash(c.attrs);
    Ok(vec![Array::new(c.dtype(0), y), Array::new(kind, mean), Array::new(kind, r)])
}

fn cases() -> Vec<Case> {
    // Statistics of the type that the tests compute in are taken from the node.
    let kept = i64::from(DType::F64.code());
    let case = |x: &[usize], scale: &[usize]| Case::new().real(x).real(scale).attr("epsilon", 0.1_f32);
    vec![
        case(&[3, 4], &[4]).real(&[4]),
        case(&[3, 4], &[4]).attr("stash_type", kept).outputs(3),
        case(&[2, 3, 2], &[3, 2]).real(&[3, 2]).attr("axis", 1).attr("stash_type", kept),
        case(&[2, 2, 3], &[3]).absent().attr("axis", -2),
        case(&[2, 3], &[]).attr("axis", 0).attr("stash_type", kept).outputs(2),
    ]
}

pub static LAYER_NORMALIZATION: Op =
    Op { name: "LayerNormalization", facts, tangent: Tangent::Rule(layer_normalization), eval, cases };
