//! Piecewise-affine functions. Their derivatives depend on the input through comparisons alone, so that second
//! derivatives are structurally zero. At a kink the derivative is PyTorch's.

use super::elementwise::{kinked_cases, smooth};
use super::{Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Fact, Val};
use crate::simplify::STEP;

/// y = |x|              dy = dx ⊙ sign x
fn abs<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.x(0).sign()
}

fn positive<'g>(x: Val<'g>) -> Val<'g> {
    x.gt(x.like(0.0))
}

/// y = max(x, 0)        dy = dx where y > 0
///
/// The condition reads the result: a runtime may then merge the function with what makes its operand, and forget that.
fn relu<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0).gate(positive(c.out(0)))
}

/// y = x where x > 0, else αx      dy = dx ⊙ (1 where x > 0, else α)
fn leaky_relu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    c.dx(0) * positive(x).select(x.like(1.0), x.like(c.float("alpha", 0.01)))
}

/// y = x where x > 0, else s ⊙ x   dy = dx ⊙ (1 where x > 0, else s) + ds ⊙ (0 where x > 0, else x)
fn prelu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, slope], [dx, ds]) = c.args();
    let positive = positive(x);
    let through = if dx.is_zero() { dx } else { dx * positive.select(x.like(1.0), slope) };
    let bent = if ds.is_zero() { ds } else { ds * positive.select(x.like(0.0), x) };
    through + bent
}

/// y = x where x > α, else 0       dy = dx where x > α
fn thresholded_relu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    c.dx(0).gate(x.gt(x.like(c.float("alpha", 1.0))))
}

/// y = min(max(αx + β, 0), 1)      dy = α dx where 0 < y < 1; a step has no such place
fn hard_sigmoid<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (y, alpha) = (c.out(0), c.float("alpha", 0.2));
    if alpha >= f64::from(STEP) {
        return c.zero();
    }
    (c.dx(0) * alpha).gate(y.gt(y.like(0.0)).and(y.lt(y.like(1.0))))
}

/// y = x ∓ bias where ±x > λ, else 0      dy = dx where |x| > λ
fn shrink<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, lambd) = (c.x(0), c.float("lambd", 0.5));
    c.dx(0).gate(x.gt(x.like(lambd)).or(x.lt(x.like(-lambd))))
}

/// y = min(max(x, l), h)    dy = dx where l < x < h, + dl where x ≤ l < h, + dh where max(x, l) ≥ h
fn clip<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, low, high], [dx, dl, dh]) = c.args();
    let both = |a: Option<Val<'g>>, b: Option<Val<'g>>| match (a, b) {
        (Some(a), Some(b)) => Some(a.and(b)),
        (a, b) => a.or(b),
    };
    let masked = |t: Tan<'g>, cond: &dyn Fn() -> Option<Val<'g>>| match t.is_zero() {
        true => t,
        false => cond().map_or(t, |cond| t.gate(cond)),
    };
    let (has_low, has_high) = (c.has(1), c.has(2));
    let inside = || both(has_low.then(|| x.gt(low)), has_high.then(|| x.lt(high)));
    let below = || both(Some(x.le(low)), has_high.then(|| low.lt(high)));
    let above = || match has_low {
        true => Some(x.ge(high).or(low.ge(high))),
        false => Some(x.ge(high)),
    };
    masked(dx, &inside) + masked(dl, &below) + masked(dh, &above)
}

fn clip_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    for i in [1, 2] {
        if let Some(rank) = c.get(i).and_then(Fact::rank).filter(|&rank| rank != 0) {
            return Err(Fault::Rank { index: i, found: rank, expected: "0".into() });
        }
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

fn eval_clip(c: &EvalCx) -> Result<Vec<super::Array>, Fault> {
    let bound = |i: usize| c.get(i).and_then(|a| a.data.iter().next().copied());
    let (low, high) = (bound(1), bound(2));
    // Comparisons, not `max` and `min`: a NaN stays.
    c.map(|x| {
        let raised = low.filter(|&l| x < l).unwrap_or(x);
        high.filter(|&h| raised > h).unwrap_or(raised)
    })
}

pub static ABS: Op = smooth("Abs", abs, |c| c.map(f64::abs), kinked_cases);
pub static RELU: Op = smooth("Relu", relu, |c| c.map(|x| if x < 0.0 { 0.0 } else { x }), kinked_cases);
pub static LEAKY_RELU: Op = smooth(
    "LeakyRelu",
    leaky_relu,
    |c| {
        let alpha = c.float("alpha", 0.01);
        c.map(|x| if x < 0.0 { alpha * x } else { x })
    },
    || vec![Case::new().distinct(&[3, 4]), Case::new().distinct(&[2]).attr("alpha", 0.3f32)],
);
pub static PRELU: Op = smooth(
    "PRelu",
    prelu,
    |c| c.zip(c.dtype(0), |x, slope| if x < 0.0 { slope * x } else { x }),
    || {
        let slopes: [&[usize]; 4] = [&[2, 3, 2], &[3, 1], &[1], &[]];
        slopes.into_iter().map(|slope| Case::new().distinct(&[2, 3, 2]).real(slope)).collect()
    },
);
pub static THRESHOLDED_RELU: Op = smooth(
    "ThresholdedRelu",
    thresholded_relu,
    |c| {
        let alpha = c.float("alpha", 1.0);
        c.map(|x| if x > alpha { x } else { 0.0 })
    },
    || vec![Case::new().within(&[4], 1.1, 2.0), Case::new().distinct(&[3, 4]).attr("alpha", 0.0f32)],
);
pub static HARD_SIGMOID: Op = smooth(
    "HardSigmoid",
    hard_sigmoid,
    |c| {
        let (alpha, beta) = (c.float("alpha", 0.2), c.float("beta", 0.5));
        c.map(|x| (alpha * x + beta).clamp(0.0, 1.0))
    },
    || {
        let all_sides = || Case::new().within(&[3], -2.0, 2.0).attr("alpha", 0.1f32);
        vec![
            all_sides(),
            all_sides().attr("beta", 2.0f32),
            Case::new().distinct(&[4, 4]).attr("alpha", 5.0f32).attr("beta", 0.0f32),
        ]
    },
);
pub static SHRINK: Op = smooth(
    "Shrink",
    shrink,
    |c| {
        let (bias, lambd) = (c.float("bias", 0.0), c.float("lambd", 0.5));
        c.map(|x| match x {
            x if x < -lambd => x + bias,
            x if x > lambd => x - bias,
            _ => 0.0,
        })
    },
    || {
        vec![
            Case::new().within(&[3], 0.6, 2.0),
            Case::new().within(&[3], -0.4, 0.4),
            Case::new().distinct(&[3, 4]).attr("lambd", 0.0f32).attr("bias", 0.25f32),
        ]
    },
);
pub static CLIP: Op = Op {
    name: "Clip",
    facts: clip_facts,
    tangent: Tangent::Rule(clip),
    eval: eval_clip,
    cases: || {
        vec![
            Case::new().distinct(&[3, 4]).distinct(&[]).distinct(&[]),
            Case::new().distinct(&[3, 4]).within(&[], -0.01, 0.01).within(&[], 9.0, 9.1),
            Case::new().distinct(&[3, 4]).within(&[], 0.005, 0.01).within(&[], -0.01, -0.005),
            Case::new().distinct(&[3, 4]).const_real(0.0),
            Case::new().distinct(&[3, 4]).absent().const_real(0.0),
            Case::new().distinct(&[3, 4]),
        ]
    },
};
