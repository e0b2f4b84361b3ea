//! fam-onnx
