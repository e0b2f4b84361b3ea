//! Artifacts: what `inject` writes and every runtime trains.

mod agreement;
mod batch_norm;
mod dropout;
mod export;
pub mod manifest;
mod measurement;
mod modes;
pub mod ort_training;
mod quantized;
mod standard;
mod target;
mod trace;
mod write;

pub use export::{Exported, export, export_weights};
pub use measurement::{MeasuredLayer, Measurement, SkippedLayer, measurement};
pub use standard::{LayerReport, Memory, Options, Plan, Report, Size, Target, plan};
pub use trace::{Surveyed, survey};
pub use write::{Draft, check_free, default_directory, write};
