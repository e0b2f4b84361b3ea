//! Artifacts: what `inject` writes and every runtime trains.

mod batch_norm;
pub mod manifest;
mod standard;
mod trace;
mod write;

pub use standard::{EXACT_LIMIT, LayerReport, Options, Plan, Report, Size, Target, plan};
pub use write::{default_directory, write};
