//! Normalisations of sums.

use super::Fused;
use crate::ir::{Attrs, Val};
use crate::lower::normalization::working_type;
use crate::ops::Fault;

type Made<'g> = Result<Vec<Val<'g>>, Fault>;

/// What ONNX Runtime takes where the node says nothing.
pub(super) const EPSILON: f32 = 1e-12;

/// LayerNormalization over the last axis; output, mean and inverse deviation.
pub(super) fn layer_normalization<'g>(
    f: &Fused<'g, '_>,
    x: Val<'g>,
    scale: Val<'g>,
    bias: Option<Val<'g>>,
    outputs: usize,
) -> Vec<Val<'g>> {
    let attrs = Attrs::new().with("axis", x.rank() as i64 - 1).with("epsilon", f.float("epsilon", EPSILON) as f32);
    let inputs: Vec<Option<Val>> =
        [Some(x), Some(scale), bias].into_iter().take(2 + usize::from(bias.is_some())).collect();
    f.b.node("LayerNormalization", &inputs, attrs, outputs)
}

/// The outputs of a normalisation of a sum: the sum is the last one.
fn with_sum<'g>(f: &Fused<'g, '_>, mut normal: Vec<Val<'g>>, sum: Val<'g>) -> Vec<Val<'g>> {
    if f.has_out(3) {
        normal.resize(3, sum);
        normal.push(sum);
    }
    normal
}

/// y = (s − μ)/√(σ² + ε)·γ + β, s = x + skip + bias
pub fn skip<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let sum = f.x(0)? + f.x(1)?;
    let sum = f.get(4).map_or(sum, |bias| sum + bias);
    f.shaped(0)?;
    let outputs = if f.has_out(1) || f.has_out(2) { 3 } else { 1 };
    Ok(with_sum(f, layer_normalization(f, sum, f.x(2)?, f.get(3), outputs), sum))
}

/// y = x̂·γ and 1/√(mean x² + ε), where x̂ = x/√(mean x² + ε)
fn root_mean_square<'g>(x: Val<'g>, scale: Val<'g>, axes: &[i64], epsilon: f64) -> Vec<Val<'g>> {
    let wide = x.cast(working_type(x.dtype()));
    let inverse = (wide.square().mean_keep(axes) + epsilon).sqrt().reciprocal();
    vec![(wide * inverse).cast(scale.dtype()) * scale, inverse]
}

/// y = x/√(mean x² + ε)·γ, the mean over the axes from `axis` on
pub fn simplified<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let (x, shape) = f.shaped(0)?;
    let rank = shape.len() as i64;
    let axis = f.int("axis", -1);
    let axes: Vec<i64> = (if axis < 0 { axis + rank } else { axis }..rank).collect();
    Ok(root_mean_square(x, f.x(1)?, &axes, f.float("epsilon", 1e-5)))
}

/// y = s/√(mean s² + ε)·γ, s = x + skip + bias
pub fn skip_simplified<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let (x, shape) = f.shaped(0)?;
    let sum = x + f.x(1)?;
    let sum = f.get(3).map_or(sum, |bias| sum + bias);
    let mut normal = root_mean_square(sum, f.x(2)?, &[shape.len() as i64 - 1], f.float("epsilon", EPSILON));
    // The mean is of no use here, and runtimes leave it out.
    normal.insert(1, normal[1]);
    Ok(with_sum(f, normal, sum))
}
