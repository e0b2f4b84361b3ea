//! Typed errors. Each variant carries the facts of its fault as fields; its message names the thing, what was found,
//! what was expected and what to do. Hints that concern the command line are added by `cli`.

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

impl Error {
    /// The same error, told of a node by its name in the file.
    pub fn at_node(self, name: &str) -> Error {
        match self {
            Error::Operator { op, inputs, fault, .. } => Error::Operator { node: name.to_string(), op, inputs, fault },
            other => other,
        }
    }
}
