//! Elementwise choice.

use super::elementwise::smooth;
use super::eval_cx::{broadcast_shape, broadcast_to};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op};
use crate::ad::Tan;
use crate::ir::{Dim, Fact};

/// z = x where c, else y    dz = dx where c, else dy
fn select<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([cond, _, _], [_, dx, dy]) = c.args();
    dx.mask(cond) + dy.mask_not(cond)
}

/// The broadcast shape; integers keep their elements where the condition is known.
fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(0)?;
    c.input(2)?;
    let facts = c.elementwise(c.dtype(1)?)?;
    let ints = chosen(c);
    Ok(facts.into_iter().map(|f| f.with_ints(ints.clone())).collect())
}

fn chosen(c: &FactCx) -> Option<Vec<Dim>> {
    let (cond, x, y) = (c.ints(0)?, c.ints(1)?, c.ints(2)?);
    let sizes = [cond.len(), x.len(), y.len()];
    let n = sizes.iter().copied().find(|&n| n != 1).unwrap_or(1);
    let at = |v: &[Dim], i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned();
    (0..n).map(|i| if at(cond, i)?.fixed()? != 0 { at(x, i) } else { at(y, i) }).collect()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (cond, x, y) = (c.data(0)?, c.data(1)?, c.data(2)?);
    let shape = broadcast_shape(&broadcast_shape(cond.shape(), x.shape())?, y.shape())?;
    let (cond, mut z, y) = (broadcast_to(cond, &shape)?, broadcast_to(x, &shape)?, broadcast_to(y, &shape)?);
    ndarray::Zip::from(&mut z).and(&cond).and(&y).for_each(|z, &c, &y| {
        if c == 0.0 {
            *z = y;
        }
    });
    Ok(vec![Array::new(c.dtype(1), z)])
}

pub static WHERE: Op = Op {
    facts,
    ..smooth("Where", select, eval, || {
        let six = [true, false, true, false, false, true];
        vec![
            Case::new().bools(&[2, 3], &six).real(&[2, 3]).real(&[2, 3]),
            Case::new().bools(&[2, 1], &six[..2]).real(&[3]).real(&[]),
            Case::new().bools(&[], &six[..1]).real(&[2, 3]).real(&[3, 2, 1]),
            Case::new().bools(&[3], &six[..3]).real(&[3]).const_real(0.0),
        ]
    })
};
