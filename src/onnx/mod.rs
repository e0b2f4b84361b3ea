//! ONNX files: bytes ↔ [`Model`](crate::ir::Model). The only room that knows protobuf.
//!
//! [`read`] accepts any opset from 7 to 26 and gives one internal form, the newest of each operator (`normalise`);
//! local functions are inlined, ONNX Runtime's fused operators written out (`fused`),
//! and `Constant` nodes become initialisers. [`write`](fn@write) picks the lowest opset
//! that can say what the graph says (`since`). [`text`](fn@text) prints ONNX's textual syntax.

mod apart;
mod bodies;
mod check;
mod dims;
mod encoded;
mod external;
mod facts;
mod fault;
mod functions;
mod fused;
mod normalise;
mod ort_optimizer;
mod raw;
mod read;
mod sequences;
mod signature;
mod since;
mod tensor;
mod text;
mod types;
mod weights;
mod write;

/// The protobuf messages, compiled from `proto/onnx.proto`.
#[allow(clippy::all, missing_docs)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use apart::{ARGUMENT as INFER_APART, answer as answer_inference, infer_apart};
pub(crate) use fault::list as list_faults;
pub use fault::{ExternalFault, ModelFault, NotOnnx};
pub use ort_optimizer::{OrtOptimizer, ort_optimizer};
pub use read::{read, read_bytes, read_bytes_within, read_within};
pub use signature::{Signature, signature};
pub use text::{TextOptions, compact, graph_text, text};
pub use weights::{Filled, integer_weights, save, with_weights, without_weights};
pub use write::{External, opset, to_bytes, write, write_with};

/// The opsets that [`read`] accepts.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;
