//! The trained weights back in the inference model.

use super::manifest::{self, Manifest};
use crate::error::{Error, Result};
use crate::ir::Tensor;
use crate::train::{checkpoint, run};
use crate::{onnx, tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Exported {
    /// The whole model file.
    pub bytes: Vec<u8>,
    /// Where the weights come from.
    pub weights: PathBuf,
    /// How many tensors were put back.
    pub parameters: usize,
}

/// The inference model of a run (its newest checkpoint), of one checkpoint, or of an artifact.
///
/// # Errors
/// [`Error::NotExportable`] if `source` is none of these; faults of the files.
pub fn export(source: &Path) -> Result<Exported> {
    let (home, weights) = locate(source)?;
    let manifest = Manifest::read(&home)?;
    let model = home.join(manifest::MODEL);
    let bytes = std::fs::read(&model).map_err(|source| Error::Io { path: model.clone(), source })?;
    let mut tensors = tensor::read_safetensors(&weights.join(manifest::PARAMETERS))?;
    let parameters: BTreeMap<String, Tensor> = manifest
        .parameters
        .iter()
        .filter_map(|p| {
            let t = tensors.remove(&p.name)?;
            Some((p.name.clone(), Tensor::from_bytes(t.dtype().to_ir(), t.shape().to_vec(), t.data().to_vec())))
        })
        .collect();
    let filled = onnx::with_weights(&bytes, &model, &parameters)?;
    Ok(Exported { bytes: filled, weights, parameters: parameters.len() })
}

/// The directory with the manifest and the model, and the one with the weights.
fn locate(source: &Path) -> Result<(PathBuf, PathBuf)> {
    if source.join(run::CONFIG).is_file() {
        let checkpoints = source.join(run::CHECKPOINTS);
        let newest = checkpoint::list(&checkpoints).into_iter().max_by_key(|(step, _)| *step);
        return match newest {
            Some((_, path)) => Ok((source.to_owned(), path)),
            None => Err(Error::NotExportable { path: source.to_owned(), why: "the run has no checkpoint yet" }),
        };
    }
    if source.join(manifest::FILE).is_file() {
        return Ok((source.to_owned(), source.to_owned()));
    }
    if !source.join(manifest::PARAMETERS).is_file() {
        return Err(Error::NotExportable { path: source.to_owned(), why: "it is no run, no checkpoint and no artifact" });
    }
    // RUN/best or RUN/checkpoints/step-N.
    let absolute = std::fs::canonicalize(source).map_err(|e| Error::Io { path: source.to_owned(), source: e })?;
    let home = absolute.ancestors().skip(1).take(2).find(|dir| dir.join(run::CONFIG).is_file());
    match home {
        Some(home) => Ok((home.to_owned(), source.to_owned())),
        None => Err(Error::NotExportable { path: source.to_owned(), why: "the checkpoint lies outside of its run" }),
    }
}
