//! The trained weights back in the inference model.

use super::write::save_weights;
use super::{manifest, ort_training, quantized};
use crate::error::{Error, Result};
use crate::ir::Tensor;
use crate::onnx::{self, Filled};
use crate::tensor;
use crate::train::run;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Parameters by name.
pub type Weights = BTreeMap<String, Tensor>;

/// What is exported: the model, or its weights alone.
pub struct Exported<What> {
    pub what: What,
    /// The file that the weights come from.
    pub weights: PathBuf,
    /// Steps of training behind them.
    pub step: u64,
    /// How many tensors were put back.
    pub parameters: usize,
}

fn weights(source: &Path, averaged: bool) -> Result<run::Weights> {
    let found = run::weights(source)?;
    Ok(if averaged { found.averaged()? } else { found })
}

/// The parameters alone, as a safetensors file: of a run, one of its checkpoints, or an artifact; see [`export`].
///
/// # Errors
/// What [`run::weights`] says of `source`.
pub fn export_weights(source: &Path, averaged: bool) -> Result<Exported<Weights>> {
    let found = weights(source, averaged)?;
    let parameters = &found.manifest.parameters;
    let own: HashSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let tensors = found.tensors.into_iter().filter(|(name, _)| own.contains(name.as_str()));
    let what: Weights = tensors.map(|(name, t)| (name, stored(t))).collect();
    let parameters = what.len();
    Ok(Exported { what, weights: found.parameters, step: found.step, parameters })
}

/// The inference model with the weights of a run (its best, or else newest), of one checkpoint, or of an artifact; with
/// `averaged` with the moving average that the run keeps. `artifact` is where a checkpoint of ONNX Runtime's training API
/// belongs.
///
/// # Errors
/// What [`run::weights`] or [`ort_training::export`] says of `source`; faults of the model file.
pub fn export(source: &Path, artifact: Option<&Path>, averaged: bool) -> Result<Exported<Filled>> {
    if ort_training::is_source(source) {
        if averaged {
            return Err(crate::train::Error::NoAverage { path: source.to_owned() }.into());
        }
        return ort_training::export(source, artifact);
    }
    let mut found = weights(source, averaged)?;
    let model = found.graphs.join(manifest::MODEL);
    let bytes = std::fs::read(&model).map_err(|source| Error::Io { path: model.clone(), source })?;
    let mut take = |p: &manifest::Parameter| Some((p.name.clone(), stored(found.tensors.remove(&p.name)?)));
    let parameters: Weights = found.manifest.parameters.iter().filter_map(&mut take).collect();
    let count = parameters.len();
    let filled = onnx::with_weights(&bytes, &model, quantized::as_stored(&bytes, &model, parameters)?)?;
    Ok(Exported { what: filled, weights: found.parameters, step: found.step, parameters: count })
}

impl Exported<Weights> {
    /// Writes them as a safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        save_weights(&self.what, path)
    }
}

impl Exported<Filled> {
    /// Writes the model, as [`Filled::save`].
    ///
    /// # Errors
    /// As there.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.what.save(path)
    }
}

fn stored(t: tensor::Tensor) -> Tensor {
    let (dtype, shape) = (t.dtype(), t.shape().to_vec());
    Tensor { dtype, shape, bytes: t.into_bytes(), strings: Vec::new() }
}
