//! RotaryEmbedding: pairs of features turned by angles that their positions give.

use super::attention::split_heads;
use super::window::{dims, sizes};
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::Fact;
use crate::lower;

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    c.input(1)?;
    c.input(2)?;
    if let Some(shape) = &x.shape {
        split_heads(shape, c.attrs.int("num_heads").filter(|&n| n > 0), 0)?;
    }
    Ok(vec![x.clone()])
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let shape = split_heads(&dims(x.shape()), c.attrs.int("num_heads").filter(|&n| n > 0), 0)?;
    let size = sizes(&shape)[3].max(1);
    let turned = match c.int("rotary_embedding_dim", 0) {
        n @ 1.. if n as usize <= size => n as usize,
        _ => size,
    };
    let (half, interleaved) = (turned / 2, c.int("interleaved", 0) != 0);
    let angle = |i: usize, batch: usize, position: usize, pair: usize| match c.get(3) {
        Some(ids) => c.input(i)?.at(&[ids.at(&[batch, position])? as usize, pair]),
        None => c.input(i)?.at(&[batch, position, pair]),
    };
    let y = Array::tabulate(x.dtype, x.shape(), |at| {
        let flat = at.len() == 3;
        let last = at.len() - 1;
        let (start, k) = (at[last] / size * size, at[last] % size);
        if k >= turned || half == 0 {
            return x.at(at);
        }
        let (pair, second) = if interleaved { (k / 2, k % 2 == 1) } else { (k % half, k >= half) };
        let places = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
        let of = |k: usize| x.at(&[&at[..last], &[start + k]].concat());
        let position = if flat { at[1] } else { at[2] };
        let (cos, sin) = (angle(1, at[0], position, pair)?, angle(2, at[0], position, pair)?);
        let (a, b) = (of(places.0)?, of(places.1)?);
        Ok(if second { a * sin + b * cos } else { a * cos - b * sin })
    })?;
    Ok(vec![y])
}

fn cases() -> Vec<Case> {
    let by_position = |x: &[usize]| Case::new().real(x).real(&[5, 2]).real(&[5, 2]).ints(&[2, 3], &[0, 1, 2, 4, 0, 3]);
    let given = |x: &[usize]| Case::new().real(x).real(&[2, 3, 2]).real(&[2, 3, 2]);
    vec![
        by_position(&[2, 2, 3, 4]),
        by_position(&[2, 2, 3, 6]).attr("rotary_embedding_dim", 4).attr("interleaved", 1),
        given(&[2, 3, 8]).attr("num_heads", 2),
        given(&[2, 3, 10]).attr("num_heads", 2).attr("rotary_embedding_dim", 4),
        given(&[2, 1, 3, 4]).attr("interleaved", 1),
    ]
}

pub static ROTARY_EMBEDDING: Op = Op {
    name: "RotaryEmbedding",
    facts,
    tangent: Tangent::Rule(|c| c.through(&lower::attention::rotary_embedding(c))),
    eval,
    cases,
};
