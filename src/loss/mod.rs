//! Losses as graphs, all means, with their second derivative in what they read.

mod class_weights;
mod classes;
mod dice;
mod elementwise;
mod model;
mod settings;

pub use class_weights::read as read_class_weights;
pub use model::{Inlined, LossModel, LossModelFault};
pub use settings::{OptionFault, Settings};

use crate::ir::{Attrs, Builder, Dim, Fact, Val};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    SoftmaxCrossEntropy,
    Nll,
    BceWithLogits,
    Bce,
    Mse,
    Mae,
    Huber,
    Dice,
    DiceWithLogits,
}

const NAMES: [(&str, Loss); 9] = [
    ("softmax-cross-entropy", Loss::SoftmaxCrossEntropy),
    ("nll", Loss::Nll),
    ("bce-with-logits", Loss::BceWithLogits),
    ("bce", Loss::Bce),
    ("mse", Loss::Mse),
    ("mae", Loss::Mae),
    ("huber", Loss::Huber),
    ("dice", Loss::Dice),
    ("dice-with-logits", Loss::DiceWithLogits),
];

/// `∂²ℓ/∂f²` where it does not couple places of `f[N, C, …]`, weighted as in the mean loss.
#[derive(Clone, Copy)]
pub enum Curvature<'g> {
    /// `weight_r (diag p_r − p_r p_rᵀ)` over the classes at each place `r` of `[N, …]`: `probabilities` has `f`'s shape,
    /// `weight` has rank 0 or the shape `[N, …]`.
    Softmax { probabilities: Val<'g>, weight: Val<'g> },
    /// `diag(second)`, of `f`'s shape.
    Diagonal { second: Val<'g> },
}

/// A loss in the graph.
#[derive(Clone, Copy)]
pub struct Built<'g> {
    /// Rank 0.
    pub loss: Val<'g>,
    pub labels: Val<'g>,
    /// `None` where `∂²ℓ/∂f²` couples places.
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

    /// Whether the loss scores classes, along axis 1 of what it reads.
    pub fn scores_classes(self) -> bool {
        matches!(self, Loss::SoftmaxCrossEntropy | Loss::Nll)
    }

    /// The loss of an activation's input that equals this loss of its output: a model that ends in the activation is read
    /// before it.
    pub fn absorbing(self, activation: &str) -> Option<Loss> {
        match (self, activation) {
            (Loss::SoftmaxCrossEntropy, "Softmax" | "LogSoftmax") | (Loss::Nll, "LogSoftmax") => {
                Some(Loss::SoftmaxCrossEntropy)
            }
            (Loss::Bce | Loss::BceWithLogits, "Sigmoid") => Some(Loss::BceWithLogits),
            (Loss::DiceWithLogits, "Sigmoid") => Some(Loss::DiceWithLogits),
            _ => None,
        }
    }
}

impl Settings {
    /// The mean loss of `f[N, …]`, with a graph input for the labels. The settings are those that [`Settings::check`]
    /// passes for `f`.
    pub fn build<'g>(&self, b: &'g Builder, f: Val<'g>) -> Built<'g> {
        b.scope("loss/");
        let shape = f.shape();
        let rows: Vec<Dim> = shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d.clone()).collect();
        let fact = match self.class_indices() {
            true => Fact::new(crate::ir::DType::I64, rows),
            false => Fact::new(f.dtype(), shape),
        };
        let labels = b.input("labels", fact, None);
        let (loss, curvature) = match self.kind {
            Loss::SoftmaxCrossEntropy => {
                let log_p = b.op("LogSoftmax", &[f], Attrs::new().with("axis", 1));
                let (loss, weight) = classes::cross_entropy(log_p, labels, self);
                (loss, Some(Curvature::Softmax { probabilities: log_p.exp(), weight }))
            }
            Loss::Nll => {
                let (loss, _) = classes::cross_entropy(f, labels, self);
                (loss, Some(Curvature::Diagonal { second: elementwise::zeros_like(f) }))
            }
            Loss::BceWithLogits => elementwise::bce_with_logits(f, labels),
            Loss::Bce => elementwise::bce(f, labels),
            Loss::Mse => elementwise::mse(f, labels),
            Loss::Mae => elementwise::mae(f, labels),
            Loss::Huber => elementwise::huber(f, labels),
            Loss::Dice => (dice::dice(f, labels), None),
            Loss::DiceWithLogits => (dice::dice(f.sigmoid(), labels), None),
        };
        Built { loss, labels, curvature }
    }
}
