//! Training exported ONNX models with the flatness regulariser FAM on a stock ONNX Runtime.

pub mod ad;
pub mod artifact;
pub mod cli;
pub mod cost;
pub mod demo;
pub mod error;
pub mod eval;
pub mod flatness;
pub mod ir;
pub mod linear;
pub mod loss;
pub mod lower;
pub mod onnx;
pub mod ops;
pub mod optim;
pub mod runtime;
pub mod simplify;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
