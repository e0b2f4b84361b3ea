//! Bytes of a model → graph.

use super::sound;
use fam_onnx::ir::verify;
use fam_onnx::onnx;

/// What is read holds the graph's invariants.
pub fn model(data: &[u8]) {
    if let Some(model) = sound(onnx::read_bytes(data, None)) {
        verify(&model.graph).expect("a graph that was read is whole");
    }
}
