//! GridSample: elements of an image at real positions.

use super::resize::{Filter, Rounding};
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact};
use crate::lower;
use ndarray::ArrayD;

/// What lies outside of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// The attributes of a GridSample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    pub filter: Filter,
    pub padding: Padding,
    /// −1 and 1 are the centres of the outermost elements, not their edges.
    pub align_corners: bool,
}

/// The coefficient of the cubic kernel.
const CUBIC: f64 = -0.75;

impl Sampling {
    pub fn of(attrs: &Attrs) -> Result<Sampling, Fault> {
        let filter = match attrs.str("mode").unwrap_or("linear") {
            "linear" | "bilinear" => Filter::Linear,
            "cubic" | "bicubic" => Filter::Cubic(CUBIC),
            // Halves go to the even neighbour, which is said where it is done.
            "nearest" => Filter::Nearest(Rounding::PreferFloor),
            found => {
                let expected = "linear, nearest or cubic".to_string();
                return Err(Fault::Attribute { name: "mode", found: format!("{found:?}"), expected });
            }
        };
        let padding = match attrs.str("padding_mode").unwrap_or("zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            found => {
                let expected = "zeros, border or reflection".to_string();
                return Err(Fault::Attribute { name: "padding_mode", found: format!("{found:?}"), expected });
            }
        };
        Ok(Sampling { filter, padding, align_corners: attrs.int("align_corners") == Some(1) })
    }

    /// `−1..1` as a place on an axis of `size` elements.
    fn place(&self, at: f64, size: f64) -> f64 {
        if self.align_corners { (at + 1.0) / 2.0 * (size - 1.0) } else { ((at + 1.0) * size - 1.0) / 2.0 }
    }

    /// The edges of an axis of `size` elements.
    fn edges(&self, size: f64) -> (f64, f64) {
        if self.align_corners { (0.0, size - 1.0) } else { (-0.5, size - 0.5) }
    }

    /// The element that stands at a whole place; `None`: a zero.
    fn element(&self, at: f64, size: usize) -> Option<usize> {
        let last = size as f64 - 1.0;
        let at = match self.padding {
            Padding::Zeros if at < 0.0 || at > last => return None,
            Padding::Reflection => {
                let (low, high) = self.edges(size as f64);
                reflected(at, low, high)
            }
            _ => at,
        };
        Some(at.clamp(0.0, last.max(0.0)) as usize)
    }

    /// Elements of an axis and their weights at a place.
    fn taps(&self, place: f64, size: usize) -> Vec<(usize, f64)> {
        if let Filter::Nearest(_) = self.filter {
            return self.element(place.round_ties_even(), size).map(|i| (i, 1.0)).into_iter().collect();
        }
        let reach = self.filter.support();
        let near = (1 - reach..=reach).map(|k| place.floor() + k as f64);
        near.filter_map(|at| Some((self.element(at, size)?, self.filter.kernel(at - place)))).collect()
    }
}

/// A place reflected at the edges until it is between them.
fn reflected(place: f64, low: f64, high: f64) -> f64 {
    let span = high - low;
    if span <= 0.0 { low } else { low + span - ((place - low).abs() % (2.0 * span) - span).abs() }
}

/// The sum of the taps' products, an axis after the other, below the index `at`.
pub(super) fn interpolated(x: &ArrayD<f64>, at: &mut Vec<usize>, taps: &[Vec<(usize, f64)>]) -> f64 {
    let Some((first, rest)) = taps.split_first() else { return x.get(&at[..]).copied().unwrap_or(0.0) };
    let mut sum = 0.0;
    for &(i, weight) in first {
        at.push(i);
        sum += weight * interpolated(x, at, rest);
        at.pop();
    }
    sum
}

/// The taps of linear interpolation with zeros around.
pub(super) fn linear_taps(place: f64, size: usize) -> Vec<(usize, f64)> {
    Sampling { filter: Filter::Linear, padding: Padding::Zeros, align_corners: true }.taps(place, size)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    Sampling::of(c.attrs)?;
    let (x, grid) = (c.shape(0)?, c.shape(1)?);
    let spatial = x.len().saturating_sub(2);
    if spatial == 0 || grid.len() != x.len() || grid[spatial + 1].fixed().is_some_and(|k| k != spatial as i64) {
        return Err(Fault::Shape {
            what: "grid",
            found: super::fact_cx::show(grid),
            expected: format!("places on the {spatial} spatial axes of {}", super::fact_cx::show(x)),
        });
    }
    let shape: Vec<Dim> = x[..2].iter().chain(&grid[1..=spatial]).cloned().collect();
    Ok(vec![Fact::new(c.dtype(0)?, shape)])
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (s, x, grid) = (Sampling::of(c.attrs)?, c.data(0)?, c.input(1)?);
    let (image, points) = match (x.shape(), grid.shape()) {
        ([_, _, image @ ..], [_, points @ .., k]) if *k == image.len() && points.len() == image.len() => (image, points),
        _ => return Err(Fault::Rank { index: 1, found: grid.shape().len(), expected: "that of the image".into() }),
    };
    let shape = [&x.shape()[..2], points].concat();
    let y = Array::tabulate(c.dtype(0), &shape, |at| {
        // The last axis comes first in the grid.
        let along = |axis: usize| {
            let from = [&at[..1], &at[2..], &[image.len() - 1 - axis]].concat();
            Ok(s.taps(s.place(grid.at(&from)?, image[axis] as f64), image[axis]))
        };
        let taps = (0..image.len()).map(along).collect::<Result<Vec<_>, Fault>>()?;
        Ok(interpolated(x, &mut at[..2].to_vec(), &taps))
    })?;
    Ok(vec![y])
}

fn cases() -> Vec<Case> {
    let flat = || Case::new().real(&[2, 2, 3, 4]).within(&[2, 2, 2, 2], -1.3, 1.45);
    let deep = || Case::new().real(&[1, 2, 2, 3, 2]).within(&[1, 1, 2, 2, 3], -1.2, 1.2);
    let modes = |case: Case, mode: &str, padding: &str| case.attr("mode", mode).attr("padding_mode", padding);
    vec![
        flat(),
        modes(flat(), "linear", "border").attr("align_corners", 1),
        modes(flat(), "linear", "reflection"),
        modes(flat(), "linear", "reflection").attr("align_corners", 1),
        modes(flat(), "cubic", "zeros"),
        modes(flat(), "cubic", "border"),
        modes(flat(), "cubic", "reflection").attr("align_corners", 1),
        modes(flat(), "nearest", "zeros"),
        modes(flat(), "nearest", "border"),
        modes(flat(), "nearest", "reflection"),
        modes(deep(), "linear", "zeros"),
        modes(deep(), "linear", "border"),
        modes(deep(), "nearest", "reflection").attr("align_corners", 1),
        Case::new().real(&[2, 1, 1, 1]).within(&[2, 1, 2, 2], -0.9, 0.9),
        Case::new().real(&[1, 2, 2, 2]).within(&[1, 0, 2, 2], -0.9, 0.9),
    ]
}

pub static GRID_SAMPLE: Op = Op {
    name: "GridSample",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lower::grid_sample::grid_sample(c))),
    eval,
    cases,
};
