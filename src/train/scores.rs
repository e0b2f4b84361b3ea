//! How good predictions are, summed up batch after batch: accuracy, errors, Dice's coefficient.

use super::{data::Spec, metrics::Figures};
use crate::{
    artifact::manifest::Manifest,
    tensor::{Tensor, elements},
};

/// What predictions and labels are, which decides what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Scores `[N, C, …]` of classes, labels `[N, …]`.
    Classes { ignore_index: Option<i64> },
    /// Probabilities of yes, and labels of 0 and 1, both `[N, …]`.
    Yes,
    /// The same with logits.
    YesLogits,
    /// Numbers, of one shape.
    Numbers,
}

impl Task {
    /// Of a loss by its name; losses of other kinds say nothing of predictions.
    fn of(loss: &str, classes: bool, ignore_index: Option<i64>) -> Option<Task> {
        match loss {
            "softmax-cross-entropy" | "nll" if classes => Some(Task::Classes { ignore_index }),
            "bce" | "dice" => Some(Task::Yes),
            "bce-with-logits" | "dice-with-logits" => Some(Task::YesLogits),
            "mse" | "mae" | "huber" => Some(Task::Numbers),
            _ => None,
        }
    }

    /// Of the loss that an artifact trains.
    pub fn of_artifact(manifest: &Manifest, spec: &Spec) -> Option<Task> {
        Task::of(&manifest.loss, spec.classes.is_some(), spec.ignore_index)
    }

    /// The names of its figures.
    pub fn figures(self, spec: &Spec) -> Vec<&'static str> {
        let axes = spec.labels().map_or(0, |labels| labels.shape.len());
        let (top, segments) = match self {
            Task::Numbers => return vec!["mse", "mae"],
            Task::Classes { .. } => (spec.classes.is_some_and(|classes| classes > TOP), axes > 0),
            Task::Yes | Task::YesLogits => (false, axes > 1),
        };
        let names = [("accuracy", true), ("accuracy_top5", top), ("dice", segments)];
        names.into_iter().filter_map(|(name, measured)| measured.then_some(name)).collect()
    }
}

/// Scores among which a label counts as hit by [`Figures::accuracy_top5`].
const TOP: usize = 5;

/// Sums over the samples so far.
#[derive(Debug, Default)]
pub(super) struct Scores {
    counted: usize,
    hits: usize,
    near: Option<usize>,
    squares: f64,
    distances: f64,
    /// Of each class or channel, where there is more than one position a sample: those that are both predicted and true, and
    /// the sum of those predicted and those true.
    overlaps: Vec<(u64, u64)>,
}

impl Scores {
    /// Counts a batch; predictions of another shape than the labels are passed over.
    pub fn add(&mut self, task: Task, predictions: &Tensor, labels: &Tensor) {
        match task {
            Task::Classes { ignore_index } => self.add_classes(predictions, labels, ignore_index),
            Task::Yes => self.add_yes(predictions, labels, 0.5),
            Task::YesLogits => self.add_yes(predictions, labels, 0.0),
            Task::Numbers => self.add_numbers(predictions, labels),
        }
    }

    fn add_classes(&mut self, predictions: &Tensor, labels: &Tensor, ignore_index: Option<i64>) {
        let &[samples, classes, ref positions @ ..] = predictions.shape() else {
            return;
        };
        let positions = elements(positions);
        if labels.is_empty() || labels.len() != samples * positions {
            return;
        }
        let values: Vec<f64> = predictions.iter_f64().collect();
        let segments = positions > 1;
        if segments {
            self.overlaps.resize(classes, (0, 0));
        }
        for (at, label) in labels.iter_i64().enumerate().filter(|(_, label)| Some(*label) != ignore_index) {
            let first = at / positions * classes * positions + at % positions;
            let score = |class: usize| values[first + class * positions];
            // The first of equal scores, as everywhere.
            let largest = (0..classes).reduce(|best, class| if score(class) > score(best) { class } else { best });
            let Some((found, label)) = largest.zip(usize::try_from(label).ok().filter(|&label| label < classes)) else {
                continue;
            };
            self.counted += 1;
            self.hits += usize::from(found == label);
            if classes > TOP {
                let before =
                    |class: usize| score(class) > score(label) || (score(class) == score(label) && class < label);
                let rank = (0..classes).filter(|&class| before(class)).count();
                *self.near.get_or_insert(0) += usize::from(rank < TOP);
            }
            if segments {
                self.overlaps[found].0 += u64::from(found == label);
                self.overlaps[found].1 += 1;
                self.overlaps[label].1 += 1;
            }
        }
    }

    fn add_yes(&mut self, predictions: &Tensor, labels: &Tensor, threshold: f64) {
        if predictions.len() != labels.len() {
            return;
        }
        // Axes after the channels are positions.
        let (channels, positions) = match predictions.shape() {
            &[_, channels, ref positions @ ..] if !positions.is_empty() => (channels, elements(positions)),
            _ => (1, 1),
        };
        if positions > 1 {
            self.overlaps.resize(channels, (0, 0));
        }
        for (at, (value, label)) in predictions.iter_f64().zip(labels.iter_f64()).enumerate() {
            let (found, label) = (value > threshold, label > 0.5);
            self.counted += 1;
            self.hits += usize::from(found == label);
            if let Some((both, either)) = self.overlaps.get_mut(at / positions % channels.max(1)) {
                *both += u64::from(found && label);
                *either += u64::from(found) + u64::from(label);
            }
        }
    }

    fn add_numbers(&mut self, predictions: &Tensor, labels: &Tensor) {
        if predictions.len() != labels.len() {
            return;
        }
        for (value, label) in predictions.iter_f64().zip(labels.iter_f64()) {
            self.counted += 1;
            self.squares += (value - label).powi(2);
            self.distances += (value - label).abs();
        }
    }

    /// Classes or channels whose overlaps are counted.
    pub fn classes(&self) -> usize {
        self.overlaps.len()
    }

    /// All sums in one row, with overlaps of as many classes: those of several parts of the samples may be added up.
    pub fn to_row(&self, classes: usize) -> Vec<f64> {
        let near = [self.near.is_some().into(), self.near.unwrap_or(0) as f64];
        let mut row = vec![self.counted as f64, self.hits as f64, near[0], near[1], self.squares, self.distances];
        for k in 0..classes {
            let (both, either) = self.overlaps.get(k).copied().unwrap_or_default();
            row.extend([both as f64, either as f64]);
        }
        row
    }

    pub fn of_row(row: &[f64]) -> Scores {
        let &[counted, hits, has_near, near, squares, distances, ref overlaps @ ..] = row else {
            return Scores::default();
        };
        Scores {
            counted: counted as usize,
            hits: hits as usize,
            near: (has_near > 0.0).then_some(near as usize),
            squares,
            distances,
            overlaps: overlaps.as_chunks().0.iter().map(|&[both, either]| (both as u64, either as u64)).collect(),
        }
    }

    /// Writes the means into `figures`.
    pub fn finish(&self, task: Task, figures: &mut Figures) {
        if self.counted == 0 {
            return;
        }
        let mean = |sum: f64| Some(sum / self.counted as f64);
        match task {
            Task::Classes { .. } | Task::Yes | Task::YesLogits => {
                figures.accuracy = mean(self.hits as f64);
                figures.accuracy_top5 = self.near.and_then(|near| mean(near as f64));
                // A class that is neither predicted nor true says nothing.
                let present: Vec<f64> = self
                    .overlaps
                    .iter()
                    .filter(|(_, either)| *either > 0)
                    .map(|(both, either)| 2.0 * *both as f64 / *either as f64)
                    .collect();
                figures.dice = (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64);
            }
            Task::Numbers => (figures.mse, figures.mae) = (mean(self.squares), mean(self.distances)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new(DType::F32, shape.to_vec(), data).expect("a tensor")
    }

    fn figures(task: Task, batches: &[(Tensor, Tensor)]) -> Figures {
        let (mut scores, mut figures) = (Scores::default(), Figures::default());
        batches.iter().for_each(|(predictions, labels)| scores.add(task, predictions, labels));
        scores.finish(task, &mut figures);
        figures
    }

    #[test]
    fn accuracy_among_five_of_seven() {
        let task = Task::Classes { ignore_index: Some(-1) };
        // The label's rank is 0, 4, 5 and, by the first of equal scores, 1; the last one is ignored.
        let rows = [
            [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            [5.0, 9.0, 8.0, 7.0, 6.0, 0.0, 0.0],
            [4.0, 9.0, 8.0, 7.0, 6.0, 5.0, 0.0],
            [0.0, 7.0, 7.0, 1.0, 2.0, 3.0, 4.0],
            [0.0; 7],
        ];
        let labels = tensor(&[5], &[0.0, 0.0, 0.0, 2.0, -1.0]);
        let found = figures(task, &[(tensor(&[5, 7], rows.as_flattened()), labels)]);
        assert_eq!((found.accuracy, found.accuracy_top5, found.dice), (Some(0.25), Some(0.75), None));
    }

    #[test]
    fn dice_of_classes_is_the_mean_over_those_that_there_are() {
        let task = Task::Classes { ignore_index: None };
        // Predicted 0 0 1 1, true 0 1 1 1, of three classes: 2·1/(2+1), 2·2/(2+3), none.
        let scores = tensor(&[1, 3, 4], &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]);
        let found = figures(task, &[(scores, tensor(&[1, 4], &[0.0, 1.0, 1.0, 1.0]))]);
        assert_eq!((found.accuracy, found.accuracy_top5), (Some(0.75), None));
        assert_eq!(found.dice, Some((2.0 / 3.0 + 4.0 / 5.0) / 2.0));
    }

    #[test]
    fn dice_of_masks_over_batches() {
        let batch = |values: &[f32], labels: &[f32]| (tensor(&[1, 1, 4], values), tensor(&[1, 1, 4], labels));
        let logits = [batch(&[1.0, -1.0, 2.0, 0.0], &[1.0, 0.0, 0.0, 1.0]), batch(&[3.0, 3.0, -3.0, -3.0], &[1.0; 4])];
        let found = figures(Task::YesLogits, &logits);
        // Both: 1 + 2; predicted: 2 + 2; true: 2 + 4.
        assert_eq!((found.accuracy, found.dice), (Some(4.0 / 8.0), Some(2.0 * 3.0 / 10.0)));
        let half = figures(Task::Yes, &[(tensor(&[2, 1], &[0.6, 0.4]), tensor(&[2, 1], &[1.0, 1.0]))]);
        assert_eq!((half.accuracy, half.dice), (Some(0.5), None));
    }

    #[test]
    fn rows_of_parts_add_up() {
        let task = Task::Classes { ignore_index: None };
        let scores = |seed: u32| {
            let values: Vec<f32> = (0..2 * 6 * 3).map(|k| ((k * 7 + seed) % 11) as f32).collect();
            let labels: Vec<f32> = (0..2 * 3).map(|k| ((k * 5 + seed) % 6) as f32).collect();
            (tensor(&[2, 6, 3], &values), tensor(&[2, 3], &labels))
        };
        let parts = [1, 2].map(|seed| {
            let (mut part, (predictions, labels)) = (Scores::default(), scores(seed));
            part.add(task, &predictions, &labels);
            part.to_row(6)
        });
        let empty = Scores::default().to_row(6);
        let sum: Vec<f64> = (0..empty.len()).map(|k| parts[0][k] + parts[1][k] + empty[k]).collect();
        let mut found = Figures::default();
        Scores::of_row(&sum).finish(task, &mut found);
        assert_eq!(found, figures(task, &[scores(1), scores(2)]));
        assert!(found.dice.is_some() && found.accuracy_top5.is_some());
    }

    #[test]
    fn errors_of_numbers() {
        let found = figures(Task::Numbers, &[(tensor(&[2, 1], &[1.0, 4.0]), tensor(&[2], &[3.0, 3.0]))]);
        assert_eq!((found.mse, found.mae, found.accuracy), (Some(2.5), Some(1.5), None));
    }
}
