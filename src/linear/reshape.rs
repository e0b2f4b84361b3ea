//! Maps that move elements: Reshape, Permute, Pad, and summing a broadcast back.

use super::{Cotangent, widened};
use crate::ir::{Attrs, Dim, Fact, Val};

/// `shape` behind the leading axis, if there is one.
pub fn with_lead(shape: &[Dim], lead: Option<&Dim>) -> Vec<Dim> {
    lead.cloned().into_iter().chain(shape.iter().cloned()).collect()
}

/// A value of rank `from` behind the leading axis, with axes of size 1 put in so that it broadcasts to rank `to`.
pub fn align<'g>(v: Val<'g>, from: usize, to: usize, lead: Option<&Dim>) -> Val<'g> {
    if lead.is_none() || from >= to {
        return v;
    }
    let axes: Vec<i64> = (1..=(to - from) as i64).collect();
    v.unsqueeze(&axes)
}

/// Axes counted behind the leading axis.
pub(super) fn shifted(axes: &[i64], skip: usize) -> Vec<i64> {
    axes.iter().map(|a| a + skip as i64).collect()
}

pub(super) fn permutation(perm: &[i64], lead: Option<&Dim>) -> Vec<i64> {
    match lead {
        None => perm.to_vec(),
        Some(_) => std::iter::once(0).chain(perm.iter().map(|p| p + 1)).collect(),
    }
}

pub(super) fn pads_with_lead(pads: &[(Dim, Dim)], lead: Option<&Dim>) -> Vec<(Dim, Dim)> {
    let none = (Dim::Fixed(0), Dim::Fixed(0));
    lead.map(|_| none).into_iter().chain(pads.iter().cloned()).collect()
}

pub(super) fn summed(shape: &[Dim], axes: &[i64], keep: bool) -> Vec<Dim> {
    let mut out = Vec::new();
    for (i, d) in shape.iter().enumerate() {
        match (axes.contains(&(i as i64)), keep) {
            (false, _) => out.push(d.clone()),
            (true, true) => out.push(Dim::Fixed(1)),
            (true, false) => {}
        }
    }
    out
}

/// ONNX's Pad with zeros on the axes that change; negative pads cut.
pub(super) fn pad<'g>(x: Val<'g>, pads: &[(Dim, Dim)]) -> Val<'g> {
    let zero = Dim::Fixed(0);
    let active: Vec<usize> = (0..pads.len()).filter(|&i| pads[i].0 != zero || pads[i].1 != zero).collect();
    if active.is_empty() {
        return x;
    }
    let b = x.builder();
    let all: Vec<Dim> = pads.iter().map(|p| p.0.clone()).chain(pads.iter().map(|p| p.1.clone())).collect();
    let cuts = active.iter().all(|&i| [&pads[i].0, &pads[i].1].iter().all(|d| d.fixed().is_some_and(|n| n <= 0)));
    if cuts {
        // `x[start : size − end]`, which every runtime does as a plain copy.
        let fixed = |d: &Dim| d.fixed().unwrap_or(0);
        let starts: Vec<i64> = active.iter().map(|&i| -fixed(&pads[i].0)).collect();
        let ends: Vec<i64> = active
            .iter()
            .map(|&i| match fixed(&pads[i].1) {
                0 => i64::MAX,
                n => n,
            })
            .collect();
        let axes: Vec<i64> = active.iter().map(|&i| i as i64).collect();
        return b.op("Slice", &[x, b.ints(&starts), b.ints(&ends), b.ints(&axes)], Attrs::new());
    }
    let shape: Vec<Dim> = x.shape().iter().zip(pads).map(|(d, (a, b))| d.clone() + a.clone() + b.clone()).collect();
    let out = b.op("Pad", &[x, b.shape_value(&all)], Attrs::new());
    b.refine_fact(out, &Fact::new(x.dtype(), shape));
    out
}

/// Axes known at run time, behind the leading axis. Negative ones count from the end and stay.
fn axes_with_lead<'g>(axes: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
    match lead {
        None => axes,
        Some(_) => axes.lt(axes.like(0.0)).select(axes, axes + 1.0),
    }
}

/// `Σ t` over run-time axes; the result has shape `to`.
pub(super) fn sum_at<'g>(t: Val<'g>, axes: Val<'g>, keep: bool, noop: bool, to: &[Dim], lead: Option<&Dim>) -> Val<'g> {
    let b = t.builder();
    let attrs = Attrs::new().with("keepdims", i64::from(keep)).with("noop_with_empty_axes", i64::from(noop));
    widened(t, |t| {
        let sum = b.op("ReduceSum", &[t, axes_with_lead(axes, lead)], attrs);
        b.refine_fact(sum, &Fact::new(t.dtype(), with_lead(to, lead)));
        sum
    })
}

/// The cotangent of a sum over run-time axes, spread over `shape`.
pub(super) fn sum_at_transposed<'g>(
    ct: Val<'g>,
    axes: Val<'g>,
    keep: bool,
    shape: &[Dim],
    lead: Option<&Dim>,
) -> Val<'g> {
    if keep {
        return ct.expand(shape);
    }
    let b = ct.builder();
    // The shape with size 1 on the summed axes.
    let ones = b.ints(&[1]).expand(&axes.shape());
    let attrs = Attrs::new().with("axis", 0);
    let kept = b.op("ScatterElements", &[b.shape_value(shape), axes_with_lead(axes, lead), ones], attrs);
    b.op("Reshape", &[ct, kept], Attrs::new()).expand(shape)
}

/// The transpose of a reshape of something of shape `to`. Axes of size 1 that only come or go leave a delayed
/// expansion delayed.
pub(super) fn reshape_transposed<'g>(ct: Cotangent<'g>, to: &[Dim]) -> Cotangent<'g> {
    let squeezed = |shape: &[Dim]| -> Vec<Dim> { shape.iter().filter(|d| !d.is_one()).cloned().collect() };
    let delayed = ct.value.shape() != ct.shape;
    if delayed && squeezed(&ct.shape) == squeezed(to) {
        let rank = ct.shape.len();
        let mut actual = ct.value.shape();
        while actual.len() < rank {
            actual.insert(0, Dim::Fixed(1));
        }
        let mut kept = actual.iter().zip(&ct.shape).filter(|(_, logical)| !logical.is_one()).map(|(a, _)| a.clone());
        let value: Vec<Dim> =
            to.iter().map(|d| if d.is_one() { Dim::Fixed(1) } else { kept.next().unwrap_or(Dim::Fixed(1)) }).collect();
        return Cotangent { value: ct.value.reshape(&value), shape: to.to_vec() };
    }
    Cotangent { value: ct.materialise().reshape(to), shape: to.to_vec() }
}

impl<'g> Cotangent<'g> {
    /// Sums over the axes along which a tangent of shape `from` was broadcast.
    pub fn unbroadcast(self, from: &[Dim], lead: Option<&Dim>) -> Cotangent<'g> {
        let skip = usize::from(lead.is_some());
        let rank = self.shape.len();
        let extra = rank.saturating_sub(skip + from.len());
        if extra == 0 && self.shape[skip..] == *from {
            return self;
        }
        let actual = {
            let mut actual = self.value.shape();
            while actual.len() < rank {
                actual.insert(0, Dim::Fixed(1));
            }
            actual
        };
        let (mut drop, mut keep, mut open, mut repeats) = (Vec::new(), Vec::new(), Vec::new(), Dim::Fixed(1));
        for axis in skip..rank {
            let big = &self.shape[axis];
            let small = if axis < skip + extra { None } else { Some(&from[axis - skip - extra]) };
            let summed = match small {
                None => true,
                Some(small) if small == big => false,
                Some(small) if small.is_one() => true,
                // A fixed size above 1 is not broadcast, whatever the symbol says.
                Some(Dim::Fixed(_)) => false,
                Some(small) if big.is_one() => {
                    debug_assert!(!small.is_one());
                    false
                }
                Some(_) => {
                    open.push(axis);
                    false
                }
            };
            if !summed {
                continue;
            }
            if actual[axis].is_one() && !big.is_one() {
                repeats = repeats * big.clone();
            } else if small.is_some() && !big.is_one() {
                keep.push(axis as i64);
            }
            if small.is_none() {
                drop.push(axis as i64);
            }
        }
        let b = self.value.builder();
        let mut value = self.value;
        if value.rank() < rank && !(drop.is_empty() && keep.is_empty()) {
            value = value.reshape(&actual);
        }
        if !keep.is_empty() {
            value = widened(value, |v| v.sum_keep(&keep));
        }
        let (repeated, summed): (Vec<i64>, Vec<i64>) = drop.iter().partition(|&&a| actual[a as usize].is_one());
        if summed.is_empty() {
            value = value.squeeze(&repeated);
        } else {
            value = widened(value, |v| v.sum(&drop));
        }
        if !repeats.is_one() {
            value = value * b.dim_scalar(&repeats, value.dtype());
        }
        let shape = with_lead(from, lead);
        if !open.is_empty() {
            let offset = open.iter().map(|a| a - extra).collect::<Vec<_>>();
            // Only the open axes: those summed already have size 1.
            let mut logical = value.shape();
            while logical.len() < shape.len() {
                logical.insert(0, Dim::Fixed(1));
            }
            offset.iter().for_each(|&a| logical[a] = self.shape[a + extra].clone());
            value = sum_at_run_time(value.expand(&logical), &offset, &shape);
        }
        Cotangent { value, shape }
    }
}

/// Sums over those of `axes` whose size the tangent's `shape` turns out not to have: only known at run time.
fn sum_at_run_time<'g>(value: Val<'g>, axes: &[usize], shape: &[Dim]) -> Val<'g> {
    let b = value.builder();
    let mut value = value;
    for &axis in axes {
        let size = b.dim_value(&shape[axis]);
        let grown = b.op("Not", &[value.dims(axis, axis + 1).equal(size)], Attrs::new());
        // An empty list of axes sums nothing: `noop_with_empty_axes`.
        let candidates = b.ints(&[axis as i64]);
        let chosen = b.op("Compress", &[candidates, grown], Attrs::new().with("axis", 0));
        let mut known = value.shape();
        known[axis] = shape[axis].clone();
        let attrs = Attrs::new().with("keepdims", 1).with("noop_with_empty_axes", 1);
        value = widened(value, |v| b.op("ReduceSum", &[v, chosen], attrs));
        b.refine_fact(value, &Fact::new(value.dtype(), known));
    }
    value
}
