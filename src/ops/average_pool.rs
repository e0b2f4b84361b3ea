//! Average pooling.

use super::conv::index;
use super::window::{Windows, dims, inside, positions, sizes};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Tensor, Val};
use crate::lower::along;
use crate::linear::{AveragePool, ConvGeometry, Divisor};
use ndarray::{ArrayD, IxDyn};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::unknown(dtype)]) };
    let windows = Windows::of_pool(c.attrs, x)?;
    let counts = windows.counts(&x[2..], |axis| c.unknown(axis))?;
    Ok(vec![Fact::new(dtype, x[..2].iter().cloned().chain(counts).collect::<Vec<_>>())])
}

fn includes_pads(attrs: &Attrs) -> bool {
    attrs.int("count_include_pad") == Some(1)
}

/// How many elements of axis `i` each window averages: those of the image, or of the padded image. What a last window
/// covers beyond the end padding never counts.
fn covered(w: &Windows, i: usize, size: usize, windows: usize, include: bool) -> Vec<i64> {
    let (low, high) = if include { (-w.pads[i].0, size as i64 + w.pads[i].1) } else { (0, size as i64) };
    let at = |o: usize, t: i64| o as i64 * w.strides[i] + t * w.dilations[i] - w.pads[i].0;
    (0..windows).map(|o| (0..w.kernel[i]).filter(|&t| (low..high).contains(&at(o, t))).count() as i64).collect()
}

/// The divisors of windows that read more elements than this are computed when the graph runs.
const WORK: i64 = 1 << 24;

/// The number of elements of each window as an array.
fn divisors(w: &Windows, image: &[usize], windows: &[usize], include: bool) -> ArrayD<f64> {
    let axes: Vec<Vec<i64>> = (0..w.spatial()).map(|i| covered(w, i, image[i], windows[i], include)).collect();
    ArrayD::from_shape_fn(IxDyn(windows), |at| (0..axes.len()).map(|i| axes[i][at[i]] as f64).product())
}

fn divisor<'g>(x: Val<'g>, w: &Windows, g: &ConvGeometry, windows: &[Dim], include: bool) -> Divisor<'g> {
    let unpadded = w.pads.iter().all(|p| *p == (0, 0));
    if !w.ceil && (include || unpadded) {
        return Divisor::Same(w.taps());
    }
    let b = x.builder();
    if let (Some(_), Some(counts)) = (crate::ir::fixed(&g.image), crate::ir::fixed(windows))
        && counts.iter().zip(&w.kernel).fold(1i64, |work, (&n, &k)| work.saturating_mul(n).saturating_mul(k)) <= WORK
    {
        let counts = divisors(w, &sizes(&g.image), &sizes(windows), include);
        return match counts.iter().all(|&n| n == w.taps() as f64) {
            true => Divisor::Same(w.taps()),
            false => Divisor::Each(b.constant(Tensor::from_f64(x.dtype(), counts.shape(), counts.iter().copied()))),
        };
    }
    // Sizes known only at run time: the windows of an image of ones are summed there.
    let mut sums = ConvGeometry { group: 1, ..g.clone() };
    if include {
        for (i, &(begin, end)) in w.pads.iter().enumerate() {
            sums.image[i] = sums.image[i].clone() + Dim::Fixed(begin + end);
            sums.pads[i] = (0, sums.pads[i].1 - end);
        }
    }
    let one = [Dim::Fixed(1), Dim::Fixed(1)];
    let ones = |spatial: Vec<Dim>| x.like(1.0).expand(&one.iter().cloned().chain(spatial).collect::<Vec<_>>());
    let kernel = ones(w.kernel.iter().map(|&k| Dim::Fixed(k)).collect());
    // The pads are wide enough for one window more than there may be.
    Divisor::Each(along::first(sums.conv(ones(sums.image.clone()), kernel), windows).reshape(windows))
}

/// y = Σ x over each window / its size      dy = Σ dx over each window / its size
fn average_pool<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, dx) = (c.x(0), c.dx(0));
    let shape = x.shape();
    let w = match Windows::of_pool(c.attrs(), &shape) {
        Ok(w) => w,
        Err(fault) => return c.fault(fault),
    };
    let windows = c.out(0).shape()[2..].to_vec();
    let g = w.geometry(&shape[2..], &windows, 1);
    let divisor = divisor(x, &w, &g, &windows, includes_pads(c.attrs()));
    dx.average_pool(AveragePool { attrs: c.attrs().clone(), g, windows, divisor })
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let w = Windows::of_pool(c.attrs, &dims(x.shape()))?;
    let image = &x.shape()[2..];
    let windows = sizes(&w.counts(&dims(image), |_| Dim::Fixed(0))?);
    let counts = divisors(&w, image, &windows, includes_pads(c.attrs));
    let shape = [&x.shape()[..2], &windows].concat();
    let mut y = ArrayD::zeros(IxDyn(&shape));
    for (at, value) in positions(&shape).zip(y.iter_mut()) {
        let taps = w.each_tap().filter_map(|tap| inside(&w.position(&at[2..], &tap), image));
        let sum: f64 = taps.map(|from| x[&index(at[0], at[1], &from)]).sum();
        *value = sum / counts[IxDyn(&at[2..])];
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], k: &[i64], strides: &[i64]| {
        Case::new().real(x).attr("kernel_shape", k).attr("strides", strides)
    };
    vec![
        case(&[2, 2, 6], &[2], &[2]),
        case(&[2, 3, 4, 4], &[2, 2], &[2, 2]),
        case(&[2, 2, 5, 7], &[2, 3], &[2, 3]),
        case(&[2, 2, 5, 6], &[3, 3], &[2, 1]).attr("pads", [1, 1, 1, 0]),
        case(&[2, 2, 5, 6], &[3, 3], &[2, 1]).attr("pads", [1, 1, 1, 0]).attr("count_include_pad", 1),
        case(&[1, 2, 6, 6], &[3, 3], &[2, 2]).attr("pads", [1, 1, 1, 1]).attr("ceil_mode", 1),
        case(&[1, 2, 6, 6], &[3, 3], &[2, 2])
            .attr("pads", [1, 1, 1, 1])
            .attr("ceil_mode", 1)
            .attr("count_include_pad", 1),
        case(&[2, 1, 7], &[2], &[3]).attr("pads", [1, 1]).attr("ceil_mode", 1),
        case(&[2, 1, 7, 5], &[2, 2], &[1, 2]).attr("dilations", [3, 2]),
        case(&[1, 1, 4, 4, 5], &[2, 2, 2], &[2, 1, 2]),
    ]
}

pub static AVERAGE_POOL: Op =
    Op { name: "AveragePool", facts, tangent: Tangent::Rule(average_pool), eval, cases };
