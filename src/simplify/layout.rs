//! Operators that only move, repeat or cut elements.

use super::{Made, Site, made_by, operand, same_shape};
use crate::ir::{Attrs, Dim, Val, broadcast_named};
use std::ops::Range;

/// An identity, a transposition, reshape, expansion, slice or pad that changes nothing: `f(x) = x`
pub(super) fn nothing_to_do<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let x = s.x(0)?;
    match s.op {
        "Identity" => Some(x),
        "Transpose" => {
            let perm = s.attrs.ints("perm")?;
            let still = perm.iter().enumerate().all(|(i, &p)| i as i64 == p);
            still.then_some(x)
        }
        "Reshape" | "Expand" => {
            let target = s.x(1)?.fact().ints?;
            let shape = x.fact().shape?;
            let same = shape.len() == target.len()
                && shape.iter().zip(target.iter()).all(|(d, t)| d == t || (s.op == "Expand" && t.is_one()));
            let open = s.op == "Reshape" && reshapes_to_itself(&shape, &target, s.attrs);
            (same || open).then_some(x)
        }
        _ => None,
    }
}

/// Whether a target with `0` or one `−1` spells the shape that is there already.
fn reshapes_to_itself(shape: &[Dim], target: &[Dim], attrs: &Attrs) -> bool {
    let copies = attrs.int("allowzero").unwrap_or(0) == 0;
    let open = target.iter().filter(|t| **t == Dim::Fixed(-1)).count();
    let symbols = shape.iter().zip(target).filter(|(d, t)| d.fixed().is_none() && **t == Dim::Fixed(-1)).count();
    shape.len() == target.len()
        && open <= 1
        && open == symbols
        && shape.iter().zip(target).all(|(d, t)| d == t || *t == Dim::Fixed(-1) || (copies && *t == Dim::Fixed(0)))
}

/// `Transpose_p(Transpose_q(x)) = Transpose_{q∘p}(x)`, `Reshape(Reshape(x)) = Reshape(x)`,
/// `Expand(Expand(x)) = Expand(x)`, `Reshape(Squeeze(x)) = Reshape(x)`, `Squeeze_a(Unsqueeze_a(x)) = x`
pub(super) fn same_again<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let x = s.x(0)?;
    match s.op {
        "Transpose" => {
            let node = made_by(x, "Transpose")?;
            let (outer, inner) = (s.attrs.ints("perm")?, node.attrs.ints("perm")?);
            let both: Vec<i64> = outer.iter().map(|&p| inner.get(p as usize).copied()).collect::<Option<_>>()?;
            Some(s.b.val(node.input(0)?).permute(&both))
        }
        "Reshape" => {
            let inner = ["Reshape", "Squeeze", "Unsqueeze", "Flatten"].iter().find_map(|op| operand(x, op))?;
            let target = s.x(1)?.fact().ints?;
            // A zero copies a dimension of what is reshaped, so it may not skip a step.
            let plain = target.iter().all(|d| *d != Dim::Fixed(0));
            plain.then(|| s.replacing(0, inner))
        }
        "Squeeze" => {
            let node = made_by(x, "Unsqueeze")?;
            let axes = s.x(1)?.known_ints()?;
            (axes == s.b.val(node.input(1)?).known_ints()?).then(|| s.b.val(node.input(0).unwrap_or(x.id())))
        }
        "Expand" => {
            let inner = operand(x, "Expand")?;
            let target = s.x(1)?.fact().ints?;
            let grown = broadcast_named(&x.fact().shape?, &target)?;
            let alone = broadcast_named(&inner.fact().shape?, &target)?;
            (grown == alone).then(|| s.replacing(0, inner))
        }
        _ => None,
    }
}

/// `Reshape(Transpose_p(Reshape(x))) = Reshape(Transpose_q(x))` where the inner reshape only joins neighbouring axes: `q`
/// moves them together
pub(super) fn joined_axes<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Reshape" {
        return None;
    }
    let transpose = made_by(s.x(0)?, "Transpose")?;
    let joined = s.b.val(transpose.input(0)?);
    let x = operand(joined, "Reshape")?;
    let runs = runs(&x.fact().shape?, &joined.fact().shape?)?;
    let mut perm = Vec::new();
    for &axis in transpose.attrs.ints("perm")? {
        perm.extend(runs.get(usize::try_from(axis).ok()?)?.clone().map(|i| i as i64));
    }
    // A zero copies a dimension of what is reshaped.
    let plain = s.x(1)?.fact().ints?.iter().all(|d| *d != Dim::Fixed(0));
    plain.then(|| s.replacing(0, x.permute(&perm)))
}

/// The neighbouring axes of `from` that each axis of `to` joins, where that is all that changes.
pub(super) fn runs(from: &[Dim], to: &[Dim]) -> Option<Vec<Range<usize>>> {
    let mut at = 0;
    let mut runs = Vec::new();
    for size in to {
        let (start, mut product) = (at, Dim::Fixed(1));
        while product != *size {
            product = product * from.get(at)?.clone();
            at += 1;
        }
        runs.push(start..at);
    }
    // Axes of size 1 may stay over.
    from[at..].iter().all(Dim::is_one).then_some(())?;
    runs.last_mut()?.end = from.len();
    Some(runs)
}

/// `Expand(x) ⊙ y = x ⊙ y` where `y` alone gives the whole shape, for every elementwise operator
pub(super) fn expanded_operand<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    let places: &[usize] = match s.op {
        "Add" | "Sub" | "Mul" | "Div" | "Equal" | "Greater" | "Less" | "And" | "Or" | "Pow" => &[0, 1],
        "Where" => &[0, 1, 2],
        _ => return None,
    };
    let whole = common_shape(s, places, None)?;
    places.iter().find_map(|&i| {
        let inner = operand(s.x(i)?, "Expand")?;
        let without = common_shape(s, places, Some((i, inner)))?;
        (without == whole).then(|| s.replacing(i, inner))
    })
}

fn common_shape<'g>(s: &Site<'g, '_>, places: &[usize], replace: Option<(usize, Val<'g>)>) -> Option<Vec<Dim>> {
    let mut shape: Vec<Dim> = Vec::new();
    for &i in places {
        let v = match replace {
            Some((at, v)) if at == i => v,
            _ => s.x(i)?,
        };
        shape = broadcast_named(&shape, &v.fact().shape?)?;
    }
    Some(shape)
}

/// The zeros before and after each axis, where `v` is padded with them.
fn zero_pad<'g>(v: Val<'g>) -> Option<(Val<'g>, Vec<(Dim, Dim)>)> {
    let node = made_by(v, "Pad")?;
    if node.inputs.len() != 2 || node.attrs.str("mode").is_some_and(|m| m != "constant") {
        return None;
    }
    let b = v.builder();
    let pads = b.val(node.input(1)?).fact().ints?;
    let rank = pads.len() / 2;
    Some((b.val(node.input(0)?), (0..rank).map(|i| (pads[i].clone(), pads[i + rank].clone())).collect()))
}

/// So many parts are put together at once: a concatenation of concatenations would else double with each one around it.
const PARTS: usize = 1024;

/// `[x, 0] + [0, y] = [x, y]`
pub(super) fn sum_of_parts<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Add" || !same_shape(s.x(0)?, s.x(1)?) {
        return None;
    }
    let ((x, px), (y, py)) = (zero_pad(s.x(0)?)?, zero_pad(s.x(1)?)?);
    let zero = Dim::Fixed(0);
    let differing: Vec<usize> = (0..px.len()).filter(|&i| px[i] != py[i]).collect();
    let [axis] = differing.as_slice() else { return None };
    let (sx, sy) = (x.fact().shape?, y.fact().shape?);
    let (size_x, size_y) = (sx[*axis].clone(), sy[*axis].clone());
    let ((first, before), (second, after, size_second)) = if px[*axis].0.clone() + size_x.clone() == py[*axis].0 {
        ((x, &px), (y, &py, size_y))
    } else if py[*axis].0.clone() + size_y.clone() == px[*axis].0 {
        ((y, &py), (x, &px, size_x))
    } else {
        return None;
    };
    // The second part's zeros in front are exactly the first part's elements and zeros in front.
    let rest = before[*axis].1.clone() == size_second.clone() + after[*axis].1.clone();
    if !rest {
        return None;
    }
    let mut parts: Vec<Val<'g>> = Vec::new();
    for part in [first, second] {
        let is_shorter = |n: &Made| parts.len() + n.inputs.len() <= PARTS;
        match made_by(part, "Concat").filter(|n| n.attrs.int("axis") == Some(*axis as i64) && is_shorter(n)) {
            Some(node) => parts.extend(node.inputs.iter().flatten().map(|&id| s.b.val(id))),
            None => parts.push(part),
        }
    }
    let joined = s.b.op("Concat", &parts, Attrs::new().with("axis", *axis as i64));
    let mut pads = before.clone();
    pads[*axis] = (before[*axis].0.clone(), after[*axis].1.clone());
    if pads.iter().all(|(a, b)| *a == zero && *b == zero) {
        return Some(joined);
    }
    let all: Vec<Dim> = pads.iter().map(|p| p.0.clone()).chain(pads.iter().map(|p| p.1.clone())).collect();
    Some(s.b.op("Pad", &[joined, s.b.shape_value(&all)], Attrs::new()))
}
