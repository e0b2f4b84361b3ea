//! Losses as graphs, all means, with their second derivative in what they read.

use crate::error::{Error, Result};
use crate::ir::{Builder, DType, Dim, Fact, Tensor, Val};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    SoftmaxCrossEntropy,
    Nll,
    BceWithLogits,
    Bce,
    Mse,
    Mae,
    Huber,
}

const NAMES: [(&str, Loss); 7] = [
    ("softmax-cross-entropy", Loss::SoftmaxCrossEntropy),
    ("nll", Loss::Nll),
    ("bce-with-logits", Loss::BceWithLogits),
    ("bce", Loss::Bce),
    ("mse", Loss::Mse),
    ("mae", Loss::Mae),
    ("huber", Loss::Huber),
];

/// `∂²ℓ/∂f²` of each sample, weighted as in the mean: `[N, C]` throughout.
#[derive(Clone, Copy)]
pub enum Curvature<'g> {
    /// `weight_r (diag p_r − p_r p_rᵀ)`; `weight` is rank 0 or `[N]`.
    Softmax { probabilities: Val<'g>, weight: Val<'g> },
    /// `diag(second_r)`
    Diagonal { second: Val<'g> },
}

/// A loss in the graph.
#[derive(Clone, Copy)]
pub struct Built<'g> {
    /// Rank 0.
    pub loss: Val<'g>,
    pub labels: Val<'g>,
    /// `None` where `ℓ` is not twice differentiable in closed form here.
    pub curvature: Option<Curvature<'g>>,
}

impl Loss {
    pub fn from_name(name: &str) -> Option<Loss> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, loss)| *loss)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, loss)| *loss == self).map_or("", |(n, _)| n)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(n, _)| *n)
    }

    /// Whether labels are class indices.
    pub fn wants_classes(self) -> bool {
        matches!(self, Loss::SoftmaxCrossEntropy | Loss::Nll)
    }

    /// Whether the loss can read a tensor with that fact.
    pub fn check(self, fact: &Fact, tensor: &str) -> Result<()> {
        let classes = fact.shape.as_ref().and_then(|s| s.get(1)).is_some_and(|d| d.fixed().is_some_and(|n| n > 0));
        let expected = match (self.wants_classes(), fact.dtype.is_float()) {
            (_, false) => "a float tensor",
            (true, _) if !classes => "logits [N, C, …] with a fixed number of classes C",
            (false, _) if fact.shape.is_none() => "a tensor of known rank",
            _ => return Ok(()),
        };
        Err(Error::Prediction { loss: self.name(), tensor: tensor.to_string(), found: fact.to_string(), expected })
    }

    /// The activation that this loss applies itself: a model that ends in it is read before it.
    pub fn absorbs(self) -> &'static [&'static str] {
        match self {
            Loss::SoftmaxCrossEntropy => &["Softmax", "LogSoftmax"],
            Loss::BceWithLogits => &["Sigmoid"],
            _ => &[],
        }
    }

    /// The mean loss of `f`, with a graph input for the labels: int64 `[N, …]` for class indices, else of `f`'s shape.
    pub fn build<'g>(self, b: &'g Builder, f: Val<'g>, smoothing: f64) -> Built<'g> {
        b.scope("loss/");
        let shape = f.shape();
        let labels = if self.wants_classes() {
            let spatial: Vec<Dim> = shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d.clone()).collect();
            b.input("labels", Fact::new(DType::I64, spatial), None)
        } else {
            b.input("labels", Fact::new(f.dtype(), shape.clone()), None)
        };
        let rows: Vec<Dim> = shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d.clone()).collect();
        let inverse = |dims: &[Dim]| 1.0 / b.dim_scalar(&crate::ir::count(dims), f.dtype());
        let (loss, curvature) = match self {
            Loss::SoftmaxCrossEntropy => {
                let log_p = b.op("LogSoftmax", &[f], crate::ir::Attrs::new().with("axis", 1));
                let (loss, weight) = cross_entropy(log_p, labels, smoothing, inverse(&rows));
                let probabilities = log_p.exp();
                (loss, Some(Curvature::Softmax { probabilities, weight }))
            }
            Loss::Nll => {
                let (loss, _) = cross_entropy(f, labels, smoothing, inverse(&rows));
                (loss, Some(Curvature::Diagonal { second: zeros_like(f) }))
            }
            Loss::BceWithLogits => {
                // max(f, 0) − f·t + ln(1 + e^{−|f|})
                let loss = (b.op("Softplus", &[f], Default::default()) - f * labels).mean_all();
                let p = f.sigmoid();
                (loss, Some(Curvature::Diagonal { second: p * (1.0 - p) * inverse(&shape) }))
            }
            Loss::Bce => {
                let clipped = |v: Val<'g>| b.op("Max", &[v.log(), v.like(-100.0)], Default::default());
                let loss = -(labels * clipped(f) + (1.0 - labels) * clipped(1.0 - f)).mean_all();
                let second = labels / f.square() + (1.0 - labels) / (1.0 - f).square();
                (loss, Some(Curvature::Diagonal { second: second * inverse(&shape) }))
            }
            Loss::Mse => {
                let loss = (f - labels).square().mean_all();
                (loss, Some(Curvature::Diagonal { second: zeros_like(f) + 2.0 * inverse(&shape) }))
            }
            Loss::Mae => ((f - labels).abs().mean_all(), Some(Curvature::Diagonal { second: zeros_like(f) })),
            Loss::Huber => {
                let e = f - labels;
                let small = e.abs().lt(e.like(1.0));
                let loss = small.select(e.square() * 0.5, e.abs() - 0.5).mean_all();
                let second = small.select(e.like(1.0), e.like(0.0)) * inverse(&shape);
                (loss, Some(Curvature::Diagonal { second }))
            }
        };
        Built { loss, labels, curvature }
    }
}

fn zeros_like<'g>(f: Val<'g>) -> Val<'g> {
    f.builder().zeros(f.dtype(), &f.shape())
}

/// `−Σ_r ω Σ_c t_rc log p_rc`, `t = (1−ε)·onehot + ε/C`; the weight `ω` of a sample is `1/N`.
fn cross_entropy<'g>(log_p: Val<'g>, labels: Val<'g>, smoothing: f64, weight: Val<'g>) -> (Val<'g>, Val<'g>) {
    let b = log_p.builder();
    let rank = log_p.rank();
    let classes = log_p.dim(1);
    let index: Vec<i64> = (0..classes.fixed().unwrap_or(0)).collect();
    let mut along = vec![1; rank];
    along[1] = index.len();
    let index = b.constant(Tensor::ints(&along, &index));
    let hit = labels.unsqueeze(&[1]).equal(index);
    let picked = hit.select(log_p, log_p.like(0.0));
    let likelihood = if smoothing == 0.0 {
        picked.sum_all()
    } else {
        let uniform = smoothing / classes.fixed().unwrap_or(1).max(1) as f64;
        picked.sum_all() * (1.0 - smoothing) + log_p.sum_all() * uniform
    };
    (-(likelihood * weight), weight)
}
