//! Expand and Tile.

use super::eval_cx::{broadcast_shape, broadcast_to};
use super::fact_cx::show;
use super::{Array, Case, Cx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, broadcast_named};

/// The broadcast of the input and the given shape, which is often symbolic itself.
fn expand_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, dtype) = (c.shape(0)?, c.dtype(0)?);
    let (target, known) = match c.ints(1) {
        Some(target) => (target.to_vec(), true),
        None => (c.unknown_dims(1).ok_or(Fault::UnknownRank { index: 1 })?, false),
    };
    let shape = broadcast_named(x, &target).ok_or_else(|| Fault::Shape {
        what: "broadcast",
        found: show(&target),
        expected: show(x),
    })?;
    let repeated = |v: &[Dim]| match (v, shape.as_slice()) {
        ([one], [n]) if known => n.fixed().filter(|n| (0..=64).contains(n)).map(|n| vec![one.clone(); n as usize]),
        _ => None,
    };
    let ints = c.ints(0).and_then(repeated);
    Ok(vec![Fact::new(dtype, shape).with_ints(ints)])
}

/// y = x broadcast            dy = dx broadcast
fn expand<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0).expand(&c.out(0).shape())
}

pub static EXPAND: Op = Op {
    name: "Expand",
    facts: |c| c.unknown_rank(c.dtype(0)?, expand_facts(c)),
    tangent: Tangent::Rule(expand),
    eval: |c| {
        let x = c.input(0)?;
        let target = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "a shape" })?;
        let target: Vec<usize> = target.iter().map(|&n| n.max(0) as usize).collect();
        let shape = broadcast_shape(x.shape(), &target)?;
        Ok(vec![Array::new(x.dtype, broadcast_to(&x.data, &shape)?)])
    },
    cases: || {
        vec![
            Case::new().real(&[3, 1]).const_ints(&[3], &[2, 1, 4]),
            Case::new().real(&[3]).const_ints(&[1], &[1]),
            Case::new().real(&[]).const_ints(&[2], &[2, 2]),
            Case::new().real(&[1, 2]).const_ints(&[2], &[0, 2]),
            Case::new().real(&[3, 1]).ints(&[2], &[3, 2]),
        ]
    },
};

fn tile_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, dtype) = (c.shape(0)?, c.dtype(0)?);
    c.has_shape(1, &[Dim::from(x.len())])?;
    let Some(repeats) = c.ints(1) else {
        return Ok(vec![Fact::new(dtype, (0..x.len()).map(|i| c.unknown(i)).collect::<Vec<_>>())]);
    };
    if repeats.len() != x.len() {
        return Err(Fault::Shape { what: "repeats", found: show(repeats), expected: format!("{} of them", x.len()) });
    }
    let shape: Vec<Dim> = x.iter().zip(repeats).map(|(d, r)| d.clone() * r.clone()).collect();
    Ok(vec![Fact::new(dtype, shape)])
}

/// y = x repeated            dy = dx repeated: an axis for the copies, expanded, joined with its own
fn tile<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0).shape(), c.out(0).shape());
    let Some(repeats) = c.dims(1) else {
        let mut t = c.dx(0);
        for (axis, (n, tiled)) in x.iter().zip(&y).enumerate() {
            let times = c.x(1).slice(0, axis as i64, axis as i64 + 1);
            let index = c.b.op("Tile", &[c.b.range(n), times], Attrs::new());
            c.b.refine_fact(index, &Fact::new(DType::I64, [tiled.clone()]));
            t = t.gather(index, axis as i64);
        }
        return t;
    };
    let (mut open, mut copied) = (Vec::new(), Vec::new());
    for (n, times) in x.iter().zip(&repeats) {
        if !times.is_one() {
            open.push(Dim::Fixed(1));
            copied.push(times.clone());
        }
        open.push(n.clone());
        copied.push(n.clone());
    }
    c.dx(0).reshape(&open).expand(&copied).reshape(&y)
}

pub static TILE: Op = Op {
    name: "Tile",
    facts: |c| c.unknown_rank(c.dtype(0)?, tile_facts(c)),
    tangent: Tangent::Rule(tile),
    eval: |c| {
        let x = c.input(0)?;
        let repeats = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "repeats" })?;
        let shape: Vec<usize> = x.shape().iter().zip(&repeats).map(|(&n, &r)| n * r.max(0) as usize).collect();
        let from = |at: &[usize]| at.iter().zip(x.shape()).map(|(&k, &n)| k % n.max(1)).collect::<Vec<_>>();
        Ok(vec![Array::tabulate(x.dtype, &shape, |at| x.at(&from(at)))?])
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3]).const_ints(&[2], &[2, 1]),
            Case::new().real(&[2, 1]).const_ints(&[2], &[3, 2]),
            Case::new().real(&[2, 3]).const_ints(&[2], &[0, 1]),
            Case::new().real(&[2, 3]).ints(&[2], &[1, 2]),
        ]
    },
};
