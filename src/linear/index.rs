//! Maps that pick elements by index, and running sums.

use super::{widened, with_lead};
use crate::ir::{Attrs, DType, Dim, Tensor, Val, count};

pub(super) fn gather_shape(t: &[Dim], indices: &[Dim], axis: usize) -> Vec<Dim> {
    let (before, after) = (t.iter().take(axis), t.iter().skip(axis.saturating_add(1)));
    before.chain(indices).chain(after).cloned().collect()
}

/// `indices[…, k]` picks along the first `k` axes.
pub(super) fn gather_nd_shape(t: &[Dim], indices: &[Dim]) -> Vec<Dim> {
    let Some((k, batch)) = indices.split_last() else { return t.to_vec() };
    let depth = k.fixed().unwrap_or(1).max(0) as usize;
    batch.iter().chain(t.iter().skip(depth)).cloned().collect()
}

pub(super) fn gather<'g>(t: Val<'g>, indices: Val<'g>, axis: usize) -> Val<'g> {
    t.builder().op("Gather", &[t, indices], Attrs::new().with("axis", axis as i64))
}

/// The transpose of a gather along `axis`: cotangents of equal indices add up.
pub(super) fn gather_transposed<'g>(ct: Val<'g>, indices: Val<'g>, axis: usize, shape: &[Dim]) -> Val<'g> {
    let (rank, picked) = (shape.len(), indices.rank());
    if axis >= rank {
        // The gather itself is at fault, which its facts say.
        return ct;
    }
    // The picked axes first, then a plain scatter along axis 0.
    let mut front: Vec<i64> = (axis..axis + picked).map(|a| a as i64).collect();
    front.extend((0..axis).chain(axis + picked..rank - 1 + picked).map(|a| a as i64));
    let moved: Vec<Dim> =
        std::iter::once(axis).chain((0..rank).filter(|&a| a != axis)).map(|a| shape[a].clone()).collect();
    let ct = if axis == 0 { ct } else { ct.permute(&front) };
    let scattered = scatter(ct, indices.unsqueeze(&[picked as i64]), &moved);
    let mut back: Vec<i64> = (1..rank as i64).collect();
    back.insert(axis, 0);
    if axis == 0 { scattered } else { scattered.permute(&back) }
}

/// The indices, the same along the leading axis.
fn indices_with_lead<'g>(indices: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
    let shape = indices.shape();
    if lead.is_none() { indices } else { indices.expand(&with_lead(&shape, lead)) }
}

pub(super) fn gather_elements<'g>(t: Val<'g>, indices: Val<'g>, axis: usize, lead: Option<&Dim>) -> Val<'g> {
    let axis = (axis + usize::from(lead.is_some())) as i64;
    t.builder().op("GatherElements", &[t, indices_with_lead(indices, lead)], Attrs::new().with("axis", axis))
}

/// Zeros of `shape` with `t` added along `axis`.
pub(super) fn scatter_elements<'g>(
    t: Val<'g>,
    indices: Val<'g>,
    axis: usize,
    shape: &[Dim],
    lead: Option<&Dim>,
) -> Val<'g> {
    let axis = (axis + usize::from(lead.is_some())) as i64;
    let attrs = Attrs::new().with("axis", axis).with("reduction", "add");
    added("ScatterElements", t, indices_with_lead(indices, lead), &with_lead(shape, lead), attrs)
}

pub(super) fn gather_nd<'g>(t: Val<'g>, indices: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
    let b = t.builder();
    if lead.is_none() {
        return b.op("GatherND", &[t, indices], Attrs::new());
    }
    let t = to_back(t);
    let picked = b.op("GatherND", &[t, indices], Attrs::new());
    to_front(picked)
}

/// Zeros of `shape` with `t` added at `indices`.
pub(super) fn scatter_nd<'g>(t: Val<'g>, indices: Val<'g>, shape: &[Dim], lead: Option<&Dim>) -> Val<'g> {
    let Some(lead) = lead else {
        return scatter(t, indices, shape);
    };
    let behind: Vec<Dim> = shape.iter().cloned().chain([lead.clone()]).collect();
    to_front(scatter(to_back(t), indices, &behind))
}

/// The leading axis moved behind all others, where indexing of the first axes does not see it.
fn to_back(t: Val<'_>) -> Val<'_> {
    let rank = t.rank() as i64;
    let perm: Vec<i64> = (1..rank).chain([0]).collect();
    t.permute(&perm)
}

fn to_front(t: Val<'_>) -> Val<'_> {
    let rank = t.rank() as i64;
    let perm: Vec<i64> = std::iter::once(rank - 1).chain(0..rank - 1).collect();
    t.permute(&perm)
}

fn scatter<'g>(updates: Val<'g>, indices: Val<'g>, shape: &[Dim]) -> Val<'g> {
    let add = Attrs::new().with("reduction", "add");
    if shape.len() == 1 && updates.rank() != 1 {
        // A flat scatter is the same whatever the shape of the indices.
        let flat = [count(&updates.shape())];
        let (updates, indices) = (updates.reshape(&flat), indices.reshape(&flat));
        return added("ScatterElements", updates, indices, shape, add.with("axis", 0));
    }
    // Gather takes indices of 32 bits as well.
    added("ScatterND", updates, indices.cast(DType::I64), shape, add)
}

/// Zeros with updates added.
fn added<'g>(op: &str, updates: Val<'g>, indices: Val<'g>, shape: &[Dim], attrs: Attrs) -> Val<'g> {
    let b = updates.builder();
    widened(updates, |updates| b.op(op, &[b.zeros(updates.dtype(), shape), indices, updates], attrs))
}

pub(super) fn cumsum<'g>(t: Val<'g>, axis: usize, exclusive: bool, reverse: bool) -> Val<'g> {
    let b = t.builder();
    let axis = b.constant(Tensor::ints(&[], &[axis as i64]));
    let attrs = Attrs::new().with("exclusive", i64::from(exclusive)).with("reverse", i64::from(reverse));
    widened(t, |t| b.op("CumSum", &[t, axis], attrs))
}
