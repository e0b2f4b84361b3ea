//! The options of a run, as `config.toml` keeps them: what repeats the run.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Error, Init, LastBatch, Schedule,
    data::{Augment, Options},
};
use crate::{
    files,
    limits::{Limits, fits_f32},
    runtime::{Device, MOST_THREADS},
};

/// Every option of `train`, under the names of the command line. Missing ones take the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    pub artifact: PathBuf,
    pub data: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<Validation>,
    /// Passes over the training samples; 10 if neither this nor `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Subtracted from the model's first input; one number or one a channel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f64>,
    /// Divides the model's first input; one number or one a channel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f64>,
    /// The column of a table that holds the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Bytes that an array may unpack to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unpacked: Option<u64>,
    /// Random changes of the training images.
    #[serde(skip_serializing_if = "Augment::is_none")]
    pub augment: Augment,
    pub batch_size: usize,
    pub last_batch: LastBatch,
    /// Micro-batches of `batch_size` samples a step.
    pub accumulate: usize,
    pub lr: f64,
    pub schedule: Schedule,
    /// Steps.
    pub warmup: u64,
    pub seed: u64,
    /// Replaces the artifact's λ of every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Values of λ for a grid of runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_sweep: Option<Vec<f64>>,
    /// Runs of each value of the grid, with the seeds from `seed` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<u64>,
    pub init: Init,
    /// Steps.
    pub lambda_warmup: u64,
    /// Decay of the weights' moving average, if one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Evaluations without improvement after which the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// What `best/` and `patience` go by; accuracy where it is measured, else the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between two checkpoints; `None`: one an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints that are kept, the newest ones.
    pub keep: usize,
    /// Those that trained together, for the record: whoever starts the program decides it.
    #[serde(skip_serializing_if = "is_one")]
    pub processes: usize,
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub device: Device,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// Runs of a sweep for each λ at most.
const MOST_SEEDS: u64 = 10_000;

const NUMBER: &str = "a finite number of 0 or more that float32 can hold";

/// Whether the graphs can take the value as a learning rate or as λ.
fn weighs(value: f64) -> bool {
    fits_f32(value) && value >= 0.0
}

/// Bytes of a configuration at most.
const LONGEST: u64 = 1 << 20;

impl Default for Config {
    fn default() -> Config {
        Config {
            artifact: PathBuf::new(),
            data: PathBuf::new(),
            val: None,
            epochs: None,
            steps: None,
            mean: Vec::new(),
            std: Vec::new(),
            label_column: None,
            max_unpacked: None,
            augment: Augment::default(),
            batch_size: 64,
            last_batch: LastBatch::Drop,
            accumulate: 1,
            lr: 0.01,
            schedule: Schedule::Constant,
            warmup: 0,
            seed: 0,
            lambda: None,
            lambda_sweep: None,
            seeds: None,
            init: Init::Artifact,
            lambda_warmup: 0,
            ema: None,
            patience: None,
            metric: None,
            log_every: 50,
            checkpoint_every: None,
            keep: 3,
            processes: 1,
            device: Device::Auto,
            threads: None,
        }
    }
}

/// Epochs where neither epochs nor steps are given.
pub const DEFAULT_EPOCHS: u64 = 10;

/// What a run is validated with.
#[derive(Debug, Clone, PartialEq)]
pub enum Validation {
    /// This part of the training data, set apart at random; between 0 and 1.
    Fraction(f64),
    File(PathBuf),
}

impl FromStr for Validation {
    type Err = Error;

    fn from_str(given: &str) -> Result<Validation, Error> {
        match given.parse::<f64>() {
            Ok(fraction) if fraction > 0.0 && fraction < 1.0 => Ok(Validation::Fraction(fraction)),
            Ok(_) => Err(Error::Option {
                name: "val",
                found: given.to_owned(),
                expected: "a file, a directory, or a fraction between 0 and 1",
            }),
            Err(_) => Ok(Validation::File(given.into())),
        }
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Validation::Fraction(fraction) => write!(f, "{fraction}"),
            Validation::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for Validation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Validation::Fraction(fraction) => serializer.serialize_f64(*fraction),
            Validation::File(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Validation, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Number(f64),
            Text(String),
        }
        let text = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

fn is_one(number: &usize) -> bool {
    *number == 1
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

impl Config {
    /// Reads a configuration, a run's own or one written by hand.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] for an unknown option or a value of the wrong type, with line and column.
    pub fn read(path: &Path) -> Result<Config, Error> {
        let text = files::read_text(path, LONGEST).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|error| Error::Config { path: path.to_owned(), why: error.to_string().trim().to_owned() })
    }

    /// How data are read.
    pub fn data_options(&self) -> Options {
        let (mean, std, label_column) = (self.mean.clone(), self.std.clone(), self.label_column.clone());
        Options { mean, std, label_column, max_unpacked: self.max_unpacked.unwrap_or(Limits::default().unpacked) }
    }

    /// Samples of a step over all `processes`.
    pub(super) fn step_samples(&self, processes: usize) -> usize {
        self.batch_size.saturating_mul(self.accumulate).saturating_mul(processes)
    }

    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|error| Error::Config { path: super::run::CONFIG.into(), why: error.to_string() })
    }

    /// # Errors
    /// [`Error::Option`] for the first option out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let positive = "a number above 0";
        let numbers = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let checks: [(&'static str, bool, String, &'static str); 16] = [
            ("epochs", self.epochs != Some(0), "0".to_owned(), positive),
            ("steps", self.steps != Some(0), "0".to_owned(), positive),
            ("batch-size", self.batch_size > 0, "0".to_owned(), positive),
            ("accumulate", self.accumulate > 0, "0".to_owned(), positive),
            (
                "ema",
                self.ema.is_none_or(|decay| (0.0..1.0).contains(&decay)),
                self.ema.unwrap_or_default().to_string(),
                "a decay from 0 to below 1",
            ),
            ("lr", weighs(self.lr), format!("{:?}", self.lr), NUMBER),
            ("lambda", self.lambda.is_none_or(weighs), format!("{:?}", self.lambda.unwrap_or_default()), NUMBER),
            ("mean", self.mean.iter().all(|mean| mean.is_finite()), numbers(&self.mean), "finite numbers"),
            (
                "std",
                self.std.iter().all(|std| std.is_finite() && *std > 0.0),
                numbers(&self.std),
                "finite numbers above 0",
            ),
            (
                "lambda-sweep",
                self.lambda_sweep.iter().flatten().copied().all(weighs),
                format!("{:?}", self.lambda_sweep.as_deref().unwrap_or_default()),
                "finite numbers of 0 or more that float32 can hold",
            ),
            (
                "seeds",
                self.seeds.is_none_or(|seeds| (1..=MOST_SEEDS).contains(&seeds)),
                self.seeds.unwrap_or_default().to_string(),
                "a number from 1 to 10000",
            ),
            (
                "seed",
                self.seed.checked_add(self.seeds.unwrap_or_default()).is_some(),
                format!("{} and those after it", self.seed),
                "a seed that leaves room for the seeds",
            ),
            ("log-every", self.log_every > 0, "0".to_owned(), positive),
            ("checkpoint-every", self.checkpoint_every != Some(0), "0".to_owned(), positive),
            ("keep", self.keep > 0, "0".to_owned(), positive),
            (
                "threads",
                self.threads.is_none_or(|threads| (1..=MOST_THREADS).contains(&threads)),
                self.threads.unwrap_or_default().to_string(),
                "a number from 1 to 1024",
            ),
        ];
        for (name, good, found, expected) in checks {
            if !good {
                return Err(Error::Option { name, found, expected });
            }
        }
        if let (Some(epochs), Some(steps)) = (self.epochs, self.steps) {
            return Err(Error::Option {
                name: "steps",
                found: format!("{steps} beside {epochs} epochs"),
                expected: "either epochs or steps",
            });
        }
        Ok(())
    }
}
