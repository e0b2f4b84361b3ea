use std::path::PathBuf;

use super::data;
use crate::{artifact::manifest, runtime, tensor};

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Tensor(#[from] tensor::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the input `{input}` is {found}; expected a tensor whose first axis counts the samples")]
    BatchAxis { input: String, found: String },
    #[error("the graph is made for batches of {expected} samples, not {found}; use a batch size of {expected}")]
    FixedBatch { found: usize, expected: usize },
    #[error("{}: {samples} samples are left to train on, fewer than one batch of {batch}; use a smaller batch size", data.display())]
    TooFewSamples { data: PathBuf, samples: usize, batch: usize },
    #[error(
        "{samples} samples do not fill one batch of {batch}, the size that the graph is made for; give more samples"
    )]
    NoFullBatch { samples: usize, batch: usize },
    #[error("{}: {samples} samples, of which {fraction} would leave nothing to train on or nothing to validate with", data.display())]
    Fraction { data: PathBuf, samples: usize, fraction: f64 },
    #[error("{}: the artifact was made with λ = 0: its training graph has no FAM part, and λ cannot be set to {lambda}; inject anew with --lambda", artifact.display())]
    NoLambda { artifact: PathBuf, lambda: f64 },
    #[error("the curves cannot be drawn: {why}")]
    Plot { why: String },
    #[error("the thread that reads the data: {source}")]
    Reader { source: std::io::Error },
    #[error("the option {name} is {found}; expected {expected}")]
    Option { name: &'static str, found: String, expected: &'static str },
    #[error("{}: not a configuration: {why}", path.display())]
    Config { path: PathBuf, why: String },
    #[error("the metric `{found}` is not measured; expected one of {}", expected.join(", "))]
    Metric { found: String, expected: Vec<String> },
    #[error("step {step}: the {what} is {value}{}", checkpoint(last.as_ref()))]
    NonFinite {
        /// The step whose figure it is, or after which a parameter is no finite number.
        step: u64,
        what: String,
        value: f64,
        last: Option<PathBuf>,
    },
    #[error("{}: it exists already", path.display())]
    RunExists { path: PathBuf },
    #[error("{}: not a run, a checkpoint or an artifact: it has no {expected}", path.display())]
    NotARun { path: PathBuf, expected: &'static str },
    #[error("{}: it has no checkpoint yet", path.display())]
    NoCheckpoint { path: PathBuf },
    #[error("{}: another process trains in it", path.display())]
    RunBusy { path: PathBuf },
    #[error("{}: damaged: {why}", path.display())]
    Checkpoint { path: PathBuf, why: String },
    #[error("{}: no checkpoint is whole:{}", path.display(), list(damaged))]
    AllDamaged { path: PathBuf, damaged: Vec<(PathBuf, String)> },
    #[error("{}: the run keeps no moving average of the weights; train with an averaging decay to have one", path.display())]
    NoAverage { path: PathBuf },
    #[error("{}: the data are not those that the run began with; put them back, or begin a new run", path.display())]
    DataChanged { path: PathBuf },
    #[error(
        "{processes} processes were started to train together, but this program is built without MPI, and each would train by itself; \
         build it with MPI: cargo install --locked --path . --features mpi"
    )]
    NoMpi { processes: usize },
    #[error("MPI does not start: {why}")]
    Mpi { why: String },
    #[error("process {rank} of those that train together has failed")]
    Peer { rank: usize },
    #[error(
        "the processes that train together do not begin alike: they differ in {what}; give all of them the same files"
    )]
    Unlike { what: &'static str },
    #[error("a graph of the program's own is broken: {why}")]
    Graph { why: String },
    #[error("{}: the parameter `{name}` is not in it, but the manifest lists it", path.display())]
    MissingParameter { path: PathBuf, name: String },
}

fn list(damaged: &[(PathBuf, String)]) -> String {
    damaged.iter().map(|(path, why)| format!("\n  {}: {why}", path.display())).collect()
}

fn checkpoint(last: Option<&PathBuf>) -> String {
    match last {
        Some(path) => format!("; the last checkpoint before it is {}", path.display()),
        None => "; no checkpoint was written yet".to_owned(),
    }
}
