//! The loss's curvature `S` as a quadratic form, which makes the Gauss–Newton part `JᵀSJ` of a second derivative.
//!
//! The softmax's `Σ_c p_c t_c u_c − (Σ_c p_c t_c)(Σ_c p_c u_c)` is a covariance, and does not change when `t` and `u` are
//! shifted. Where one class has nearly all of `p`, its two terms are nearly equal; around that class `k` they are small.

use crate::ir::{Attrs, Dim, Val};
use crate::loss::Curvature;

/// The axis of what the loss reads that counts classes.
pub const CLASS_AXIS: usize = 1;

/// `Σ_r tᵀ S_r u` over everything, rank 0; `t` and `u` have the shape of what the loss reads, behind `lead`.
pub fn product<'g>(curvature: Curvature<'g>, t: Val<'g>, u: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
    let axis = CLASS_AXIS as i64 + i64::from(lead.is_some());
    match curvature {
        Curvature::Diagonal { second } => (second * (t * u)).sum_all(),
        Curvature::Softmax { probabilities: p, weight } => {
            let zero = t.like(0.0);
            let at = likeliest(p);
            let around = |v: Val<'g>| v - at.select(v, zero).sum_keep(&[axis]);
            let (t, u) = (around(t), around(u));
            let mean = |v: Val<'g>| (p * v).sum(&[axis]);
            (weight * ((p * (t * u)).sum(&[axis]) - mean(t) * mean(u))).sum_all()
        }
    }
}

/// Where each distribution has its largest probability, the first of equal ones.
fn likeliest(p: Val<'_>) -> Val<'_> {
    let b = p.builder();
    let attrs = Attrs::new().with("axis", CLASS_AXIS as i64).with("keepdims", 1);
    let index = b.op("ArgMax", &[p], attrs);
    index.equal(b.range(&p.dim(CLASS_AXIS as i64)).along_channel(p.rank()))
}

/// A distribution around its likeliest class `k`: `δ = p − e_k` and `e_k`, of `p`'s shape.
pub struct Around<'g> {
    pub shift: Val<'g>,
    pub centre: Val<'g>,
}

impl<'g> Around<'g> {
    pub fn likeliest(p: Val<'g>) -> Around<'g> {
        let at = likeliest(p);
        let rest = at.select(p.like(0.0), p);
        // 1 − p_k would lose its digits where p_k is nearly 1.
        let shift = at.select(-rest.sum_keep(&[CLASS_AXIS as i64]), rest);
        Around { shift, centre: at.cast(p.dtype()) }
    }
}
