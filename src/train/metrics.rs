//! What is measured, and `metrics.jsonl`: a JSON object a line.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::Error;

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
    pub lr: f64,
    /// Since the line before.
    pub examples_per_second: f64,
}

/// Means over a set of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub samples: usize,
    pub loss: f64,
    pub kappa: Vec<(String, f64)>,
    pub objective: f64,
    /// Part of the labels that the largest prediction hits, where labels are classes.
    pub accuracy: Option<f64>,
}

impl Figures {
    /// Every figure by the name that `--metric` takes.
    pub fn named(&self) -> Vec<(&str, f64)> {
        let mut named = vec![("loss", self.loss)];
        named.extend(self.kappa.iter().map(|(name, value)| (name.as_str(), *value)));
        named.push(("objective", self.objective));
        named.extend(self.accuracy.map(|accuracy| ("accuracy", accuracy)));
        named
    }

    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("samples".to_owned(), json!(self.samples));
        map.extend(self.named().into_iter().map(|(name, value)| (name.to_owned(), json!(shortest(value)))));
        Value::Object(map)
    }
}

impl StepRecord {
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("step".to_owned(), json!(self.step));
        map.insert("epoch".to_owned(), json!(self.epoch));
        map.insert("loss".to_owned(), json!(shortest(self.loss)));
        map.extend(self.kappa.iter().map(|(name, value)| (name.clone(), json!(shortest(*value)))));
        map.insert("objective".to_owned(), json!(shortest(self.objective)));
        map.insert("lr".to_owned(), json!(self.lr));
        map.insert("examples_per_second".to_owned(), json!(self.examples_per_second.round()));
        Value::Object(map)
    }
}

/// A figure that came as float32, as the shortest decimal number that is the same float32; others as they are.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { single.to_string().parse().unwrap_or(value) } else { value }
}

/// The line of an evaluation after `step` steps.
pub fn validation_line(step: u64, epoch: u64, figures: &Figures) -> Value {
    json!({"step": step, "epoch": epoch, "validation": figures.to_json()})
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file and drops the lines after `step`: they belong to steps that are done again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, step: u64) -> Result<MetricsFile, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(io)?;
            let kept: String = text.lines().filter(|line| belongs(line, step)).flat_map(|line| [line, "\n"]).collect();
            if kept != text {
                std::fs::write(path, kept).map_err(io)?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        Ok(MetricsFile { path: path.to_owned(), file })
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, line: &Value) -> Result<(), Error> {
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

fn belongs(line: &str, step: u64) -> bool {
    serde_json::from_str::<Value>(line).ok().and_then(|value| value["step"].as_u64()).is_some_and(|s| s <= step)
}
