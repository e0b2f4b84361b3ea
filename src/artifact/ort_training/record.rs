//! `manifest.json` of an artifact for the training API: what to feed and what comes out, by role.

use super::super::manifest::{self, Error, FileEntry, Layer, Manifest, Parameter, Probe, Source};
use super::{CHECKPOINT, Roles};
use crate::onnx::OrtOptimizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What `format` says in such a manifest.
pub const FORMAT: &str = "ort-training";
pub(super) const TRAINING: &str = "training_model.onnx";
pub(super) const EVAL: &str = "eval_model.onnx";
pub(super) const OPTIMIZER: &str = "optimizer_model.onnx";

/// A whole manifest. Fields that the standard artifact's has too mean the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub format: String,
    pub fam_onnx: String,
    pub source: Source,
    pub opset: u32,
    pub options: serde_json::Map<String, serde_json::Value>,
    /// `lambda_input` is the frozen parameter that holds λ; probes are inputs.
    pub layers: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masks: Vec<Probe>,
    pub inputs: Vec<String>,
    pub labels: Option<String>,
    pub loss: String,
    pub parameters: Vec<Parameter>,
    pub training: Step,
    pub eval: Step,
    pub optimizer: Optimizer,
    /// File name of the initial checkpoint.
    pub checkpoint: String,
    pub files: BTreeMap<String, FileEntry>,
}

/// A graph that a caller feeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub path: String,
    /// In the order in which they are fed.
    pub inputs: Vec<String>,
    /// The first of what comes out; behind them are flags for the API itself.
    pub outputs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Optimizer {
    pub path: String,
    /// The operator that makes the step.
    pub operator: String,
}

impl Record {
    pub(super) fn new(manifest: &Manifest, roles: &Roles, optimizer: &OrtOptimizer, opset: i64) -> Record {
        let (training, eval) = super::graphs::outputs(manifest);
        let step = |path: &str, inputs: &[String], outputs| Step { path: path.into(), inputs: inputs.into(), outputs };
        Record {
            version: manifest::VERSION,
            format: FORMAT.to_owned(),
            fam_onnx: manifest.fam_onnx.clone(),
            source: manifest.source.clone(),
            opset: u32::try_from(opset).unwrap_or_default(),
            options: manifest.options.clone(),
            layers: manifest.layers.clone(),
            masks: manifest.masks.clone(),
            inputs: manifest.inputs.clone(),
            labels: manifest.labels.clone(),
            loss: manifest.loss.clone(),
            parameters: manifest.parameters.clone(),
            training: step(TRAINING, &roles.fed, training),
            eval: step(EVAL, &roles.fed_to_eval, eval),
            optimizer: Optimizer { path: OPTIMIZER.to_owned(), operator: optimizer.operator.to_owned() },
            checkpoint: CHECKPOINT.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Reads `directory/manifest.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`] (of a standard artifact's too), [`Error::Version`].
    pub fn read(directory: &Path) -> Result<Record, Error> {
        let path = directory.join(manifest::FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let record: Record =
            serde_json::from_str(&text).map_err(|source| Error::Json { path: path.clone(), source })?;
        if record.version != manifest::VERSION {
            return Err(Error::Version { path, found: record.version.into() });
        }
        Ok(record)
    }

    pub(super) fn to_json(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self);
        Ok(text.map_err(|source| Error::Json { path: manifest::FILE.into(), source })? + "\n")
    }
}
