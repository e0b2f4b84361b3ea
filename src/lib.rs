//! Training exported ONNX models with the flatness regulariser FAM on a stock ONNX Runtime.

pub mod artifact;
pub mod cli;
mod error;
pub mod runtime;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
