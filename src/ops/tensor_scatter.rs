//! TensorScatter: a cache with a run of places overwritten in each sample.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Fact, Val};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(1)?;
    if let Some(rank) = c.input(0)?.rank() {
        c.axis(c.int("axis", -2), rank)?;
    }
    Ok(vec![Fact { ints: None, ..c.input(0)?.clone() }])
}

/// The cache with the update's elements at the places `write[batch] + k`, in `circular` mode modulo its length
fn scattered<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (cache, update, b) = (c.x(0), c.x(1), c.b);
    let (rank, axis) = (cache.rank() as i64, c.axis(-2));
    let along = |v: Val<'g>, at: i64| v.unsqueeze(&(0..rank).filter(|&a| a != at).collect::<Vec<_>>());
    let mut places = along(b.range(&update.dim(axis)), axis);
    if c.has(2) {
        places = places + along(c.x(2).cast(DType::I64), 0);
    }
    if c.attrs().str("mode") == Some("circular") {
        places = b.op("Mod", &[places, b.dim_value(&cache.dim(axis)).squeeze(&[0])], Attrs::new());
    }
    let inputs = [cache, places.expand(&update.shape()), update];
    vec![b.op("ScatterElements", &inputs, Attrs::new().with("axis", axis))]
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (mut y, update) = (c.input(0)?.clone(), c.input(1)?);
    let axis = c.axis(c.int("axis", -2), y.shape().len())?;
    let (size, circular) = (y.shape()[axis] as i64, c.attrs.str("mode") == Some("circular"));
    let starts = c.ints(2);
    for at in super::window::positions(update.shape()) {
        let mut place = at.clone();
        let batch = at.first().copied().unwrap_or(0);
        let start = starts.as_ref().map_or(0, |starts| starts.get(batch).copied().unwrap_or(0));
        let to = at.get(axis).map_or(0, |&k| start.saturating_add(k as i64));
        let to = if circular && size > 0 { to.rem_euclid(size) } else { to };
        if let Some(slot) = place.get_mut(axis) {
            *slot = super::eval_cx::wrapped(to, size as usize)?;
        }
        let value = update.at(&at)?;
        y.at(&place)?;
        y.data[&place[..]] = value;
    }
    Ok(vec![y])
}

pub static TENSOR_SCATTER: Op = Op {
    name: "TensorScatter",
    facts,
    tangent: Tangent::Rule(|c| c.through(&scattered(c))),
    eval,
    cases: || {
        vec![
            Case::new().real(&[2, 3, 5, 2]).real(&[2, 3, 2, 2]).ints(&[2], &[1, 3]),
            Case::new().real(&[2, 4, 2]).real(&[2, 3, 2]).ints(&[2], &[3, 2]).attr("mode", "circular"),
            Case::new().real(&[2, 3, 2]).real(&[2, 1, 2]),
            Case::new().real(&[2, 2, 4]).real(&[2, 2, 1]).ints(&[2], &[0, 2]).attr("axis", -1),
        ]
    },
};
