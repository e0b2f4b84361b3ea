//! Normalisations in terms of means and products.

use crate::ir::{Attrs, DType, Dim, Val, count};
use crate::ops::Cx;

/// The type to compute statistics in: at least single precision.
pub fn working_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// What is normalised in its working type, and the way back to its own type.
fn working<'g>(c: &Cx<'g>) -> (Val<'g>, impl Fn(Val<'g>) -> Val<'g>) {
    let x = c.x(0);
    let dtype = x.dtype();
    (x.cast(working_type(dtype)), move |v: Val<'g>| v.cast(dtype))
}

/// `(x − mean)`, the mean and the variance over the axes, which keep their place.
fn moments<'g>(x: Val<'g>, axes: &[i64]) -> (Val<'g>, Val<'g>, Val<'g>) {
    let mean = x.mean_keep(axes);
    let centred = x - mean;
    (centred, mean, centred.square().mean_keep(axes))
}

/// `1/√(v + ε)`
fn inverse_root<'g>(v: Val<'g>, epsilon: f64) -> Val<'g> {
    (v + epsilon).sqrt().reciprocal()
}

fn standardised<'g>(x: Val<'g>, axes: &[i64], epsilon: f64) -> Val<'g> {
    let (centred, _, variance) = moments(x, axes);
    centred * inverse_root(variance, epsilon)
}

/// Input `i` a number a channel, as seen by `x`.
fn per_channel<'g>(c: &Cx<'g>, i: usize, x: Val<'g>) -> Val<'g> {
    c.x(i).cast(x.dtype()).along_channel(x.rank())
}

/// y = (x − μ)·γ/√(σ² + ε) + β with the batch's own μ and σ²; the running ones move towards them:
/// running ← momentum·running + (1 − momentum)·own
pub fn batch_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, back) = working(c);
    let axes: Vec<i64> = (0..x.rank() as i64).filter(|&a| a != 1).collect();
    let (centred, mean, variance) = moments(x, &axes);
    let scale = per_channel(c, 1, x) * inverse_root(variance, c.float("epsilon", 1e-5));
    let y = back(centred * scale + per_channel(c, 2, x));
    let momentum = c.float("momentum", 0.9);
    let moved = |i: usize, own: Val<'g>| {
        let running = c.x(i);
        running * momentum + own.reshape(&running.shape()).cast(running.dtype()) * (1.0 - momentum)
    };
    let mut outputs = vec![y];
    if c.has_out(1) || c.has_out(2) {
        outputs.extend([moved(3, mean), moved(4, variance)]);
    }
    outputs
}

/// y = (x − μ)·γ/√(σ² + ε) + β with μ and σ² of each channel of each image
pub fn instance_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, back) = working(c);
    let axes: Vec<i64> = (2..x.rank() as i64).collect();
    let normal = standardised(x, &axes, c.float("epsilon", 1e-5));
    vec![back(normal * per_channel(c, 1, x) + per_channel(c, 2, x))]
}

/// y = (x − μ)·γ/√(σ² + ε) + β with μ and σ² of each group of channels of each image
pub fn group_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, back) = working(c);
    let (shape, groups) = (x.shape(), c.int("num_groups", 1).max(1));
    let Some((n, rest)) = shape.split_first() else { return vec![x] };
    let size = count(rest);
    let each = size.div_exact(&Dim::Fixed(groups)).unwrap_or_else(|| size.div_floor(groups));
    let grouped = x.reshape(&[n.clone(), Dim::Fixed(groups), each]);
    let normal = standardised(grouped, &[2], c.float("epsilon", 1e-5)).reshape(&shape);
    vec![back(normal * per_channel(c, 1, x) + per_channel(c, 2, x))]
}

/// y = x·γ/√(Σ x²/n + ε) over the axes from `axis` on
pub fn rms_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, back) = working(c);
    let axes: Vec<i64> = (c.axis(-1)..x.rank() as i64).collect();
    let normal = x * inverse_root(x.square().mean_keep(&axes), c.float("epsilon", 1e-5));
    vec![back(normal * c.x(1).cast(x.dtype()))]
}

/// y = x / ‖x‖ₚ along an axis; 0 where the norm is 0
pub fn lp_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, axis) = (c.x(0), c.axis(-1));
    let absolute = c.int("p", 2) == 1;
    let sum = if absolute { x.abs() } else { x.square() }.sum_keep(&[axis]);
    // Also the root's derivative stays finite at 0.
    let sum = sum.equal(sum.like(0.0)).select(sum.like(1.0), sum);
    vec![x / if absolute { sum } else { sum.sqrt() }]
}

/// y = x / (bias + α/size · Σ x²)^β, the sum over the channels next to each
pub fn lrn<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let x = c.x(0);
    let shape = x.shape();
    let size = c.int("size", 1).max(1);
    let [n, channels, spatial @ ..] = shape.as_slice() else { return vec![x] };
    // Channels as the rows of an image: their mean is an average pool.
    let rows = x.square().reshape(&[n.clone(), Dim::Fixed(1), channels.clone(), count(spatial)]);
    let before = (size - 1) / 2;
    let attrs = Attrs::new()
        .with("kernel_shape", [size, 1])
        .with("strides", [1, 1])
        .with("pads", [before, 0, size - 1 - before, 0])
        .with("count_include_pad", 1);
    let mean = c.b.op("AveragePool", &[rows], attrs).reshape(&shape);
    let base = mean * c.float("alpha", 1e-4) + c.float("bias", 1.0);
    vec![x / base.pow(x.like(c.float("beta", 0.75)))]
}

/// Keeps a variance of 0 from dividing by 0.
const SMALLEST_DEVIATION: f64 = 1e-9;

/// y = (x − μ) / (σ + 1e-9)
pub fn mean_variance_normalization<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let x = c.x(0);
    let axes = c.attrs().ints("axes").unwrap_or(&[0, 2, 3]).to_vec();
    let (centred, _, variance) = moments(x, &axes);
    vec![centred / (variance.sqrt() + SMALLEST_DEVIATION)]
}
