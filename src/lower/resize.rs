//! Resize as a linear map along each axis: repetition, a choice of elements, or a matrix of weights.

use super::along;
use super::normalization::working_type;
use crate::ir::{Attrs, DType, Dim, Tensor, Val};
use crate::ops::resize::{Coordinates, Filter, Resampling, Rounding, Row, Span, axes, ratio_policy};
use crate::ops::{Cx, Fault};

/// Elements of the largest matrix that is written as a constant; beyond it each tap is gathered.
const MATRIX_LIMIT: usize = 1 << 20;

pub fn resize<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    match Resize::of(c) {
        Ok(resize) => vec![resize.apply()],
        Err(fault) => {
            c.fault(fault);
            vec![c.out(0)]
        }
    }
}

struct Resize<'a, 'g> {
    c: &'a Cx<'g>,
    r: Resampling,
    axes: Vec<usize>,
    /// The type that weights are computed in.
    work: DType,
}

/// What an axis is multiplied with.
enum Map<'g> {
    Nothing,
    Repeat(i64),
    Pick(Val<'g>),
    Matrix(Val<'g>),
    /// Elements and their weights, summed.
    Taps(Vec<(Val<'g>, Val<'g>)>),
}

/// An axis' map, and the output elements that lie outside of the input.
struct Step<'g> {
    map: Map<'g>,
    outside: Option<Val<'g>>,
}

impl<'a, 'g> Resize<'a, 'g> {
    fn of(c: &'a Cx<'g>) -> Result<Resize<'a, 'g>, Fault> {
        let x = c.x(0);
        Ok(Resize { c, r: Resampling::of(c.attrs())?, axes: axes(c.attrs(), x.rank())?, work: working_type(x.dtype()) })
    }

    fn apply(&self) -> Val<'g> {
        let x = self.c.x(0);
        let steps: Vec<Step<'g>> = (0..self.axes.len()).map(|k| self.step(k)).collect();
        let repeated: Vec<(usize, i64)> = self
            .axes
            .iter()
            .zip(&steps)
            .filter_map(|(&axis, step)| if let Map::Repeat(times) = step.map { Some((axis, times)) } else { None })
            .collect();
        let mut y = along::repeat(x, &repeated).cast(self.work_of(&steps));
        for (&axis, step) in self.axes.iter().zip(&steps) {
            y = match &step.map {
                Map::Nothing | Map::Repeat(_) => y,
                Map::Pick(indices) => along::pick(y, axis, *indices),
                Map::Matrix(w) => along::multiply(y, axis, *w),
                Map::Taps(taps) => {
                    let one = |(at, w): &(Val<'g>, Val<'g>)| along::pick(y, axis, *at) * along::lay(*w, axis, y.rank());
                    taps.iter().map(one).reduce(|sum, tap| sum + tap).unwrap_or(y)
                }
            };
        }
        for (&axis, step) in self.axes.iter().zip(&steps) {
            if let Some(outside) = step.outside {
                y = along::lay(outside, axis, y.rank()).select(y.like(self.r.extrapolation), y);
            }
        }
        y.cast(x.dtype())
    }

    /// Elements that are only moved need no other type.
    fn work_of(&self, steps: &[Step<'g>]) -> DType {
        let sums = |step: &Step| matches!(step.map, Map::Matrix(_) | Map::Taps(_));
        if steps.iter().any(sums) { self.work } else { self.c.x(0).dtype() }
    }

    /// The sizes of the `k`-th axis before and after.
    fn sizes(&self, k: usize) -> (Dim, Dim) {
        let axis = self.axes[k] as i64;
        (self.c.x(0).dim(axis), self.c.out(0).dim(axis))
    }

    /// The constant scale of the `k`-th axis.
    fn known_scale(&self, k: usize) -> Option<f64> {
        if self.c.has(3) {
            let fixed = |(from, to): (Dim, Dim)| Some((from.fixed()?, to.fixed()?));
            let ratio = |k: usize| fixed(self.sizes(k)).map(|(from, to)| to as f64 / from as f64);
            return match ratio_policy(self.c.attrs()) {
                None => ratio(k),
                Some(larger) => {
                    let bounds = self.c.ints(3)?;
                    let sizes: Option<Vec<i64>> = (0..self.axes.len()).map(|k| self.sizes(k).0.fixed()).collect();
                    let ratios = bounds.iter().zip(sizes?).map(|(&to, from)| to as f64 / from as f64);
                    ratios.reduce(if larger { f64::max } else { f64::min })
                }
            };
        }
        self.c.data(2)?.to_f64().get(k).copied()
    }

    fn known_span(&self, k: usize) -> Option<Span> {
        let (from, to) = self.sizes(k);
        let (from, to) = (usize::try_from(from.fixed()?).ok()?, usize::try_from(to.fixed()?).ok()?);
        let roi = match self.r.coordinates {
            Coordinates::Crop => {
                let roi = self.c.data(1)?.to_f64();
                (*roi.get(k)?, *roi.get(k + self.axes.len())?)
            }
            _ => (0.0, 1.0),
        };
        Some(Span { from, to, scale: self.known_scale(k)?, roi }).filter(|span| self.r.is_small(span))
    }

    fn step(&self, k: usize) -> Step<'g> {
        if let Some(times) = self.repetition(k) {
            let map = if times == 1 { Map::Nothing } else { Map::Repeat(times) };
            return Step { map, outside: None };
        }
        match self.known_span(k) {
            Some(span) if self.r.keeps(&span) => Step { map: Map::Nothing, outside: None },
            Some(span) => self.constant(&span),
            None => self.at_run_time(k),
        }
    }

    /// The whole factor by which each element is repeated, if that is all.
    fn repetition(&self, k: usize) -> Option<i64> {
        let moves = matches!(self.r.coordinates, Coordinates::AlignCorners | Coordinates::Crop);
        let scale = self.known_scale(k).filter(|scale| scale.fract() == 0.0 && (1.0..=4096.0).contains(scale))?;
        let nearest = matches!(self.r.filter, Filter::Nearest(_));
        if moves || !(nearest || scale == 1.0) {
            return None;
        }
        // Away from the corners the pattern does not depend on the size.
        let (from, times) = (3, scale as usize);
        let rows = self.r.rows(&Span { from, to: from * times, scale, roi: (0.0, 1.0) });
        let repeats = |(o, row): (usize, &Row)| row.as_deref() == Some(&[(o / times, 1.0)]);
        rows.iter().enumerate().all(repeats).then_some(times as i64)
    }

    fn constant(&self, span: &Span) -> Step<'g> {
        let (b, rows) = (self.c.b, self.r.rows(span));
        let flags = rows.iter().map(|row| f64::from(u8::from(row.is_none())));
        let outside = rows
            .iter()
            .any(Option::is_none)
            .then(|| b.constant(Tensor::from_f64(DType::Bool, &[rows.len()], flags.collect::<Vec<_>>())));
        let map = if let Filter::Nearest(_) = self.r.filter {
            let at = |row: &Row| row.as_ref().and_then(|row| row.first()).map_or(0, |entry| entry.0 as i64);
            Map::Pick(b.ints(&rows.iter().map(at).collect::<Vec<_>>()))
        } else if span.from.saturating_mul(span.to) <= MATRIX_LIMIT {
            Map::Matrix(b.constant(matrix(self.work, &rows, span)))
        } else {
            Map::Taps(self.taps(&rows))
        };
        Step { map, outside }
    }

    fn taps(&self, rows: &[Row]) -> Vec<(Val<'g>, Val<'g>)> {
        let b = self.c.b;
        let count = rows.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let tap = |k: usize| {
            let entry = |row: &Row| row.as_ref().and_then(|row| row.get(k).copied()).unwrap_or((0, 0.0));
            let at: Vec<i64> = rows.iter().map(|row| entry(row).0 as i64).collect();
            let weights = rows.iter().map(|row| entry(row).1);
            (b.ints(&at), b.constant(Tensor::from_f64(self.work, &[rows.len()], weights)))
        };
        (0..count).map(tap).collect()
    }

    /// The same by arithmetic in the graph.
    fn at_run_time(&self, k: usize) -> Step<'g> {
        let (from, _) = self.sizes(k);
        let (place, scale) = self.places(k);
        let last = self.c.b.dim_scalar(&from, self.work) - 1.0;
        let zero = place.like(0.0);
        let clip = |v: Val<'g>| self.c.b.op("Clip", &[v, zero, last], Attrs::new());
        let crops = self.r.coordinates == Coordinates::Crop;
        let outside = crops.then(|| place.lt(zero).or(place.gt(last)));
        let place = if crops { clip(place) } else { place };
        let map = match self.r.filter {
            Filter::Nearest(rounding) => Map::Pick(clip(rounded(place, rounding)).cast(DType::I64)),
            _ => Map::Matrix(self.weights(place, scale, &from)),
        };
        Step { map, outside }
    }

    fn scale(&self, k: usize) -> Val<'g> {
        let (b, c) = (self.c.b, self.c);
        if let Some(scale) = self.known_scale(k) {
            return b.scalar(self.work, scale);
        }
        let size = |dim: &Dim| b.dim_scalar(dim, self.work);
        if !c.has(3) {
            let at = b.constant(Tensor::ints(&[], &[k as i64]));
            return along::pick(c.x(2), 0, at).cast(self.work);
        }
        let Some(larger) = ratio_policy(c.attrs()) else {
            let (from, to) = self.sizes(k);
            return size(&to) / size(&from);
        };
        let from: Vec<Dim> = (0..self.axes.len()).map(|k| self.sizes(k).0).collect();
        let ratios = c.x(3).cast(self.work) / b.shape_value(&from).cast(self.work);
        let op = if larger { "ReduceMax" } else { "ReduceMin" };
        b.op(op, &[ratios], Attrs::new().with("keepdims", 0))
    }

    /// Where the output elements lie on the input's axis, and its scale. The formulas are those of `Resampling`.
    fn places(&self, k: usize) -> (Val<'g>, Val<'g>) {
        let (b, (from, to), scale) = (self.c.b, self.sizes(k), self.scale(k));
        let o = b.range(&to).cast(self.work);
        let (from, to) = (b.dim_scalar(&from, self.work), b.dim_scalar(&to, self.work));
        let width = scale * from;
        let half_pixel = || (o + 0.5) / scale - 0.5;
        let unless_one = |one: Val<'g>, many: Val<'g>| width.equal(width.like(1.0)).select(one, many);
        // Of one element the quotient is not read.
        let steps = || o / unless_one(width.like(1.0), width - 1.0);
        let place = match self.r.coordinates {
            Coordinates::HalfPixel => half_pixel(),
            Coordinates::PytorchHalfPixel => unless_one(o.like(-0.5), half_pixel()),
            Coordinates::HalfPixelSymmetric => from * 0.5 * (1.0 - to / width) + half_pixel(),
            Coordinates::AlignCorners => unless_one(o.like(0.0), steps() * (from - 1.0)),
            Coordinates::Asymmetric => o / scale,
            Coordinates::Crop => {
                let n = self.axes.len() as i64;
                let bound = |at: i64| self.c.x(1).slice(0, at, at + 1).squeeze(&[0]).cast(self.work);
                let (start, end) = (bound(k as i64), bound(k as i64 + n));
                (start + unless_one(o.like(0.5), steps()) * (end - start)) * (from - 1.0)
            }
        };
        (place, scale)
    }

    /// The matrix of weights `[out, in]` of places on an axis.
    fn weights(&self, place: Val<'g>, scale: Val<'g>, from: &Dim) -> Val<'g> {
        let b = self.c.b;
        let int = |v: i64| b.constant(Tensor::ints(&[], &[v]));
        let normalised = |w: Val<'g>| w / w.sum_keep(&[1]);
        let stretch = match self.r.antialias {
            true => b.op("Min", &[scale, scale.like(1.0)], Attrs::new()),
            false => scale.like(1.0),
        };
        let place = place.unsqueeze(&[1]);
        let at = |positions: Val<'g>| kernel(self.r.filter, (place - positions.cast(self.work)) * stretch);
        if self.r.exclude_outside {
            return normalised(at(b.range(from)));
        }
        // What lies outside counts for the element at the border.
        let reach = place.like(self.r.filter.support() as f64) / stretch;
        let reach = b.op("Ceil", &[reach], Attrs::new()).cast(DType::I64);
        let end = b.dim_value(from).squeeze(&[0]) + reach;
        let positions = b.op("Range", &[-reach, end, int(1)], Attrs::new());
        let w = if self.r.antialias { normalised(at(positions)) } else { at(positions) };
        let last = b.dim_value(from).squeeze(&[0]) - int(1);
        let folded = b.op("Clip", &[positions, int(0), last], Attrs::new()).unsqueeze(&[1]);
        w.matmul(folded.equal(b.range(from)).cast(self.work))
    }
}

fn matrix(dtype: DType, rows: &[Row], span: &Span) -> Tensor {
    let mut data = vec![0.0; rows.len() * span.from];
    for (row, place) in rows.iter().zip(data.chunks_mut(span.from.max(1))) {
        row.iter().flatten().for_each(|&(i, weight)| place[i] += weight);
    }
    Tensor::from_f64(dtype, &[rows.len(), span.from], data)
}

fn rounded(x: Val<'_>, rounding: Rounding) -> Val<'_> {
    let ceil = |v: Val<'_>| v.builder().op("Ceil", &[v], Attrs::new()).id();
    let b = x.builder();
    match rounding {
        Rounding::Floor => x.floor(),
        Rounding::Ceil => b.val(ceil(x)),
        Rounding::PreferFloor => b.val(ceil(x - 0.5)),
        Rounding::PreferCeil => (x + 0.5).floor(),
    }
}

/// The kernel's values, `Filter::kernel`.
fn kernel(filter: Filter, t: Val<'_>) -> Val<'_> {
    let b = t.builder();
    let t = t.abs();
    match filter {
        Filter::Nearest(_) | Filter::Linear => b.op("Relu", &[1.0 - t], Attrs::new()),
        Filter::Cubic(a) => {
            let near = (t * (a + 2.0) - (a + 3.0)) * t * t + 1.0;
            let far = ((t * a - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
            t.le(t.like(1.0)).select(near, t.lt(t.like(2.0)).select(far, t.like(0.0)))
        }
    }
}
