//! Elementwise masks and matrix products.

use super::{Cotangent, with_lead};
use crate::ir::{Builder, Dim, Val, count};

/// `v` where `cond == keep`, else 0. A gate is a product with ones and zeros where `v` is finite: ONNX Runtime 1.32 takes seven
/// times as long for `Where`.
pub(super) fn mask<'g>(cond: Val<'g>, keep: bool, gate: bool, v: Val<'g>) -> Val<'g> {
    if gate && v.builder().is_finite(v) {
        let kept = if keep { cond } else { !cond };
        return v * kept.cast(v.dtype());
    }
    let zero = v.like(0.0);
    if keep { cond.select(v, zero) } else { cond.select(zero, v) }
}

/// The shape of `a · b`, both of rank at least 2.
pub(super) fn matmul_shape(builder: &Builder, a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let (Some((n, batch_a)), Some((m, batch_b))) = (split(a), split(b)) else { return a.to_vec() };
    let mut shape = builder.broadcast(batch_a, batch_b).unwrap_or_else(|| batch_a.to_vec());
    shape.push(n.0.clone());
    shape.push(m.1.clone());
    shape
}

/// Rows, columns and batch dimensions of a matrix shape.
fn split(shape: &[Dim]) -> Option<((&Dim, &Dim), &[Dim])> {
    match shape {
        [batch @ .., rows, columns] => Some(((rows, columns), batch)),
        _ => None,
    }
}

/// Axis `axis` of the cotangent at its whole size; other expansions stay delayed.
pub(super) fn whole_axis<'g>(ct: &Cotangent<'g>, from_end: usize) -> Val<'g> {
    let mut actual = ct.value.shape();
    while actual.len() < ct.shape.len() {
        actual.insert(0, Dim::Fixed(1));
    }
    let at = ct.shape.len() - from_end;
    let mut target = actual.clone();
    target[at] = ct.shape[at].clone();
    let value = if ct.value.rank() < actual.len() { ct.value.reshape(&actual) } else { ct.value };
    value.expand(&target)
}

/// `z = t·v`: `t̄ = z̄·vᵀ`
pub(super) fn matmul_right_transposed<'g>(
    ct: Cotangent<'g>,
    v: Val<'g>,
    from: &[Dim],
    lead: Option<&Dim>,
) -> Cotangent<'g> {
    let batched = v.rank() > 2;
    // `t` a plain matrix used by a whole batch: one product over all rows.
    if lead.is_none() && batched && from.len() == 2 {
        return left_over_batch(ct, v, from);
    }
    let back = v.transpose();
    let rows_alone = lead.is_none() && v.rank() == 2 && from.len() > 2 && ct.value.shape() == ct.shape;
    if rows_alone && v.dtype().is_float() && is_transposition(back) {
        // `v` is a weight: rows of all matrices are one long batch, and their product needs no transposed copy of it.
        let mut shape = ct.shape;
        let rows = flat_rows(ct.value, &v.dim(1)).matmul(back);
        shape.pop();
        shape.extend(from.last().cloned());
        return Cotangent { value: rows.reshape(&shape), shape }.unbroadcast(from, lead);
    }
    let value = whole_axis(&ct, 1).matmul(back);
    let mut shape = ct.shape;
    if let (Some(last), Some(k)) = (shape.last_mut(), from.last()) {
        *last = k.clone();
    }
    Cotangent { value, shape }.unbroadcast(from, lead)
}

/// Whether a node moves the axes of something to make `v`.
fn is_transposition(v: Val) -> bool {
    v.builder().read(|g| g.value(v.id()).producer.is_some_and(|node| g.node(node).op == "Transpose"))
}

/// `[…, n, columns] → […·n, columns]`
fn flat_rows<'g>(x: Val<'g>, columns: &Dim) -> Val<'g> {
    let shape = x.shape();
    let rows = shape.split_last().map_or(Dim::Fixed(1), |(_, rows)| count(rows));
    x.reshape(&[rows, columns.clone()])
}

/// `z[b] = t·v[b]`: `t̄ = Σ_b z̄[b]·v[b]ᵀ`, as one product over columns of all matrices.
fn left_over_batch<'g>(ct: Cotangent<'g>, v: Val<'g>, from: &[Dim]) -> Cotangent<'g> {
    let last = v.rank() as i64 - 1;
    // [m, batch·n] · [batch·n, k]
    let mut perm: Vec<i64> = vec![last - 1];
    perm.extend(0..last - 1);
    perm.push(last);
    let columns = |x: Val<'g>, rows: &Dim| {
        let shape = x.shape();
        let rest = count(&shape[..shape.len() - 2]) * shape[shape.len() - 1].clone();
        x.permute(&perm).reshape(&[rows.clone(), rest])
    };
    let z = columns(ct.materialise(), &from[0]);
    let value = z.matmul(columns(v, &from[1]).transpose());
    Cotangent { value, shape: from.to_vec() }
}

/// `Σ_r v_r z̄_rᵀ = Σ_s (Σ_{r in s} v_r) z̄_sᵀ` where `z̄` is the same for all rows `r` of `s`, as behind a mean: the sums of `v`
/// along such axes, and `z̄` once for each.
fn rows_that_differ<'g>(v: Val<'g>, ct: &Cotangent<'g>) -> Option<(Val<'g>, Val<'g>)> {
    let (rows, whole) = (v.shape(), &ct.shape);
    let rank = whole.len();
    let held = ct.value.shape();
    if held.len() != rank || rows.len() != rank || rows[..rank - 1] != whole[..rank - 1] {
        return None;
    }
    let same: Vec<i64> = (0..rank - 1).filter(|&i| held[i].is_one() && !whole[i].is_one()).map(|i| i as i64).collect();
    if same.is_empty() {
        return None;
    }
    let mut once = whole.clone();
    same.iter().for_each(|&axis| once[axis as usize] = Dim::Fixed(1));
    Some((super::widened(v, |v| v.sum_keep(&same)), ct.value.expand(&once)))
}

/// `z = v·t`: `t̄ = vᵀ·z̄`
pub(super) fn matmul_left_transposed<'g>(
    ct: Cotangent<'g>,
    v: Val<'g>,
    from: &[Dim],
    lead: Option<&Dim>,
) -> Cotangent<'g> {
    if lead.is_none() && v.rank() > 2 && from.len() == 2 {
        // `t` is a weight: rows of all matrices are one long batch.
        let (v, z) = rows_that_differ(v, &ct).unwrap_or_else(|| (v, ct.materialise()));
        let value = flat_rows(v, &from[0]).transpose().matmul(flat_rows(z, &from[1]));
        return Cotangent { value, shape: from.to_vec() };
    }
    let value = v.transpose().matmul(whole_axis(&ct, 2));
    let mut shape = ct.shape;
    let rank = shape.len();
    if rank >= 2 && from.len() >= 2 {
        shape[rank - 2] = from[from.len() - 2].clone();
    }
    let shape = if shape.len() < with_lead(from, lead).len() { with_lead(from, lead) } else { shape };
    Cotangent { value, shape }.unbroadcast(from, lead)
}
