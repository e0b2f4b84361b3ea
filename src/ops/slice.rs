//! Slice.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Val};

/// Bounds from here on mean "to the end", whatever the size.
const FAR: i64 = i32::MAX as i64 - 1;

/// What a slice takes of one axis: elements `start`, `start + step`, …, `size` of them.
struct Cut {
    start: Dim,
    size: Dim,
}

/// `⌈length / step⌉`, not below 0.
fn steps(length: Dim, step: i64) -> Dim {
    match length.div_ceil(step) {
        Dim::Fixed(n) => Dim::Fixed(n.max(0)),
        size => size,
    }
}

/// Exactly what ONNX says, for known numbers.
fn fixed_cut(n: i64, start: i64, end: i64, step: i64) -> (i64, i64) {
    let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (lo, hi) = (from_end(start), from_end(end));
    if step > 0 {
        let (lo, hi) = (lo.max(0).min(n), hi.max(0).min(n));
        (lo, steps(Dim::Fixed(hi - lo), step).fixed().unwrap_or(0))
    } else {
        let (lo, hi) = (lo.max(0).min(n - 1), hi.max(-1).min(n - 1));
        (lo, steps(Dim::Fixed(lo - hi), step.saturating_neg()).fixed().unwrap_or(0))
    }
}

/// A bound counted from the front. A symbolic one, and a near one of a symbolic size, is taken to lie inside.
fn bound(n: &Dim, at: &Dim, step: i64) -> Dim {
    let outside = Dim::Fixed(if step > 0 { 0 } else { -1 });
    match at {
        Dim::Fixed(v) if *v >= FAR => n.clone(),
        Dim::Fixed(v) if *v <= -FAR => outside,
        Dim::Fixed(v) if *v < 0 => n.clone() + at.clone(),
        Dim::Symbol(p) if p.terms().all(|(_, c)| c < 0) => n.clone() + at.clone(),
        _ => at.clone(),
    }
}

/// `start:end:step` of an axis of size `n`; `None` where the size is not known from these.
fn cut(n: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<Cut> {
    if let (Some(n), Some(start), Some(end)) = (n.fixed(), start.fixed(), end.fixed()) {
        let (start, size) = fixed_cut(n, start, end, step);
        return Some(Cut { start: start.into(), size: size.into() });
    }
    let (lo, hi) = (bound(n, start, step), bound(n, end, step));
    if step < 0 {
        let lo = if lo == *n { lo - Dim::Fixed(1) } else { lo };
        // A fixed start may lie beyond a symbolic end of the axis.
        if lo.fixed().is_some() && n.fixed().is_none() {
            return None;
        }
        return Some(Cut { size: steps(lo.clone() - hi, step.saturating_neg()), start: lo });
    }
    match (&lo, &hi) {
        // One element of a symbolic axis is taken to be there; more may be cut short.
        (Dim::Fixed(a), Dim::Fixed(b)) if n.fixed().is_none() && b - a > 1 => {
            let shorter = Dim::symbol(&format!("min({n}, {b})"));
            Some(Cut { size: steps(shorter - lo.clone(), step), start: lo })
        }
        (Dim::Symbol(_), Dim::Fixed(_)) if n.fixed().is_none() => None,
        _ => Some(Cut { size: steps(hi - lo.clone(), step), start: lo }),
    }
}

fn bad_step() -> Fault {
    Fault::Attribute { name: "steps", found: "0".into(), expected: "a step".into() }
}

/// Axes and steps as numbers, where they are known: `None` without them.
fn axes_and_steps(
    count: usize,
    rank: usize,
    axes: Option<Option<Vec<i64>>>,
    steps: Option<Option<Vec<i64>>>,
) -> Option<(Vec<usize>, Vec<i64>)> {
    let axes = axes.unwrap_or_else(|| Some((0..count as i64).collect()))?;
    let steps = steps.unwrap_or_else(|| Some(vec![1; count]))?;
    let axes: Vec<usize> = axes.iter().filter_map(|&a| super::eval_cx::wrapped(a, rank).ok()).collect();
    (axes.len() == count && steps.len() == count).then_some((axes, steps))
}

fn slice_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    let optional = |i: usize| c.has(i).then(|| c.fixed_ints(i));
    if let Some(Some(axes)) = optional(3) {
        c.axes(&axes, x.len())?;
    }
    let count = c.get(1).and_then(|f| f.shape.as_ref()?.first()?.fixed());
    if let Some(count) = count.filter(|&count| count > x.len() as i64) {
        let expected = format!("at most one for each of {} axes", x.len());
        return Err(Fault::Shape { what: "starts", found: count.to_string(), expected });
    }
    let known = count.and_then(|n| axes_and_steps(n.max(0) as usize, x.len(), optional(3), optional(4)));
    let Some((axes, steps)) = known else {
        let shape: Vec<Dim> = (0..x.len()).map(|i| c.unknown(i)).collect();
        return Ok(vec![Fact::new(c.dtype(0)?, shape)]);
    };
    if steps.contains(&0) {
        return Err(bad_step());
    }
    let mut shape = x.to_vec();
    let mut ints = c.ints(0).map(<[Dim]>::to_vec);
    for (j, (&axis, &step)) in axes.iter().zip(&steps).enumerate() {
        let bounds = c.ints(1).and_then(|s| s.get(j)).zip(c.ints(2).and_then(|e| e.get(j)));
        let cut = bounds.and_then(|(start, end)| cut(&x[axis], start, end, step));
        ints = ints.zip(cut.as_ref()).and_then(|(ints, cut)| taken(&ints, cut, step));
        shape[axis] = cut.map_or_else(|| c.unknown(axis), |cut| cut.size);
    }
    Ok(vec![Fact::new(c.dtype(0)?, shape).with_ints(ints)])
}

fn taken(ints: &[Dim], cut: &Cut, step: i64) -> Option<Vec<Dim>> {
    let (start, size) = (cut.start.fixed()?, cut.size.fixed()?);
    let at = |k: i64| usize::try_from(k.checked_mul(step)?.checked_add(start)?).ok();
    (0..size).map(|k| ints.get(at(k)?).cloned()).collect()
}

/// Steps up to this may be longer than an axis whose size is not known.
const SHORT: i64 = 16;

/// Whether whole blocks of `step` have about as many elements as the axis: of two or more in a known number, it has all but
/// the end of the last.
fn pads_little(cut: &Cut, step: i64) -> bool {
    step > 1 && cut.size != Dim::Fixed(0) && (cut.size.fixed().is_some() || step <= SHORT)
}

/// Every `step`-th element: the axis padded to whole blocks of `step`, of which the first column stays.
fn strided<'g>(t: Tan<'g>, axis: usize, cut: &Cut, step: i64) -> Tan<'g> {
    let shape = t.shape();
    let Some(n) = shape.get(axis) else { return t };
    let (zero, blocks) = (Dim::Fixed(0), cut.size.clone() * Dim::Fixed(step));
    let mut pads = vec![(zero.clone(), zero.clone()); shape.len()];
    pads[axis] = (zero.clone() - cut.start.clone(), cut.start.clone() + blocks - n.clone());
    let mut split = shape.clone();
    split[axis] = cut.size.clone();
    let result = split.clone();
    split.insert(axis + 1, Dim::Fixed(step));
    t.pad(pads).reshape(&split).slice(axis as i64 + 1, &zero, &Dim::Fixed(1)).reshape(&result)
}

/// The positions `start:end:step` along an axis, from the node's own bounds.
fn positions<'g>(c: &Cx<'g>, j: usize, axis: usize) -> Val<'g> {
    let one = |i: usize| c.x(i).slice(0, j as i64, j as i64 + 1);
    let range = c.b.range(&c.x(0).dim(axis as i64));
    let mut inputs = vec![range, one(1), one(2), c.b.constant(crate::ir::Tensor::ints(&[1], &[0])).cast(c.x(1).dtype())];
    if c.has(4) {
        inputs.push(one(4));
    }
    c.b.op("Slice", &inputs, Attrs::new())
}

/// y = x[start:end:step]            dy = dx[start:end:step]
fn slice<'g>(c: &Cx<'g>) -> Tan<'g> {
    let optional = |i: usize| c.has(i).then(|| c.ints(i));
    let count = c.x(1).dim(0).fixed().unwrap_or(-1);
    let (x, y) = (c.x(0).shape(), c.out(0).shape());
    let known = usize::try_from(count).ok().and_then(|n| axes_and_steps(n, x.len(), optional(3), Some(Some(vec![1; n]))));
    let Some((axes, _)) = known else {
        let rest: Vec<Option<Val>> = (1..c.arity()).map(|i| c.has(i).then(|| c.x(i))).collect();
        return c.by_position(false, |at, _| {
            let inputs: Vec<Option<Val>> = std::iter::once(Some(at)).chain(rest).collect();
            c.b.node("Slice", &inputs, c.attrs().clone(), 1)[0]
        });
    };
    let (starts, ends, steps) = (c.dims(1), c.dims(2), optional(4));
    let mut t = c.dx(0);
    for (j, &axis) in axes.iter().enumerate() {
        let bounds = starts.as_ref().and_then(|s| s.get(j)).zip(ends.as_ref().and_then(|e| e.get(j)));
        let step = steps.as_ref().map_or(Some(1), |s| s.as_ref()?.get(j).copied());
        let cut = bounds.zip(step).and_then(|((start, end), step)| cut(&x[axis], start, end, step));
        t = match (cut, step) {
            (Some(cut), Some(step)) if step == 1 || cut.size.is_one() => t.slice(axis as i64, &cut.start, &cut.size),
            (Some(cut), Some(step)) if pads_little(&cut, step) => strided(t, axis, &cut, step),
            _ => {
                let index = positions(c, j, axis);
                c.b.refine_fact(index, &Fact::new(index.dtype(), [y[axis].clone()]));
                t.gather(index, axis as i64)
            }
        };
    }
    t
}

fn slice_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let rank = x.shape().len();
    let (Some(starts), Some(ends)) = (c.ints(1), c.ints(2)) else {
        return Err(Fault::Missing { index: 1, needs: "starts and ends" });
    };
    let count = starts.len().min(ends.len());
    let known = axes_and_steps(count, rank, c.get(3).map(|_| c.ints(3)), c.get(4).map(|_| c.ints(4)));
    let (axes, steps) = known.ok_or(Fault::Unsupported { what: "axes or steps do not fit".into() })?;
    let mut cuts: Vec<(i64, i64)> = vec![(0, 1); rank];
    let mut shape = x.shape().to_vec();
    for (j, (&axis, &step)) in axes.iter().zip(&steps).enumerate() {
        if step == 0 {
            return Err(bad_step());
        }
        let (start, size) = fixed_cut(x.shape()[axis] as i64, starts[j], ends[j], step);
        cuts[axis] = (start, step);
        shape[axis] = size.max(0) as usize;
    }
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let from: Vec<usize> = at.iter().zip(&cuts).map(|(&k, (start, step))| (start + k as i64 * step) as usize).collect();
        x.at(&from)
    })?;
    Ok(vec![y])
}

pub static SLICE: Op = Op {
    name: "Slice",
    facts: |c| c.unknown_rank(c.dtype(0)?, slice_facts(c)),
    tangent: Tangent::Rule(slice),
    eval: slice_eval,
    cases: || {
        let x = || Case::new().real(&[3, 6]);
        vec![
            x().const_ints(&[2], &[0, 1]).const_ints(&[2], &[2, -1]),
            x().const_ints(&[1], &[-3]).const_ints(&[1], &[i64::MAX]).const_ints(&[1], &[-1]),
            x().const_ints(&[1], &[1]).const_ints(&[1], &[6]).const_ints(&[1], &[1]).const_ints(&[1], &[2]),
            x().const_ints(&[1], &[0]).const_ints(&[1], &[4]).const_ints(&[1], &[1]).const_ints(&[1], &[3]),
            x().const_ints(&[1], &[-1]).const_ints(&[1], &[i64::MIN]).const_ints(&[1], &[0]).const_ints(&[1], &[-1]),
            x().const_ints(&[1], &[4]).const_ints(&[1], &[0]).const_ints(&[1], &[1]).const_ints(&[1], &[-2]),
            x().const_ints(&[1], &[5]).const_ints(&[1], &[2]).const_ints(&[1], &[1]),
            x().ints(&[1], &[1]).ints(&[1], &[3]).const_ints(&[1], &[1]),
            x().ints(&[2], &[2, 4]).ints(&[2], &[-9, 0]).ints(&[2], &[0, 1]).ints(&[2], &[-1, -2]),
        ]
    },
};
