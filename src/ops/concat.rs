//! Concat and Split.

use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Dim, Fact};
use ndarray::{Axis, Slice};

/// The sizes along the axis add up; shapes being put together keep their elements.
fn concat_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let shapes: Vec<Option<&[Dim]>> = (0..c.arity()).map(|i| c.get(i).and_then(|f| f.shape.as_deref())).collect();
    let Some(first) = shapes.iter().flatten().next() else { return Ok(vec![Fact::unknown(dtype)]) };
    let axis = c.axis(c.int("axis", 0), first.len())?;
    let mut shape = first.to_vec();
    let mut total = Dim::Fixed(0);
    for other in shapes.iter().flatten() {
        let misfit = || Fault::Shape { what: "concatenation", found: show(other), expected: show(first) };
        if other.len() != shape.len() {
            return Err(misfit());
        }
        for (_, (d, o)) in shape.iter_mut().zip(*other).enumerate().filter(|&(i, _)| i != axis) {
            match (&*d, o) {
                (Dim::Fixed(a), Dim::Fixed(b)) if a != b => return Err(misfit()),
                (Dim::Symbol(_), Dim::Fixed(_)) => *d = o.clone(),
                _ => {}
            }
        }
        total = total + other[axis].clone();
    }
    shape[axis] = if shapes.contains(&None) { c.unknown(axis) } else { total };
    let ints = (shape.len() == 1).then(|| (0..c.arity()).map(|i| c.ints(i)).collect::<Option<Vec<_>>>()).flatten();
    Ok(vec![Fact::new(dtype, shape).with_ints(ints.map(|parts| parts.concat()))])
}

/// y = [x₁, x₂, …]            dy = Σₖ dxₖ, each between zeros
fn concat<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0).shape();
    let rank = y.len() as i64;
    let axis = c.int("axis", 0);
    let axis = (if axis < 0 { axis.saturating_add(rank) } else { axis }) as usize;
    let sizes: Vec<Dim> = (0..c.arity()).map(|i| c.x(i).shape().get(axis).cloned().unwrap_or(Dim::Fixed(0))).collect();
    let mut sum = c.zero();
    for k in 0..c.arity() {
        let around = |part: &[Dim]| part.iter().cloned().fold(Dim::Fixed(0), |a, d| a + d);
        let mut pads = vec![(Dim::Fixed(0), Dim::Fixed(0)); y.len()];
        if let Some(pad) = pads.get_mut(axis) {
            *pad = (around(&sizes[..k]), around(&sizes[k + 1..]));
        }
        sum = sum + c.dx(k).pad(pads);
    }
    sum
}

pub static CONCAT: Op = Op {
    name: "Concat",
    facts: concat_facts,
    tangent: Tangent::Rule(concat),
    eval: |c| {
        let parts: Vec<&Array> = (0..c.inputs.len()).map(|i| c.input(i)).collect::<Result<_, _>>()?;
        let axis = c.axis(c.int("axis", 0), c.input(0)?.shape().len())?;
        let views: Vec<_> = parts.iter().map(|a| a.data.view()).collect();
        let data = ndarray::concatenate(Axis(axis), &views)
            .map_err(|e| Fault::Unsupported { what: format!("concatenation: {e}") })?;
        Ok(vec![Array::new(c.dtype(0), data)])
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3]).real(&[2, 1]).real(&[2, 2]).attr("axis", 1),
            Case::new().real(&[2, 3]).real(&[0, 3]).attr("axis", -2),
            Case::new().real(&[2]).attr("axis", 0),
        ]
    },
};

/// The sizes of the parts: given, or equal with a smaller last one.
fn part_sizes(split: Option<Vec<Dim>>, whole: &Dim, parts: usize) -> Vec<Dim> {
    if let Some(split) = split {
        return split;
    }
    let each = whole.div_ceil(parts.max(1) as i64);
    let last = whole.clone() - each.clone() * Dim::from(parts.saturating_sub(1));
    let mut sizes = vec![each; parts];
    if let Some(size) = sizes.last_mut() {
        *size = last;
    }
    sizes
}

fn split_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::unknown(dtype); c.outputs]) };
    let axis = c.axis(c.int("axis", 0), x.len())?;
    let sizes = match (c.has(1), c.ints(1)) {
        // Unknown sizes, each a symbol of its own.
        (true, None) => (0..c.outputs).map(|k| c.unknown(x.len() + k)).collect(),
        (true, Some(split)) => split.to_vec(),
        (false, _) => {
            let parts = usize::try_from(c.int("num_outputs", c.outputs as i64)).unwrap_or(c.outputs);
            // An odd division of an unknown size can leave less than the last part.
            match x[axis].div_exact(&Dim::from(parts)) {
                Some(each) => vec![each; parts],
                None => part_sizes(None, &x[axis], parts),
            }
        }
    };
    if sizes.len() < c.outputs {
        let expected = format!("{} parts", c.outputs);
        return Err(Fault::Shape { what: "split", found: show(&sizes), expected });
    }
    let total = sizes.iter().cloned().fold(Dim::Fixed(0), |a, d| a + d);
    if let (Some(total), Some(whole)) = (total.fixed(), x[axis].fixed())
        && total != whole
    {
        return Err(Fault::Shape { what: "split", found: show(&sizes), expected: whole.to_string() });
    }
    let mut start = 0;
    let facts = sizes.into_iter().take(c.outputs).map(|size| {
        let end = size.fixed().and_then(|n| usize::try_from(n).ok()).map(|n| start + n);
        let ints = c.ints(0).and_then(|v| v.get(start..end?)).map(<[Dim]>::to_vec);
        start = end.unwrap_or(usize::MAX / 2);
        let mut shape = x.clone();
        shape[axis] = size;
        Fact::new(dtype, shape).with_ints(ints)
    });
    Ok(facts.collect())
}

/// yₖ = x[startₖ : endₖ]            dyₖ = dx[startₖ : endₖ]
fn split<'g>(c: &Cx<'g>) -> Tan<'g> {
    let axis = c.axis(0);
    let mut start = Dim::Fixed(0);
    for k in 0..c.output() {
        // An output that nobody asked for still takes its place.
        let size = match (c.has_out(k), c.dims(1)) {
            (true, _) => c.out(k).dim(axis),
            (false, Some(sizes)) => sizes.get(k).cloned().unwrap_or(Dim::Fixed(0)),
            (false, None) if c.has(1) => return c.blocked("the size of an output left out is only known at run time"),
            (false, None) => c.out(c.output()).dim(axis),
        };
        start = start + size;
    }
    c.dx(0).slice(axis, &start, &c.out(c.output()).dim(axis))
}

fn split_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.axis(c.int("axis", 0), x.shape().len())?;
    let given = c.ints(1).map(|v| v.into_iter().map(Dim::Fixed).collect());
    let parts = usize::try_from(c.int("num_outputs", c.outputs as i64)).unwrap_or(c.outputs);
    let mut start = 0;
    let mut out = Vec::new();
    for size in part_sizes(given, &Dim::from(x.shape()[axis]), parts) {
        let end = start + size.fixed().unwrap_or(0).max(0) as usize;
        if end > x.shape()[axis] {
            return Err(Fault::Shape { what: "split", found: end.to_string(), expected: x.shape()[axis].to_string() });
        }
        out.push(Array::new(x.dtype, x.data.slice_axis(Axis(axis), Slice::from(start..end)).to_owned()));
        start = end;
    }
    Ok(out)
}

pub static SPLIT: Op = Op {
    name: "Split",
    facts: split_facts,
    tangent: Tangent::Rule(split),
    eval: split_eval,
    cases: || {
        vec![
            Case::new().real(&[2, 6]).attr("axis", 1).attr("num_outputs", 3).outputs(3),
            Case::new().real(&[5, 2]).attr("num_outputs", 2).outputs(2),
            Case::new().real(&[2, 5]).const_ints(&[3], &[2, 0, 3]).attr("axis", -1).outputs(3),
            Case::new().real(&[3]).ints(&[2], &[1, 2]).outputs(2),
        ]
    },
};
