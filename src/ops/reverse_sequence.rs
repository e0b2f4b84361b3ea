//! ReverseSequence.

use super::eval_cx::wrapped;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Fact};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    c.input(1)?;
    if let Some(shape) = &x.shape {
        c.axis(c.int("time_axis", 0), shape.len())?;
        let batch = c.axis(c.int("batch_axis", 1), shape.len())?;
        c.has_shape(1, &shape[batch..=batch])?;
    }
    Ok(vec![Fact { ints: None, ..x.clone() }])
}

/// y[t, n] = x[ℓₙ − 1 − t, n] for t < ℓₙ, else x[t, n]            dy the same of dx
fn reverse_sequence<'g>(c: &Cx<'g>) -> Tan<'g> {
    let x = c.x(0);
    let rank = x.rank() as i64;
    let (batch, time) = (c.int("batch_axis", 1).rem_euclid(rank.max(1)), c.int("time_axis", 0).rem_euclid(rank.max(1)));
    let others = |axis: i64| (0..rank).filter(|&a| a != axis).collect::<Vec<i64>>();
    let lengths = c.x(1).cast(DType::I64).unsqueeze(&others(batch));
    let times = c.b.range(&x.dim(time)).unsqueeze(&others(time));
    let from = times.lt(lengths).select(lengths - 1.0 - times, times);
    c.dx(0).gather_elements(from.expand(&x.shape()), time)
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, lengths) = (c.input(0)?, c.ints(1).unwrap_or_default());
    let rank = x.shape().len();
    let (batch, time) = (c.axis(c.int("batch_axis", 1), rank)?, c.axis(c.int("time_axis", 0), rank)?);
    let (samples, most) = (x.shape()[batch], x.shape()[time]);
    if lengths.len() != samples || lengths.iter().any(|&n| !usize::try_from(n).is_ok_and(|n| n <= most)) {
        let expected = format!("{samples} lengths of at most {most}");
        return Err(Fault::Shape { what: "sequence_lens", found: format!("{lengths:?}"), expected });
    }
    let y = Array::tabulate(x.dtype, x.shape(), |at| {
        let length = lengths.get(at[batch]).copied().unwrap_or(0);
        let mut from = at.to_vec();
        if (at[time] as i64) < length {
            from[time] = wrapped(length - 1 - at[time] as i64, x.shape()[time])?;
        }
        x.at(&from)
    })?;
    Ok(vec![y])
}

pub static REVERSE_SEQUENCE: Op = Op {
    name: "ReverseSequence",
    facts,
    tangent: Tangent::Rule(reverse_sequence),
    eval,
    cases: || {
        vec![
            Case::new().real(&[4, 3]).ints(&[3], &[4, 2, 1]),
            Case::new().real(&[3, 4, 2]).ints(&[3], &[1, 3, 4]).attr("batch_axis", 0).attr("time_axis", 1),
        ]
    },
};
