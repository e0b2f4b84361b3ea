//! What can be said of a loss besides its kind, and whether it fits together.

use super::Loss;
use crate::error::{Error, Result};
use crate::ir::{Dim, Fact};

/// A loss and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub kind: Loss,
    /// Labels are probabilities `[N, C, …]` instead of class indices `[N, …]`.
    pub soft_labels: bool,
    /// Share of the uniform distribution in the targets, 0 to 1.
    pub label_smoothing: f64,
    /// One a class.
    pub class_weights: Option<Vec<f64>>,
    /// A label that is left out of the mean.
    pub ignore_index: Option<i64>,
}

impl From<Loss> for Settings {
    fn from(kind: Loss) -> Settings {
        Settings { kind, soft_labels: false, label_smoothing: 0.0, class_weights: None, ignore_index: None }
    }
}

/// Options that this loss does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionFault {
    #[error("{loss} is no loss on classes, as {} are: it has no {}", on_classes(), options.join(", no "))]
    NoClasses { options: Vec<&'static str>, loss: &'static str },
    #[error("an ignored label is a class index, and the labels are probabilities")]
    IgnoredProbability,
}

fn on_classes() -> String {
    let classes = Loss::names().filter(|name| Loss::from_name(name).is_some_and(Loss::scores_classes));
    classes.collect::<Vec<_>>().join(" and ")
}

impl Settings {
    /// Whether labels are class indices.
    pub fn class_indices(&self) -> bool {
        self.kind.scores_classes() && !self.soft_labels
    }

    /// The least and the largest label, where the loss has a meaning between them only.
    pub fn label_range(&self) -> Option<[f64; 2]> {
        let probabilities = match self.kind {
            Loss::Bce | Loss::BceWithLogits | Loss::Dice | Loss::DiceWithLogits => true,
            Loss::SoftmaxCrossEntropy | Loss::Nll => self.soft_labels,
            Loss::Mse | Loss::Mae | Loss::Huber => false,
        };
        probabilities.then_some([0.0, 1.0])
    }

    /// Options that this loss does not have, if there are any.
    pub fn option_fault(&self) -> Option<OptionFault> {
        let given = [
            ("label smoothing", self.label_smoothing != 0.0),
            ("class weights", self.class_weights.is_some()),
            ("ignored label", self.ignore_index.is_some()),
            ("soft labels", self.soft_labels),
        ];
        let options: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if !self.kind.scores_classes() && !options.is_empty() {
            return Some(OptionFault::NoClasses { options, loss: self.kind.name() });
        }
        (self.soft_labels && self.ignore_index.is_some()).then_some(OptionFault::IgnoredProbability)
    }

    /// Whether the loss, with these options, can read a tensor with that fact.
    ///
    /// # Errors
    /// [`Error::LossOptions`], [`Error::Prediction`], [`Error::ClassWeights`].
    pub fn check(&self, fact: &Fact, tensor: &str) -> Result<()> {
        if let Some(fault) = self.option_fault() {
            return Err(Error::LossOptions { fault });
        }
        let classes = fact.shape.as_ref().and_then(|s| s.get(1)).and_then(Dim::fixed).filter(|n| *n > 0);
        let spatial = fact.rank().is_some_and(|rank| rank > 2);
        let expected = match (self.kind, fact.dtype.is_float()) {
            (_, false) => Some("a float tensor"),
            (kind, _) if kind.scores_classes() && classes.is_none() => {
                Some("logits [N, C, …] with a fixed number of classes C")
            }
            (Loss::Dice | Loss::DiceWithLogits, _) if !spatial => Some("masks [N, C, …] with an axis to sum over"),
            _ if fact.shape.is_none() => Some("a tensor of known rank"),
            _ => None,
        };
        if let Some(expected) = expected {
            let (loss, tensor, found) = (self.kind.name(), tensor.to_string(), fact.to_string());
            return Err(Error::Prediction { loss, tensor, found, expected });
        }
        match (&self.class_weights, classes) {
            (Some(weights), Some(classes)) if weights.len() as i64 != classes => {
                Err(Error::ClassWeights { found: weights.len(), tensor: tensor.to_string(), classes })
            }
            _ => Ok(()),
        }
    }
}
