//! What can be wrong with a model, as data.

use crate::ir::DType;
use std::path::PathBuf;
use thiserror::Error;

/// Why bytes are not an ONNX model.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NotOnnx {
    #[error("it is empty")]
    Empty,
    #[error("it is a Git LFS pointer, not the model itself; run `git lfs pull`")]
    LfsPointer,
    #[error("it is a zip archive (a PyTorch checkpoint is one); export the model with torch.onnx.export")]
    Zip,
    #[error("it is an HDF5 file (Keras weights are one); export the model with tf2onnx")]
    Hdf5,
    #[error("it is a model in ONNX Runtime's own format (.ort); use the .onnx file it was made from")]
    OrtFormat,
    #[error("its bytes are not a protobuf message of that kind ({reason})")]
    Protobuf { reason: String },
    #[error("it has no graph")]
    NoGraph,
}

/// One thing that is wrong with a model. A file's faults are reported together.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ModelFault {
    #[error("tensor {tensor:?} is defined twice, {first} and {second}; every name must be defined once")]
    DefinedTwice { tensor: String, first: String, second: String },
    #[error("node {node:?} ({}) reads {tensor:?}, which is no input, initializer or output of a node", op.escape_debug())]
    UndefinedInput { node: String, op: String, tensor: String },
    #[error("the output {tensor:?} of graph {graph:?} is never computed")]
    UndefinedOutput { graph: String, tensor: String },
    #[error("the output {tensor:?} of graph {graph:?} is listed twice")]
    OutputTwice { graph: String, tensor: String },
    #[error("the name that begins {start:?} has {length} bytes; a name has at most {limit}")]
    LongName { start: String, length: usize, limit: usize },
    #[error("the graph has a cycle: {}", chain(nodes))]
    Cycle { nodes: Vec<String> },
    #[error("an {what} of graph {graph:?} has no name")]
    Unnamed { graph: String, what: &'static str },
    #[error("{tensor:?} has type {found}; only tensors of {} are supported", DTYPES)]
    UnsupportedType { tensor: String, found: String },
    #[error("tensor {tensor:?} has the negative dimension {dim}")]
    NegativeDimension { tensor: String, dim: i64 },
    #[error("{tensor:?} is {}; no tensor has more than 2^48 elements", fact.escape_debug())]
    ImpossibleShape { tensor: String, fact: String },
    #[error("tensor {tensor:?} has the shape {shape:?}, more elements than memory can hold")]
    TooLarge { tensor: String, shape: Vec<i64> },
    #[error("tensor {tensor:?} is {}{shape:?}, that is {expected} {unit}, but holds {found}", dtype.onnx_name())]
    TensorSize { tensor: String, dtype: DType, shape: Vec<usize>, unit: &'static str, expected: usize, found: usize },
    #[error("a string of {place} is not UTF-8")]
    NotUtf8 { place: String },
    #[error("sparse tensor {tensor:?}: {what}")]
    Sparse { tensor: String, what: String },
    #[error("sparse tensor {tensor:?} is {}{shape:?} when dense, {size} bytes; {room} are left for such", dtype.onnx_name())]
    Unpacked { tensor: String, dtype: DType, shape: Vec<usize>, size: usize, room: u64 },
    #[error("external data of tensor {tensor:?}: {fault}")]
    External { tensor: String, fault: ExternalFault },
    #[error("attribute {attribute:?} of node {node:?} ({}) is of kind {kind}, which is not supported", op.escape_debug())]
    UnsupportedAttribute { node: String, op: String, attribute: String, kind: String },
    #[error("the Constant node {node:?} has no value")]
    EmptyConstant { node: String },
    #[error("node {node:?} ({}) is of domain {domain:?}, of which the file imports no version", op.escape_debug())]
    NoOpset { node: String, op: String, domain: String },
    #[error("function {function:?} calls itself: {}", chain(path))]
    RecursiveFunction { function: String, path: Vec<String> },
    #[error("node {node:?} calls function {function:?} with {found} {what}, it takes {expected}")]
    FunctionArity { node: String, function: String, what: &'static str, found: usize, expected: usize },
    #[error("functions and subgraphs are nested more than {limit} deep, down to a node of operator {op:?}")]
    TooDeep { op: String, limit: usize },
    #[error("it has more than {limit} nodes, those of its local functions included")]
    TooManyNodes { limit: usize },
}

/// What is wrong with a reference to a data file beside the model.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ExternalFault {
    #[error("it names no file (key \"location\")")]
    NoLocation,
    #[error("{location:?} is not a path inside the model's folder")]
    Outside { location: String },
    #[error("the model was read from memory, so there is no folder to find {location:?} in")]
    NoFolder { location: String },
    #[error("{path}: {reason}; it must lie beside the model", path = path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{key} is {value:?}, expected a number of bytes")]
    BadNumber { key: &'static str, value: String },
    #[error("{path} has {size} bytes, the tensor needs {length} from offset {offset}; the file is cut short", path = path.display())]
    PastEnd { path: PathBuf, size: u64, offset: u64, length: u64 },
    #[error("its length is {found}, the tensor takes {expected} bytes")]
    Length { found: u64, expected: u64 },
}

const DTYPES: &str = "floats of 4 to 64 bits, (u)int2 to (u)int64, bool and string";

fn chain(names: &[String]) -> String {
    names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(" -> ")
}

/// The faults of a file, one a line, the first twenty.
pub(crate) fn list(faults: &[ModelFault]) -> String {
    const SHOWN: usize = 20;
    let mut lines: Vec<String> = faults.iter().take(SHOWN).map(|f| format!("  {f}")).collect();
    if faults.len() > SHOWN {
        lines.push(format!("  … and {} more", faults.len() - SHOWN));
    }
    lines.join("\n")
}
