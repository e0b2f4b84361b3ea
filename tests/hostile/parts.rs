//! What hostile models are made of.

use fam_onnx::onnx::proto::attribute_proto::AttributeType;
use fam_onnx::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fam_onnx::onnx::proto::*;

pub fn some(text: &str) -> Option<String> {
    Some(text.to_string())
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: some(op), input: strings(inputs), output: strings(outputs), ..Default::default() }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: some(name),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: some(name), r#type: Some(AttributeType::Int as i32), i: Some(value), ..Default::default() }
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: some(name), r#type: Some(AttributeType::Graph as i32), g: Some(graph), ..Default::default() }
}

/// `code`: the element type; 1 is float, 7 int64, 9 bool.
pub fn value(name: &str, code: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: Some(match text.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam(text.to_string()),
        }),
        denotation: None,
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(code), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: some(name), r#type: Some(kind), ..Default::default() }
}

/// An output of which the file says nothing.
pub fn open(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: some(name), ..Default::default() }
}

pub fn numbers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: some(name),
        dims: dims.to_vec(),
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: some(name),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// `y` computed from `x`, which is `float[N,4]`.
pub fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    of_graph(GraphProto {
        name: some("g"),
        node: nodes,
        initializer,
        input: vec![value("x", 1, &["N", "4"])],
        output: vec![open("y")],
        ..Default::default()
    })
}

pub fn of_graph(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: some(""), version: Some(17) }],
        ..Default::default()
    }
}

/// `y = op(op(…(x)))`, `length` times.
pub fn chain(op: &str, length: usize) -> ModelProto {
    let name = |k: usize| match k {
        0 => "x".to_string(),
        k if k == length => "y".to_string(),
        k => format!("t{k}"),
    };
    model((0..length).map(|k| node(op, &[&name(k)], &[&name(k + 1)])).collect(), Vec::new())
}
