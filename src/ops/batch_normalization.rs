//! Batch normalisation: by the running statistics, or in training mode by the batch's own.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Fact};
use crate::lower::normalization;
use ndarray::{ArrayD, Axis};

fn trains(attrs: &Attrs) -> bool {
    attrs.int("training_mode") == Some(1)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    if let Some(rank) = x.rank().filter(|&rank| rank < 2) {
        return Err(Fault::Rank { index: 0, found: rank, expected: "at least 2".into() });
    }
    for i in 1..5 {
        c.input(i)?;
    }
    let running = |i: usize| c.input(i).cloned();
    Ok(vec![Fact { ints: None, ..x.clone() }, running(3)?, running(4)?])
}

/// y = (x − μ)·s + β, s = γ·r, r = 1/√(σ² + ε)
///
/// dy = dx·s + (x − μ)·ds + dβ − dμ·s, ds = dγ·r − dσ²·s·r²/2, all but dx and x a number a channel
fn inference<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, scale, _, mean, variance], [dx, dscale, dbias, dmean, dvariance]) = c.args();
    let (own, work) = (x.dtype(), normalization::working_type(x.dtype()));
    let [scale, mean, variance] = [scale, mean, variance].map(|v| v.cast(work));
    let r = (variance + c.float("epsilon", 1e-5)).sqrt().reciprocal();
    let s = scale * r;
    let rank = x.rank();
    let ds = dscale.cast(work) * r - dvariance.cast(work) * (s * r * r * 0.5);
    let shift = dbias.cast(work) - dmean.cast(work) * s;
    let spread = if ds.is_zero() { ds } else { ds.along_channel(rank) * (x.cast(work) - mean.along_channel(rank)) };
    (dx.cast(work) * s.along_channel(rank) + spread + shift.along_channel(rank)).cast(own)
}

/// Input `i`, a number a channel.
fn channel_data<'a>(c: &EvalCx<'a>, i: usize, channels: usize) -> Result<&'a ArrayD<f64>, Fault> {
    let v = c.data(i)?;
    match v.shape() == [channels] {
        true => Ok(v),
        false => Err(Fault::Shape {
            what: "channels",
            found: format!("{:?}", v.shape()),
            expected: format!("[{channels}]"),
        }),
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let channels = match x.shape() {
        [_, channels, ..] => *channels,
        other => return Err(Fault::Rank { index: 0, found: other.len(), expected: "at least 2".into() }),
    };
    let per_channel = |i| channel_data(c, i, channels);
    let (scale, bias, mut mean, mut variance) = (per_channel(1)?, per_channel(2)?, c.input(3)?.clone(), c.input(4)?.clone());
    per_channel(3)?;
    per_channel(4)?;
    let mut y = x.clone();
    let momentum = c.float("momentum", 0.9);
    for (k, mut channel) in y.data.axis_iter_mut(Axis(1)).enumerate() {
        let (mut m, mut v) = (mean.data[[k].as_slice()], variance.data[[k].as_slice()]);
        if trains(c.attrs) {
            let own = channel.sum() / channel.len() as f64;
            let spread = channel.mapv(|x| (x - own) * (x - own)).sum() / channel.len() as f64;
            mean.data[[k].as_slice()] = m * momentum + own * (1.0 - momentum);
            variance.data[[k].as_slice()] = v * momentum + spread * (1.0 - momentum);
            (m, v) = (own, spread);
        }
        let s = scale[[k].as_slice()] / (v + c.float("epsilon", 1e-5)).sqrt();
        channel.mapv_inplace(|x| (x - m) * s + bias[[k].as_slice()]);
    }
    Ok(vec![y, mean, variance].into_iter().take(c.outputs.max(1)).collect())
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize]| {
        let channels = &x[1..2];
        Case::new().real(x).real(channels).real(channels).real(channels).within(channels, 0.5, 2.0)
    };
    vec![
        case(&[3, 2]),
        case(&[2, 3, 4]),
        case(&[2, 3, 2, 2]).attr("epsilon", 0.1_f32),
        case(&[3, 2]).attr("training_mode", 1).attr("epsilon", 0.1_f32).outputs(3),
        case(&[3, 2, 2]).attr("training_mode", 1).attr("epsilon", 0.1_f32).attr("momentum", 0.75_f32).outputs(3),
        case(&[2, 2, 2, 3]).attr("training_mode", 1).attr("epsilon", 0.1_f32),
    ]
}

pub static BATCH_NORMALIZATION: Op = Op {
    name: "BatchNormalization",
    facts,
    tangent: Tangent::Select(|attrs| match trains(attrs) {
        true => Tangent::Lower(normalization::batch_normalization),
        false => Tangent::Rule(inference),
    }),
    eval,
    cases,
};
