//! fam-onnx
pub mod ad;
pub mod error;
pub mod eval;
pub mod ir;
pub mod linear;
pub mod lower;
pub mod ops;
pub mod simplify;
