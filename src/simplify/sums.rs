//! Sums over axes, and what is reshaped around them.

use super::layout::runs;
use super::{Site, made_by, operand, same_shape};
use crate::ir::{Dim, Val, count};

/// `Σ` over axes of size 1 is a squeeze
pub(super) fn reduced_size_one<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if !s.is(&["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"]) {
        return None;
    }
    let (x, axes) = (s.x(0)?, s.x(1)?.known_ints()?);
    let shape = x.fact().shape?;
    let at = |a: i64| if a < 0 { a + shape.len() as i64 } else { a };
    let ones = !axes.is_empty() && axes.iter().all(|&a| shape.get(at(a) as usize).is_some_and(Dim::is_one));
    if !ones {
        return None;
    }
    Some(if s.attrs.int("keepdims") == Some(0) { x.squeeze(&axes) } else { x })
}

/// Axes counted from the front, where they are known and there are some.
pub(super) fn axes_of<'g>(x: Val<'g>, axes: Option<Val<'g>>) -> Option<Vec<i64>> {
    let rank = x.fact().rank()? as i64;
    let mut axes: Vec<i64> = axes?.known_ints()?.into_iter().map(|a| if a < 0 { a + rank } else { a }).collect();
    axes.sort_unstable();
    (!axes.is_empty()).then_some(axes)
}

/// The reduced tensor and its axes, where `v` is a sum that keeps its rank.
fn kept_sum<'g>(v: Val<'g>) -> Option<(Val<'g>, Vec<i64>)> {
    let node = made_by(v, "ReduceSum")?;
    if node.attrs.int("keepdims") == Some(0) {
        return None;
    }
    let x = v.builder().val(node.input(0)?);
    let axes = axes_of(x, node.input(1).map(|id| v.builder().val(id)))?;
    Some((x, axes))
}

/// `Σ_B Σ_A x = Σ_{A∪B} x`
pub(super) fn one_sum<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "ReduceSum" {
        return None;
    }
    let (x, inner) = kept_sum(s.x(0)?)?;
    let outer = axes_of(s.x(0)?, s.x(1))?;
    let mut both: Vec<i64> = inner.iter().chain(&outer).copied().collect();
    both.sort_unstable();
    both.dedup();
    let sum = x.sum_keep(&both);
    Some(if s.attrs.int("keepdims") == Some(0) { sum.squeeze(&outer) } else { sum })
}

/// `Reshape(Σ_A x) = Σ_B x`, where the reshape only drops axes of size 1: of `A`, and of `x` itself, which join `B`
pub(super) fn sum_without_ones<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if !s.is(&["Reshape", "Squeeze"]) {
        return None;
    }
    let (reduced, sum) = (s.x(0)?, made_by(s.x(0)?, "ReduceSum")?);
    let x = s.b.val(sum.input(0)?);
    let axes = axes_of(x, Some(s.b.val(sum.input(1)?)))?;
    let target: Vec<Dim> = if s.op == "Squeeze" {
        let dropped = axes_of(reduced, s.x(1))?;
        let kept = reduced.fact().shape?.into_iter().enumerate().filter(|(i, _)| !dropped.contains(&(*i as i64)));
        kept.map(|(_, d)| d).collect()
    } else {
        s.x(1)?.fact().ints?.to_vec()
    };
    let (mut gone, mut open, mut rest) = (axes.clone(), 0, target.iter().peekable());
    for (i, size) in x.fact().shape?.iter().enumerate().filter(|(i, _)| !axes.contains(&(*i as i64))) {
        match rest.peek() {
            Some(wanted) if *wanted == size => drop(rest.next()),
            Some(Dim::Fixed(-1)) => {
                open += 1;
                rest.next();
            }
            _ if size.is_one() => gone.push(i as i64),
            _ => return None,
        }
    }
    gone.sort_unstable();
    (rest.next().is_none() && open <= 1 && !target.contains(&Dim::Fixed(0))).then(|| x.sum(&gone))
}

/// `Σ_A Reshape(x) = Σ_B x`, where the reshape only splits or joins neighbouring axes, of which `A` and `B` are the same;
/// else a sum over all axes but the last is one over the rows of a matrix
pub(super) fn reshaped_sum<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "ReduceSum" || s.attrs.int("keepdims") != Some(0) {
        return None;
    }
    let reshaped = s.x(0)?;
    let x = operand(reshaped, "Reshape")?;
    let (from, to) = (x.fact().shape?, reshaped.fact().shape?);
    let axes: Vec<usize> = axes_of(reshaped, s.x(1))?.iter().map(|&a| a as usize).collect();
    if let Some(summed) = axes_before(&from, &to, &axes) {
        return Some(x.sum(&summed));
    }
    let (last, rows) = to.split_last()?;
    let all_rows = rows.len() > 1 && axes.iter().copied().eq(0..rows.len());
    all_rows.then(|| x.reshape(&[count(rows), last.clone()]).sum(&[0]))
}

/// The axes of `from` that `axes` of its reshape `to` are made of, where what is left has the same shape.
fn axes_before(from: &[Dim], to: &[Dim], axes: &[usize]) -> Option<Vec<i64>> {
    let (mut summed, mut rest): (Vec<i64>, Vec<Dim>) = (Vec::new(), Vec::new());
    if from.len() > to.len() {
        for (axis, run) in runs(from, to)?.into_iter().enumerate() {
            match axes.contains(&axis) {
                true => summed.extend(run.map(|i| i as i64)),
                false => rest.extend_from_slice(&from[run]),
            }
        }
    } else {
        for (axis, run) in runs(to, from)?.into_iter().enumerate() {
            match run.clone().filter(|i| axes.contains(i)).count() {
                0 => rest.push(from[axis].clone()),
                n if n == run.len() => summed.push(axis as i64),
                _ => return None,
            }
        }
    }
    let kept: Vec<Dim> = (0..to.len()).filter(|i| !axes.contains(i)).map(|i| to[i].clone()).collect();
    (rest == kept && !summed.is_empty()).then_some(summed)
}

/// `Reshape(x) ± Reshape(y) = Reshape(x ± y)` and `(z + Reshape(x)) + Reshape(y) = z + Reshape(x + y)` of equal shapes
pub(super) fn sum_of_reshaped<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if !s.is(&["Add", "Sub"]) || !s.x(0)?.dtype().is_float() {
        return None;
    }
    let (a, b) = (s.x(0)?, s.x(1)?);
    let y = operand(b, "Reshape")?;
    let shape = b.fact().shape?;
    let fits = |v: Val<'g>| operand(v, "Reshape").filter(|&x| same_shape(v, b) && same_shape(x, y));
    if let Some(x) = fits(a) {
        return Some(s.with(&[x, y]).reshape(&shape));
    }
    let sum = made_by(a, "Add").filter(|_| s.op == "Add")?;
    let (z, x) = (s.b.val(sum.input(0)?), s.b.val(sum.input(1)?));
    let x = fits(x).filter(|_| same_shape(z, b))?;
    Some(z + (x + y).reshape(&shape))
}
