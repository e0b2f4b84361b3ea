//! The overlap of two masks (Dice's coefficient; as a loss: Milletari et al., V-Net, 2016).

use crate::ir::Val;

/// Keeps the loss of two empty masks at 0.
const SMOOTHING: f64 = 1e-5;

/// The mean over samples and channels of `1 − (2Σpt + ε) / (Σp + Σt + ε)`, sums over the axes behind `[N, C]`.
pub(super) fn dice<'g>(p: Val<'g>, t: Val<'g>) -> Val<'g> {
    let spatial: Vec<i64> = (2..p.rank() as i64).collect();
    let both = (p * t).sum(&spatial);
    let each = p.sum(&spatial) + t.sum(&spatial);
    let overlap = (both * 2.0 + SMOOTHING) / (each + SMOOTHING);
    (1.0 - overlap).mean_all()
}
