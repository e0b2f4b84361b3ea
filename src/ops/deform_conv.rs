//! DeformConv: a convolution whose taps are moved.

use super::conv;
use super::fact_cx::show;
use super::grid_sample::{interpolated, linear_taps};
use super::window::{Windows, dims, positions};
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact};
use crate::lower;

/// The windows, the groups and the groups of offsets of a deformable convolution of two spatial axes.
pub(crate) struct Deformation {
    pub windows: Windows,
    pub group: i64,
    pub offset_group: i64,
}

impl Deformation {
    pub fn of(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> Result<Deformation, Fault> {
        if x.len() != 4 {
            return Err(Fault::Rank { index: 0, found: x.len(), expected: "4".into() });
        }
        let windows = Windows::of(attrs, conv::kernel(attrs, x, w)?)?;
        let (group, offset_group) = (conv::group(attrs, w)?, attrs.int("offset_group").unwrap_or(1));
        let channels = x[1].fixed();
        let fits = channels.is_none_or(|n| n % offset_group.max(1) == 0 && w[1].fixed().is_none_or(|k| k * group == n));
        if offset_group < 1 || !fits {
            let expected = format!("channels of {} for a filter {}", show(x), show(w));
            return Err(Fault::Attribute { name: "offset_group", found: offset_group.to_string(), expected });
        }
        Ok(Deformation { windows, group, offset_group })
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, w, offset) = (c.shape(0)?, c.shape(1)?, c.shape(2)?);
    let d = Deformation::of(c.attrs, x, w)?;
    let counts = d.windows.counts(&x[2..], |axis| c.unknown(axis))?;
    let moved = d.windows.taps().saturating_mul(d.offset_group);
    check(offset, x, moved.saturating_mul(2), &counts)?;
    if c.has(4) {
        check(c.shape(4)?, x, moved, &counts)?;
    }
    conv::check_bias_at(c, 3, &w[0])?;
    Ok(vec![Fact::new(c.dtype(0)?, [x[..1].to_vec(), w[..1].to_vec(), counts].concat())])
}

/// Offsets or masks: a channel a tap, an element an output.
fn check(found: &[Dim], x: &[Dim], channels: i64, counts: &[Dim]) -> Result<(), Fault> {
    let expected = [&x[..1], &[Dim::Fixed(channels)], counts].concat();
    let same = |(a, b): (&Dim, &Dim)| a.fixed().zip(b.fixed()).is_none_or(|(a, b)| a == b);
    match found.len() == 4 && found.iter().zip(&expected).all(same) {
        true => Ok(()),
        false => Err(Fault::Shape { what: "offsets or mask", found: show(found), expected: show(&expected) }),
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, w, offset) = (c.data(0)?, c.input(1)?, c.input(2)?);
    let d = Deformation::of(c.attrs, &dims(x.shape()), &dims(w.shape()))?;
    let [n, channels, height, width] = *x.shape() else { return Ok(Vec::new()) };
    let counts: Vec<usize> = super::window::sizes(&d.windows.counts(&dims(&x.shape()[2..]), |_| Dim::Fixed(0))?);
    let each = channels / d.offset_group as usize;
    let (rows, inputs) = (w.shape()[0] / d.group as usize, w.shape()[1]);
    let shape = [&[n, w.shape()[0]], &counts[..]].concat();
    let mut y = conv::with_bias_at(c, 3, &shape)?;
    for (at, value) in positions(&shape).zip(y.iter_mut()) {
        for (k, tap) in d.windows.each_tap().enumerate() {
            let place = d.windows.position(&at[2..], &tap);
            for i in 0..inputs {
                let channel = at[1] / rows * inputs + i;
                let moved = channel / each * d.windows.taps() as usize + k;
                let by = |axis: usize| offset.at(&[at[0], 2 * moved + axis, at[2], at[3]]);
                let down = linear_taps(place[0] as f64 + by(0)?, height);
                let right = linear_taps(place[1] as f64 + by(1)?, width);
                let mask = c.get(4).map_or(Ok(1.0), |m| m.at(&[at[0], moved, at[2], at[3]]))?;
                let weight = w.at(&[&[at[1], i], &tap[..]].concat())?;
                *value += weight * mask * interpolated(x, &mut vec![at[0], channel], &[down, right]);
            }
        }
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], w: &[usize], offset: &[usize]| Case::new().real(x).real(w).within(offset, -0.7, 0.9);
    vec![
        case(&[2, 2, 3, 3], &[2, 2, 2, 2], &[2, 8, 2, 2]),
        case(&[1, 2, 3, 4], &[2, 2, 2, 2], &[1, 8, 4, 3]).real(&[2]).real(&[1, 4, 4, 3]).attr("pads", [1, 0, 1, 0]),
        case(&[1, 4, 4, 3], &[4, 2, 2, 1], &[1, 8, 1, 2])
            .absent()
            .real(&[1, 4, 1, 2])
            .attr("group", 2)
            .attr("offset_group", 2)
            .attr("dilations", [2, 1])
            .attr("strides", [2, 2]),
    ]
}

pub static DEFORM_CONV: Op = Op {
    name: "DeformConv",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lower::deform_conv::deform_conv(c))),
    eval,
    cases,
};
