//! Gather, GatherElements, GatherND.

use super::eval_cx::wrapped;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Val};

/// The indices take the place of the axis; elements of shapes stay known.
fn gather_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, indices) = (c.shape(0)?, c.shape(1)?);
    let axis = c.axis(c.int("axis", 0), x.len())?;
    let shape: Vec<Dim> = x[..axis].iter().chain(indices).chain(&x[axis + 1..]).cloned().collect();
    let picked = |values: &[Dim]| -> Option<Vec<Dim>> {
        let at = |&i: &i64| values.get(wrapped(i, values.len()).ok()?).cloned();
        c.fixed_ints(1)?.iter().map(at).collect()
    };
    let ints = c.ints(0).filter(|_| x.len() == 1 && indices.len() <= 1).and_then(picked);
    Ok(vec![Fact::new(c.dtype(0)?, shape).with_ints(ints)])
}

/// Constant indices that are a run `i, i+1, …`: its start.
fn run_start(indices: &[i64]) -> Option<i64> {
    let &start = indices.first()?;
    let is_run = indices.iter().zip(0..).all(|(&i, k)| start.checked_add(k) == Some(i));
    let crosses_zero = start < 0 && indices.last().is_some_and(|&last| last >= 0);
    (is_run && !crosses_zero).then_some(start)
}

/// y = x[indices]            dy = dx[indices]; a constant run of indices is a slice, whose transpose needs no scatter
fn gather<'g>(c: &Cx<'g>) -> Tan<'g> {
    let axis = c.axis(0);
    let indices = c.x(1);
    if let Some(known) = c.ints(1)
        && let Some(start) = run_start(&known)
    {
        let n = c.x(0).dim(axis);
        let start = if start < 0 { n + Dim::Fixed(start) } else { Dim::Fixed(start) };
        return c.dx(0).slice(axis, &start, &Dim::from(known.len())).reshape(&c.out(0).shape());
    }
    c.dx(0).gather(indices, axis)
}

pub static GATHER: Op = Op {
    name: "Gather",
    facts: |c| c.unknown_rank(c.dtype(0)?, gather_facts(c)),
    tangent: Tangent::Rule(gather),
    eval: |c| {
        let (x, indices) = (c.input(0)?, c.input(1)?);
        let (rank, picked) = (x.shape().len(), indices.shape().len());
        let axis = c.axis(c.int("axis", 0), rank)?;
        let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
        let y = Array::tabulate(x.dtype, &shape, |at| {
            let index = wrapped(indices.at(&at[axis..axis + picked])? as i64, x.shape()[axis])?;
            x.at(&[&at[..axis], &[index], &at[axis + picked..]].concat())
        })?;
        Ok(vec![y])
    },
    cases: || {
        let x = || Case::new().real(&[4, 3]);
        vec![
            x().ints(&[2, 2], &[0, 2, 2, -1]),
            x().ints(&[3], &[1, 1, -3]).attr("axis", -1),
            x().ints(&[], &[2]).attr("axis", 1),
            x().const_ints(&[], &[-1]),
            x().const_ints(&[2], &[1, 2]).attr("axis", 1),
            x().const_ints(&[2], &[3, 0]),
            Case::new().real(&[4]).ints(&[2, 2], &[0, 3, 3, 1]),
            Case::new().real(&[4]).ints(&[], &[-2]),
            x().ints(&[0], &[]),
        ]
    },
};

/// y[i, j] = x[indices[i, j], j]            dy[i, j] = dx[indices[i, j], j]
fn gather_elements<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0).gather_elements(c.x(1), c.axis(0))
}

pub static GATHER_ELEMENTS: Op = Op {
    name: "GatherElements",
    facts: |c| {
        if let Some(rank) = c.input(0)?.rank() {
            c.axis(c.int("axis", 0), rank)?;
        }
        Ok(vec![Fact { dtype: c.dtype(0)?, shape: c.input(1)?.shape.clone(), ints: None }])
    },
    tangent: Tangent::Rule(gather_elements),
    eval: |c| {
        let (x, indices) = (c.input(0)?, c.input(1)?);
        let axis = c.axis(c.int("axis", 0), x.shape().len())?;
        let y = Array::tabulate(x.dtype, indices.shape(), |at| {
            let mut from = at.to_vec();
            if let Some(k) = from.get_mut(axis) {
                *k = wrapped(indices.at(at)? as i64, x.shape()[axis])?;
            }
            x.at(&from)
        })?;
        Ok(vec![y])
    },
    cases: || {
        vec![
            Case::new().real(&[3, 2]).ints(&[2, 2], &[0, -1, 2, 2]),
            Case::new().real(&[3, 2]).ints(&[2, 3], &[1, 0, -1, 0, 0, 0]).attr("axis", -1),
            Case::new().real(&[3]).ints(&[0], &[]),
        ]
    },
};

/// The batch axes, then those of the indices, then what they do not index.
fn gather_nd_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, indices) = (c.shape(0)?, c.shape(1)?);
    let Some((depth, places)) = indices.split_last() else {
        return Err(Fault::Rank { index: 1, found: 0, expected: "at least 1".into() });
    };
    let Some(depth) = depth.fixed() else { return Ok(vec![Fact::unknown(c.dtype(0)?)]) };
    let indexed = c.int("batch_dims", 0).saturating_add(depth);
    let rest = usize::try_from(indexed).ok().and_then(|k| x.get(k..));
    let rest = rest.ok_or_else(|| Fault::Rank { index: 0, found: x.len(), expected: format!("at least {indexed}") })?;
    Ok(vec![Fact::new(c.dtype(0)?, [places, rest].concat())])
}

/// The indices with the batch axes' own places before them: GatherND without batch axes.
fn with_batch<'g>(c: &Cx<'g>, batch: usize) -> Val<'g> {
    let mut shape = c.x(1).shape();
    shape.pop();
    shape.push(Dim::Fixed(1));
    let mut parts: Vec<Val<'g>> = Vec::new();
    for axis in 0..batch.min(shape.len()) {
        let mut along = vec![Dim::Fixed(1); shape.len()];
        along[axis] = shape[axis].clone();
        parts.push(c.b.range(&shape[axis]).reshape(&along).expand(&shape));
    }
    parts.push(c.x(1).cast(DType::I64));
    c.b.op("Concat", &parts, Attrs::new().with("axis", -1))
}

/// y = x[indices[…]]            dy = dx[indices[…]]
fn gather_nd<'g>(c: &Cx<'g>) -> Tan<'g> {
    match usize::try_from(c.int("batch_dims", 0)).unwrap_or(0) {
        0 => c.dx(0).gather_nd(c.x(1)),
        batch => c.dx(0).gather_nd(with_batch(c, batch)),
    }
}

fn gather_nd_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let batch = usize::try_from(c.int("batch_dims", 0)).unwrap_or(0);
    let misfit = || Fault::Rank { index: 1, found: indices.shape().len(), expected: "a fit for the data".into() };
    let (&depth, places) = indices.shape().split_last().ok_or_else(misfit)?;
    let rest = x.shape().get(batch + depth..).ok_or_else(misfit)?;
    let shape = [places, rest].concat();
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let (place, inner) = at.split_at(places.len());
        let mut from = place.get(..batch).ok_or_else(misfit)?.to_vec();
        for k in 0..depth {
            from.push(wrapped(indices.at(&[place, &[k]].concat())? as i64, x.shape()[batch + k])?);
        }
        from.extend(inner);
        x.at(&from)
    })?;
    Ok(vec![y])
}

pub static GATHER_ND: Op = Op {
    name: "GatherND",
    facts: |c| c.unknown_rank(c.dtype(0)?, gather_nd_facts(c)),
    tangent: Tangent::Rule(gather_nd),
    eval: gather_nd_eval,
    cases: || {
        vec![
            Case::new().real(&[2, 3]).ints(&[3, 2], &[0, 0, 1, -1, 1, 2]),
            Case::new().real(&[2, 3, 2]).ints(&[2, 1, 2], &[1, 1, 1, 1]),
            Case::new().real(&[4]).ints(&[2, 3, 1], &[0, 1, 1, 2, 3, -4]),
            Case::new().real(&[2, 3, 2]).ints(&[2, 1], &[2, -3]).attr("batch_dims", 1),
            Case::new().real(&[2, 2, 3]).ints(&[2, 2, 1, 1], &[0, 1, 2, 1]).attr("batch_dims", 2),
            Case::new().real(&[3, 2]).ints(&[1], &[-1]),
        ]
    },
};
