//! Matrix products.

use super::{Site, made_by};
use crate::ir::{Attrs, Tensor, Val};

/// `x`, where `v` is the transpose of a matrix.
fn transposed<'g>(v: Val<'g>) -> Option<Val<'g>> {
    let node = made_by(v, "Transpose")?;
    (node.attrs.ints("perm")? == [1, 0]).then(|| v.builder().val(node.input(0).unwrap_or(v.id())))
}

/// `aᵀ·b`, `a·bᵀ`, `aᵀ·bᵀ` of matrices: one Gemm
pub(super) fn transposed_operand<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    // Runtimes multiply matrices of integers by MatMul only.
    if s.op != "MatMul" || !s.x(0)?.dtype().is_float() {
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

/// `(a·b)ᵀ = bᵀ·aᵀ` of matrices
pub(super) fn transposed_product<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Transpose" || s.attrs.ints("perm")? != [1, 0] {
        return None;
    }
    let product = s.x(0)?;
    let node = made_by(product, "Gemm").or_else(|| made_by(product, "MatMul"))?;
    let plain = node.inputs.len() == 2 && node.attrs.float("alpha").unwrap_or(1.0) == 1.0;
    let (a, b) = (s.b.val(node.input(0)?), s.b.val(node.input(1)?));
    if !plain || a.fact().rank()? != 2 || b.fact().rank()? != 2 {
        return None;
    }
    let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
    let (left, right) = (!flag("transB"), !flag("transA"));
    if !left && !right {
        return Some(b.matmul(a));
    }
    let on = |attrs: Attrs, name: &str, yes: bool| if yes { attrs.with(name, 1) } else { attrs };
    let attrs = on(on(Attrs::new(), "transA", left), "transB", right);
    Some(s.b.op("Gemm", &[b, a], attrs))
}

/// `1·x = x`, `x·1 = x`; the rows of `1`, one matrix each, times `x`: the rows of `x`, one matrix each
pub(super) fn identity_matrix<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "MatMul" {
        return None;
    }
    let (a, b) = (s.x(0)?, s.x(1)?);
    if is_identity(a) && b.fact().rank()? >= 2 {
        return Some(b);
    }
    if holds_rows_of_identity(a) && b.fact().rank()? == 2 {
        return Some(b.unsqueeze(&[1]));
    }
    (is_identity(b) && a.fact().rank()? >= 2).then_some(a)
}

/// `[n, 1, n]` of the elements of the identity.
fn holds_rows_of_identity(v: Val<'_>) -> bool {
    let data = v.builder().constant_data(v);
    data.is_some_and(|data| matches!(data.shape[..], [n, 1, m] if n == m && holds_identity(&data, n)))
}

fn is_identity(v: Val<'_>) -> bool {
    match v.builder().constant_data(v) {
        Some(data) => matches!(data.shape[..], [n, m] if n == m && holds_identity(&data, n)),
        None => is_eye(v).unwrap_or(false),
    }
}

/// Whether `v` is an EyeLike of a square, with its ones on the diagonal.
fn is_eye(v: Val<'_>) -> Option<bool> {
    let node = made_by(v, "EyeLike")?;
    Some(node.attrs.int("k").unwrap_or(0) == 0 && matches!(&v.fact().shape?[..], [n, m] if n == m))
}

fn holds_identity(data: &Tensor, n: usize) -> bool {
    let values = data.to_f64();
    (0..n * n).all(|i| values.get(i) == Some(&f64::from(u8::from(i / n == i % n))))
}
