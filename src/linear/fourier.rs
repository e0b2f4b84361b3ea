//! Fourier transforms of complex numbers as pairs in the last axis.

use crate::ir::{Attrs, Tensor, Val};

pub(super) fn dft<'g>(t: Val<'g>, axis: usize, inverse: bool) -> Val<'g> {
    let b = t.builder();
    let axis = b.constant(Tensor::ints(&[], &[axis as i64]));
    let attrs = if inverse { Attrs::new().with("inverse", 1) } else { Attrs::new() };
    let y = b.node("DFT", &[Some(t), None, Some(axis)], attrs, 1);
    y.first().copied().unwrap_or(t)
}

/// `Fᵀ = N F⁻¹`, `(F⁻¹)ᵀ = F / N`: as a matrix of complex numbers F is symmetric, and as one of real numbers its
/// transpose is also its conjugate.
pub(super) fn dft_transposed<'g>(ct: Val<'g>, axis: usize, inverse: bool) -> Val<'g> {
    let n = ct.builder().dim_scalar(&ct.dim(axis as i64), ct.dtype());
    let y = dft(ct, axis, !inverse);
    if inverse { y / n } else { y * n }
}
