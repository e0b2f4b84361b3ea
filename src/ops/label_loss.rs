//! Losses on class labels.

use super::fact_cx::show;
use super::window::positions;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Dim, Fact};
use crate::lower::loss;
use ndarray::{ArrayD, Axis, IxDyn};

/// The loss: a scalar, or without reduction of the labels' shape.
fn loss_fact(c: &FactCx) -> Result<Fact, Fault> {
    let (x, labels) = (c.input(0)?, c.input(1)?);
    if let (Some(x), Some(labels)) = (&x.shape, &labels.shape) {
        let matched = |(a, b): (&Dim, &Dim)| a.fixed().zip(b.fixed()).is_none_or(|(a, b)| a == b);
        let places = x.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d);
        if x.len() != labels.len() + 1 || !places.zip(labels).all(matched) {
            return Err(Fault::Shape { what: "labels", found: show(labels), expected: format!("scores {}", show(x)) });
        }
    }
    let reduction = c.attrs.str("reduction").unwrap_or("mean");
    match (reduction, &labels.shape) {
        ("none", Some(shape)) => Ok(Fact::new(x.dtype, shape.clone())),
        ("none", None) => Ok(Fact::unknown(x.dtype)),
        ("mean" | "sum", _) => Ok(Fact::new(x.dtype, Vec::new())),
        _ => Err(Fault::Attribute {
            name: "reduction",
            found: reduction.into(),
            expected: "none, mean or sum".into(),
        }),
    }
}

fn log_softmax(x: &ArrayD<f64>) -> ArrayD<f64> {
    let mut y = x.clone();
    for mut line in y.lanes_mut(Axis(1)) {
        let top = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = line.iter().map(|v| (v - top).exp()).sum::<f64>().ln() + top;
        line.mapv_inplace(|v| v - sum);
    }
    y
}

/// `−w·log_p` at the labels, reduced.
fn loss_of(c: &EvalCx, log_p: &ArrayD<f64>) -> Result<Array, Fault> {
    let labels = c.data(1)?;
    let wrong = |found: String| Fault::Shape {
        what: "labels",
        found,
        expected: format!("scores {:?} and their classes", log_p.shape()),
    };
    if log_p.ndim() != labels.ndim() + 1 || labels.ndim() == 0 {
        return Err(wrong(format!("{:?}", labels.shape())));
    }
    let ignored = c.attrs.int("ignore_index");
    let (mut each, mut total) = (ArrayD::zeros(labels.raw_dim()), 0.0);
    for at in positions(labels.shape()) {
        let label = labels[IxDyn(&at)] as i64;
        if Some(label) == ignored {
            continue;
        }
        let class = usize::try_from(label).map_err(|_| wrong(format!("label {label}")))?;
        let place = IxDyn(&[&at[..1], &[class], &at[1..]].concat());
        let picked = *log_p.get(place).ok_or_else(|| wrong(format!("label {label} at {at:?}")))?;
        let weight = match c.get(2) {
            Some(w) => *w.data.get(IxDyn(&[class])).ok_or_else(|| wrong(format!("{:?} weights", w.shape())))?,
            None => 1.0,
        };
        each[IxDyn(&at)] = -weight * picked;
        total += weight;
    }
    let scalar = |v: f64| ArrayD::from_elem(IxDyn(&[]), v);
    let loss = match c.attrs.str("reduction").unwrap_or("mean") {
        "none" => each,
        "sum" => scalar(each.sum()),
        _ => scalar(each.sum() / total),
    };
    Ok(Array::new(c.dtype(0), loss))
}

fn cases() -> Vec<Case> {
    let flat = || Case::new().real(&[3, 4]).ints(&[3], &[2, 0, 3]);
    let image = || Case::new().real(&[2, 3, 2]).ints(&[2, 2], &[2, 0, 1, 1]);
    vec![
        flat(),
        flat().attr("reduction", "sum"),
        flat().within(&[4], 0.5, 1.5),
        image().attr("reduction", "none"),
        image().attr("ignore_index", 1),
        image().within(&[3], 0.5, 1.5).attr("ignore_index", 0),
        image().within(&[3], 0.5, 1.5).attr("ignore_index", -100).attr("reduction", "none"),
        Case::new().real(&[2, 3, 1, 2]).data(crate::ir::Tensor::from_f64(
            crate::ir::DType::I32,
            &[2, 1, 2],
            [0.0, -1.0, 2.0, 1.0],
        ))
        .attr("ignore_index", -1),
    ]
}

pub static SOFTMAX_CROSS_ENTROPY_LOSS: Op = Op {
    name: "SoftmaxCrossEntropyLoss",
    facts: |c| Ok(vec![loss_fact(c)?, Fact { ints: None, ..c.input(0)?.clone() }]),
    tangent: Tangent::Lower(loss::softmax_cross_entropy),
    eval: |c| {
        let x = c.data(0)?;
        if x.ndim() < 2 {
            return Err(Fault::Rank { index: 0, found: x.ndim(), expected: "at least 2".into() });
        }
        let log_p = log_softmax(x);
        Ok(vec![loss_of(c, &log_p)?, Array::new(c.dtype(0), log_p)])
    },
    cases: || {
        let mut all = cases();
        all.extend(cases().into_iter().take(1).map(|case| case.outputs(2)));
        all
    },
};

pub static NEGATIVE_LOG_LIKELIHOOD_LOSS: Op = Op {
    name: "NegativeLogLikelihoodLoss",
    facts: |c| Ok(vec![loss_fact(c)?]),
    tangent: Tangent::Lower(loss::negative_log_likelihood),
    eval: |c| Ok(vec![loss_of(c, c.data(0)?)?]),
    cases,
};
