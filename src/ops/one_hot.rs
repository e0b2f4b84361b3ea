//! OneHot.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Dim, Fact};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (indices, dtype) = (c.shape(0)?, c.dtype(2)?);
    if let Some(values) = &c.input(2)?.shape
        && values.len() != 1
    {
        return Err(Fault::Rank { index: 2, found: values.len(), expected: "1".to_string() });
    }
    let mut shape = indices.to_vec();
    let axis = c.axis(c.int("axis", -1), indices.len() + 1)?;
    let constant = || c.data(1).and_then(|t| t.to_f64().first().map(|&v| Dim::Fixed(v as i64)));
    let depth = c.ints(1).and_then(|v| v.first().cloned()).or_else(constant);
    shape.insert(axis, depth.unwrap_or_else(|| c.unknown(axis)));
    Ok(vec![Fact::new(dtype, shape)])
}

/// y = values[hot], `hot` 0 or 1            dy = dvalues[hot]
fn one_hot<'g>(c: &Cx<'g>) -> Tan<'g> {
    let hot = c.b.op("OneHot", &[c.x(0), c.x(1), c.b.ints(&[0, 1])], c.attrs().clone());
    c.b.refine_fact(hot, &Fact { dtype: DType::I64, ..c.out(0).fact() });
    c.dx(2).gather(hot, 0)
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let indices = c.input(0)?;
    let depth = c.data(1)?.first().copied().unwrap_or(0.0);
    let values = c.input(2)?;
    let mut shape = indices.shape().to_vec();
    let axis = c.axis(c.int("axis", -1), shape.len() + 1)?;
    shape.insert(axis, depth.max(0.0) as usize);
    let y = Array::tabulate(values.dtype, &shape, |at| {
        let mut from = at.to_vec();
        let k = from.remove(axis) as f64;
        let index = indices.at(&from)?;
        values.at(&[usize::from(k == if index < 0.0 { index + depth } else { index })])
    })?;
    Ok(vec![y])
}

pub static ONE_HOT: Op = Op {
    name: "OneHot",
    facts: |c| c.unknown_rank(c.dtype(2)?, facts(c)),
    tangent: Tangent::Rule(one_hot),
    eval,
    cases: || {
        let labels = || Case::new().ints(&[2, 2], &[1, -1, 5, 0]);
        vec![
            labels().const_ints(&[], &[3]).real(&[2]),
            labels().const_ints(&[1], &[3]).real(&[2]).attr("axis", 0),
            Case::new().ints(&[1], &[2]).ints(&[], &[3]).real(&[2]),
        ]
    },
};
