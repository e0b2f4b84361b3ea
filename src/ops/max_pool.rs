//! Max pooling.

use super::conv::index;
use super::window::{Windows, dims, inside, positions, sizes};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Val, fixed};
use crate::linear::{AveragePool, ConvGeometry, Divisor, can_upsample, upsampled};
use ndarray::{ArrayD, IxDyn};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::unknown(dtype), Fact::unknown(DType::I64)]) };
    let windows = Windows::of_pool(c.attrs, x)?;
    let counts = windows.counts(&x[2..], |axis| c.unknown(axis))?;
    let shape: Vec<Dim> = x[..2].iter().cloned().chain(counts).collect();
    Ok(vec![Fact::new(dtype, shape.clone()), Fact::new(DType::I64, shape)])
}

/// y = x[i]             dy = dx[i], where `i` are the flat places of the maxima, the first of equal ones
/// y = Σ (x ⊙ first)    dy = Σ (dx ⊙ first) over each window, where windows tile the image
fn max_pool<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, dx) = (c.x(0), c.dx(0));
    if let Some(sum) = tiling(c) {
        let taps: i64 = sum.g.kernel.iter().product();
        return dx.gate(first_maxima(c, &sum.g)).average_pool(sum) * taps as f64;
    }
    let mut attrs: Attrs = c.attrs().clone();
    attrs.remove("storage_order");
    match c.b.node("MaxPool", &[Some(x)], attrs, 2).as_slice() {
        [_, indices] => dx.pool_pick(*indices),
        _ => c.zero(),
    }
}

/// Elements of the largest image whose places are numbered in a constant.
const PLACES: i64 = 1 << 18;

/// The mean over the same windows, where they tile an image of known size: there maxima are found faster by comparing than
/// by their indices, which keep runtimes from their fast kernel.
fn tiling<'g>(c: &Cx<'g>) -> Option<AveragePool<'g>> {
    let (x, y) = (c.x(0), c.out(0));
    let shape = x.shape();
    let w = Windows::of_pool(c.attrs(), &shape).ok()?;
    let windows = y.shape().get(2..)?.to_vec();
    let g = w.geometry(&shape[2..], &windows, 1);
    let small = fixed(&g.image)?.iter().product::<i64>() <= PLACES;
    if !small || !g.tiles() || !can_upsample(x) || c.has_out(1) {
        return None;
    }
    let attrs = Attrs::new().with("kernel_shape", w.kernel.as_slice()).with("strides", w.strides.as_slice());
    Some(AveragePool { attrs, g, windows, divisor: Divisor::Same(w.taps()) })
}

/// Where the first maximum of each window is. Every maximum gets the number of the places from it to the end of its window;
/// the first has the largest.
fn first_maxima<'g>(c: &Cx<'g>, g: &ConvGeometry) -> Val<'g> {
    let (x, y) = (c.x(0), c.out(0));
    let image = sizes(&g.image);
    let taps: i64 = g.kernel.iter().product();
    let left = |place: usize| {
        let tap = |axis: usize| (place / image[axis + 1..].iter().product::<usize>() % image[axis]) as i64 % g.kernel[axis];
        taps - (0..image.len()).fold(0, |at, axis| at * g.kernel[axis] + tap(axis))
    };
    let left = c.b.tabulated(x.dtype(), &[&[1, 1], image.as_slice()].concat(), |place| left(place) as f64);
    let of_maxima = x.equal(upsampled(y, &g.kernel)).cast(x.dtype()) * left;
    let attrs = Attrs::new().with("kernel_shape", g.kernel.as_slice()).with("strides", g.strides.as_slice());
    of_maxima.equal(upsampled(c.b.op("MaxPool", &[of_maxima], attrs), &g.kernel))
}

/// The strides of a flat index: row-major, or with the spatial axes the other way round.
fn strides(shape: &[usize], column_major: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shape.len()).rev().collect();
    if column_major {
        order = (2..shape.len()).chain([1, 0]).collect();
    }
    let (mut strides, mut step) = (vec![0; shape.len()], 1);
    for axis in order {
        strides[axis] = step;
        step *= shape[axis];
    }
    strides
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let w = Windows::of_pool(c.attrs, &dims(x.shape()))?;
    let image = &x.shape()[2..];
    let windows = sizes(&w.counts(&dims(image), |_| Dim::Fixed(0))?);
    let shape = [&x.shape()[..2], &windows].concat();
    let flat = strides(x.shape(), c.int("storage_order", 0) == 1);
    let mut y = ArrayD::from_elem(IxDyn(&shape), f64::NEG_INFINITY);
    let mut places = ArrayD::zeros(IxDyn(&shape));
    for ((at, y), place) in positions(&shape).zip(y.iter_mut()).zip(places.iter_mut()) {
        for tap in w.each_tap() {
            let Some(from) = inside(&w.position(&at[2..], &tap), image) else { continue };
            let from = index(at[0], at[1], &from);
            if x[&from] > *y {
                *y = x[&from];
                *place = (0..flat.len()).map(|i| (flat[i] * from[i]) as f64).sum();
            }
        }
    }
    Ok(vec![Array::new(c.dtype(0), y), Array::new(DType::I64, places)])
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], k: &[i64], strides: &[i64]| {
        Case::new().distinct(x).attr("kernel_shape", k).attr("strides", strides)
    };
    vec![
        case(&[2, 2, 6], &[2], &[2]),
        case(&[2, 2, 4, 4], &[2, 2], &[2, 2]).outputs(2),
        case(&[2, 2, 4, 6], &[2, 3], &[2, 3]),
        case(&[2, 1, 4, 3], &[4, 1], &[4, 1]).attr("storage_order", 1),
        case(&[2, 2, 5, 6], &[3, 2], &[2, 1]).attr("pads", [1, 0, 1, 1]),
        case(&[1, 2, 6, 6], &[3, 3], &[2, 2]).attr("pads", [1, 1, 1, 1]).attr("ceil_mode", 1),
        case(&[2, 1, 7], &[2], &[3]).attr("pads", [1, 1]).attr("ceil_mode", 1),
        case(&[2, 1, 7, 5], &[2, 2], &[1, 2]).attr("dilations", [3, 2]),
        case(&[2, 2, 3, 4], &[2, 2], &[1, 2]).attr("storage_order", 1).outputs(2),
        case(&[1, 1, 4, 4, 5], &[2, 2, 2], &[2, 1, 2]),
    ]
}

pub static MAX_POOL: Op = Op { name: "MaxPool", facts, tangent: Tangent::Rule(max_pool), eval, cases };
