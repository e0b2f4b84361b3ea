//! Matrix products.

use super::{Site, made_by, operand};
use crate::ir::{Attrs, Val};

/// `x`, where `v` is the transpose of a matrix.
fn transposed<'g>(v: Val<'g>) -> Option<Val<'g>> {
    let node = made_by(v, "Transpose")?;
    (node.attrs.ints("perm")? == [1, 0]).then(|| v.builder().val(node.input(0).unwrap_or(v.id())))
}

/// `aᵀ·b`, `a·bᵀ`, `aᵀ·bᵀ` of matrices: one Gemm
pub(super) fn transposed_operand<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "MatMul" {
        return None;
    }
    let (a, b) = (s.x(0)?, s.x(1)?);
    if a.fact().rank() != Some(2) || b.fact().rank() != Some(2) {
        return None;
    }
    let (ta, tb) = (transposed(a), transposed(b));
    if ta.is_none() && tb.is_none() {
        return None;
    }
    let mut attrs = Attrs::new();
    if ta.is_some() {
        attrs = attrs.with("transA", 1);
    }
    if tb.is_some() {
        attrs = attrs.with("transB", 1);
    }
    Some(s.b.op("Gemm", &[ta.unwrap_or(a), tb.unwrap_or(b)], attrs))
}

/// `1·x = x`, `x·1 = x`
pub(super) fn identity_matrix<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "MatMul" {
        return None;
    }
    let (a, b) = (s.x(0)?, s.x(1)?);
    if is_identity(a)? && b.fact().rank()? >= 2 {
        return Some(b);
    }
    (is_identity(b)? && a.fact().rank()? >= 2).then_some(a)
}

fn is_identity(v: Val<'_>) -> Option<bool> {
    let Some(data) = v.builder().constant_data(v) else { return Some(operand(v, "EyeLike").is_some()) };
    let [n, m] = data.shape[..] else { return Some(false) };
    let values = data.to_f64();
    Some(n == m && (0..n * m).all(|i| values.get(i) == Some(&f64::from(u8::from(i / n == i % n)))))
}
