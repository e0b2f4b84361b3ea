//! Trilu.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Fact, Val};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    match x.rank() {
        Some(rank) if rank < 2 => Err(Fault::Rank { index: 0, found: rank, expected: "at least 2".into() }),
        _ => Ok(vec![Fact { ints: None, ..x.clone() }]),
    }
}

/// y = the upper or lower triangle of x            dy = that of dx
fn trilu<'g>(c: &Cx<'g>) -> Tan<'g> {
    let shape = c.x(0).shape();
    let matrix = &shape[shape.len().saturating_sub(2)..];
    let mut inputs: Vec<Option<Val>> = vec![Some(c.b.scalar(DType::Bool, 1.0).expand(matrix))];
    if c.has(1) {
        inputs.push(Some(c.x(1)));
    }
    let triangle = c.b.node("Trilu", &inputs, c.attrs().clone(), 1)[0];
    c.dx(0).mask(triangle)
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let k = c.ints(1).and_then(|k| k.first().copied()).unwrap_or(0);
    let upper = c.int("upper", 1) != 0;
    let inside = |at: &[usize]| match at {
        [.., i, j] => {
            let above = (*j as i64).saturating_sub(*i as i64);
            if upper { above >= k } else { above <= k }
        }
        _ => true,
    };
    Ok(vec![Array::tabulate(x.dtype, x.shape(), |at| if inside(at) { x.at(at) } else { Ok(0.0) })?])
}

pub static TRILU: Op = Op {
    name: "Trilu",
    facts,
    tangent: Tangent::Rule(trilu),
    eval,
    cases: || {
        vec![
            Case::new().real(&[3, 3]),
            Case::new().real(&[2, 3, 4]).const_ints(&[], &[1]).attr("upper", 0),
            Case::new().real(&[3, 2]).ints(&[], &[-1]),
            Case::new().real(&[0, 2]),
        ]
    },
};
