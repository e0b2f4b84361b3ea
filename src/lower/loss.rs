//! Losses on class labels.

use crate::ir::{Attrs, Val};
use crate::ops::Cx;

/// `loss = −Σ log softmax(x)[label]`; the second output is log softmax(x)
pub fn softmax_cross_entropy<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let log_p = c.b.op("LogSoftmax", &[c.x(0)], Attrs::new().with("axis", 1));
    vec![labelled_loss(c, log_p), log_p]
}

/// `loss = −Σ x[label]`
pub fn negative_log_likelihood<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    vec![labelled_loss(c, c.x(0))]
}

/// The loss of log-probabilities `[N, C, …]`: −w·log_p at the label of each place, reduced as the attribute says.
fn labelled_loss<'g>(c: &Cx<'g>, log_p: Val<'g>) -> Val<'g> {
    let (rank, labels) = (log_p.rank(), c.x(1));
    let weights = c.has(2).then(|| c.x(2).cast(log_p.dtype()).along_channel(rank));
    let ignored = c.attrs().int("ignore_index").map(|i| labels.equal(labels.like(i as f64)));
    let classes = c.b.range(&log_p.dim(1)).cast(labels.dtype()).along_channel(rank);
    let mut chosen = labels.unsqueeze(&[1]).equal(classes);
    if let Some(ignored) = ignored {
        chosen = chosen.and((!ignored).unsqueeze(&[1]));
    }
    let none = log_p.like(0.0);
    let weighted = match weights {
        Some(w) => log_p * w,
        None => log_p,
    };
    let each = -chosen.select(weighted, none).sum(&[1]);
    match (c.attrs().str("reduction").unwrap_or("mean"), weights, ignored) {
        ("none", ..) => each,
        ("sum", ..) => each.sum_all(),
        (_, Some(w), _) => each.sum_all() / chosen.select(w, none).sum_all(),
        (_, None, Some(ignored)) => each.sum_all() / (!ignored).cast(log_p.dtype()).sum_all(),
        (_, None, None) => each.mean_all(),
    }
}
