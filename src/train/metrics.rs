//! What is measured: at steps, and over sets of samples.

use serde_json::{Map, Value, json};

/// Figures of one training step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// The epoch it belongs to, counted from 1.
    pub epoch: u64,
    pub loss: f64,
    /// By the graph's name for it, `kappa` or `kappa.LAYER`.
    pub kappa: Vec<(String, f64)>,
    pub objective: f64,
    /// Of the objective, before clipping; `None` where micro-batches are summed up, and in artifacts that do not measure it.
    pub gradient_norm: Option<f64>,
    pub lr: f64,
    /// Since the line before.
    pub examples_per_second: f64,
}

impl StepRecord {
    /// `Σ λκ / (loss + Σ λκ)`; `None` where no κ is trained.
    pub fn kappa_share(&self) -> Option<f64> {
        let share = (self.objective - self.loss) / self.objective;
        (!self.kappa.is_empty() && share.is_finite()).then_some(share)
    }

    /// Every figure by its name in `metrics.jsonl`.
    pub fn named(&self) -> Vec<(&str, f64)> {
        let mut named = vec![("loss", self.loss)];
        named.extend(self.kappa.iter().map(|(name, value)| (name.as_str(), *value)));
        named.push(("objective", self.objective));
        named.extend(self.kappa_share().map(|share| ("kappa_share", share)));
        named.extend(self.gradient_norm.map(|norm| ("gradient_norm", norm)));
        named.push(("lr", self.lr));
        named.push(("examples_per_second", self.examples_per_second.round()));
        named
    }

    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("step".to_owned(), json!(self.step));
        map.insert("epoch".to_owned(), json!(self.epoch));
        map.extend(numbers(self.named()));
        Value::Object(map)
    }
}

/// Means over a set of samples. What the task does not have is `None`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    pub samples: usize,
    pub loss: f64,
    pub kappa: Vec<(String, f64)>,
    pub objective: f64,
    /// Part of the labels that the prediction hits: the largest score of the classes, or the right side of one half.
    pub accuracy: Option<f64>,
    /// Part of the labels that are among the five largest scores, where there are more than five classes.
    pub accuracy_top5: Option<f64>,
    /// Mean squared error of the elements.
    pub mse: Option<f64>,
    /// Mean absolute error of the elements.
    pub mae: Option<f64>,
    /// Dice's coefficient `2|P∩T| / (|P| + |T|)` of segmentations, the mean over classes or channels.
    pub dice: Option<f64>,
    /// Those of `kappa` that are estimates, with the noise of random probes.
    pub estimated: Vec<String>,
}

impl Figures {
    /// Every figure by the name that `--metric` takes.
    pub fn named(&self) -> Vec<(&str, f64)> {
        let mut named = vec![("loss", self.loss)];
        named.extend(self.kappa.iter().map(|(name, value)| (name.as_str(), *value)));
        named.push(("objective", self.objective));
        let scores = [
            ("accuracy", self.accuracy),
            ("accuracy_top5", self.accuracy_top5),
            ("mse", self.mse),
            ("mae", self.mae),
            ("dice", self.dice),
        ];
        named.extend(scores.into_iter().filter_map(|(name, value)| Some((name, value?))));
        named
    }

    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("samples".to_owned(), json!(self.samples));
        map.extend(numbers(self.named()));
        if !self.estimated.is_empty() {
            map.insert("estimated".to_owned(), json!(self.estimated));
        }
        Value::Object(map)
    }
}

/// Whether a larger value of a figure is a better one.
pub fn higher_is_better(metric: &str) -> bool {
    ["accuracy", "accuracy_top5", "dice"].contains(&metric)
}

/// The line of an evaluation after `step` steps.
pub fn validation_line(step: u64, epoch: u64, figures: &Figures) -> Value {
    json!({"step": step, "epoch": epoch, "validation": figures.to_json()})
}

fn numbers(named: Vec<(&str, f64)>) -> impl Iterator<Item = (String, Value)> {
    named.into_iter().map(|(name, value)| (name.to_owned(), json!(shortest(value))))
}

/// A figure that came as float32, as the shortest decimal number that is the same float32; others as they are.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { single.to_string().parse().unwrap_or(value) } else { value }
}
