//! Clipping.

use crate::ir::{Attrs, Builder, DType, Val};

/// The gradients scaled so that their joint norm is at most `limit`, as PyTorch's `clip_grad_norm_`:
/// `g · min(1, limit / (‖g‖ + 1e-6))`.
pub fn clip_by_norm<'g>(b: &'g Builder, gradients: &[Val<'g>], limit: f64) -> Vec<Val<'g>> {
    b.scope("clip/");
    let squares = gradients.iter().map(|g| g.square().sum_all().cast(DType::F32));
    let Some(total) = squares.reduce(|sum, square| sum + square) else { return Vec::new() };
    let ratio = limit / (total.sqrt() + 1e-6);
    let scale = b.op("Min", &[ratio, ratio.like(1.0)], Attrs::new());
    gradients.iter().map(|g| *g * scale.cast(g.dtype())).collect()
}
