//! Activations that bend smoothly.

use super::elementwise::{kinked_cases, smooth, unary_cases};
use super::exponential::{erf, sigmoid};
use super::{Case, Cx, EvalCx, Op};
use crate::ad::Tan;
use crate::ir::Val;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// ONNX's defaults of Selu, as single precision holds them.
const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_GAMMA: f32 = 1.050_701;

/// `dx ⊙ (1 where x > 0, else f)`
fn bent<'g>(c: &Cx<'g>, right: f64, left: Val<'g>) -> Tan<'g> {
    let x = c.x(0);
    c.dx(0) * x.gt(x.like(0.0)).select(x.like(right), left)
}

/// y = x where x > 0, else α(eˣ − 1)       dy = dx ⊙ (1 where x > 0, else y + α)
fn elu<'g>(c: &Cx<'g>) -> Tan<'g> {
    bent(c, 1.0, c.out(0) + c.float("alpha", 1.0))
}

/// y = γ elu(x; α)      dy = dx ⊙ (γ where x > 0, else y + γα)
fn selu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (alpha, gamma) = (c.float("alpha", SELU_ALPHA), c.float("gamma", SELU_GAMMA));
    bent(c, gamma, c.out(0) + gamma * alpha)
}

/// y = x where x > 0, else α(e^{x/α} − 1)  dy = dx ⊙ (1 where x > 0, else y/α + 1)
fn celu<'g>(c: &Cx<'g>) -> Tan<'g> {
    bent(c, 1.0, c.out(0) / c.float("alpha", 1.0) + 1.0)
}

/// y = log(1 + eˣ)      dy = dx ⊙ σ(x)
fn softplus<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) * c.x(0).sigmoid()
}

/// y = x / (1 + |x|)    dy = dx / (1 + |x|)²
fn softsign<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0) / (c.x(0).abs() + 1.0).square()
}

/// y = x σ(αx)          dy = dx ⊙ (s + α y (1 − s)),  s = σ(αx)
fn swish<'g>(c: &Cx<'g>) -> Tan<'g> {
    let alpha = c.float("alpha", 1.0);
    let scaled = |v: Val<'g>| if alpha == 1.0 { v } else { v * alpha };
    let s = scaled(c.x(0)).sigmoid();
    c.dx(0) * (s + scaled(c.out(0)) * (1.0 - s))
}

/// y = x t,  t = tanh(log(1 + eˣ))         dy = dx ⊙ (t + x σ(x) (1 − t²))
fn mish<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    let t = c.b.op("Softplus", &[x], crate::ir::Attrs::new()).tanh();
    c.dx(0) * (t + x * x.sigmoid() * (1.0 - t.square()))
}

/// y = x min(max(x/6 + ½, 0), 1)           dy = dx ⊙ (0 where x ≤ −3, 1 where x ≥ 3, else x/3 + ½)
fn hard_swish<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    let inner = x.lt(x.like(3.0)).select(x * (1.0 / 3.0) + 0.5, x.like(1.0));
    c.dx(0) * x.gt(x.like(-3.0)).select(inner, x.like(0.0))
}

const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const CUBIC: f64 = 0.044715;

fn is_tanh(attrs: &crate::ir::Attrs) -> bool {
    attrs.str("approximate") == Some("tanh")
}

/// y = x Φ(x)           dy = dx ⊙ (Φ(x) + x φ(x)), Φ and φ of the normal distribution; with `approximate = "tanh"`
/// y = ½ x (1 + t),  t = tanh(√(2/π) (x + c x³))
/// dy = dx ⊙ ½ (1 + t + x (1 − t²) √(2/π) (1 + 3c x²))
fn gelu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    let slope = if is_tanh(c.attrs()) {
        let square = x.square();
        let t = (x * (square * (SQRT_2_OVER_PI * CUBIC) + SQRT_2_OVER_PI)).tanh();
        let inner = square * (3.0 * CUBIC * SQRT_2_OVER_PI) + SQRT_2_OVER_PI;
        (t + 1.0 + x * (1.0 - t.square()) * inner) * 0.5
    } else {
        let scaled = x * FRAC_1_SQRT_2;
        let cumulative = c.b.op("Erf", &[scaled], crate::ir::Attrs::new()) * 0.5 + 0.5;
        cumulative + x * (-scaled.square()).exp() * (0.5 * SQRT_2_OVER_PI)
    };
    c.dx(0) * slope
}

fn eval_gelu(c: &EvalCx) -> Result<Vec<super::Array>, super::Fault> {
    if is_tanh(c.attrs) {
        c.map(|x| 0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + CUBIC * x.powi(3))).tanh()))
    } else {
        c.map(|x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)))
    }
}

fn log1p_exp(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn both_and_alpha(alpha: f32) -> Vec<Case> {
    kinked_cases().into_iter().chain([Case::new().distinct(&[2, 3]).attr("alpha", alpha)]).collect()
}

pub static ELU: Op = smooth(
    "Elu",
    elu,
    |c| {
        let alpha = c.float("alpha", 1.0);
        c.map(|x| if x > 0.0 { x } else { alpha * x.exp_m1() })
    },
    || both_and_alpha(0.7),
);
pub static SELU: Op = smooth(
    "Selu",
    selu,
    |c| {
        let (alpha, gamma) = (c.float("alpha", SELU_ALPHA), c.float("gamma", SELU_GAMMA));
        c.map(|x| gamma * if x > 0.0 { x } else { alpha * x.exp_m1() })
    },
    || both_and_alpha(0.7),
);
pub static CELU: Op = smooth(
    "Celu",
    celu,
    |c| {
        let alpha = c.float("alpha", 1.0);
        c.map(|x| if x > 0.0 { x } else { alpha * (x / alpha).exp_m1() })
    },
    || both_and_alpha(0.7),
);
pub static SOFTPLUS: Op = smooth("Softplus", softplus, |c| c.map(log1p_exp), || unary_cases(-2.0, 2.0));
pub static SOFTSIGN: Op = smooth("Softsign", softsign, |c| c.map(|x| x / (1.0 + x.abs())), kinked_cases);
pub static SWISH: Op = smooth(
    "Swish",
    swish,
    |c| {
        let alpha = c.float("alpha", 1.0);
        c.map(|x| x * sigmoid(alpha * x))
    },
    || both_and_alpha(1.7),
);
pub static MISH: Op = smooth("Mish", mish, |c| c.map(|x| x * log1p_exp(x).tanh()), || unary_cases(-2.0, 2.0));
pub static HARD_SWISH: Op = smooth(
    "HardSwish",
    hard_swish,
    |c| c.map(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
    || {
        let mut cases = unary_cases(-2.5, 2.5);
        cases.extend([Case::new().within(&[2], 3.5, 4.0), Case::new().within(&[2], -4.0, -3.5)]);
        cases
    },
);
pub static GELU: Op = smooth("Gelu", gelu, eval_gelu, || {
    let mut cases = unary_cases(-2.0, 2.0);
    cases.push(Case::new().within(&[2, 3], -2.0, 2.0).attr("approximate", "tanh"));
    cases
});
