//! Host tensors ↔ ONNX Runtime's values, as bytes: no element type is interpreted.

use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    value::{DynTensor, TensorElementType, ValueType},
};

use crate::tensor::{DType, Tensor, elements};

pub(super) fn element_type(dtype: DType) -> TensorElementType {
    match dtype {
        DType::F16 => TensorElementType::Float16,
        DType::BF16 => TensorElementType::Bfloat16,
        DType::F32 => TensorElementType::Float32,
        DType::F64 => TensorElementType::Float64,
        DType::I8 => TensorElementType::Int8,
        DType::I16 => TensorElementType::Int16,
        DType::I32 => TensorElementType::Int32,
        DType::I64 => TensorElementType::Int64,
        DType::U8 => TensorElementType::Uint8,
        DType::U16 => TensorElementType::Uint16,
        DType::U32 => TensorElementType::Uint32,
        DType::U64 => TensorElementType::Uint64,
        DType::Bool => TensorElementType::Bool,
        DType::Str => TensorElementType::String,
        DType::E4M3FN => TensorElementType::Float8E4M3FN,
        DType::E4M3FNUZ => TensorElementType::Float8E4M3FNUZ,
        DType::E5M2 => TensorElementType::Float8E5M2,
        DType::E5M2FNUZ => TensorElementType::Float8E5M2FNUZ,
        DType::U4 => TensorElementType::Uint4,
        DType::I4 => TensorElementType::Int4,
        DType::F4E2M1 => TensorElementType::Float4E2M1,
        DType::E8M0 => TensorElementType::Float8E8M0,
        DType::U2 => TensorElementType::Uint2,
        DType::I2 => TensorElementType::Int2,
    }
}

pub(super) fn dtype(element_type: TensorElementType) -> Option<DType> {
    Some(match element_type {
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}

/// A value of zeros in host memory. The host's allocator must be the default one.
pub(super) fn zeros(host: &Allocator, dtype: DType, shape: &[usize]) -> ort::Result<DynTensor> {
    DynTensor::new(host, element_type(dtype), shape)
}

/// A value in host memory with the tensor's bytes.
pub(super) fn from_tensor(host: &Allocator, tensor: &Tensor) -> ort::Result<DynTensor> {
    let mut value = zeros(host, tensor.dtype(), tensor.shape())?;
    bytes_mut(&mut value, tensor.data().len()).copy_from_slice(tensor.data());
    Ok(value)
}

/// The bytes of a value, wherever it lies, as a host tensor; `None` if it is no tensor of a known element type.
pub(super) fn to_tensor(value: &DynTensor) -> ort::Result<Option<Tensor>> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Ok(None);
    };
    let Some(dtype) = dtype(*ty) else {
        return Ok(None);
    };
    let shape: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
    let length = elements(&shape) * dtype.size();
    let data = if value.memory_info().is_cpu_accessible() {
        bytes(value, length).to_vec()
    } else {
        bytes(&value.to(AllocationDevice::CPU, 0)?, length).to_vec()
    };
    Ok(Tensor::new(dtype, shape, data).ok())
}

/// What `f` makes of the bytes of a value, wherever it lies; `None` if it is no tensor of a known element type.
pub(super) fn with_bytes<R>(value: &DynTensor, f: impl FnOnce(DType, &[u8]) -> R) -> ort::Result<Option<R>> {
    let Some(dtype) = dtype(*value.data_type()) else {
        return Ok(None);
    };
    let length = value.shape().iter().map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>() * dtype.size();
    Ok(Some(match value.memory_info().is_cpu_accessible() {
        true => f(dtype, bytes(value, length)),
        false => f(dtype, bytes(&value.to(AllocationDevice::CPU, 0)?, length)),
    }))
}

/// Gives a value, wherever it lies, the bytes that `fill` writes; one of no known element type stays as it is.
pub(super) fn overwrite(
    host: &Allocator,
    value: &mut DynTensor,
    fill: impl FnOnce(DType, &mut [u8]),
) -> ort::Result<()> {
    let Some(dtype) = dtype(*value.data_type()) else {
        return Ok(());
    };
    let shape: Vec<usize> = value.shape().iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
    let length = elements(&shape) * dtype.size();
    if value.memory_info().is_cpu_accessible() {
        fill(dtype, bytes_mut(value, length));
        return Ok(());
    }
    let mut staged = zeros(host, dtype, &shape)?;
    fill(dtype, bytes_mut(&mut staged, length));
    staged.copy_into(value)
}

/// `length` must be the number of bytes that the value's type and shape take, and the value must lie in host memory.
#[allow(unsafe_code)]
pub(super) fn bytes_mut(value: &mut DynTensor, length: usize) -> &mut [u8] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: the value is borrowed mutably, its buffer lives as long as it, and `length` bytes of it are initialised:
    // values are made by `zeros`, which clears them, or come out of a run.
    unsafe { std::slice::from_raw_parts_mut(value.data_ptr_mut().cast(), length) }
}

#[allow(unsafe_code)]
fn bytes(value: &DynTensor, length: usize) -> &[u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: as in `bytes_mut`, with a shared borrow.
    unsafe { std::slice::from_raw_parts(value.data_ptr().cast(), length) }
}

/// Where a session's buffers lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Cuda(i32),
}

impl Place {
    pub(super) fn memory(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, index) = match self {
            Place::Host => (AllocationDevice::CPU, 0),
            Place::Cuda(index) => (AllocationDevice::CUDA, index),
        };
        MemoryInfo::new(device, index, AllocatorType::Device, MemoryType::Default)
    }
}
