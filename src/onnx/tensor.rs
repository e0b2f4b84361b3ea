//! `TensorProto` ↔ [`Tensor`].

use super::external::Folder;
use super::fault::ModelFault;
use super::proto::{SparseTensorProto, TensorProto, tensor_proto::DataLocation};
use super::types::type_name;
use crate::ir::{Bytes, DType, Tensor};
use prost::bytes;

/// The tensor, with its size checked against its data.
pub(super) fn decode(proto: &TensorProto, name: &str, folder: &Folder) -> Result<Tensor, ModelFault> {
    let tensor = || name.to_string();
    let code = proto.data_type();
    let dtype = DType::from_code(code)
        .ok_or_else(|| ModelFault::UnsupportedType { tensor: tensor(), found: type_name(code) })?;
    if proto.segment.is_some() {
        return Err(ModelFault::UnsupportedType { tensor: tensor(), found: "a segment of a tensor".into() });
    }
    let (shape, count, size) = sizes(&proto.dims, dtype, name)?;
    let check = |unit: &'static str, expected: usize, found: usize| {
        if expected == found {
            return Ok(());
        }
        Err(ModelFault::TensorSize { tensor: tensor(), dtype, shape: shape.clone(), unit, expected, found })
    };
    if dtype == DType::Str {
        check("strings", count, proto.string_data.len())?;
        let strings = proto.string_data.iter().map(|s| String::from_utf8(s.to_vec())).collect::<Result<_, _>>();
        let strings = strings.map_err(|_| ModelFault::NotUtf8 { place: format!("tensor {name:?}") })?;
        return Ok(Tensor { dtype, shape, bytes: Bytes::Owned([].into()), strings });
    }
    if proto.data_location() == DataLocation::External {
        let bytes = match size {
            0 => Bytes::Owned([].into()),
            _ => folder
                .bytes(&proto.external_data, size)
                .map_err(|fault| ModelFault::External { tensor: tensor(), fault })?,
        };
        return Ok(Tensor { dtype, shape, bytes, strings: Vec::new() });
    }
    if let Some(raw) = proto.raw_data.as_deref().filter(|raw| !raw.is_empty()) {
        check("bytes", size, raw.len())?;
        let bytes = folder.inside(raw).unwrap_or_else(|| Bytes::Owned(raw.into()));
        return Ok(Tensor { dtype, shape, bytes, strings: Vec::new() });
    }
    let (found, bytes) = typed_data(proto, dtype);
    match (1..8).contains(&dtype.bits()) {
        // Several elements stand in one entry.
        true => check("bytes", size, found)?,
        false => check("elements", count, found)?,
    }
    Ok(Tensor::from_bytes(dtype, shape, bytes))
}

/// Shape, number of elements and number of bytes; an error where they overflow.
fn sizes(dims: &[i64], dtype: DType, name: &str) -> Result<(Vec<usize>, usize, usize), ModelFault> {
    if let Some(&dim) = dims.iter().find(|&&d| d < 0) {
        return Err(ModelFault::NegativeDimension { tensor: name.to_string(), dim });
    }
    let too_large = || ModelFault::TooLarge { tensor: name.to_string(), shape: dims.to_vec() };
    let shape: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(too_large)?;
    // A zero anywhere makes the product zero, whatever the other dimensions are; they must still multiply safely.
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
    let size = dtype.bytes(count).filter(|&n| isize::try_from(n).is_ok()).ok_or_else(too_large)?;
    Ok((shape, count, size))
}

/// The number of elements in the field that holds this type, and their bytes.
fn typed_data(proto: &TensorProto, dtype: DType) -> (usize, Vec<u8>) {
    fn bytes<T: Copy, const N: usize>(values: &[T], one: impl Fn(T) -> [u8; N]) -> (usize, Vec<u8>) {
        (values.len(), values.iter().flat_map(|&v| one(v)).collect())
    }
    match dtype {
        DType::F32 => bytes(&proto.float_data, f32::to_le_bytes),
        DType::F64 => bytes(&proto.double_data, f64::to_le_bytes),
        DType::I64 => bytes(&proto.int64_data, i64::to_le_bytes),
        DType::U64 => bytes(&proto.uint64_data, u64::to_le_bytes),
        DType::U32 => bytes(&proto.uint64_data, |v| (v as u32).to_le_bytes()),
        DType::I32 => bytes(&proto.int32_data, i32::to_le_bytes),
        // Half floats stand in the low bits.
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => bytes(&proto.int32_data, |v| (v as u16).to_le_bytes()),
        DType::Bool => bytes(&proto.int32_data, |v| [u8::from(v != 0)]),
        DType::Str => (0, Vec::new()),
        // Of eight bits or fewer.
        _ => bytes(&proto.int32_data, |v| [v as u8]),
    }
}

/// A sparse tensor, made dense.
pub(super) fn decode_sparse(proto: &SparseTensorProto, name: &str, folder: &Folder) -> Result<Tensor, ModelFault> {
    let fault = |what: String| ModelFault::Sparse { tensor: name.to_string(), what };
    let (Some(values), Some(indices)) = (&proto.values, &proto.indices) else {
        return Err(fault("values or indices are missing".into()));
    };
    let values = decode(values, name, folder)?;
    let indices = decode(indices, name, folder)?;
    let (shape, count, size) = sizes(&proto.dims, values.dtype, name)?;
    if values.dtype.size() == 0 {
        return Err(fault(format!("its values are {}; expected numbers of whole bytes", values.dtype.onnx_name())));
    }
    if let Err(room) = folder.take(size) {
        return Err(ModelFault::Unpacked { tensor: name.to_string(), dtype: values.dtype, shape, size, room });
    }
    let entries = values.len();
    let rank = shape.len();
    let coordinates = match indices.shape.as_slice() {
        [n] if *n == entries => false,
        [n, r] if *n == entries && *r == rank => true,
        other => {
            return Err(fault(format!("indices have shape {other:?}, expected [{entries}] or [{entries}, {rank}]")));
        }
    };
    let at = indices.to_i64().ok_or_else(|| fault(format!("indices are {}, expected int64", indices.dtype)))?;
    let flat = |entry: usize| -> Option<usize> {
        if !coordinates {
            return usize::try_from(at[entry]).ok().filter(|&i| i < count);
        }
        let tuple = &at[entry * rank..(entry + 1) * rank];
        tuple.iter().zip(&shape).try_fold(0, |flat, (&i, &dim)| {
            let i = usize::try_from(i).ok().filter(|&i| i < dim)?;
            Some(flat * dim + i)
        })
    };
    let width = values.dtype.size();
    let mut dense = vec![0; size];
    for entry in 0..entries {
        let i = flat(entry).ok_or_else(|| fault(format!("index {entry} lies outside of {shape:?}")))?;
        dense[i * width..(i + 1) * width].copy_from_slice(&values.bytes[entry * width..(entry + 1) * width]);
    }
    Ok(Tensor::from_bytes(values.dtype, shape, dense))
}

/// Tensor data as protobuf bytes, without a copy.
struct Shared(Bytes);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The tensor with its data inside.
pub(super) fn encode(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = header(name, tensor);
    if tensor.dtype == DType::Str {
        proto.string_data = tensor.strings.iter().map(|s| bytes::Bytes::copy_from_slice(s.as_bytes())).collect();
    } else {
        proto.raw_data = Some(bytes::Bytes::from_owner(Shared(tensor.bytes.clone())));
    }
    proto
}

/// The tensor without its data.
pub(super) fn header(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_string()).filter(|n| !n.is_empty()),
        dims: tensor.shape.iter().map(|&d| d as i64).collect(),
        data_type: Some(tensor.dtype.code()),
        ..TensorProto::default()
    }
}
