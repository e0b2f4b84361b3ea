//! The linear maps as bilinear ones: in the tangent, and in the coefficient that the slope is made of.

use super::{ConvGeometry, Linear, align, convolution};
use crate::ir::{Dim, Val};

impl<'g> Linear<'g> {
    /// The value the map's slope is made of, if it has one.
    pub fn coefficient(&self) -> Option<Val<'g>> {
        match self {
            Linear::Scale(v) | Linear::Quotient(v) | Linear::MatMulRight(v) | Linear::MatMulLeft(v) => Some(*v),
            Linear::Mask { cond, .. } => Some(*cond),
            Linear::Gather { indices, .. }
            | Linear::PoolPick { indices }
            | Linear::GatherElements { indices, .. }
            | Linear::ScatterElements { indices, .. }
            | Linear::GatherNd { indices }
            | Linear::ScatterNd { indices, .. } => Some(*indices),
            Linear::Conv { w, .. } | Linear::ConvTranspose { w, .. } => Some(*w),
            Linear::ConvFilter { x, .. } | Linear::ConvTransposeFilter { x, .. } => Some(*x),
            _ => None,
        }
    }

    /// What the image of `t` gains as the coefficient moves by `dc`; `None` where the coefficient is no real number.
    /// Shapes and `lead` as in [`Linear::emit`]; `dc` has the leading axis too.
    pub fn differential(
        &self,
        t: Val<'g>,
        dc: Val<'g>,
        from: &[Dim],
        to: &[Dim],
        lead: Option<&Dim>,
    ) -> Option<Val<'g>> {
        let rank = |c: &Val<'g>| c.rank();
        let tangent = || align(t, from.len(), to.len(), lead);
        let moved = |c: &Val<'g>| align(dc, rank(c), to.len(), lead);
        let filtered = |image: Val<'g>, filter: Val<'g>, g: &ConvGeometry| {
            convolution::pairwise(image, filter, g, lead, |g, x, w| g.conv(x, w))
        };
        let spread = |image: Val<'g>, filter: Val<'g>, g: &ConvGeometry| {
            convolution::pairwise(image, filter, g, lead, |g, x, w| g.conv_transpose(x, w, to))
        };
        match self {
            Linear::Scale(c) => Some(tangent() * moved(c)),
            Linear::Quotient(c) => Some(-(tangent() / *c * (moved(c) / *c))),
            Linear::MatMulRight(c) => Some(tangent().matmul(moved(c))),
            Linear::MatMulLeft(c) => Some(moved(c).matmul(tangent())),
            Linear::Conv { g, .. } => Some(filtered(t, dc, g)),
            Linear::ConvFilter { g, .. } => Some(filtered(dc, t, g)),
            Linear::ConvTranspose { g, .. } => Some(spread(t, dc, g)),
            Linear::ConvTransposeFilter { g, .. } => Some(spread(dc, t, g)),
            _ => None,
        }
    }
}
