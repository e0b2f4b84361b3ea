//! Losses on classes, with PyTorch's conventions for class weights, ignored labels and label smoothing.

use super::Settings;
use crate::ir::{Builder, CONSTANT_LIMIT, DType, Dim, Tensor, Val, count};

/// The mean of `−Σ_c w_c t_rc log p_rc` over the places `r` of `[N, …]`, and what each place counts in it: rank 0, or
/// `[N, …]`. `log_p[N, C, …]`; `t = (1−ε)·target + ε/C`.
///
/// With class indices the mean is over `Σ_r w_{y_r}` of the labels that are not ignored; with probabilities over the
/// number of places, weights or none.
pub(super) fn cross_entropy<'g>(log_p: Val<'g>, labels: Val<'g>, settings: &Settings) -> (Val<'g>, Val<'g>) {
    let scores = Scores { log_p, weights: class_weights(log_p, settings), smoothing: settings.label_smoothing };
    if settings.class_indices() {
        scores.of_indices(labels, settings.ignore_index)
    } else {
        scores.of_probabilities(labels)
    }
}

/// `w` as `[1, C, 1, …]`.
fn class_weights<'g>(log_p: Val<'g>, settings: &Settings) -> Option<Val<'g>> {
    let weights = settings.class_weights.as_ref()?;
    let data = Tensor::from_f64(log_p.dtype(), &[weights.len()], weights.iter().copied());
    Some(log_p.builder().initializer("loss/class_weights", data).along_channel(log_p.rank()))
}

struct Scores<'g> {
    log_p: Val<'g>,
    weights: Option<Val<'g>>,
    smoothing: f64,
}

impl<'g> Scores<'g> {
    fn of_indices(&self, labels: Val<'g>, ignored: Option<i64>) -> (Val<'g>, Val<'g>) {
        let (b, log_p) = (self.builder(), self.log_p);
        let plain = ignored.is_none() && self.weights.is_none();
        let total = plain.then(|| 1.0 / b.dim_scalar(&count(&self.places()), log_p.dtype()));
        let classes = self.classes();
        let mut along = vec![1; log_p.rank()];
        along[1] = usize::try_from(classes).unwrap_or(0);
        let index = match along[1] <= CONSTANT_LIMIT {
            true => b.constant(Tensor::ints(&along, &(0..classes).collect::<Vec<_>>())),
            false => b.range(&Dim::Fixed(classes)).reshape(&along.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>()),
        };
        let counts = ignored.map(|i| !labels.equal(b.scalar(DType::I64, i as f64)));
        let mut hit = labels.unsqueeze(&[1]).equal(index);
        if let Some(counts) = counts {
            hit = hit.and(counts.unsqueeze(&[1]));
        }
        let none = log_p.like(0.0);
        let weighted = self.weighted(log_p);
        let picked = hit.select(weighted, none).sum_all();
        // What each place counts before the mean, and what it counts for the classes that it is not of.
        let own = match (self.weights, counts) {
            (Some(w), _) => Some(hit.select(w, none).sum(&[1])),
            (None, Some(counts)) => Some(counts.cast(log_p.dtype())),
            (None, None) => None,
        };
        let share = match (total, own) {
            (Some(total), _) => total,
            (None, own) => 1.0 / own.unwrap_or(log_p.like(1.0)).sum_all(),
        };
        let likelihood = if self.smoothing == 0.0 {
            picked
        } else {
            let all = match counts {
                Some(counts) => counts.unsqueeze(&[1]).select(weighted, none),
                None => weighted,
            };
            picked * (1.0 - self.smoothing) + all.sum_all() * (self.smoothing / classes.max(1) as f64)
        };
        (-(likelihood * share), self.place_weight(own, counts) * share)
    }

    /// `Σ_c w_c t_rc`: `(1−ε) w_{y_r} + ε mean(w)`, and 0 where the label is ignored.
    fn place_weight(&self, own: Option<Val<'g>>, counts: Option<Val<'g>>) -> Val<'g> {
        let own = own.unwrap_or(self.log_p.like(1.0));
        match self.weights.filter(|_| self.smoothing != 0.0) {
            None => own,
            Some(w) => {
                let rest = w.mean_all() * self.smoothing;
                let rest = counts.map_or(rest, |counts| counts.select(rest, rest.like(0.0)));
                own * (1.0 - self.smoothing) + rest
            }
        }
    }

    fn of_probabilities(&self, labels: Val<'g>) -> (Val<'g>, Val<'g>) {
        let share = 1.0 / self.builder().dim_scalar(&count(&self.places()), self.log_p.dtype());
        let targets = match self.smoothing {
            0.0 => labels,
            smoothing => labels * (1.0 - smoothing) + smoothing / self.classes().max(1) as f64,
        };
        let targets = self.weighted(targets);
        (-((targets * self.log_p).sum_all() * share), targets.sum(&[1]) * share)
    }

    fn weighted(&self, v: Val<'g>) -> Val<'g> {
        self.weights.map_or(v, |w| v * w)
    }

    fn builder(&self) -> &'g Builder {
        self.log_p.builder()
    }

    fn classes(&self) -> i64 {
        self.log_p.dim(1).fixed().unwrap_or(0)
    }

    /// `[N, …]`
    fn places(&self) -> Vec<Dim> {
        self.log_p.shape().into_iter().enumerate().filter(|(axis, _)| *axis != 1).map(|(_, d)| d).collect()
    }
}
