//! Training with a stock ONNX Runtime: data, the loop over `train.onnx`, schedules, checkpoints, metrics.
//!
//! Everything random follows from the seed and the position, so that a resumed run does what the uninterrupted one would
//! have done, bit for bit on the same machine.

pub mod checkpoint;
mod config;
pub mod data;
mod engine;
mod error;
mod evaluate;
mod event;
mod fingerprint;
mod group;
mod init;
mod journal;
mod judge;
mod metrics;
pub mod plot;
mod prepare;
mod probes;
mod report;
pub mod run;
pub mod sampler;
mod samples;
mod schedule;
mod scores;
pub mod sweep;
mod sweep_plot;
mod tensorboard;
mod trainer;
mod unmoved;

pub use config::{Config, DEFAULT_EPOCHS, Validation};
pub use error::Error;
pub use evaluate::Evaluator;
pub use event::{End, Event, Outcome, Plan};
pub use group::Group;
pub use init::{Init, random_weights};
pub use metrics::{Figures, StepRecord};
pub use prepare::Resume;
pub use probes::Probes;
pub use samples::LastBatch;
pub use schedule::{Schedule, lambda_factor};
pub use trainer::Trainer;
