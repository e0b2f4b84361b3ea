//! Resize: each axis is resampled by itself.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact, Tensor};
use crate::lower;
use ndarray::{ArrayD, Axis};

/// How a place between two elements is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rounding {
    Floor,
    Ceil,
    PreferFloor,
    PreferCeil,
}

impl Rounding {
    pub fn of(self, x: f64) -> f64 {
        match self {
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Filter {
    Nearest(Rounding),
    Linear,
    /// With the coefficient `a` of the convolution kernel.
    Cubic(f64),
}

impl Filter {
    /// How far from its centre the kernel is not 0.
    pub fn support(self) -> i64 {
        match self {
            Filter::Nearest(_) => 0,
            Filter::Linear => 1,
            Filter::Cubic(_) => 2,
        }
    }

    /// The kernel at a distance: the hat `1 − |t|`, or Keys' cubic
    /// `(a+2)|t|³ − (a+3)|t|² + 1` up to 1, `a|t|³ − 5a|t|² + 8a|t| − 4a` up to 2.
    pub fn kernel(self, t: f64) -> f64 {
        let t = t.abs();
        match self {
            Filter::Nearest(_) => 0.0,
            Filter::Linear => (1.0 - t).max(0.0),
            Filter::Cubic(a) if t <= 1.0 => ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
            Filter::Cubic(a) if t < 2.0 => ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a,
            Filter::Cubic(_) => 0.0,
        }
    }
}

/// Where an output element lies on the input's axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Of the region `roi`; outside of the input is the extrapolation value.
    Crop,
}

/// The attributes of a Resize.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resampling {
    pub filter: Filter,
    pub coordinates: Coordinates,
    /// Weights of places outside of the input are 0, those inside then sum to 1.
    pub exclude_outside: bool,
    /// The kernel is stretched where the axis shrinks.
    pub antialias: bool,
    pub extrapolation: f64,
}

/// One axis and the sizes before and after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub from: usize,
    pub to: usize,
    pub scale: f64,
    pub roi: (f64, f64),
}

/// The most weights of one axis that are computed here and not when the graph runs.
const WEIGHTS: f64 = (1 << 20) as f64;

/// The weights of input elements in an output element; `None` where it lies outside of the input.
pub(crate) type Row = Option<Vec<(usize, f64)>>;

impl Resampling {
    pub fn of(attrs: &Attrs) -> Result<Resampling, Fault> {
        let text = |name, default| attrs.str(name).unwrap_or(default);
        let unknown = |name: &'static str, found: &str, expected: &str| Fault::Attribute {
            name,
            found: format!("{found:?}"),
            expected: expected.to_string(),
        };
        let rounding = match text("nearest_mode", "round_prefer_floor") {
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            found => {
                return Err(unknown("nearest_mode", found, "floor, ceil, round_prefer_floor or round_prefer_ceil"));
            }
        };
        let filter = match text("mode", "nearest") {
            "nearest" => Filter::Nearest(rounding),
            "linear" => Filter::Linear,
            "cubic" => Filter::Cubic(f64::from(attrs.float("cubic_coeff_a").unwrap_or(-0.75))),
            found => return Err(unknown("mode", found, "nearest, linear or cubic")),
        };
        let coordinates = match text("coordinate_transformation_mode", "half_pixel") {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_crop_and_resize" => Coordinates::Crop,
            found => return Err(unknown("coordinate_transformation_mode", found, "one of the specification's")),
        };
        Ok(Resampling {
            filter,
            coordinates,
            exclude_outside: attrs.int("exclude_outside") == Some(1),
            antialias: attrs.int("antialias") == Some(1),
            extrapolation: f64::from(attrs.float("extrapolation_value").unwrap_or(0.0)),
        })
    }

    /// How the kernel's argument is scaled.
    pub fn stretch(&self, scale: f64) -> f64 {
        if self.antialias { scale.min(1.0) } else { 1.0 }
    }

    /// Whether an axis stays as it is.
    pub fn keeps(&self, span: &Span) -> bool {
        self.coordinates != Coordinates::Crop && span.from == span.to && span.scale == 1.0
    }

    /// The place of output element `o` on the input's axis.
    fn place(&self, span: &Span, o: usize) -> f64 {
        let (o, from, scale) = (o as f64, span.from as f64, span.scale);
        let width = scale * from;
        let half_pixel = (o + 0.5) / scale - 0.5;
        match self.coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::PytorchHalfPixel if width == 1.0 => -0.5,
            Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => from / 2.0 * (1.0 - span.to as f64 / width) + half_pixel,
            Coordinates::AlignCorners if width == 1.0 => 0.0,
            Coordinates::AlignCorners => o * (from - 1.0) / (width - 1.0),
            Coordinates::Asymmetric => o / scale,
            Coordinates::Crop => {
                let (start, end) = span.roi;
                let within = if width == 1.0 { 0.5 } else { o / (width - 1.0) };
                (start + within * (end - start)) * (from - 1.0)
            }
        }
    }

    /// Whether [`Resampling::rows`] has no more than [`WEIGHTS`] entries.
    pub fn is_small(&self, span: &Span) -> bool {
        let each = 2.0 * self.filter.support() as f64 / self.stretch(span.scale) + 1.0;
        each >= 1.0 && span.to as f64 * each <= WEIGHTS
    }

    /// The rows of the matrix that resamples an axis.
    pub fn rows(&self, span: &Span) -> Vec<Row> {
        (0..span.to).map(|o| self.row(self.place(span, o), span)).collect()
    }

    fn row(&self, place: f64, span: &Span) -> Row {
        let last = span.from as f64 - 1.0;
        if self.coordinates == Coordinates::Crop && (place < 0.0 || place > last) {
            return None;
        }
        let clamp = |at: f64| at.clamp(0.0, last.max(0.0)) as usize;
        if let Filter::Nearest(rounding) = self.filter {
            return Some(vec![(clamp(rounding.of(place)), 1.0)]);
        }
        let stretch = self.stretch(span.scale);
        let reach = self.filter.support() as f64 / stretch;
        let (mut at, end) = ((place - reach).ceil(), (place + reach).floor());
        let mut row: Vec<(usize, f64)> = Vec::new();
        while at <= end {
            let weight = self.filter.kernel((at - place) * stretch);
            if weight != 0.0 && !(self.exclude_outside && (at < 0.0 || at > last)) {
                match row.last_mut() {
                    Some((same, sum)) if *same == clamp(at) => *sum += weight,
                    _ => row.push((clamp(at), weight)),
                }
            }
            at += 1.0;
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = row.iter().map(|entry| entry.1).sum();
            row.iter_mut().for_each(|entry| entry.1 /= sum);
        }
        Some(row)
    }
}

/// The axes that are resampled, counted from the front: all of them without the attribute.
pub(crate) fn axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, Fault> {
    let Some(named) = attrs.ints("axes") else { return Ok((0..rank).collect()) };
    let axes: Vec<usize> = named.iter().map(|&axis| super::fact_cx::from_front(axis, rank)).collect::<Result<_, _>>()?;
    match (1..axes.len()).find(|&k| axes[..k].contains(&axes[k])) {
        Some(_) => {
            Err(Fault::Attribute { name: "axes", found: format!("{named:?}"), expected: "each axis once".into() })
        }
        None => Ok(axes),
    }
}

/// Whether sizes are bounds within which the ratio of the axes stays, and whether the larger bound counts.
pub(crate) fn ratio_policy(attrs: &Attrs) -> Option<bool> {
    match attrs.str("keep_aspect_ratio_policy") {
        Some("not_larger") => Some(false),
        Some("not_smaller") => Some(true),
        _ => None,
    }
}

/// The one scale of all axes that a policy asks for.
fn common_scale(larger: bool, ratios: impl Iterator<Item = f64>) -> f64 {
    if larger { ratios.fold(0.0, f64::max) } else { ratios.fold(f64::INFINITY, f64::min) }
}

/// `⌊size · scale⌋`, in single precision as the specification's shape inference has it.
fn scaled(size: i64, scale: f64) -> i64 {
    (size as f32 * scale as f32).floor() as i64
}

fn scaled_dim(size: &Dim, scale: f64) -> Option<Dim> {
    match size {
        Dim::Fixed(n) => Some(Dim::Fixed(scaled(*n, scale))),
        _ if scale >= 1.0 && scale.fract() == 0.0 => Some(size.clone() * Dim::Fixed(scale as i64)),
        // Exact only where the scale is: a power of two.
        _ if scale > 0.0 && (1.0 / scale).log2().fract() == 0.0 => Some(size.div_floor((1.0 / scale) as i64)),
        _ => None,
    }
}

/// An axis without elements has no scale to speak of: 0/0.
fn is_scale(scale: f64) -> bool {
    scale.is_nan() || (scale.is_finite() && scale >= 0.0)
}

fn bad_scale(scale: f64) -> Fault {
    Fault::Shape { what: "scale", found: scale.to_string(), expected: "a finite number above 0, neither tiny nor huge".to_string() }
}

fn misfit(what: &'static str, found: usize, axes: usize) -> Fault {
    Fault::Shape { what, found: format!("{found} elements"), expected: format!("{axes}, one an axis") }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, x) = (c.dtype(0)?, c.shape(0)?);
    Resampling::of(c.attrs)?;
    let axes = axes(c.attrs, x.len())?;
    let mut shape = x.to_vec();
    axes.iter().for_each(|&axis| shape[axis] = c.unknown(axis));
    if c.has(3) {
        if let Some(sizes) = c.ints(3) {
            if sizes.len() != axes.len() {
                return Err(misfit("sizes", sizes.len(), axes.len()));
            }
            match ratio_policy(c.attrs) {
                None => axes.iter().zip(sizes).for_each(|(&axis, size)| shape[axis] = size.clone()),
                Some(larger) => keep_ratio(&mut shape, x, &axes, sizes, larger),
            }
        }
    } else if let Some(scales) = c.data(2).filter(|scales| !scales.is_empty()) {
        let scales = scales.to_f64();
        if scales.len() != axes.len() {
            return Err(misfit("scales", scales.len(), axes.len()));
        }
        if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return Err(bad_scale(*scale));
        }
        for (&axis, &scale) in axes.iter().zip(&scales) {
            if let Some(size) = scaled_dim(&x[axis], scale) {
                shape[axis] = size;
            }
        }
    } else if !c.has(2) {
        return Err(Fault::Missing { index: 2, needs: "scales, or sizes as input 3" });
    }
    Ok(vec![Fact::new(dtype, shape)])
}

fn keep_ratio(shape: &mut [Dim], x: &[Dim], axes: &[usize], sizes: &[Dim], larger: bool) {
    let old: Option<Vec<i64>> = axes.iter().map(|&axis| x[axis].fixed()).collect();
    let (Some(old), Some(new)) = (old, crate::ir::fixed(sizes)) else { return };
    let scale = common_scale(larger, new.iter().zip(&old).map(|(&new, &old)| new as f64 / old as f64));
    axes.iter().zip(old).for_each(|(&axis, old)| shape[axis] = Dim::Fixed((scale * old as f64).round() as i64));
}

/// The axes and their spans, from the inputs' data.
fn spans(c: &EvalCx) -> Result<Vec<(usize, Span)>, Fault> {
    let x = c.data(0)?.shape();
    let axes = axes(c.attrs, x.len())?;
    let n = axes.len();
    let sizes = c.ints(3).filter(|sizes| !sizes.is_empty());
    let mut scales: Vec<f64> = match (&sizes, c.get(2)) {
        (Some(sizes), _) => axes.iter().zip(sizes).map(|(&axis, &size)| size as f64 / x[axis] as f64).collect(),
        (None, Some(scales)) => scales.data.iter().copied().collect(),
        (None, None) => return Err(Fault::Missing { index: 2, needs: "scales, or sizes as input 3" }),
    };
    if scales.len() != n || sizes.as_ref().is_some_and(|sizes| sizes.len() != n) {
        return Err(misfit("scales or sizes", scales.len(), n));
    }
    let policy = ratio_policy(c.attrs).filter(|_| sizes.is_some());
    if let Some(larger) = policy {
        scales = vec![common_scale(larger, scales.into_iter()); n];
    }
    let roi: Vec<f64> = c.get(1).map(|roi| roi.data.iter().copied().collect()).unwrap_or_default();
    let bound = |k: usize, default: f64| roi.get(k).copied().unwrap_or(default);
    let span = |k: usize| {
        let (from, scale) = (x[axes[k]], scales[k]);
        let to = match (&sizes, policy) {
            (Some(_), Some(_)) => (scale * from as f64).round() as i64,
            (Some(sizes), None) => sizes[k],
            (None, _) => scaled(from as i64, scale),
        };
        let to = usize::try_from(to).ok().filter(|&to| to < (1 << 24) && (from > 0 || to == 0));
        let to = to.ok_or_else(|| Fault::Shape {
            what: "scale",
            found: scale.to_string(),
            expected: format!("a fit for axis {} of size {from}", axes[k]),
        })?;
        Ok((axes[k], Span { from, to, scale, roi: (bound(k, 0.0), bound(k + n, 1.0)) }))
    };
    if let Some(scale) = scales.iter().find(|&&scale| !is_scale(scale)) {
        return Err(bad_scale(*scale));
    }
    (0..n).map(span).collect()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (r, mut y) = (Resampling::of(c.attrs)?, c.data(0)?.clone());
    let mut outside: Vec<(usize, usize)> = Vec::new();
    for (axis, span) in spans(c)? {
        if r.keeps(&span) {
            continue;
        }
        if !r.is_small(&span) {
            return Err(bad_scale(span.scale));
        }
        let rows = r.rows(&span);
        outside.extend(rows.iter().enumerate().filter(|row| row.1.is_none()).map(|(o, _)| (axis, o)));
        y = resampled(&y, Axis(axis), &rows);
    }
    for (axis, o) in outside {
        y.index_axis_mut(Axis(axis), o).fill(r.extrapolation);
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn resampled(x: &ArrayD<f64>, axis: Axis, rows: &[Row]) -> ArrayD<f64> {
    let mut shape = x.raw_dim();
    shape[axis.0] = rows.len();
    let mut y = ArrayD::zeros(shape);
    for (o, row) in rows.iter().enumerate() {
        for &(i, weight) in row.iter().flatten() {
            y.index_axis_mut(axis, o).scaled_add(weight, &x.index_axis(axis, i));
        }
    }
    y
}

fn cases() -> Vec<Case> {
    let floats = |values: &[f64]| Tensor::from_f64(crate::ir::DType::F32, &[values.len()], values.iter().copied());
    let scaled = |x: &[usize], scales: &[f64]| Case::new().real(x).absent().constant(floats(scales));
    let sized = |x: &[usize], sizes: &[i64]| Case::new().real(x).absent().absent().const_ints(&[sizes.len()], sizes);
    let with = |case: Case, mode: &str, coordinates: &str| {
        case.attr("mode", mode).attr("coordinate_transformation_mode", coordinates)
    };
    let run_time = |x: &[usize], scales: &[f64]| Case::new().real(x).absent().data(floats(scales));
    let cropped = |sizes: &[i64]| {
        let x = Case::new().real(&[2, 1, 4, 5]).within(&[4], 0.1, 0.9).absent();
        x.const_ints(&[2], sizes).attr("axes", [2, 3]).attr("extrapolation_value", 2.0_f32)
    };
    vec![
        with(scaled(&[2, 1, 2, 3], &[1.0, 1.0, 2.0, 3.0]), "nearest", "asymmetric").attr("nearest_mode", "floor"),
        scaled(&[2, 2, 3], &[1.0, 1.0, 2.0]),
        with(scaled(&[2, 1, 2, 3], &[1.0, 1.0, 2.0, 2.0]), "linear", "half_pixel"),
        with(sized(&[2, 1, 3, 4], &[2, 1, 5, 2]), "linear", "align_corners"),
        with(sized(&[1, 2, 3, 3], &[1, 2, 5, 4]), "cubic", "pytorch_half_pixel"),
        with(sized(&[1, 1, 5, 4], &[1, 1, 3, 6]), "cubic", "half_pixel")
            .attr("exclude_outside", 1)
            .attr("cubic_coeff_a", -0.5_f32),
        with(sized(&[1, 1, 6, 5], &[1, 1, 3, 2]), "linear", "half_pixel").attr("antialias", 1),
        with(sized(&[1, 1, 7, 4], &[1, 1, 3, 4]), "cubic", "half_pixel").attr("antialias", 1).attr("exclude_outside", 1),
        with(scaled(&[1, 1, 5], &[1.0, 1.0, 0.75]), "linear", "half_pixel_symmetric"),
        scaled(&[2, 5, 4], &[1.0, 0.6, 1.5]).attr("nearest_mode", "round_prefer_ceil"),
        with(scaled(&[1, 2, 5], &[1.0, 1.0, 0.5]), "nearest", "asymmetric").attr("nearest_mode", "ceil"),
        Case::new()
            .real(&[1, 2, 3, 4])
            .absent()
            .absent()
            .const_ints(&[2], &[6, 7])
            .attr("axes", [2, 3])
            .attr("keep_aspect_ratio_policy", "not_larger")
            .attr("mode", "linear"),
        with(sized(&[1, 1, 2, 3, 2], &[1, 1, 3, 2, 4]), "linear", "asymmetric"),
        with(run_time(&[3, 2, 3], &[2.0, 1.0, 1.5]), "linear", "half_pixel"),
        with(run_time(&[3, 4], &[1.0, 1.5]), "cubic", "align_corners"),
        with(run_time(&[1, 4], &[1.0, 1.75]), "cubic", "pytorch_half_pixel").attr("exclude_outside", 1),
        with(run_time(&[6, 2], &[0.5, 1.0]), "linear", "half_pixel").attr("antialias", 1),
        run_time(&[3, 2], &[1.5, 2.0]),
        with(cropped(&[3, 3]), "linear", "tf_crop_and_resize"),
        with(cropped(&[2, 4]), "cubic", "tf_crop_and_resize").attr("exclude_outside", 1),
        with(
            Case::new()
                .real(&[1, 4, 4])
                .constant(floats(&[0.0, -0.5, 0.25, 1.0, 1.5, 0.75]))
                .constant(floats(&[1.0, 1.5, 0.75])),
            "linear",
            "tf_crop_and_resize",
        )
        .attr("extrapolation_value", 1.0_f32),
        with(sized(&[1, 1, 2, 0], &[1, 1, 4, 0]), "linear", "half_pixel"),
        with(sized(&[2, 1, 1, 1], &[2, 1, 2, 3]), "linear", "align_corners"),
    ]
}

pub static RESIZE: Op = Op {
    name: "Resize",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lower::resize::resize(c))),
    eval,
    cases,
};
