//! Normalisations that are differentiated in terms of means and products.

use super::eval_cx::broadcast_to;
use super::window::positions;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::Fact;
use crate::lower::normalization as lower;
use ndarray::{ArrayD, ArrayViewMutD, Axis, IxDyn};

/// The shape and type of input 0, of rank at least 2.
fn same(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    if let Some(rank) = x.rank().filter(|&rank| rank < 2) {
        return Err(Fault::Rank { index: 0, found: rank, expected: "at least 2".into() });
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

/// The same, with an attribute `axis`.
fn along_axis(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    if let Some(rank) = x.rank() {
        c.axis(c.int("axis", -1), rank)?;
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

fn grouped(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let groups = c.int("num_groups", 0);
    let channels = c.get(0).and_then(|x| x.shape.as_ref()?.get(1)?.fixed());
    if groups < 1 || channels.is_some_and(|n| n % groups != 0) {
        return Err(Fault::Attribute {
            name: "num_groups",
            found: groups.to_string(),
            expected: "a divisor of the channels".into(),
        });
    }
    same(c)
}

/// `(x − μ)/√(σ² + ε)` of all elements.
fn standardise(mut x: ArrayViewMutD<f64>, epsilon: f64) {
    let n = x.len() as f64;
    let mean = x.sum() / n;
    let variance = x.mapv(|v| (v - mean) * (v - mean)).sum() / n;
    x.mapv_inplace(|v| (v - mean) / (variance + epsilon).sqrt());
}

/// Each of `groups` groups of channels of each image standardised, then scaled and shifted by channel.
fn by_groups(c: &EvalCx, groups: usize) -> Result<Vec<Array>, Fault> {
    let mut y = c.input(0)?.clone();
    if y.data.ndim() < 2 || groups == 0 || y.shape()[1] % groups != 0 {
        return Err(Fault::Shape {
            what: "channels",
            found: format!("{:?}", y.shape()),
            expected: format!("{groups} groups"),
        });
    }
    let channels = y.shape()[1];
    for mut image in y.data.axis_iter_mut(Axis(0)) {
        for group in image.axis_chunks_iter_mut(Axis(0), (channels / groups).max(1)) {
            standardise(group, c.float("epsilon", 1e-5));
        }
    }
    let mut by_channel = vec![1; y.data.ndim() - 1];
    by_channel[0] = channels;
    let of_channel = |i: usize| -> Result<ArrayD<f64>, Fault> {
        let v = Array::from_vec(c.dtype(i), &by_channel, c.data(i)?.iter().copied().collect())?;
        broadcast_to(&v.data, y.shape())
    };
    let (scale, bias) = (of_channel(1)?, of_channel(2)?);
    y.data = &y.data * &scale + &bias;
    Ok(vec![y])
}

pub static INSTANCE_NORMALIZATION: Op = Op {
    name: "InstanceNormalization",
    facts: same,
    tangent: Tangent::Lower(lower::instance_normalization),
    eval: |c| by_groups(c, c.data(0)?.shape().get(1).copied().unwrap_or(0)),
    cases: || {
        let case = |x: &[usize]| Case::new().real(x).real(&x[1..2]).real(&x[1..2]).attr("epsilon", 0.1_f32);
        vec![case(&[2, 3, 4]), case(&[2, 2, 2, 3]), case(&[1, 2, 2, 2, 2])]
    },
};

pub static GROUP_NORMALIZATION: Op = Op {
    name: "GroupNormalization",
    facts: grouped,
    tangent: Tangent::Lower(lower::group_normalization),
    eval: |c| by_groups(c, usize::try_from(c.int("num_groups", 0)).unwrap_or(0)),
    cases: || {
        let case = |x: &[usize], groups: i64| {
            Case::new().real(x).real(&x[1..2]).real(&x[1..2]).attr("epsilon", 0.1_f32).attr("num_groups", groups)
        };
        vec![case(&[2, 4, 3], 2), case(&[2, 3, 2, 2], 1), case(&[1, 4, 2, 2], 4), case(&[2, 4], 2)]
    },
};

/// The elements over which the axes run, for each place of the others, replaced by `f` of them.
fn over_axes(x: &mut ArrayD<f64>, axes: &[usize], f: impl Fn(&[f64]) -> Vec<f64>) {
    let picked = |keep: bool| -> Vec<usize> {
        (0..x.ndim()).map(|a| if axes.contains(&a) == keep { x.shape()[a] } else { 1 }).collect()
    };
    let (outer, inner) = (picked(false), picked(true));
    for base in positions(&outer) {
        let places: Vec<IxDyn> =
            positions(&inner).map(|at| IxDyn(&base.iter().zip(&at).map(|(a, b)| a + b).collect::<Vec<_>>())).collect();
        let values = f(&places.iter().map(|at| x[at]).collect::<Vec<_>>());
        places.iter().zip(values).for_each(|(at, v)| x[at] = v);
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

pub static RMS_NORMALIZATION: Op = Op {
    name: "RMSNormalization",
    facts: along_axis,
    tangent: Tangent::Lower(lower::rms_normalization),
    eval: |c| {
        let mut y = c.input(0)?.clone();
        let axes: Vec<usize> = (c.axis(c.int("axis", -1), y.data.ndim())?..y.data.ndim()).collect();
        let epsilon = c.float("epsilon", 1e-5);
        over_axes(&mut y.data, &axes, |x| {
            let size = (mean(&x.iter().map(|v| v * v).collect::<Vec<_>>()) + epsilon).sqrt();
            x.iter().map(|v| v / size).collect()
        });
        y.data = &y.data * &broadcast_to(c.data(1)?, y.shape())?;
        Ok(vec![y])
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3]).real(&[3]),
            Case::new().real(&[2, 3, 2]).real(&[3, 2]).attr("axis", 1).attr("epsilon", 0.1_f32),
        ]
    },
};

pub static LP_NORMALIZATION: Op = Op {
    name: "LpNormalization",
    facts: along_axis,
    tangent: Tangent::Lower(lower::lp_normalization),
    eval: |c| {
        let mut y = c.input(0)?.clone();
        let axis = c.axis(c.int("axis", -1), y.data.ndim())?;
        let p = c.int("p", 2) as f64;
        over_axes(&mut y.data, &[axis], |x| {
            let norm = x.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p);
            x.iter().map(|v| if norm == 0.0 { 0.0 } else { v / norm }).collect()
        });
        Ok(vec![y])
    },
    cases: || {
        vec![
            Case::new().distinct(&[2, 3]),
            Case::new().distinct(&[2, 3, 2]).attr("axis", 1).attr("p", 1),
            Case::new().distinct(&[3, 2]).attr("axis", 0).attr("p", 2),
        ]
    },
};

pub static MEAN_VARIANCE_NORMALIZATION: Op = Op {
    name: "MeanVarianceNormalization",
    facts: same,
    tangent: Tangent::Lower(lower::mean_variance_normalization),
    eval: |c| {
        let mut y = c.input(0)?.clone();
        let rank = y.data.ndim();
        let given = c.attrs.ints("axes").unwrap_or(&[0, 2, 3]);
        let axes = given.iter().map(|&a| c.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        over_axes(&mut y.data, &axes, |x| {
            let m = mean(x);
            let deviation = mean(&x.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>()).sqrt();
            x.iter().map(|v| (v - m) / (deviation + 1e-9)).collect()
        });
        Ok(vec![y])
    },
    cases: || vec![Case::new().distinct(&[2, 2, 2, 2]), Case::new().distinct(&[2, 3, 3]).attr("axes", [-1, 1])],
};

pub static LRN: Op = Op {
    name: "LRN",
    facts: same,
    tangent: Tangent::Lower(lower::lrn),
    eval: |c| {
        let x = c.data(0)?;
        let size = c.int("size", 1).max(1);
        let (alpha, beta, bias) = (c.float("alpha", 1e-4), c.float("beta", 0.75), c.float("bias", 1.0));
        let channels = x.shape().get(1).copied().unwrap_or(0) as i64;
        let before = (size - 1) / 2;
        let y = ArrayD::from_shape_fn(x.raw_dim(), |at| {
            let first = at[1] as i64 - before;
            let near = (first.max(0)..(first.saturating_add(size)).min(channels)).map(|k| {
                let mut other = at.clone();
                other[1] = k as usize;
                x[&other] * x[&other]
            });
            x[&at] / (bias + alpha / size as f64 * near.sum::<f64>()).powf(beta)
        });
        Ok(vec![Array::new(c.dtype(0), y)])
    },
    cases: || {
        let case = |x: &[usize], size: i64| Case::new().real(x).attr("size", size).attr("alpha", 0.5_f32);
        vec![case(&[2, 4, 2, 2], 3), case(&[1, 5, 3], 4).attr("beta", 0.5_f32), case(&[2, 3, 1, 2], 1).attr("bias", 2.0_f32)]
    },
};
