//! Pad.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Val};

/// The pads of every axis, from the flat list `[begins…, ends…]` of some axes.
fn per_axis<T: Clone>(pads: &[T], axes: &[usize], rank: usize, none: T) -> Option<Vec<(T, T)>> {
    if pads.len() != 2 * axes.len() {
        return None;
    }
    let (begins, ends) = pads.split_at(axes.len());
    let mut all = vec![(none.clone(), none); rank];
    for ((&axis, begin), end) in axes.iter().zip(begins).zip(ends) {
        *all.get_mut(axis)? = (begin.clone(), end.clone());
    }
    Some(all)
}

fn misfit(found: usize, rank: usize) -> Fault {
    Fault::Shape { what: "pads", found: format!("{found} numbers"), expected: format!("two for each of {rank} axes") }
}

fn pad_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.one_number(2)?;
    let (x, dtype) = (c.shape(0)?, c.dtype(0)?);
    let unknown = || (0..x.len()).map(|i| c.unknown(i)).collect::<Vec<Dim>>();
    let axes = match (c.has(3), c.fixed_ints(3)) {
        (true, Some(axes)) => c.axes(&axes, x.len())?,
        (true, None) => return Ok(vec![Fact::new(dtype, unknown())]),
        (false, _) => (0..x.len()).collect(),
    };
    let Some(pads) = c.ints(1) else {
        let dim = |(i, d): (usize, &Dim)| if axes.contains(&i) { c.unknown(i) } else { d.clone() };
        return Ok(vec![Fact::new(dtype, x.iter().enumerate().map(dim).collect::<Vec<_>>())]);
    };
    let all = per_axis(pads, &axes, x.len(), Dim::Fixed(0)).ok_or_else(|| misfit(pads.len(), axes.len()))?;
    let shape: Vec<Dim> = x.iter().zip(all).map(|(d, (a, b))| d.clone() + a + b).collect();
    Ok(vec![Fact::new(dtype, shape)])
}

/// The same Pad of something else than the data.
fn again<'g>(c: &Cx<'g>, data: Val<'g>, fill: Option<Val<'g>>) -> Val<'g> {
    let mut inputs = vec![Some(data), Some(c.x(1)), fill];
    if c.has(3) {
        inputs.push(Some(c.x(3)));
    }
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    c.b.node("Pad", &inputs, c.attrs().clone(), 1)[0]
}

/// The known pads of every axis.
fn known_pads(c: &Cx) -> Option<Vec<(Dim, Dim)>> {
    let rank = c.x(0).rank();
    let axes = if c.has(3) { c.ints(3)? } else { (0..rank as i64).collect() };
    let axes: Vec<usize> = axes.iter().map(|&a| super::eval_cx::wrapped(a, rank).ok()).collect::<Option<_>>()?;
    per_axis(&c.dims(1)?, &axes, rank, Dim::Fixed(0))
}

/// y = x between copies of v            dy = dx between zeros + dv where y is v
fn pad_constant<'g>(c: &Cx<'g>) -> Tan<'g> {
    let dx = match known_pads(c) {
        Some(pads) => c.dx(0).pad(pads),
        None if c.dx(0).is_zero() => c.zero(),
        None => c.by_position(true, |at, n| again(c, at, Some(c.b.dim_value(n).squeeze(&[0])))),
    };
    let dv = c.dx(2);
    if dv.is_zero() {
        return dx;
    }
    let holds = |v: f64| c.b.scalar(DType::Bool, v);
    let inside = again(c, holds(1.0).expand(&c.x(0).shape()), Some(holds(0.0)));
    let y = c.out(0);
    c.b.refine_fact(inside, &Fact { dtype: DType::Bool, ..y.fact() });
    dx + dv.reshape(&[]).expand(&y.shape()).mask_not(inside)
}

/// y = x continued past its borders            dy = dx continued likewise: along each axis an index into x
fn pad_copies<'g>(c: &Cx<'g>) -> Tan<'g> {
    let Some(pads) = known_pads(c) else {
        return c.by_position(false, |at, _| again(c, at, None));
    };
    let (x, y) = (c.x(0).shape(), c.out(0).shape());
    let mode = c.attrs().str("mode").unwrap_or_default();
    let mut t = c.dx(0);
    for (axis, (begin, end)) in pads.into_iter().enumerate() {
        if begin == Dim::Fixed(0) && end == Dim::Fixed(0) {
            continue;
        }
        let range = c.b.range(&x[axis]);
        let index = c.b.op("Pad", &[range, c.b.shape_value(&[begin, end])], Attrs::new().with("mode", mode));
        c.b.refine_fact(index, &Fact::new(DType::I64, [y[axis].clone()]));
        t = t.gather(index, axis as i64);
    }
    t
}

fn pad<'g>(c: &Cx<'g>) -> Tan<'g> {
    match c.attrs().str("mode") {
        None | Some("constant") => pad_constant(c),
        Some(_) => pad_copies(c),
    }
}

/// Where position `at` of a padded axis of size `n` comes from; `None` outside.
fn source(mode: &str, at: i64, n: i64, begin: i64, end: i64) -> Option<i64> {
    // Negative pads cut first; what is left is continued.
    let (lo, size) = ((-begin).max(0), n - (-begin).max(0) - (-end).max(0));
    let k = at - begin.max(0);
    if size <= 0 {
        return None;
    }
    let inside = match mode {
        "edge" => k.clamp(0, size - 1),
        "wrap" => k.rem_euclid(size),
        "reflect" => {
            let period = (2 * size - 2).max(1);
            let k = k.rem_euclid(period);
            k.min(period - k).min(size - 1)
        }
        _ if (0..size).contains(&k) => k,
        _ => return None,
    };
    Some(lo + inside)
}

fn pad_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let rank = x.shape().len();
    let pads = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "pads" })?;
    let axes = c.ints(3).unwrap_or_else(|| (0..rank as i64).collect());
    let axes = axes.iter().map(|&a| c.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let all = per_axis(&pads, &axes, rank, 0).ok_or_else(|| misfit(pads.len(), axes.len()))?;
    let fill = c.get(2).and_then(|v| v.data.first().copied()).unwrap_or(0.0);
    let mode = c.attrs.str("mode").unwrap_or("constant");
    let size = |(&n, &(a, b)): (&usize, &(i64, i64))| {
        let size = (n as i64).saturating_add(a).saturating_add(b);
        // Nothing can be continued only by a constant, of which more may be cut than there is of the axis.
        let kept = (n as i64).saturating_add(a.min(0)).saturating_add(b.min(0));
        let fits = size == 0 || kept > 0 || mode == "constant";
        usize::try_from(size).ok().filter(|_| fits).ok_or_else(|| Fault::Shape {
            what: "pads",
            found: format!("{a} and {b}"),
            expected: format!("what an axis of {n} can take"),
        })
    };
    let shape: Vec<usize> = x.shape().iter().zip(&all).map(size).collect::<Result<_, _>>()?;
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let from = at.iter().zip(x.shape()).zip(&all).map(|((&k, &n), &(a, b))| source(mode, k as i64, n as i64, a, b));
        match from.map(|i| i.and_then(|i| usize::try_from(i).ok())).collect::<Option<Vec<usize>>>() {
            Some(from) => x.at(&from),
            None => Ok(fill),
        }
    })?;
    Ok(vec![y])
}

pub static PAD: Op = Op {
    name: "Pad",
    facts: |c| c.unknown_rank(c.dtype(0)?, pad_facts(c)),
    tangent: Tangent::Rule(pad),
    eval: pad_eval,
    cases: || {
        let x = || Case::new().real(&[2, 3]);
        let pads = || x().const_ints(&[4], &[1, 0, 0, 2]);
        vec![
            pads(),
            pads().real(&[]),
            x().const_ints(&[2], &[2, 1]).absent().const_ints(&[1], &[-1]),
            x().const_ints(&[4], &[-1, 1, 0, -1]),
            x().ints(&[4], &[1, 0, 0, 2]),
            x().ints(&[4], &[0, -1, 1, 2]).real(&[]),
            x().const_ints(&[4], &[1, 2, 0, 1]).attr("mode", "reflect"),
            x().const_ints(&[4], &[0, 2, 1, -1]).attr("mode", "edge"),
            x().const_ints(&[4], &[1, 2, 0, 1]).attr("mode", "wrap"),
            x().ints(&[4], &[1, 2, 0, 1]).attr("mode", "reflect"),
            Case::new().real(&[0, 3]).const_ints(&[4], &[1, 0, 1, 0]),
        ]
    },
};
