//! What a run tells whoever shows it, and how it ends.

use std::path::PathBuf;

use super::{
    checkpoint::Best,
    metrics::{Figures, StepRecord},
};
use crate::runtime::Device;

/// What happens during a run, for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A checkpoint that a resumed run passes over, before [`Event::Start`]. It was set aside under the name `aside`.
    Damaged {
        path: PathBuf,
        why: String,
        aside: PathBuf,
    },
    /// Before the first step.
    Start {
        plan: Plan,
        device: Device,
        /// Why the device is not CUDA, where that was tried.
        refused: Option<String>,
    },
    /// After a step; `logged` steps also stand in `metrics.jsonl`. The speed is measured at logged steps only, and on a GPU
    /// the figures of other steps stay there: they are NaN in the record.
    Step {
        record: StepRecord,
        logged: bool,
    },
    Validation {
        step: u64,
        epoch: u64,
        figures: Figures,
        improved: bool,
    },
    Checkpoint {
        path: PathBuf,
    },
    /// After the first epoch, or at the end of a shorter run: parameters that train and that no step has moved, while it has
    /// moved others. Their gradient is zero.
    Unmoved {
        parameters: Vec<String>,
    },
    /// Before the first step, where the data have names of classes: these, in the order of their numbers.
    Classes {
        names: Vec<String>,
    },
}

/// How far a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Steps done already.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    pub steps_per_epoch: u64,
    /// Samples of a step, in all processes.
    pub batch: usize,
    /// Those that train together.
    pub processes: usize,
    pub training_samples: usize,
    pub validation_samples: usize,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Finished,
    /// `patience` evaluations brought no improvement.
    NoImprovement,
    Interrupted,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub end: End,
    pub step: u64,
    pub epoch: u64,
    pub last: Option<StepRecord>,
    /// The last evaluation.
    pub validation: Option<Figures>,
    pub best: Option<Best>,
    /// Parameters that train and that no step has moved.
    pub unmoved: Vec<String>,
    /// The final checkpoint.
    pub checkpoint: PathBuf,
}
