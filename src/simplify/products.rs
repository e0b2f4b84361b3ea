//! Matrix products.

use super::algebra::keeps_shape;
use super::{Made, Site, made_by, same_shape};
use crate::ir::{Attrs, Dim, Tensor, Val};

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

/// `a·b`, either of which may be turned over.
struct Product<'g> {
    factors: [Val<'g>; 2],
    transposed: [bool; 2],
}

impl<'g> Product<'g> {
    /// What `v` is a product of, if it is one of matrices and nothing else.
    fn of(v: Val<'g>) -> Option<Product<'g>> {
        let node = made_by(v, "Gemm").or_else(|| made_by(v, "MatMul"))?;
        let plain = node.inputs.len() == 2 && node.attrs.float("alpha").unwrap_or(1.0) == 1.0;
        let factors = [v.builder().val(node.input(0)?), v.builder().val(node.input(1)?)];
        let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
        let matrices = factors.iter().all(|factor| factor.fact().rank() == Some(2));
        (plain && matrices).then(|| Product { factors, transposed: [flag("transA"), flag("transB")] })
    }

    /// `(a + aᵀ)·b` or `a·(b + bᵀ)`, where the other is `aᵀ·b` or `a·bᵀ`.
    fn with_turned(&self, other: &Product<'g>) -> Option<Val<'g>> {
        let same = |i: usize| self.factors[i].id() == other.factors[i].id();
        let alike = |i: usize| self.transposed[i] == other.transposed[i];
        let turned = (0..2).find(|&i| !alike(i) && alike(1 - i))?;
        if !same(0) || !same(1) {
            return None;
        }
        let straight = |i: usize| if self.transposed[i] { self.factors[i].transpose() } else { self.factors[i] };
        let mut factors = [straight(0), straight(1)];
        factors[turned] = self.factors[turned] + self.factors[turned].transpose();
        Some(factors[0].matmul(factors[1]))
    }
}

/// `(a·b)ᵀ = bᵀ·aᵀ` of matrices
pub(super) fn transposed_product<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Transpose" || s.attrs.ints("perm")? != [1, 0] {
        return None;
    }
    let Product { factors: [a, b], transposed } = Product::of(s.x(0)?)?;
    let (left, right) = (!transposed[1], !transposed[0]);
    if !left && !right {
        return Some(b.matmul(a));
    }
    let on = |attrs: Attrs, name: &str, yes: bool| if yes { attrs.with(name, 1) } else { attrs };
    let attrs = on(on(Attrs::new(), "transA", left), "transB", right);
    Some(s.b.op("Gemm", &[b, a], attrs))
}

/// `a·b + aᵀ·b = (a + aᵀ)·b`, `a·b + a·bᵀ = a·(b + bᵀ)`, also behind another term: the derivative of a symmetric product
pub(super) fn symmetric_factor<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "Add" || !same_shape(s.x(0)?, s.x(1)?) {
        return None;
    }
    let (x, y) = (s.x(0)?, s.x(1)?);
    [(x, y), (y, x)].into_iter().find_map(|(sum, term)| {
        let product = Product::of(term)?;
        if let Some(other) = Product::of(sum) {
            return product.with_turned(&other);
        }
        let Made { inputs, .. } = made_by(sum, "Add")?;
        let (a, b) = (s.b.val(inputs.first().copied()??), s.b.val(inputs.get(1).copied()??));
        [(a, b), (b, a)].into_iter().find_map(|(rest, other)| {
            let both = product.with_turned(&Product::of(other)?)?;
            same_shape(rest, both).then(|| rest + both)
        })
    })
}

/// `(c ⊙ v)·w = c ⊙ (v·w)`, `w·(c ⊙ v) = c ⊙ (w·v)`, where `c` is a number for each row, for each column, and the product
/// without it is there already
pub(super) fn scaled_factor<'g>(s: &Site<'g, '_>) -> Option<Val<'g>> {
    if s.op != "MatMul" {
        return None;
    }
    let factors = [s.x(0)?, s.x(1)?];
    [0, 1].into_iter().find_map(|i| {
        let scaled = factors[i];
        let node = made_by(scaled, "Mul")?;
        let (x, y) = (s.b.val(node.input(0)?), s.b.val(node.input(1)?));
        [(x, y), (y, x)].into_iter().find_map(|(c, v)| {
            let along = c.fact().shape?.iter().rev().nth(i).is_none_or(Dim::is_one);
            let mut plain = factors;
            plain[i] = v;
            let fits = along && same_shape(v, scaled) && v.fact().rank()? >= 2;
            let product = fits.then(|| s.b.existing("MatMul", &plain, &Attrs::new()))??;
            keeps_shape(product, c).then(|| c * product)
        })
    })
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
