//! Compress and NonZero: how much is left is only known at run time.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, count};

fn compress_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(axis) = c.attrs.int("axis") else { return Ok(vec![Fact::new(dtype, [c.unknown(0)])]) };
    let mut shape = c.shape(0)?.to_vec();
    let axis = c.axis(axis, shape.len())?;
    shape[axis] = c.unknown(axis);
    Ok(vec![Fact::new(dtype, shape)])
}

/// y = x[where the condition holds]            dy = dx picked there
fn compress<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0).shape(), c.out(0));
    let index = c.b.op("NonZero", &[c.x(1)], Attrs::new()).squeeze(&[0]);
    let axis = if c.attrs().int("axis").is_some() { c.axis(0) } else { 0 };
    c.b.refine_fact(index, &Fact::new(DType::I64, [y.dim(axis)]));
    match c.attrs().int("axis") {
        Some(_) => c.dx(0).gather(index, axis),
        None => c.dx(0).reshape(&[count(&x)]).gather(index, 0),
    }
}

fn compress_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, cond) = (c.input(0)?, c.data(1)?);
    let kept: Vec<usize> = cond.iter().enumerate().filter(|&(_, &v)| v != 0.0).map(|(i, _)| i).collect();
    let (x, axis) = match c.attrs.int("axis") {
        Some(axis) => (x.clone(), c.axis(axis, x.shape().len())?),
        None => (Array::from_vec(x.dtype, &[x.data.len()], x.data.iter().copied().collect())?, 0),
    };
    let mut shape = x.shape().to_vec();
    shape[axis] = kept.len();
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let mut from = at.to_vec();
        from[axis] = kept[at[axis]];
        x.at(&from)
    })?;
    Ok(vec![y])
}

pub static COMPRESS: Op = Op {
    name: "Compress",
    facts: |c| c.unknown_rank(c.dtype(0)?, compress_facts(c)),
    tangent: Tangent::Rule(compress),
    eval: compress_eval,
    cases: || {
        vec![
            Case::new().real(&[2, 3]).bools(&[3], &[true, false, true]).attr("axis", -1),
            Case::new().real(&[3, 2]).bools(&[2], &[false, true]).attr("axis", 0),
            Case::new().real(&[2, 3]).bools(&[5], &[true, false, false, true, true]),
            Case::new().real(&[2]).bools(&[2], &[false, false]).attr("axis", 0),
        ]
    },
};

pub static NON_ZERO: Op = Op {
    name: "NonZero",
    facts: |c| {
        let rank = c.input(0)?.rank().map_or_else(|| c.unknown(0), Dim::from);
        Ok(vec![Fact::new(DType::I64, [rank, c.unknown(1)])])
    },
    tangent: Tangent::Zero,
    eval: |c| {
        let x = c.data(0)?;
        let places: Vec<Vec<usize>> = x
            .indexed_iter()
            .filter(|&(_, &v)| v != 0.0)
            .map(|(at, _)| (0..x.ndim()).map(|axis| at[axis]).collect())
            .collect();
        let flat = (0..x.ndim()).flat_map(|axis| places.iter().map(move |at| at[axis] as f64)).collect();
        Ok(vec![Array::from_vec(DType::I64, &[x.ndim(), places.len()], flat)?])
    },
    cases: || {
        vec![
            Case::new().ints(&[2, 3], &[1, 0, 0, 4, 0, 5]),
            Case::new().bools(&[3], &[false, false, false]),
            Case::new().real(&[2, 2]),
        ]
    },
};
