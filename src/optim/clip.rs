//! The joint norm of gradients, and clipping by it.

use crate::ir::{Attrs, Builder, DType, Val};
use crate::lower::normalization::working_type;

/// `√Σ‖g‖²` over all gradients, a float32 scalar; `None` where there are none.
pub fn gradient_norm<'g>(b: &'g Builder, gradients: &[Val<'g>]) -> Option<Val<'g>> {
    b.scope("gradient_norm/");
    // In one pass, and halves in single precision: their squares leave its range.
    let square = |g: &Val<'g>| {
        let g = g.cast(working_type(g.dtype()));
        b.op("ReduceSumSquare", &[g], Attrs::new().with("keepdims", 0)).cast(DType::F32)
    };
    let squares: Vec<Val> = gradients.iter().map(square).collect();
    match squares.as_slice() {
        [] => None,
        [one] => Some(one.sqrt()),
        all => Some(b.op("Sum", all, Attrs::new()).sqrt()),
    }
}

/// The gradients scaled so that their joint norm is at most `limit`, as PyTorch's `clip_grad_norm_`:
/// `g · min(1, limit / (‖g‖ + 1e-6))`.
pub fn clip_by_norm<'g>(b: &'g Builder, gradients: &[Val<'g>], limit: f64) -> Vec<Val<'g>> {
    let Some(norm) = gradient_norm(b, gradients) else { return Vec::new() };
    b.scope("clip/");
    let ratio = limit / (norm + 1e-6);
    let scale = b.op("Min", &[ratio, ratio.like(1.0)], Attrs::new());
    gradients.iter().map(|g| *g * scale.cast(g.dtype())).collect()
}
