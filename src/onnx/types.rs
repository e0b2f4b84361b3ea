//! `TypeProto` ↔ [`Fact`].

use super::dims::Symbols;
use super::fault::ModelFault;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use crate::ir::{DType, Dim, Fact};

/// The name of an element type by its number in the file, also of those that are not supported.
pub(super) fn type_name(code: i32) -> String {
    let other = match code {
        0 => "undefined",
        14 => "complex64",
        15 => "complex128",
        _ => return DType::from_code(code).map_or(format!("element type {code}"), |d| d.onnx_name().to_string()),
    };
    other.to_string()
}

fn kind_name(value: &type_proto::Value) -> String {
    match value {
        type_proto::Value::TensorType(t) => type_name(t.elem_type()),
        type_proto::Value::SequenceType(_) => "sequence".into(),
        type_proto::Value::MapType(_) => "map".into(),
        type_proto::Value::OptionalType(_) => "optional".into(),
        type_proto::Value::SparseTensorType(_) => "sparse tensor".into(),
        type_proto::Value::OpaqueType(_) => "opaque".into(),
    }
}

/// What the file says of a value; `None` where it says nothing. `made_up` names the dimension of an axis that the file
/// leaves open.
pub(super) fn fact(
    info: &ValueInfoProto,
    symbols: &Symbols,
    made_up: impl Fn(usize) -> String,
) -> Result<Option<Fact>, ModelFault> {
    let Some(value) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(None);
    };
    let unsupported = || ModelFault::UnsupportedType { tensor: info.name().to_string(), found: kind_name(value) };
    let type_proto::Value::TensorType(tensor) = value else {
        return Err(unsupported());
    };
    let dtype = DType::from_code(tensor.elem_type()).ok_or_else(unsupported)?;
    let Some(shape) = &tensor.shape else {
        return Ok(Some(Fact::unknown(dtype)));
    };
    let dims = shape.dim.iter().enumerate().map(|(axis, dim)| match &dim.value {
        Some(dimension::Value::DimValue(n)) if *n >= 0 => Dim::Fixed(*n),
        Some(dimension::Value::DimParam(name)) if is_name(name) => symbols.dim(name),
        _ => Dim::symbol(&made_up(axis)),
    });
    let fact = Fact::new(dtype, dims.collect::<Vec<_>>());
    if fact.is_possible() {
        return Ok(Some(fact));
    }
    Err(ModelFault::ImpossibleShape { tensor: info.name().to_string(), fact: fact.to_string() })
}

/// Some exporters write `?` for every open dimension: such names say nothing.
pub(super) fn is_name(dim_param: &str) -> bool {
    !dim_param.trim().is_empty() && !dim_param.starts_with('?')
}

/// A symbol that stands for lack of knowledge, not for a dimension that the file names.
pub(super) fn is_made_up(dim: &Dim) -> bool {
    matches!(dim, Dim::Symbol(poly) if poly.terms().any(|(symbols, _)| symbols.iter().any(|s| s.contains('?'))))
}

pub(super) fn value_info(name: &str, fact: &Fact) -> ValueInfoProto {
    let dimension = |dim: &Dim| {
        let value = match dim {
            Dim::Fixed(n) => Some(dimension::Value::DimValue(*n)),
            open if is_made_up(open) => None,
            symbol => Some(dimension::Value::DimParam(symbol.to_string())),
        };
        Dimension { value, denotation: None }
    };
    let shape = fact.shape.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(fact.dtype.code()), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto { value, denotation: None }),
        ..ValueInfoProto::default()
    }
}
