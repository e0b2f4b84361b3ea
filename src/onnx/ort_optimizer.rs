//! The optimiser's model of ONNX Runtime's training API. Its inputs are sequences of tensors, which `ir` has not.

use super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto};
use super::{types, write};
use crate::ir::{Attrs, DType, Dim, Fact};
use prost::Message;

const DOMAIN: &str = "com.microsoft";
const OPSET: i64 = 17;
const CLIPPED: &str = "gradients.clipped";

/// A step that the API can make.
#[derive(Clone, Debug, PartialEq)]
pub struct OrtOptimizer {
    pub operator: &'static str,
    attributes: Attrs,
    /// What the operator reads, in its order.
    inputs: &'static [&'static str],
    /// Sequences of moments among the model's inputs; the API wants the first also where nothing reads it.
    moments: &'static [&'static str],
    /// Limit of the gradients' joint norm.
    clip_norm: Option<f64>,
}

impl OrtOptimizer {
    /// `w ← w − η·g`
    pub fn sgd(clip_norm: Option<f64>) -> OrtOptimizer {
        OrtOptimizer {
            operator: "SGDOptimizerV2",
            attributes: Attrs::new(),
            inputs: &["learning_rate", "params", "gradients"],
            moments: &["first_order_moments"],
            clip_norm,
        }
    }

    /// PyTorch's `AdamW`: the decay comes before the step, and the second moment is corrected before its root.
    pub fn adamw(betas: [f64; 2], eps: f64, weight_decay: f64, clip_norm: Option<f64>) -> OrtOptimizer {
        let attributes = Attrs::new()
            .with("alpha", betas[0] as f32)
            .with("beta", betas[1] as f32)
            .with("epsilon", eps as f32)
            .with("weight_decay", weight_decay as f32)
            .with("adam_mode", 0)
            .with("correct_bias", 1);
        OrtOptimizer {
            operator: "AdamWOptimizer",
            attributes,
            inputs: &["learning_rate", "step", "params", "gradients", "first_order_moments", "second_order_moments"],
            moments: &["first_order_moments", "second_order_moments"],
            clip_norm,
        }
    }
}

/// The bytes of the model with that step.
pub fn ort_optimizer(optimizer: &OrtOptimizer) -> Vec<u8> {
    let vector = |name: &str, dtype| types::value_info(name, &Fact::new(dtype, [Dim::Fixed(1)]));
    let sequences = ["params", "gradients"].iter().chain(optimizer.moments).map(|name| sequence(name));
    let input = [vector("learning_rate", DType::F32), vector("step", DType::I64)].into_iter().chain(sequences);
    let graph = GraphProto {
        name: Some("optimizer".to_string()),
        node: nodes(optimizer),
        input: input.collect(),
        output: vec![vector("updated", DType::Bool)],
        ..GraphProto::default()
    };
    let import = |(domain, version): (&str, i64)| OperatorSetIdProto {
        domain: Some(domain.to_string()),
        version: Some(version),
    };
    let model = ModelProto {
        ir_version: Some(8),
        producer_name: Some(env!("CARGO_PKG_NAME").to_string()),
        graph: Some(graph),
        opset_import: [("", OPSET), (DOMAIN, 1)].map(import).to_vec(),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

fn nodes(optimizer: &OrtOptimizer) -> Vec<NodeProto> {
    let node = |op: &str, inputs: Vec<String>, output: &str, attrs: &Attrs| NodeProto {
        name: Some(op.to_string()),
        op_type: Some(op.to_string()),
        domain: Some(DOMAIN.to_string()),
        input: inputs,
        output: vec![output.to_string()],
        attribute: write::attributes(attrs, OPSET),
        ..NodeProto::default()
    };
    let gradients = if optimizer.clip_norm.is_some() { CLIPPED } else { "gradients" };
    let name = |input: &&str| if *input == "gradients" { gradients } else { *input }.to_string();
    let clip = optimizer.clip_norm.map(|limit| {
        let limit = Attrs::new().with("max_norm", limit as f32);
        node("InplaceClipGradNorm", vec!["gradients".to_string()], CLIPPED, &limit)
    });
    let inputs = optimizer.inputs.iter().map(name).collect();
    clip.into_iter().chain([node(optimizer.operator, inputs, "updated", &optimizer.attributes)]).collect()
}

fn sequence(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(DType::F32.code()), shape: None };
    let element = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    let sequence = type_proto::Sequence { elem_type: Some(Box::new(element)) };
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))), denotation: None }),
        ..ValueInfoProto::default()
    }
}
