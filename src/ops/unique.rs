//! Unique: each element, or each slice along an axis, once.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Fact, count};
use ndarray::Axis;

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    let found = c.unknown(0);
    let all = match (c.attrs.int("axis"), x.shape.as_deref()) {
        (None, Some(shape)) => count(shape),
        (Some(axis), Some(shape)) => shape[c.axis(axis, shape.len())?].clone(),
        (_, None) => c.unknown(1),
    };
    let y = match (c.attrs.int("axis"), x.shape.as_deref()) {
        (None, _) => Fact::new(x.dtype, [found.clone()]),
        (Some(axis), Some(shape)) => {
            let mut shape = shape.to_vec();
            let axis = c.axis(axis, shape.len())?;
            shape[axis] = found.clone();
            Fact::new(x.dtype, shape)
        }
        (Some(_), None) => Fact::unknown(x.dtype),
    };
    let ints = |n| Fact::new(DType::I64, [n]);
    Ok(vec![y, ints(found.clone()), ints(all), ints(found)])
}

/// y = x at the first places of each            dy = dx there
fn unique<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0);
    let axis = c.attrs().int("axis").map(|_| c.axis(0));
    let places = match c.has_out(1) {
        true => c.out(1),
        false => c.b.grow(y, 1, Fact::new(DType::I64, [y.dim(axis.unwrap_or(0))])),
    };
    match axis {
        Some(axis) => c.dx(0).gather(places, axis),
        None => c.dx(0).reshape(&[count(&c.x(0).shape())]).gather(places, 0),
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.attrs.int("axis").map(|axis| c.axis(axis, x.shape().len())).transpose()?;
    let slices: Vec<Vec<f64>> = match axis {
        None => x.data.iter().map(|&v| vec![v]).collect(),
        Some(axis) => x.data.axis_iter(Axis(axis)).map(|slice| slice.iter().copied().collect()).collect(),
    };
    let compare = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    };
    // The first place of each different slice, in the order of the output.
    let mut first: Vec<usize> = Vec::new();
    for (k, slice) in slices.iter().enumerate() {
        if first.iter().all(|&f| slices[f] != *slice) {
            first.push(k);
        }
    }
    if c.int("sorted", 1) != 0 {
        first.sort_by(|&a, &b| compare(&slices[a], &slices[b]));
    }
    let inverse: Vec<f64> = slices
        .iter()
        .map(|slice| first.iter().position(|&f| slices[f] == *slice).unwrap_or(0) as f64)
        .collect();
    let counts = (0..first.len()).map(|k| inverse.iter().filter(|&&i| i == k as f64).count() as f64).collect();
    let y = match axis {
        None => Array::from_vec(x.dtype, &[first.len()], first.iter().map(|&f| slices[f][0]).collect())?,
        Some(axis) => Array::new(x.dtype, x.data.select(Axis(axis), &first)),
    };
    let ints = |values: Vec<f64>| Array::from_vec(DType::I64, &[values.len()], values);
    Ok(vec![y, ints(first.iter().map(|&f| f as f64).collect())?, ints(inverse)?, ints(counts)?])
}

pub static UNIQUE: Op = Op {
    name: "Unique",
    facts,
    tangent: Tangent::Rule(unique),
    eval,
    cases: || {
        vec![
            Case::new().distinct(&[2, 3]),
            Case::new().distinct(&[4]).attr("sorted", 0).outputs(4),
            Case::new().distinct(&[3, 2]).attr("axis", 0).outputs(2),
            Case::new().ints(&[5], &[2, 1, 1, 3, 2]).outputs(4),
            Case::new().distinct(&[2, 3]).attr("axis", -1),
        ]
    },
};
