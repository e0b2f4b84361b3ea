//! The trained weights back in the inference model.

use super::{manifest, ort_training, quantized};
use crate::error::{Error, Result};
use crate::ir::Tensor;
use crate::onnx;
use crate::tensor;
use crate::train::run;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Exported {
    /// The whole model file, or that of the weights.
    pub bytes: Vec<u8>,
    /// Whether the model had its weights in a file beside it.
    pub external: bool,
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
pub fn export_weights(source: &Path, averaged: bool) -> Result<Exported> {
    let mut found = weights(source, averaged)?;
    let parameters = &found.manifest.parameters;
    found.tensors.retain(|name, _| parameters.iter().any(|p| p.name == *name));
    let bytes = tensor::encode_safetensors(&found.tensors)?;
    let parameters = found.tensors.len();
    Ok(Exported { bytes, external: false, weights: found.parameters, step: found.step, parameters })
}

/// The inference model with the weights of a run (its best, or else newest), of one checkpoint, or of an artifact; with
/// `averaged` with the moving average that the run keeps. `artifact` is where a checkpoint of ONNX Runtime's training API
/// belongs.
///
/// # Errors
/// What [`run::weights`] or [`ort_training::export`] says of `source`; faults of the model file.
pub fn export(source: &Path, artifact: Option<&Path>, averaged: bool) -> Result<Exported> {
    if ort_training::is_source(source) {
        if averaged {
            return Err(crate::train::Error::NoAverage { path: source.to_owned() }.into());
        }
        return ort_training::export(source, artifact);
    }
    let found = weights(source, averaged)?;
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
    let external = onnx::had_external_weights(&bytes);
    let parameters = quantized::as_stored(&bytes, &model, parameters)?;
    let filled = onnx::with_weights(&bytes, &model, &parameters)?;
    Ok(Exported { bytes: filled, external, weights: found.parameters, step: found.step, parameters: parameters.len() })
}
