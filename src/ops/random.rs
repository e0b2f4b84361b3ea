//! Random numbers. A draw is no function of its inputs that could be followed: its tangent is zero. The interpreter
//! draws numbers that are a fixed function of their place, the same on each evaluation.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact};
use std::f64::consts::TAU;

/// A number in 0..1 that depends on the place alone.
pub(super) fn uniform(at: usize) -> f64 {
    let bits = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((bits ^ (bits >> 29)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Box and Muller's normal number of two uniform ones.
fn normal(at: usize) -> f64 {
    let (u, v) = (1.0 - uniform(2 * at), uniform(2 * at + 1));
    (-2.0 * u.ln()).sqrt() * (TAU * v).cos()
}

/// The type that the attribute `dtype` names.
fn output_type(attrs: &Attrs, default: DType) -> DType {
    attrs.int("dtype").and_then(|code| DType::from_code(i32::try_from(code).ok()?)).unwrap_or(default)
}

/// As an array of the type `dtype` and the given shape.
fn drawn(dtype: DType, shape: &[usize], draw: impl Fn(usize) -> f64) -> Result<Vec<Array>, Fault> {
    let n = shape.iter().product();
    Ok(vec![Array::from_vec(dtype, shape, (0..n).map(draw).collect())?])
}

fn shape(attrs: &Attrs) -> Result<Vec<usize>, Fault> {
    let given = attrs.ints("shape").unwrap_or(&[]);
    given.iter().map(|&n| usize::try_from(n).ok().filter(|&n| n <= 1 << 24)).collect::<Option<_>>().ok_or_else(|| {
        Fault::Attribute { name: "shape", found: format!("{given:?}"), expected: "sizes".into() }
    })
}

fn shaped_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dims: Vec<Dim> = shape(c.attrs)?.into_iter().map(Dim::from).collect();
    Ok(vec![Fact::new(output_type(c.attrs, DType::F32), dims)])
}

fn like_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    Ok(vec![Fact { dtype: output_type(c.attrs, x.dtype), shape: x.shape.clone(), ints: None }])
}

fn scaled_uniform(c: &EvalCx) -> impl Fn(usize) -> f64 + use<> {
    let (low, high) = (c.float("low", 0.0), c.float("high", 1.0));
    move |at| low + (high - low) * uniform(at)
}

fn scaled_normal(c: &EvalCx) -> impl Fn(usize) -> f64 + use<> {
    let (mean, scale) = (c.float("mean", 0.0), c.float("scale", 1.0));
    move |at| mean + scale * normal(at)
}

macro_rules! draws {
    ($($const:ident $name:literal $facts:ident $eval:expr, $case:expr;)+) => {$(
        pub static $const: Op = Op {
            name: $name,
            facts: $facts,
            tangent: Tangent::Zero,
            eval: $eval,
            cases: || vec![$case],
        };
    )+};
}

draws! {
    RANDOM_UNIFORM "RandomUniform" shaped_facts
        |c| drawn(output_type(c.attrs, DType::F32), &shape(c.attrs)?, scaled_uniform(c)),
        Case::new().attr("shape", [2, 3]).attr("low", -1.0_f32);
    RANDOM_NORMAL "RandomNormal" shaped_facts
        |c| drawn(output_type(c.attrs, DType::F32), &shape(c.attrs)?, scaled_normal(c)),
        Case::new().attr("shape", [3, 2]).attr("mean", 1.0_f32);
    RANDOM_UNIFORM_LIKE "RandomUniformLike" like_facts
        |c| drawn(output_type(c.attrs, c.dtype(0)), c.input(0)?.shape(), scaled_uniform(c)),
        Case::new().real(&[2, 3]);
    RANDOM_NORMAL_LIKE "RandomNormalLike" like_facts
        |c| drawn(output_type(c.attrs, c.dtype(0)), c.input(0)?.shape(), scaled_normal(c)),
        Case::new().real(&[2, 3]).attr("scale", 2.0_f32);
    BERNOULLI "Bernoulli" like_facts
        |c| {
            let p: Vec<f64> = c.data(0)?.iter().copied().collect();
            let draw = |at: usize| f64::from(u8::from(p.get(at).is_some_and(|&p| uniform(at) < p)));
            drawn(output_type(c.attrs, c.dtype(0)), c.input(0)?.shape(), draw)
        },
        Case::new().within(&[3, 4], 0.1, 0.9);
}

fn multinomial_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let count = Dim::Fixed(c.int("sample_size", 1).max(0));
    let batch = c.input(0)?.shape.as_ref().and_then(|x| x.first().cloned()).unwrap_or_else(|| c.unknown(0));
    Ok(vec![Fact::new(output_type(c.attrs, DType::I32), [batch, count])])
}

/// The first class at which the running sum of the probabilities exceeds the drawn number.
fn multinomial(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let &[batch, classes] = x.shape() else {
        return Err(Fault::Rank { index: 0, found: x.shape().len(), expected: "2".into() });
    };
    let count = c.int("sample_size", 1).clamp(0, 1 << 20) as usize;
    let class = |row: usize, at: usize| -> Result<f64, Fault> {
        let weights = (0..classes).map(|k| Ok(x.at(&[row, k])?.exp())).collect::<Result<Vec<f64>, Fault>>()?;
        let mut left = uniform(at) * weights.iter().sum::<f64>();
        let passed = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        Ok(passed.unwrap_or(classes.saturating_sub(1)) as f64)
    };
    let dtype = output_type(c.attrs, DType::I32);
    Ok(vec![Array::tabulate(dtype, &[batch, count], |at| class(at[0], at[0] * count + at[1]))?])
}

pub static MULTINOMIAL: Op = Op {
    name: "Multinomial",
    facts: multinomial_facts,
    tangent: Tangent::Zero,
    eval: multinomial,
    cases: || vec![Case::new().real(&[2, 4]).attr("sample_size", 3)],
};
