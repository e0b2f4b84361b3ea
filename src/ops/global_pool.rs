//! Pools over all spatial axes.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Dim, Fact, Val, count};
use crate::lower;
use ndarray::{ArrayD, IxDyn};

/// There is an axis to pool over behind the batch and the channels.
fn has_space(rank: usize) -> Result<(), Fault> {
    if rank < 3 { Err(Fault::Rank { index: 0, found: rank, expected: "at least 3".into() }) } else { Ok(()) }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::unknown(dtype)]) };
    has_space(x.len())?;
    let ones = std::iter::repeat_n(Dim::Fixed(1), x.len() - 2);
    Ok(vec![Fact::new(dtype, x[..2].iter().cloned().chain(ones).collect::<Vec<_>>())])
}

fn spatial(x: Val) -> Vec<i64> {
    (2..x.rank() as i64).collect()
}

/// y = Σ x / n          dy = Σ dx / n
fn average<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    let n = count(x.shape().get(2..).unwrap_or_default());
    c.dx(0).sum_keep(&spatial(x)) / c.b.dim_scalar(&n, x.dtype())
}

/// y = max x            dy = Σ dx [x = y] / Σ [x = y]
fn max<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0), c.out(0));
    let highest = x.equal(y);
    let axes = spatial(x);
    c.dx(0).mask(highest).sum_keep(&axes) / highest.cast(x.dtype()).sum_keep(&axes)
}

/// `f` of the elements of each channel.
fn each_channel(c: &EvalCx, f: impl Fn(&[f64]) -> f64) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    has_space(x.ndim())?;
    let mut shape = vec![1; x.ndim()];
    shape[..2].copy_from_slice(&x.shape()[..2]);
    let y = ArrayD::from_shape_fn(IxDyn(&shape), |at| {
        let channel = x.index_axis(ndarray::Axis(0), at[0]);
        f(&channel.index_axis(ndarray::Axis(0), at[1]).iter().copied().collect::<Vec<_>>())
    });
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    vec![
        Case::new().distinct(&[2, 3, 4]),
        Case::new().distinct(&[2, 2, 3, 4]),
        Case::new().distinct(&[1, 2, 2, 1, 3]),
    ]
}

pub static GLOBAL_AVERAGE_POOL: Op = Op {
    name: "GlobalAveragePool",
    facts,
    tangent: Tangent::Rule(average),
    eval: |c| each_channel(c, |x| x.iter().sum::<f64>() / x.len() as f64),
    cases,
};

pub static GLOBAL_MAX_POOL: Op = Op {
    name: "GlobalMaxPool",
    facts,
    tangent: Tangent::Rule(max),
    eval: |c| each_channel(c, |x| x.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    cases,
};

pub static GLOBAL_LP_POOL: Op = Op {
    name: "GlobalLpPool",
    facts,
    tangent: Tangent::Lower(lower::pool::global_lp_pool),
    eval: |c| {
        let p = c.int("p", 2) as f64;
        each_channel(c, |x| x.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p))
    },
    cases: || {
        vec![
            Case::new().within(&[2, 3, 4], 0.2, 1.5).attr("p", 3),
            Case::new().real(&[2, 2, 3, 4]),
            Case::new().distinct(&[1, 2, 3]).attr("p", 1),
        ]
    },
};
