//! CenterCropPad: axes cut or padded with zeros at both ends alike.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Dim, Fact};

/// The axes that change: all of them without the attribute.
fn axes(attrs: &crate::ir::Attrs, rank: usize) -> Result<Vec<usize>, Fault> {
    super::resize::axes(attrs, rank)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    let axes = axes(c.attrs, x.len())?;
    let mut shape = x.to_vec();
    for (k, &axis) in axes.iter().enumerate() {
        shape[axis] = match c.ints(1) {
            Some(sizes) if sizes.len() == axes.len() => sizes[k].clone(),
            Some(sizes) => {
                let expected = format!("{}, one an axis", axes.len());
                return Err(Fault::Shape { what: "shape", found: format!("{} elements", sizes.len()), expected });
            }
            None => c.unknown(axis),
        };
    }
    Ok(vec![Fact::new(c.dtype(0)?, shape)])
}

/// Zeros before and after an axis, the smaller half first; negative numbers cut.
fn pads(from: i64, to: i64) -> (i64, i64) {
    let first = (to - from) / 2;
    (first, to - from - first)
}

/// y = x cut or padded            dy = dx cut or padded
fn center_crop_pad<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (from, to) = (c.x(0).shape(), c.out(0).shape());
    let known = from.iter().zip(&to).map(|(from, to)| match (from.fixed(), to.fixed()) {
        _ if from == to => Some((Dim::Fixed(0), Dim::Fixed(0))),
        (Some(from), Some(to)) => {
            let (first, last) = pads(from, to);
            Some((Dim::Fixed(first), Dim::Fixed(last)))
        }
        _ => None,
    });
    match known.collect::<Option<Vec<_>>>() {
        Some(pads) => c.dx(0).pad(pads),
        // Whether an axis is cut or padded shows at run time: places counted from 1 turn to 0 where nothing comes.
        None => c.by_position(true, |index, n| {
            let one = index.like(1.0);
            let moved = c.b.op("CenterCropPad", &[index + one, c.x(1)], c.attrs().clone());
            moved.equal(moved.like(0.0)).select(c.b.dim_value(n).squeeze(&[0]), moved - one)
        }),
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axes = axes(c.attrs, x.shape().len())?;
    let sizes = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "a shape" })?;
    let (mut shape, mut first) = (x.shape().to_vec(), vec![0; x.shape().len()]);
    for (&axis, &size) in axes.iter().zip(&sizes) {
        first[axis] = pads(shape[axis] as i64, size).0;
        shape[axis] = size.clamp(0, 1 << 24) as usize;
    }
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let from: Vec<i64> = at.iter().zip(&first).map(|(&i, first)| i as i64 - first).collect();
        Ok(super::window::inside(&from, x.shape()).map_or(0.0, |from| x.at(&from).unwrap_or(0.0)))
    })?;
    Ok(vec![y])
}

pub static CENTER_CROP_PAD: Op = Op {
    name: "CenterCropPad",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(center_crop_pad),
    eval,
    cases: || {
        vec![
            Case::new().real(&[5, 4]).const_ints(&[2], &[2, 7]),
            Case::new().real(&[2, 5, 3]).const_ints(&[2], &[2, 6]).attr("axes", [1, -1]),
            Case::new().real(&[3, 4]).ints(&[2], &[6, 1]),
            Case::new().real(&[4, 3]).const_ints(&[1], &[1]).attr("axes", [0]),
        ]
    },
};
