//! The artifact that ONNX Runtime's own training API loads, up to its last release 1.19.2.
//!
//! That API keeps parameters, gradients and the optimiser's state to itself: a caller feeds the model's inputs and labels, and
//! reads what `training_model.onnx` puts out. Three things that it has no word for are said with what it has:
//! - λ is a frozen parameter, which the API's `copy_parameter_from` changes between steps;
//! - probes and dropout's masks are inputs behind the labels, which the caller fills;
//! - running statistics are frozen parameters that the graph overwrites in place.

mod checkpoint;
mod graphs;
mod record;
mod tables;

pub use checkpoint::{Checkpoint, External};
pub use record::{FORMAT, Record};

use super::manifest::{self, FileEntry};
use super::{Draft, Exported, Options, Plan};
use crate::error::{Error, Result};
use crate::ir::{DType, Tensor};
use crate::onnx::{self, Filled, OrtOptimizer};
use crate::optim::{Adam, Optimizer, Sgd};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Parameters, frozen or not, and later the optimiser's state.
pub const CHECKPOINT: &str = "checkpoint";
/// The checkpoint's property that holds the digest of the inference model.
const MODEL_PROPERTY: &str = "fam_onnx.model";
/// The newest operator set that ONNX Runtime 1.19.2 reads.
const NEWEST_OPSET: i64 = 21;

/// What the training API cannot do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("the parameter {name:?} is {dtype}; gradients are accumulated in float32")]
    NotFloat32 { name: String, dtype: DType },
    #[error("the graphs need opset {found}; ONNX Runtime 1.19.2 reads up to {NEWEST_OPSET}")]
    Opset { found: i64 },
    #[error("it has no {wanted}; it has plain SGD, Adam without weight decay, and AdamW")]
    Optimizer { wanted: &'static str },
    #[error("a tensor of the model is called {name:?}, a name that the API keeps for itself")]
    NameTaken { name: String },
}

/// Everything that the artifact holds, before anything is written.
#[derive(Clone, Debug)]
pub struct Artifact {
    record: Record,
    /// File name and bytes.
    models: Vec<(&'static str, Vec<u8>)>,
    checkpoint: Checkpoint,
}

/// Turns a standard artifact into one for the training API.
///
/// # Errors
/// [`Error::OrtTraining`] with all that the API cannot do.
pub fn prepare(plan: &Plan, options: &Options) -> Result<Artifact> {
    let roles = Roles::of(plan);
    let training = graphs::training(plan, &roles);
    let eval = graphs::eval(plan, &roles);
    let optimizer = optimizer(options);
    let mut faults = Vec::new();
    let not_float32 = plan.manifest.parameters.iter().filter(|p| p.trainable && p.dtype != DType::F32);
    faults.extend(not_float32.map(|p| Fault::NotFloat32 { name: p.name.clone(), dtype: p.dtype }));
    faults.extend(graphs::taken_names(&training).into_iter().map(|name| Fault::NameTaken { name }));
    let opset = onnx::opset(&training).max(onnx::opset(&eval));
    faults.extend((opset > NEWEST_OPSET).then_some(Fault::Opset { found: opset }));
    let optimizer = match optimizer {
        Ok(optimizer) if faults.is_empty() => optimizer,
        Ok(_) => return Err(Error::OrtTraining { faults }),
        Err(fault) => {
            faults.push(fault);
            return Err(Error::OrtTraining { faults });
        }
    };
    Ok(Artifact {
        record: Record::new(&plan.manifest, &roles, &optimizer, opset),
        models: vec![
            (record::TRAINING, onnx::to_bytes(&training)),
            (record::EVAL, onnx::to_bytes(&eval)),
            (record::OPTIMIZER, onnx::ort_optimizer(&optimizer)),
        ],
        checkpoint: roles.checkpoint(plan),
    })
}

/// The optimiser's node, if the API has one like it.
fn optimizer(options: &Options) -> Result<OrtOptimizer, Fault> {
    let wanted = match options.optimizer {
        Optimizer::Sgd(Sgd { nesterov: true, .. }) => "SGD with Nesterov momentum",
        Optimizer::Sgd(Sgd { momentum, .. }) if momentum != 0.0 => "SGD with momentum",
        Optimizer::Sgd(Sgd { weight_decay, .. }) if weight_decay != 0.0 => "SGD with weight decay",
        Optimizer::Adam(Adam { decoupled: false, weight_decay, .. }) if weight_decay != 0.0 => "Adam with weight decay",
        Optimizer::Sgd(_) => return Ok(OrtOptimizer::sgd(options.clip_norm)),
        Optimizer::Adam(Adam { betas, eps, weight_decay, .. }) => {
            return Ok(OrtOptimizer::adamw(betas, eps, weight_decay, options.clip_norm));
        }
    };
    Err(Fault::Optimizer { wanted })
}

/// What the graphs' inputs and outputs are to the API.
struct Roles {
    /// The model's inputs, the labels, probes, masks: what a caller feeds, in this order.
    fed: Vec<String>,
    /// The same for the evaluation, which draws nothing.
    fed_to_eval: Vec<String>,
    trainable: Vec<String>,
    /// Parameters that stay, running statistics, and λ.
    frozen: Vec<String>,
    /// λ of each layer by the name of its input.
    lambdas: BTreeMap<String, f64>,
}

impl Roles {
    fn of(plan: &Plan) -> Roles {
        let manifest = &plan.manifest;
        let fed_to_eval: Vec<String> = manifest.inputs.iter().chain(&manifest.labels).cloned().collect();
        let probes = manifest.layers.iter().filter(|l| l.lambda_input.is_some()).flat_map(|l| &l.probes);
        let drawn = probes.chain(&manifest.masks).map(|p| p.name.clone());
        let lambdas = manifest.layers.iter().filter_map(|l| Some((l.lambda_input.clone()?, l.lambda)));
        let lambdas: BTreeMap<String, f64> = lambdas.collect();
        let names = |trainable: bool| {
            let parameters = manifest.parameters.iter().filter(move |p| p.trainable == trainable);
            parameters.map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        Roles {
            fed: fed_to_eval.iter().cloned().chain(drawn).collect(),
            fed_to_eval,
            trainable: names(true),
            frozen: names(false).into_iter().chain(lambdas.keys().cloned()).collect(),
            lambdas,
        }
    }

    fn checkpoint(&self, plan: &Plan) -> Checkpoint {
        let tensor = |name: &String| match self.lambdas.get(name) {
            Some(lambda) => Some((name.clone(), Tensor::scalar(DType::F32, *lambda))),
            None => Some((name.clone(), plan.tensors.get(name)?.clone())),
        };
        Checkpoint {
            trainable: self.trainable.iter().filter_map(tensor).collect(),
            frozen: self.frozen.iter().filter_map(tensor).collect(),
            properties: BTreeMap::new(),
            step: 0,
        }
    }
}

/// Writes the artifact to `directory`; `inference` is the content of `model.onnx`.
///
/// # Errors
/// As [`Draft::new`].
pub fn write(artifact: &Artifact, inference: &[u8], directory: &Path, force: bool) -> Result<()> {
    let draft = Draft::new(directory, force)?;
    let mut record = artifact.record.clone();
    let digest = manifest::sha256(inference);
    let models = artifact.models.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in models.chain([(manifest::MODEL, inference)]) {
        onnx::save(bytes, &draft.path().join(name))?;
        record.files.insert(name.to_owned(), FileEntry { sha256: manifest::sha256(bytes) });
    }
    let mut checkpoint = artifact.checkpoint.clone();
    checkpoint.properties.insert(MODEL_PROPERTY.to_owned(), digest);
    for path in checkpoint.write(&draft.path().join(CHECKPOINT), External::Auto)? {
        let sha256 = manifest::sha256_file(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        record.files.insert(name, FileEntry { sha256 });
    }
    onnx::save(record.to_json()?.as_bytes(), &draft.path().join(manifest::FILE))?;
    draft.finish()
}

/// Whether `path` is such an artifact, or a file, which only a checkpoint of one can be where weights are looked for.
pub fn is_source(path: &Path) -> bool {
    path.is_file() || Record::read(path).is_ok()
}

/// The inference model with the weights of a checkpoint: `source` is its file, or an artifact for the one in it. The artifact
/// that it belongs to is `artifact`, or else looked for in the checkpoint's directory and the two above.
///
/// # Errors
/// [`Error::Checkpoint`] for a file that is none; [`Error::NoArtifact`]; [`Error::OtherModel`] for a checkpoint of another
/// model; [`crate::train::Error::MissingParameter`].
pub fn export(source: &Path, artifact: Option<&Path>) -> Result<Exported<Filled>> {
    let weights = if source.is_file() { source.to_owned() } else { source.join(CHECKPOINT) };
    let checkpoint = Checkpoint::read(&weights)?;
    let directory = match artifact {
        Some(directory) => directory.to_owned(),
        None => beside(&weights)?,
    };
    let record = Record::read(&directory)?;
    let model = directory.join(manifest::MODEL);
    let bytes = std::fs::read(&model).map_err(|source| Error::Io { path: model.clone(), source })?;
    if let Some(digest) = checkpoint.properties.get(MODEL_PROPERTY)
        && *digest != manifest::sha256(&bytes)
    {
        return Err(Error::OtherModel { checkpoint: weights, model });
    }
    let parameters = parameters(&record, &checkpoint, &weights)?;
    let parameters = super::quantized::as_stored(&bytes, &model, parameters)?;
    let count = parameters.len();
    let filled = onnx::with_weights(&bytes, &model, parameters)?;
    Ok(Exported { what: filled, weights, step: checkpoint.step, parameters: count })
}

/// The nearest artifact at or above a checkpoint.
fn beside(checkpoint: &Path) -> Result<PathBuf> {
    let absolute =
        std::path::absolute(checkpoint).map_err(|source| Error::Io { path: checkpoint.to_owned(), source })?;
    let found = absolute.ancestors().skip(1).take(3).find(|directory| Record::read(directory).is_ok());
    found.map(Path::to_owned).ok_or_else(|| Error::NoArtifact { checkpoint: checkpoint.to_owned() })
}

/// The parameters of the record, with the checkpoint's values.
fn parameters(record: &Record, checkpoint: &Checkpoint, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let stored: BTreeMap<&str, &Tensor> =
        checkpoint.trainable.iter().chain(&checkpoint.frozen).map(|(name, t)| (name.as_str(), t)).collect();
    let value = |p: &manifest::Parameter| match stored.get(p.name.as_str()) {
        None => Err(crate::train::Error::MissingParameter { path: path.to_owned(), name: p.name.clone() }.into()),
        Some(t) if t.dtype != p.dtype || t.shape != p.shape => Err(Error::Checkpoint {
            path: path.to_owned(),
            why: format!(
                "parameter {:?} is {} of shape {:?}, but the artifact says {} of shape {:?}",
                p.name, t.dtype, t.shape, p.dtype, p.shape
            ),
        }),
        Some(t) => Ok((p.name.clone(), (*t).clone())),
    };
    record.parameters.iter().map(value).collect()
}
