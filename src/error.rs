//! Typed errors. Each variant carries the facts of its fault as fields; its message names the thing, what was found,
//! what was expected and what to do. Hints that concern the command line are added by `cli`.

use crate::ir::DType;
use crate::onnx::{ModelFault, NotOnnx};
use crate::ops::Fault;
use std::path::PathBuf;
use thiserror::Error;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A node on a differentiated path that has no derivative.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsupported {
    pub node: String,
    pub op: String,
    pub reason: String,
}

#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Manifest(#[from] crate::artifact::manifest::Error),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    #[error(transparent)]
    HostTensor(#[from] crate::tensor::Error),
    #[error(transparent)]
    Train(#[from] crate::train::Error),

    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error("{file}: this is not an ONNX model: {reason}")]
    NotOnnx { file: String, reason: NotOnnx },

    #[error(
        "{file}: the model uses opset {found}, this program reads {first} to {last}; export it again with an opset between, or convert it with onnx.version_converter"
    )]
    Opset { file: String, found: i64, first: i64, last: i64 },

    #[error("{file}: the model does not say which opset it uses (opset_import has no entry for domain \"\")")]
    NoOpset { file: String },

    #[error("{file}: the model is not valid:\n{}", crate::onnx::list_faults(faults))]
    InvalidModel { file: String, faults: Vec<ModelFault> },

    /// A fault found while a file is read, with the file's name.
    #[error("{file}: {source}")]
    InFile { file: String, source: Box<Error> },

    #[error("node {node:?} ({op}): {fault}; its inputs are {}", inputs.join(", "))]
    Operator { node: String, op: String, inputs: Vec<String>, fault: Fault },

    #[error("operator {op} is not known here")]
    UnknownOperator { op: String },

    #[error("the rank of tensor {tensor:?} is not known; export the model with shapes, or run shape inference on it")]
    UnknownRank { tensor: String },

    #[error("dimension {dim} cannot be read from any tensor at run time")]
    UnknownDimension { dim: String },

    #[error("input {tensor:?} is not given")]
    MissingInput { tensor: String },

    #[error("{what} {name:?} is not in the model{}", nearest(near))]
    UnknownName { what: &'static str, name: String, near: Vec<String> },

    #[error("{glob:?} is not a pattern of names: {reason}; expected one as for file names, with * ? [a-z] {{a,b}}")]
    Pattern { glob: String, reason: String },

    #[error("{tensor:?} is {dtype}; only float tensors are differentiated")]
    NotFloat { tensor: String, dtype: DType },

    #[error("layer {name:?} means several: {}; give a whole name", layers.join(", "))]
    AmbiguousLayer { name: String, layers: Vec<String> },

    #[error("the loss does not depend on layer {layer:?}: {output:?} is computed without it")]
    NotOnPath { layer: String, output: String },

    #[error("κ of layer {layer:?} ({class} head) cannot be computed exactly: {reason}")]
    NotExact { layer: String, class: &'static str, reason: String },

    #[error("{probes} probes are biased for layer {layer:?}; unbiased there are {}", allowed.join(", "))]
    ProbesNotAllowed { layer: String, probes: &'static str, allowed: Vec<&'static str> },

    #[error("{first:?} and {second:?} are the same layer; name it once")]
    LayerTwice { first: String, second: String },

    #[error("{tensor:?} is {fact}; what is stored has a fixed shape and a numeric type")]
    NotStored { tensor: String, fact: String },

    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },

    #[error("{} exists already and is nothing that this program wrote; it is never replaced", path.display())]
    NotOurs { path: PathBuf },

    #[error("ONNX Runtime's training API cannot train this:\n{}", lines(faults))]
    OrtTraining { faults: Vec<crate::artifact::ort_training::Fault> },

    #[error("{}: {why}", path.display())]
    Checkpoint { path: PathBuf, why: String },

    #[error("{}: neither its directory nor the two above hold the artifact that it belongs to", checkpoint.display())]
    NoArtifact { checkpoint: PathBuf },

    #[error("{}: its weights are those of another model than {}", checkpoint.display(), model.display())]
    OtherModel { checkpoint: PathBuf, model: PathBuf },

    #[error("{} is read and would be written: choose another name for the output", path.display())]
    OutputIsInput { path: PathBuf },

    #[error("no parameter is left to train")]
    NothingToTrain,

    #[error("the model has several outputs: {}; say which one the loss reads", outputs.join(", "))]
    SeveralOutputs { outputs: Vec<String> },

    #[error("output {output:?} is {fact}; a loss has one element")]
    LossNotScalar { output: String, fact: String },

    #[error("{loss} reads {tensor:?}, which is {found}; expected {expected}")]
    Prediction { loss: &'static str, tensor: String, found: String, expected: &'static str },

    #[error("{fault}")]
    LossOptions { fault: crate::loss::OptionFault },

    #[error(
        "nll reads log-probabilities, but {tensor:?} is computed by Softmax; take softmax-cross-entropy, or let the model end in LogSoftmax"
    )]
    NotLogProbabilities { tensor: String },

    #[error("{found} class weights; expected {classes}, as many as {tensor:?} has classes along axis 1")]
    ClassWeights { found: usize, tensor: String, classes: i64 },

    #[error("{path}: not class weights: {why}", path = path.display())]
    ClassWeightsFile { path: PathBuf, why: String },

    #[error("{file}: not a loss of this model: {fault}")]
    LossModel { file: String, fault: crate::loss::LossModelFault },

    #[error(
        "dropout cannot train where the mask is not one of samples times fixed sizes, or the ratio no constant from 0 to below 1:\n{}\nexport with fixed sizes, or leave dropout off",
        nodes.iter().map(|n| format!("  {n}")).collect::<Vec<_>>().join("\n")
    )]
    Dropout { nodes: Vec<String> },

    #[error(
        "λ of layer {layer:?} cannot be chosen: on the first batches the median of ‖∇κ‖ is {kappa_norm:.3e}, that of ‖∇L‖ {loss_norm:.3e}; give λ as a number"
    )]
    NoKappaGradient { layer: String, kappa_norm: f64, loss_norm: f64 },

    #[error("a constant of shape {shape:?} would stand in the graph; more than {limit} elements are not written")]
    ConstantTooLarge { shape: Vec<usize>, limit: usize },

    #[error("broken graph: {what}")]
    BrokenGraph { what: String },

    #[error(
        "{} on the path {} no derivative:\n{}",
        plural(nodes.len(), "node"),
        if nodes.len() == 1 { "has" } else { "have" },
        nodes.iter().map(|n| format!("  {} ({}): {}", n.node, n.op, n.reason)).collect::<Vec<_>>().join("\n")
    )]
    NotDifferentiable { nodes: Vec<Unsupported> },
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Each on a line of its own.
fn lines(faults: &[impl std::fmt::Display]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}

/// `; did you mean "a" or "b"?`
fn nearest(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => {
            let quoted: Vec<String> = near.iter().map(|n| format!("{n:?}")).collect();
            format!("; the nearest names are {}", quoted.join(", "))
        }
    }
}

/// The up to five of `names` most like `name`, best first.
pub fn nearest_names<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = names.into_iter().map(|n| (strsim::jaro_winkler(name, n), n)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by_key(|s| s.1);
    scored.into_iter().filter(|s| s.0 > 0.6).take(5).map(|s| s.1.to_string()).collect()
}

impl Error {
    /// The same error, told of a node by its name in the file.
    pub fn at_node(self, name: &str) -> Error {
        match self {
            Error::Operator { op, inputs, fault, .. } => Error::Operator { node: name.to_string(), op, inputs, fault },
            other => other,
        }
    }
}
