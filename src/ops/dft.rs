//! Discrete Fourier transforms. Complex numbers are pairs in the last axis.

use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Tensor, Val};
use crate::lower::along;
use std::f64::consts::TAU;

fn flag(attrs: &Attrs, name: &str, default: i64) -> bool {
    attrs.int(name).unwrap_or(default) != 0
}

/// Numbers that a transform of `n` keeps of one side.
fn half(n: &Dim) -> Dim {
    n.div_floor(2) + Dim::Fixed(1)
}

/// The same as a dimension that can be read at run time.
fn kept(c: &FactCx, axis: usize, n: &Dim) -> Dim {
    let whole = n.fixed().is_some() || n.div_exact(&Dim::Fixed(2)).is_some();
    if whole { half(n) } else { c.unknown(axis) }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, x) = (c.dtype(0)?, c.shape(0)?);
    let (inverse, onesided) = (flag(c.attrs, "inverse", 0), flag(c.attrs, "onesided", 0));
    if x.len() < 2 || x.last().and_then(Dim::fixed).is_some_and(|k| k != 1 && k != 2) {
        let expected = "real numbers [..,1] or complex ones [..,2]".into();
        return Err(Fault::Shape { what: "signal", found: show(x), expected });
    }
    let mut shape = x.to_vec();
    let axis = match (c.fixed_ints(2).as_deref(), c.has(2)) {
        (Some(&[axis]), _) => Some(c.axis(axis, x.len())?),
        (_, true) => None,
        (_, false) => Some(x.len() - 2),
    };
    match axis {
        // Whatever the axis, its size stays.
        None if !onesided && !c.has(1) => {}
        None => (0..x.len() - 1).for_each(|axis| shape[axis] = c.unknown(axis)),
        Some(axis) => {
            let length = match (c.ints(1), c.has(1)) {
                (Some([n]), _) => n.clone(),
                (_, true) => c.unknown(axis),
                _ if inverse && onesided => (x[axis].clone() - Dim::Fixed(1)) * Dim::Fixed(2),
                _ => x[axis].clone(),
            };
            shape[axis] = match (onesided && !inverse, length.fixed(), c.has(1)) {
                (false, ..) => length,
                (true, None, true) if c.ints(1).is_none() => c.unknown(axis),
                (true, ..) => kept(c, axis, &length),
            };
        }
    }
    if let Some(last) = shape.last_mut() {
        *last = Dim::Fixed(if inverse && onesided { 1 } else { 2 });
    }
    Ok(vec![Fact::new(dtype, shape)])
}

/// Zeros behind an axis, or its end cut.
fn resized<'g>(t: Tan<'g>, axis: usize, by: Dim) -> Tan<'g> {
    let zero = || Dim::Fixed(0);
    t.pad((0..t.rank()).map(|a| (zero(), if a == axis { by.clone() } else { zero() })).collect())
}

/// y = F x: the transform is linear, and so are the padding before it and the cut behind it
fn dft<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0), c.out(0));
    let rank = x.rank();
    let (inverse, onesided) = (flag(c.attrs(), "inverse", 0), flag(c.attrs(), "onesided", 0));
    let imaginary = Dim::Fixed(2) - x.dim(-1);
    let t = if imaginary == Dim::Fixed(0) { c.dx(0) } else { resized(c.dx(0), rank - 1, imaginary) };
    let axes = if c.has(2) { c.axes_meant(2, rank - 1) } else { vec![(rank as i64 - 2, None)] };
    let axis = match axes.as_slice() {
        [(axis, None)] => *axis as usize,
        _ if onesided || c.has(1) => return c.blocked("which axis changes its size is known only at run time"),
        axes => {
            let along = |(axis, meant): &(i64, Option<Val<'g>>)| {
                let along = t.dft(*axis, inverse);
                meant.map_or(along, |meant| along.mask(meant))
            };
            return axes.iter().map(along).fold(c.zero(), |sum, t| sum + t);
        }
    };
    let (from, to) = (x.dim(axis as i64), y.dim(axis as i64));
    if inverse && onesided {
        return one_side_inverse(c, t, axis, &from, &to);
    }
    let n = match (onesided, c.has(1)) {
        (false, _) => to.clone(),
        (true, false) => from.clone(),
        (true, true) => length(c, 1),
    };
    let whole = resized(t, axis, n.clone() - from).dft(axis as i64, inverse);
    if onesided { resized(whole, axis, to - n) } else { whole }
}

/// The length that input `i` gives, as a dimension that stands in some shape.
fn length(c: &Cx, i: usize) -> Dim {
    if let Some([n]) = c.dims(i).as_deref() {
        return n.clone();
    }
    let int = |v: i64| c.b.constant(Tensor::ints(&[], &[v]));
    c.b.op("Range", &[int(0), c.x(i).cast(DType::I64).reshape(&[]), int(1)], Attrs::new()).dim(0)
}

/// yₙ = Re Σₖ wₖ Xₖ e^{2πikn/N} / N over one side, where wₖ counts the side that is left out
fn one_side_inverse<'g>(c: &Cx<'g>, t: Tan<'g>, axis: usize, from: &Dim, n: &Dim) -> Tan<'g> {
    let (b, rank, dtype) = (c.b, c.x(0).rank(), c.x(0).dtype());
    let side = if c.has(1) { half(n) } else { from.clone() };
    let at = b.range(&side);
    let twice = at + at;
    let alone = at.equal(at.like(0.0)).or(twice.equal(b.dim_value(n)));
    let weights = alone.select(b.scalar(dtype, 1.0), b.scalar(dtype, 2.0));
    let t = resized(t, axis, side.clone() - from.clone()) * along::lay(weights, axis, rank);
    let whole = resized(t, axis, n.clone() - side).dft(axis as i64, true);
    resized(whole, rank - 1, Dim::Fixed(-1))
}

/// `Σₖ xₖ e^{±2πikj/n}`, as real and imaginary part.
fn sum(x: &[(f64, f64)], j: usize, n: usize, sign: f64) -> (f64, f64) {
    x.iter().enumerate().fold((0.0, 0.0), |(re, im), (k, (a, b))| {
        let (sin, cos) = (sign * TAU * ((k * j) % n.max(1)) as f64 / n as f64).sin_cos();
        (re + a * cos - b * sin, im + a * sin + b * cos)
    })
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let (inverse, onesided) = (flag(c.attrs, "inverse", 0), flag(c.attrs, "onesided", 0));
    let axis = c.axis(c.ints(2).and_then(|v| v.first().copied()).unwrap_or(-2), x.shape().len())?;
    let (from, parts) = (x.shape()[axis], x.shape().last().copied().unwrap_or(0));
    let given = c.ints(1).and_then(|v| v.first().copied());
    let n = given.unwrap_or(if inverse && onesided { 2 * from as i64 - 2 } else { from as i64 });
    if axis + 1 == x.shape().len() || !(1..=2).contains(&parts) || !(1..=65536).contains(&n) {
        return Err(Fault::Shape { what: "signal", found: format!("{:?}", x.shape()), expected: "pairs, length 1 or more".into() });
    }
    let n = n as usize;
    let mut shape = x.shape().to_vec();
    shape[axis] = if onesided && !inverse { n / 2 + 1 } else { n };
    *shape.last_mut().unwrap_or(&mut 0) = if onesided && inverse { 1 } else { 2 };
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let part = |k: usize, part: usize| {
            let mut from = at.to_vec();
            (from[axis], from[at.len() - 1]) = (k, part);
            if part < parts { x.at(&from) } else { Ok(0.0) }
        };
        let kept = from.min(if onesided && inverse { n / 2 + 1 } else { n });
        let alone = |k: usize| !(onesided && inverse) || k == 0 || 2 * k == n;
        let each = |k: usize| {
            let w = if alone(k) { 1.0 } else { 2.0 };
            Ok((part(k, 0)? * w, part(k, 1)? * w))
        };
        let signal = (0..kept).map(each).collect::<Result<Vec<_>, Fault>>()?;
        let (re, im) = sum(&signal, at[axis], n, if inverse { 1.0 } else { -1.0 });
        let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
        Ok(scale * if at.last() == Some(&0) { re } else { im })
    })?;
    Ok(vec![y])
}

pub static DFT: Op = Op {
    name: "DFT",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(dft),
    eval,
    cases: || {
        let of = |x: &[usize]| Case::new().real(x);
        vec![
            of(&[2, 5, 2]),
            of(&[2, 4, 1]),
            of(&[2, 6, 1]).absent().const_ints(&[], &[1]).attr("onesided", 1),
            of(&[2, 5, 2]).const_ints(&[], &[7]).attr("inverse", 1),
            of(&[2, 3, 4, 2]).const_ints(&[], &[2]).const_ints(&[], &[-3]),
            of(&[1, 4, 2]).attr("inverse", 1).attr("onesided", 1),
            of(&[2, 3, 2]).const_ints(&[], &[5]).const_ints(&[], &[1]).attr("inverse", 1).attr("onesided", 1),
            of(&[3, 4, 1]).ints(&[], &[6]).const_ints(&[], &[1]).attr("onesided", 1),
            of(&[3, 4, 2]).ints(&[], &[3]),
            of(&[3, 2]).absent().const_ints(&[], &[0]),
            of(&[2, 3, 4, 2]).absent().ints(&[], &[-3]),
        ]
    },
};

/// Elements of a frame: as many as its window has, as `frame_length` says, or as the signal has.
fn frame(c: &FactCx, signal: &[Dim]) -> Result<Dim, Fault> {
    let window = match c.get(2).map(|window| window.shape.as_deref()) {
        Some(Some([n])) => Some(n.clone()),
        Some(Some(other)) => return Err(Fault::Rank { index: 2, found: other.len(), expected: "1".into() }),
        _ => None,
    };
    let given = c.ints(3).and_then(|n| n.first().cloned());
    match (window, given) {
        (Some(Dim::Fixed(window)), Some(Dim::Fixed(given))) if window != given => Err(not_the_window(window, given)),
        // One that is a number is known to a derivative, too.
        (Some(window), Some(given)) => Ok(if window.fixed().is_some() { window } else { given }),
        (Some(n), None) | (None, Some(n)) => Ok(n),
        (None, None) if c.has(2) || c.has(3) => Ok(c.made_up("frame")),
        (None, None) => Ok(signal[1].clone()),
    }
}

fn not_the_window(window: impl ToString, frame: impl ToString) -> Fault {
    let expected = format!("frame_length, which is {}", frame.to_string());
    Fault::Shape { what: "length of the window", found: window.to_string(), expected }
}

fn stft_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, x) = (c.dtype(0)?, c.shape(0)?);
    if !(2..=3).contains(&x.len()) {
        return Err(Fault::Rank { index: 0, found: x.len(), expected: "2 or 3".into() });
    }
    let frame = frame(c, x)?;
    let count = match c.ints(1).and_then(|v| v.first()).and_then(Dim::fixed).filter(|&step| step > 0) {
        Some(step) => (x[1].clone() - frame.clone()).div_floor(step) + Dim::Fixed(1),
        _ => c.unknown(1),
    };
    let kept = if flag(c.attrs, "onesided", 1) { kept(c, 2, &frame) } else { frame };
    Ok(vec![Fact::new(dtype, [x[0].clone(), count, kept, Dim::Fixed(2)])])
}

/// Frames of the signal, weighted by the window, then transformed
fn stft<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (b, x, y) = (c.b, c.x(0), c.out(0));
    let frame = match (c.has(2), c.has(3)) {
        (true, _) => c.x(2).dim(0),
        (_, true) => length(c, 3),
        _ => x.dim(1),
    };
    let signal = if x.rank() == 2 { x.unsqueeze(&[2]) } else { x };
    let starts = b.range(&y.dim(1)) * c.x(1).cast(DType::I64).reshape(&[]);
    let places = starts.unsqueeze(&[1]) + b.range(&frame);
    let frames = along::pick(signal, 1, places);
    let frames = if c.has(2) { frames * c.x(2).unsqueeze(&[1]) } else { frames };
    let axis = b.constant(Tensor::ints(&[], &[2]));
    let attrs = if flag(c.attrs(), "onesided", 1) { Attrs::new().with("onesided", 1) } else { Attrs::new() };
    b.node("DFT", &[Some(frames), None, Some(axis)], attrs, 1)
}

fn stft_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, step) = (c.input(0)?, c.ints(1).and_then(|v| v.first().copied()).unwrap_or(0));
    let given = c.ints(3).and_then(|v| v.first().copied());
    let own = c.get(2).map(|w| w.data.len());
    if let (Some(window), Some(given)) = (own, given)
        && window as i64 != given
    {
        return Err(not_the_window(window, given));
    }
    let total = x.shape().get(1).copied().unwrap_or(0);
    let n = own.unwrap_or(given.map_or(total, |n| n.clamp(0, 65536) as usize));
    if step < 1 || n == 0 || n > total || x.shape().len() < 2 {
        let expected = "a step of at least 1 and frames not longer than the signal".into();
        return Err(Fault::Shape { what: "frames", found: format!("{n} elements, step {step}"), expected });
    }
    let (frames, step) = ((total - n) / step as usize + 1, step as usize);
    let kept = if flag(c.attrs, "onesided", 1) { n / 2 + 1 } else { n };
    let part = |batch: usize, at: usize, part: usize| match x.shape() {
        [_, _] if part == 0 => x.at(&[batch, at]),
        [_, _, parts] if part < *parts => x.at(&[batch, at, part]),
        _ => Ok(0.0),
    };
    let y = Array::tabulate(x.dtype, &[x.shape()[0], frames, kept, 2], |at| {
        let each = |k: usize| {
            let w = c.get(2).map_or(Ok(1.0), |w| w.at(&[k]))?;
            let place = at[1] * step + k;
            let real = if place < total { part(at[0], place, 0)? } else { 0.0 };
            let imaginary = if place < total { part(at[0], place, 1)? } else { 0.0 };
            Ok((real * w, imaginary * w))
        };
        let signal = (0..n).map(each).collect::<Result<Vec<_>, Fault>>()?;
        let (re, im) = sum(&signal, at[2], n, -1.0);
        Ok(if at[3] == 0 { re } else { im })
    })?;
    Ok(vec![y])
}

pub static STFT: Op = Op {
    name: "STFT",
    facts: |c| c.unknown_rank(c.dtype(0)?, stft_facts(c)),
    tangent: Tangent::Rule(|c| c.through(&stft(c))),
    eval: stft_eval,
    cases: || {
        let step = |x: &[usize], step: i64| Case::new().real(x).const_ints(&[], &[step]);
        vec![
            step(&[2, 8, 1], 2).real(&[4]),
            step(&[1, 9, 2], 3).real(&[3]).attr("onesided", 0),
            step(&[2, 7, 1], 2).absent().const_ints(&[], &[5]),
            step(&[2, 6, 1], 1).real(&[4]).const_ints(&[], &[4]),
            step(&[2, 7, 1], 2).absent().ints(&[], &[5]),
            step(&[1, 7, 2], 2).real(&[4]).ints(&[], &[4]).attr("onesided", 0),
        ]
    },
};
