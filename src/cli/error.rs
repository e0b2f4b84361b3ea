use std::{io, path::PathBuf, process::ExitCode};

use super::output;
use crate::{
    Error as Program,
    artifact::manifest,
    onnx::ModelFault,
    runtime, shown,
    train::{self, Group, data},
};

pub type Result<T> = std::result::Result<T, Error>;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Includes `--help` and `--version`, which end the process as well.
    #[error("{0}")]
    Arguments(clap::Error),
    #[error(transparent)]
    Program(#[from] Program),
    #[error("{message}")]
    Usage { message: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the result cannot be written to stdout: {0}")]
    Stdout(io::Error),
    #[error("interrupted after step {step}; the state is saved in {}", checkpoint.display())]
    Interrupted { step: u64, run: PathBuf, checkpoint: PathBuf },
    #[error("interrupted after {done} of {cells} runs; what is done is saved in {}", sweep.display())]
    SweepInterrupted { done: usize, cells: usize, sweep: PathBuf },
    #[error("interrupted; nothing is written")]
    Stopped,
    /// One of several processes has printed the error of all.
    #[error("exit code {code}")]
    Reported { code: u8 },
    #[error("{}: {disagreements} of {checks} checks disagree", path.display())]
    Disagrees { path: PathBuf, disagreements: usize, checks: usize },
}

impl From<train::Error> for Error {
    fn from(error: train::Error) -> Error {
        Error::Program(error.into())
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Error {
        Error::Program(error.into())
    }
}

impl From<manifest::Error> for Error {
    fn from(error: manifest::Error) -> Error {
        Error::Program(error.into())
    }
}

impl Error {
    /// 0 for help and a reader that went away, 2 for wrong usage, 130 after an interrupt, else 1.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }

    fn code(&self) -> u8 {
        match self {
            Error::Arguments(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Error::Usage { .. } | Error::Program(Program::LossOptions { .. }) => 2,
            Error::Program(Program::Train(train::Error::Option { .. } | train::Error::Metric { .. })) => 2,
            Error::Interrupted { .. } | Error::SweepInterrupted { .. } | Error::Stopped => 130,
            Error::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Error::Reported { code } => *code,
            Error::Program(_) | Error::Io { .. } | Error::Stdout(_) | Error::Disagrees { .. } => 1,
        }
    }

    fn is_of_peer(&self) -> bool {
        matches!(self, Error::Program(Program::Train(train::Error::Peer { .. })))
    }

    /// Prints the message and, where the command line offers a way out, a hint.
    pub fn report(&self) {
        match self {
            // Help goes to stdout and errors to stderr; if that fails there is nowhere left to say so.
            Error::Arguments(error) if error.exit_code() == 0 || !holds_hidden(std::env::args_os()) => {
                drop(error.print());
            }
            // The message repeats arguments, which may come from elsewhere than a keyboard.
            Error::Arguments(error) => output::report(error.to_string().trim_start_matches("error: "), None),
            Error::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Error::Reported { .. } => {}
            _ => output::report(&self.to_string(), self.hint().as_deref()),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::SweepInterrupted { sweep: run, .. } | Error::Interrupted { run, .. } => {
                Some(format!("go on with: fam-onnx train --resume {}", run.display()))
            }
            Error::Program(Program::Runtime(error)) => runtime_hint(error),
            Error::Program(Program::Train(train::Error::Runtime(error))) => runtime_hint(error),
            Error::Program(Program::Train(error)) => train_hint(error),
            Error::Program(error) => model_hint(error),
            _ => None,
        }
    }
}

/// The result of a command that several processes run together. The first that has an error of its own prints it before any of
/// them ends, since a launcher kills the others when one does; all that fail have the same exit code.
pub(super) fn settle(group: &Group, result: Result<()>) -> Result<()> {
    if group.is_alone() {
        return result;
    }
    let own = result.as_ref().err().filter(|error| !error.is_of_peer());
    let speaker = group.lowest(own.is_some());
    let code = group.largest(own.map_or(0, |error| error.code().into()));
    result.map_err(|error| {
        if speaker == Some(group.rank()) {
            error.report();
        }
        Error::Reported { code: u8::try_from(code).unwrap_or(1) }
    })
}

fn model_hint(error: &Program) -> Option<String> {
    let hint = match error {
        Program::InvalidModel { faults, .. } => return faults.iter().find_map(limit_hint),
        Program::Exists { .. } => "choose another directory with -o, or replace this one with --force",
        Program::NotOurs { .. } => "choose another directory with -o",
        Program::UnknownName { what: "layer", .. } => "fam-onnx inspect MODEL lists the layers and their names",
        Program::UnknownName { what: "output" | "tensor", .. } => "fam-onnx print MODEL shows every name",
        Program::UnknownName { what: "parameter", .. } => "fam-onnx inspect MODEL lists the parameters",
        Program::NothingToTrain => "--quantized train trains weights that are stored as integers",
        Program::SeveralOutputs { .. } => "--output-name NAME",
        Program::NotExact { .. } => "--estimator hutchinson estimates κ for any head",
        Program::ProbesNotAllowed { .. } => "--probes auto chooses among them",
        Program::NoArtifact { .. } => "--artifact DIR names it",
        Program::OtherModel { .. } => "--artifact DIR names the artifact that it belongs to",
        Program::NotDifferentiable { .. } => "fam-onnx inspect MODEL lists every operator with its derivative",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn limit_hint(fault: &ModelFault) -> Option<String> {
    let hint = match fault {
        ModelFault::TooManyNodes { .. } => "--max-nodes N allows more nodes",
        ModelFault::Unpacked { .. } => "--max-unpacked BYTES allows more",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn runtime_hint(error: &runtime::Error) -> Option<String> {
    match error {
        runtime::Error::NotFound { .. } => {
            Some("--ort PATH names a library; fam-onnx runtime install fetches one".to_owned())
        }
        runtime::Error::NoCuda { .. } => {
            Some("fam-onnx runtime install --cuda fetches one with CUDA; --device cpu does without".to_owned())
        }
        runtime::Error::DeviceLibrary { .. } => Some(
            "install CUDA and cuDNN of these versions (python3 -m pip install 'onnxruntime-gpu[cuda,cudnn]' brings them), \
             and name the directories of their libraries in LD_LIBRARY_PATH; --device cpu does without"
                .to_owned(),
        ),
        runtime::Error::Device { .. } => {
            Some("nvidia-smi shows the GPUs and the driver's version; --device cpu does without".to_owned())
        }
        _ => None,
    }
}

fn holds_hidden(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    arguments.any(|argument| argument.to_string_lossy().chars().any(shown::is_hidden))
}

/// As the system says; a file that is refused for its size is another matter.
fn out_of_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    error.raw_os_error().is_some() && matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn train_hint(error: &train::Error) -> Option<String> {
    match error {
        train::Error::NonFinite { last, .. } => Some(format!(
            "try a smaller --lr, a smaller --lambda, a --warmup or --lambda-warmup{}; \
             inject with --clip-norm keeps the gradient in bounds",
            if last.is_some() {
                " (--resume goes on from the last checkpoint)"
            } else {
                " (--resume begins the run again with them)"
            }
        )),
        train::Error::RunExists { path } => Some(format!(
            "go on with this run: fam-onnx train --resume {}; or replace it with --force, or choose another directory with -o",
            path.display()
        )),
        train::Error::Io { source, .. } if out_of_room(source) => {
            Some("make room; fam-onnx train --resume goes on from the last checkpoint".to_owned())
        }
        train::Error::AllDamaged { .. } => Some("train anew, with --force in the same directory".to_owned()),
        train::Error::NoCheckpoint { path } => {
            Some(format!("fam-onnx train --resume {} begins the run again", path.display()))
        }
        train::Error::Checkpoint { .. } => {
            Some("give another checkpoint of the run, RUN/checkpoints/step-N".to_owned())
        }
        train::Error::Data(data::Error::Unpacked { size, .. }) => Some(format!("--max-unpacked {size} allows it")),
        train::Error::NoAverage { .. } => Some("fam-onnx train --ema 0.999 keeps one".to_owned()),
        train::Error::DataChanged { path } => {
            Some(format!("to go on with them all the same, name them: --data {}", path.display()))
        }
        train::Error::TooFewSamples { samples, .. } => Some(format!("--batch-size {samples} or less")),
        train::Error::FixedBatch { expected, .. } => Some(format!("--batch-size {expected}")),
        train::Error::NotARun { .. } => {
            Some("fam-onnx inject makes an artifact of a model, fam-onnx train a run of an artifact".to_owned())
        }
        _ => None,
    }
}
