//! The directory of a run. It stands alone: beside metrics and checkpoints it has the manifest and the graphs.
//!
//! ```text
//! RUN/config.toml  manifest.json  model.onnx  train.onnx  evaluate.onnx  …  parameters.safetensors (initial)
//!     metrics.jsonl
//!     checkpoints/step-N/{parameters.safetensors,state.json,SHA256SUMS}, with --ema average.safetensors
//!     best/ the same
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    Config, Error, Event,
    checkpoint::{self, Checkpoint, Progress},
};
use crate::{
    artifact::manifest::{self, Manifest, PARAMETERS},
    tensor::{self, Tensors},
};

pub const CONFIG: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const CHECKPOINTS: &str = "checkpoints";
pub const BEST: &str = "best";
const LOCK: &str = ".lock";

/// Whether a new run may stand at `directory`: nothing is there, or with `force` another run.
///
/// # Errors
/// [`Error::RunExists`]; [`Error::NotARun`] for what is never replaced.
pub fn check_free(directory: &Path, force: bool) -> Result<(), Error> {
    if fs::symlink_metadata(directory).is_err() {
        return Ok(());
    }
    let path = directory.to_owned();
    match (force, directory.join(CONFIG).is_file()) {
        (true, true) => Ok(()),
        (true, false) => Err(Error::NotARun { path, expected: CONFIG }),
        (false, _) => Err(Error::RunExists { path }),
    }
}

/// A run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub directory: PathBuf,
}

impl Run {
    /// Makes the directory of a new run, whole or not at all, with the configuration and copies of the artifact's manifest,
    /// graphs and initial parameters. With `force` it takes the place of another run.
    ///
    /// # Errors
    /// [`check_free`]; [`Error::Io`].
    pub fn create(directory: &Path, config: &Config, manifest: &Manifest, force: bool) -> Result<Run, Error> {
        check_free(directory, force)?;
        let mut files = vec![(CONFIG.to_owned(), config.to_toml()?.into_bytes())];
        let graphs = manifest.graph_paths().map(|(_, path)| path);
        for name in [manifest::FILE, manifest::MODEL, PARAMETERS].into_iter().chain(graphs) {
            let path = config.artifact.join(name);
            if path.exists() && files.iter().all(|(known, _)| known != name) {
                files.push((name.to_owned(), fs::read(&path).map_err(|source| Error::Io { path, source })?));
            }
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        checkpoint::write_directory(directory, &files)
            .map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        Ok(Run { directory: directory.to_owned() })
    }

    /// Opens the directory of a run that was begun before.
    ///
    /// # Errors
    /// [`Error::NotARun`] if it has no configuration.
    pub fn open(directory: &Path) -> Result<Run, Error> {
        if !directory.join(CONFIG).is_file() {
            return Err(Error::NotARun { path: directory.to_owned(), expected: CONFIG });
        }
        Ok(Run { directory: directory.to_owned() })
    }

    /// # Errors
    /// As [`Config::read`].
    pub fn config(&self) -> Result<Config, Error> {
        Config::read(&self.directory.join(CONFIG))
    }

    /// Replaces the configuration, where a resumed run goes further than planned.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_config(&self, config: &Config) -> Result<(), Error> {
        let path = self.directory.join(CONFIG);
        crate::files::write(&path, config.to_toml()?.as_bytes()).map_err(|source| Error::Io { path, source })
    }

    pub fn metrics(&self) -> PathBuf {
        self.directory.join(METRICS)
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.directory.join(CHECKPOINTS)
    }

    pub fn best(&self) -> PathBuf {
        self.directory.join(BEST)
    }

    /// Keeps other processes from training in this directory as long as the file is open.
    ///
    /// # Errors
    /// [`Error::RunBusy`]; [`Error::Io`].
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.directory.join(LOCK);
        let file = File::create(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(Error::RunBusy { path: self.directory.clone() }),
            Err(fs::TryLockError::Error(source)) => Err(Error::Io { path, source }),
        }
    }

    /// What the run goes on from: the latest checkpoint that is whole, or its beginning if it has none yet. Damaged ones are
    /// set aside, which `report` is told.
    ///
    /// # Errors
    /// [`Error::AllDamaged`] if there are checkpoints and none is whole; [`Error::Io`].
    pub fn last_state(&self, seed: u64, report: &mut dyn FnMut(&Event)) -> Result<Checkpoint, Error> {
        checkpoint::recover(&self.directory)?;
        checkpoint::recover(&self.checkpoints())?;
        let mut damaged: Vec<(PathBuf, String)> = Vec::new();
        for (_, path) in checkpoint::list(&self.checkpoints()).into_iter().rev() {
            match checkpoint::load(&path) {
                Ok(found) => {
                    for (path, why) in damaged {
                        let aside = checkpoint::set_aside(&path)?;
                        report(&Event::Damaged { path, why, aside });
                    }
                    return Ok(found);
                }
                Err(Error::Checkpoint { path, why }) => damaged.push((path, why)),
                Err(other) => return Err(other),
            }
        }
        if !damaged.is_empty() {
            return Err(Error::AllDamaged { path: self.directory.clone(), damaged });
        }
        let tensors = tensor::read_safetensors(&self.directory.join(PARAMETERS))?;
        Ok(Checkpoint { progress: Progress { seed, ..Progress::default() }, tensors, average: None })
    }

    /// The checkpoint of the latest step.
    pub fn latest(&self) -> Option<PathBuf> {
        checkpoint::list(&self.checkpoints()).pop().map(|(_, path)| path)
    }
}

/// What a set of weights is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The initial parameters of an artifact.
    Artifact,
    /// The best checkpoint of a run.
    Best,
    /// A checkpoint, where a run has no best one or the checkpoint itself was named.
    Checkpoint,
}

/// Weights, and the graphs that they belong to.
#[derive(Debug, Clone)]
pub struct Weights {
    pub origin: Origin,
    pub manifest: Manifest,
    /// Directory of the manifest and the graphs.
    pub graphs: PathBuf,
    /// The safetensors file.
    pub parameters: PathBuf,
    /// Parameters and state.
    pub tensors: Tensors,
    /// The moving average of those that train, where the run keeps one.
    pub average: Option<Tensors>,
    /// Steps of training behind them.
    pub step: u64,
}

/// The weights that `path` stands for: an artifact's initial ones, a run's best or else latest, a checkpoint's own.
///
/// # Errors
/// [`Error::NotARun`] if it is none of them; [`Error::Manifest`] naming each parameter of the manifest that is not among
/// them, or is another.
pub fn weights(path: &Path) -> Result<Weights, Error> {
    let has = |name: &str| path.join(name).is_file();
    let weights = if has(CONFIG) {
        let run = Run::open(path)?;
        let (origin, checkpoint) = match checkpoint::standing(&run.best()) {
            Some(best) => (Origin::Best, best),
            None => {
                let latest = run.latest().ok_or_else(|| Error::NoCheckpoint { path: path.to_owned() })?;
                (Origin::Checkpoint, latest)
            }
        };
        of_checkpoint(origin, path, &checkpoint)?
    } else if has(manifest::FILE) {
        let manifest = Manifest::read(path)?;
        manifest.verify_files(path, &[PARAMETERS])?;
        let parameters = path.join(PARAMETERS);
        let tensors = tensor::read_safetensors(&parameters)?;
        Weights {
            origin: Origin::Artifact,
            manifest,
            graphs: path.to_owned(),
            parameters,
            tensors,
            average: None,
            step: 0,
        }
    } else if has(checkpoint::STATE) {
        // `RUN/best` or `RUN/checkpoints/step-N`.
        let absolute = std::path::absolute(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let run = absolute.ancestors().skip(1).take(2).find(|directory| directory.join(manifest::FILE).is_file());
        let run = run.ok_or_else(|| Error::NotARun { path: path.to_owned(), expected: manifest::FILE })?;
        of_checkpoint(Origin::Checkpoint, run, path)?
    } else {
        return Err(Error::NotARun { path: path.to_owned(), expected: manifest::FILE });
    };
    weights.manifest.verify_tensors(&weights.parameters, &weights.tensors, false)?;
    Ok(weights)
}

impl Weights {
    /// The same with the moving average in the place of the weights that train.
    ///
    /// # Errors
    /// [`Error::NoAverage`].
    pub fn averaged(mut self) -> Result<Weights, Error> {
        let average = self.average.take().ok_or_else(|| Error::NoAverage { path: self.parameters.clone() })?;
        self.tensors.extend(average);
        Ok(self)
    }
}

fn of_checkpoint(origin: Origin, run: &Path, checkpoint: &Path) -> Result<Weights, Error> {
    let Checkpoint { progress, tensors, average } = checkpoint::load(checkpoint)?;
    Ok(Weights {
        origin,
        manifest: Manifest::read(run)?,
        graphs: run.to_owned(),
        parameters: checkpoint.join(PARAMETERS),
        tensors,
        average,
        step: progress.position.step,
    })
}
