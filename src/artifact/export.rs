//! The trained weights back in the inference model.

use super::{manifest, ort_training};
use crate::error::{Error, Result};
use crate::ir::Tensor;
use crate::onnx;
use crate::train::run;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Exported {
    /// The whole model file.
    pub bytes: Vec<u8>,
    /// The file that the weights come from.
    pub weights: PathBuf,
    /// Steps of training behind them.
    pub step: u64,
    /// How many tensors were put back.
    pub parameters: usize,
}

/// The inference model with the weights of a run (its best, or else newest), of one checkpoint, or of an artifact. `artifact`
/// is where a checkpoint of ONNX Runtime's training API belongs.
///
/// # Errors
/// What [`run::weights`] or [`ort_training::export`] says of `source`; faults of the model file.
pub fn export(source: &Path, artifact: Option<&Path>) -> Result<Exported> {
    if ort_training::is_source(source) {
        return ort_training::export(source, artifact);
    }
    let found = run::weights(source)?;
    let model = found.graphs.join(manifest::MODEL);
    let bytes = std::fs::read(&model).map_err(|source| Error::Io { path: model.clone(), source })?;
    let parameters: BTreeMap<String, Tensor> = found
        .manifest
        .parameters
        .iter()
        .filter_map(|p| {
            let t = found.tensors.get(&p.name)?;
            Some((p.name.clone(), Tensor::from_bytes(t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        })
        .collect();
    let filled = onnx::with_weights(&bytes, &model, &parameters)?;
    Ok(Exported { bytes: filled, weights: found.parameters, step: found.step, parameters: parameters.len() })
}
