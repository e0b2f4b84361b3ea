//! Running sums.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::Fact;
use ndarray::Axis;

/// The shape of the tensor, whose axis is input 1.
pub(super) fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(1)?;
    let x = c.input(0)?;
    if let (Some(rank), Some(&[axis])) = (x.rank(), c.fixed_ints(1).as_deref()) {
        c.axis(axis, rank)?;
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

/// y = running sums of x    dy = running sums of dx
fn cumsum<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (exclusive, reverse) = (c.int("exclusive", 0) != 0, c.int("reverse", 0) != 0);
    c.axes_meant(1, c.x(0).rank()).into_iter().fold(c.zero(), |sum, (axis, meant)| {
        let along = c.dx(0).cumsum(axis, exclusive, reverse);
        sum + meant.map_or(along, |meant| along.mask(meant))
    })
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.ints(1).and_then(|v| v.first().copied()).ok_or(Fault::Missing { index: 1, needs: "an axis" })?;
    let axis = Axis(c.axis(axis, x.data.ndim())?);
    let (exclusive, reverse) = (c.int("exclusive", 0) != 0, c.int("reverse", 0) != 0);
    let mut y = x.data.clone();
    for mut lane in y.lanes_mut(axis) {
        let mut sum = 0.0;
        let n = lane.len();
        for i in 0..n {
            let at = if reverse { n - 1 - i } else { i };
            let before = sum;
            sum += lane[at];
            lane[at] = if exclusive { before } else { sum };
        }
    }
    Ok(vec![Array::new(x.dtype, y)])
}

pub static CUM_SUM: Op = Op {
    name: "CumSum",
    facts,
    tangent: Tangent::Rule(cumsum),
    eval,
    cases: || {
        let along = |axis: i64| Case::new().real(&[2, 3, 2]).const_ints(&[], &[axis]);
        vec![
            along(0),
            along(-2).attr("exclusive", 1),
            along(2).attr("reverse", 1),
            along(1).attr("exclusive", 1).attr("reverse", 1),
            Case::new().real(&[2, 3, 2]).ints(&[], &[-2]).attr("exclusive", 1),
            Case::new().real(&[4]).const_ints(&[1], &[0]),
            Case::new().real(&[0, 2]).const_ints(&[], &[0]),
        ]
    },
};
