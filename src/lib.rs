//! Training exported ONNX models with the flatness regulariser FAM on a stock ONNX Runtime.

pub mod artifact;
mod error;
pub mod runtime;
pub mod tensor;

pub use error::{Error, Result};
