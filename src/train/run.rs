//! The directory of a run. It stands alone: beside metrics and checkpoints it has the manifest and the graphs.
//!
//! ```text
//! RUN/config.toml  manifest.json  model.onnx  train.onnx  evaluate.onnx  …
//!     metrics.jsonl
//!     checkpoints/step-N/{parameters.safetensors,state.json}
//!     best/{parameters.safetensors,state.json}
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Config, Error, checkpoint};
use crate::{
    artifact::manifest::{self, Manifest, PARAMETERS},
    tensor::{self, Tensors},
};

pub const CONFIG: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const CHECKPOINTS: &str = "checkpoints";
pub const BEST: &str = "best";

/// A run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub directory: PathBuf,
}

impl Run {
    /// Makes the directory of a new run, whole or not at all, with the configuration and copies of the artifact's manifest
    /// and graphs.
    ///
    /// # Errors
    /// [`Error::RunExists`]; [`Error::Io`].
    pub fn create(directory: &Path, config: &Config, manifest: &Manifest) -> Result<Run, Error> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Io { path, source }
        };
        if directory.exists() {
            return Err(Error::RunExists { path: directory.to_owned() });
        }
        let mut files = vec![(CONFIG.to_owned(), config.to_toml()?.into_bytes())];
        let graphs = manifest.graph_paths().map(|(_, path)| path);
        for name in [manifest::FILE, manifest::MODEL].into_iter().chain(graphs) {
            let path = config.artifact.join(name);
            if path.exists() && files.iter().all(|(known, _)| known != name) {
                files.push((name.to_owned(), fs::read(&path).map_err(io_error(&path))?));
            }
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        checkpoint::write_directory(directory, &files).map_err(io_error(directory))?;
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
        let new = self.directory.join(format!(".{CONFIG}.new"));
        fs::write(&new, config.to_toml()?)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| Error::Io { path, source })
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
    /// Steps of training behind them.
    pub step: u64,
}

/// The weights that `path` stands for: an artifact's initial ones, a run's best or else latest, a checkpoint's own.
///
/// # Errors
/// [`Error::NotARun`] if it is none of them; [`Error::MissingParameter`] if a parameter of the manifest is not among them.
pub fn weights(path: &Path) -> Result<Weights, Error> {
    let has = |name: &str| path.join(name).is_file();
    let weights = if has(CONFIG) {
        let run = Run::open(path)?;
        let (origin, checkpoint) = if run.best().is_dir() {
            (Origin::Best, run.best())
        } else {
            let latest = run.latest().ok_or_else(|| Error::NoCheckpoint { path: path.to_owned() })?;
            (Origin::Checkpoint, latest)
        };
        of_checkpoint(origin, path, &checkpoint)?
    } else if has(manifest::FILE) {
        let manifest = Manifest::read(path)?;
        manifest.verify_files(path, &[PARAMETERS])?;
        let parameters = path.join(PARAMETERS);
        let tensors = tensor::read_safetensors(&parameters)?;
        Weights { origin: Origin::Artifact, manifest, graphs: path.to_owned(), parameters, tensors, step: 0 }
    } else if has(checkpoint::STATE) {
        // `RUN/best` or `RUN/checkpoints/step-N`.
        let absolute = std::path::absolute(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let run = absolute.ancestors().skip(1).take(2).find(|directory| directory.join(manifest::FILE).is_file());
        let run = run.ok_or_else(|| Error::NotARun { path: path.to_owned(), expected: manifest::FILE })?;
        of_checkpoint(Origin::Checkpoint, run, path)?
    } else {
        return Err(Error::NotARun { path: path.to_owned(), expected: manifest::FILE });
    };
    check_complete(&weights)?;
    Ok(weights)
}

fn of_checkpoint(origin: Origin, run: &Path, checkpoint: &Path) -> Result<Weights, Error> {
    let (progress, tensors) = checkpoint::load(checkpoint)?;
    Ok(Weights {
        origin,
        manifest: Manifest::read(run)?,
        graphs: run.to_owned(),
        parameters: checkpoint.join(PARAMETERS),
        tensors,
        step: progress.position.step,
    })
}

fn check_complete(weights: &Weights) -> Result<(), Error> {
    match weights.manifest.parameters.iter().find(|p| !weights.tensors.contains_key(&p.name)) {
        Some(missing) => Err(Error::MissingParameter { path: weights.parameters.clone(), name: missing.name.clone() }),
        None => Ok(()),
    }
}
