//! Running products.

use super::{Array, Case, Cx, EvalCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact, Val};
use ndarray::Axis;

/// y = running products of x, by doubling the length of the runs: without a division, so that zeros are no exception
fn lowered<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let along = c.axes_meant(1, c.x(0).rank()).into_iter();
    let y = along.fold(c.x(0), |other, (axis, meant)| {
        let y = along_axis(c, axis);
        meant.map_or(y, |meant| meant.select(y, other))
    });
    vec![y]
}

fn along_axis<'g>(c: &Cx<'g>, axis: i64) -> Val<'g> {
    let x = c.x(0);
    let reverse = c.int("reverse", 0) != 0;
    let x = if c.int("exclusive", 0) != 0 { shifted(x, axis, 1, reverse) } else { x };
    match x.dim(axis) {
        Dim::Fixed(n) => {
            let mut y = x;
            for step in (0..63).map(|k| 1_i64 << k).take_while(|&step| step < n) {
                y = y * shifted(y, axis, step, reverse);
            }
            y
        }
        _ => by_rows(x, axis, reverse),
    }
}

/// `x` moved along an axis, ones where nothing comes.
fn shifted(x: Val<'_>, axis: i64, by: i64, reverse: bool) -> Val<'_> {
    let rank = x.rank();
    let mut pads = vec![0; 2 * rank];
    pads[axis as usize] = if reverse { -by } else { by };
    pads[rank + axis as usize] = -pads[axis as usize];
    let b = x.builder();
    let y = b.op("Pad", &[x, b.ints(&pads), x.like(1.0)], Attrs::new());
    b.refine_fact(y, &Fact::new(x.dtype(), x.shape()));
    y
}

/// Of a size known only at run time: each element the product of a row of a square.
fn by_rows(x: Val<'_>, axis: i64, reverse: bool) -> Val<'_> {
    let b = x.builder();
    let positions = b.range(&x.dim(axis));
    let behind: Vec<i64> = (2..=x.rank() as i64 - axis).collect();
    let (row, column) = (positions.unsqueeze(&[1]), positions.unsqueeze(&[0]));
    let counts = if reverse { column.ge(row) } else { column.le(row) }.unsqueeze(&behind);
    let rows = counts.select(x.unsqueeze(&[axis]), x.like(1.0));
    b.op("ReduceProd", &[rows, b.ints(&[axis + 1])], Attrs::new().with("keepdims", 0))
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.ints(1).and_then(|v| v.first().copied()).ok_or(Fault::Missing { index: 1, needs: "an axis" })?;
    let axis = Axis(c.axis(axis, x.data.ndim())?);
    let (exclusive, reverse) = (c.int("exclusive", 0) != 0, c.int("reverse", 0) != 0);
    let mut y = x.data.clone();
    for mut lane in y.lanes_mut(axis) {
        let (mut product, n) = (1.0, lane.len());
        for i in 0..n {
            let at = if reverse { n - 1 - i } else { i };
            let before = product;
            product *= lane[at];
            lane[at] = if exclusive { before } else { product };
        }
    }
    Ok(vec![Array::new(x.dtype, y)])
}

pub static CUM_PROD: Op = Op {
    name: "CumProd",
    facts: super::cumsum::facts,
    tangent: Tangent::Lower(lowered),
    eval,
    cases: || {
        let along = |axis: i64| Case::new().real(&[2, 3, 2]).const_ints(&[], &[axis]);
        vec![
            along(0),
            along(-2).attr("exclusive", 1),
            along(2).attr("reverse", 1),
            along(1).attr("exclusive", 1).attr("reverse", 1),
            Case::new().real(&[2, 3, 2]).ints(&[], &[-2]).attr("exclusive", 1),
            Case::new().real(&[5]).const_ints(&[], &[0]),
            Case::new().real(&[3, 2]).const_ints(&[], &[0]).attr("exclusive", 1).attr("reverse", 1),
            Case::new().real(&[0, 2]).const_ints(&[], &[0]),
        ]
    },
};
