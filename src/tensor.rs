//! A tensor on the host: element type, shape and bytes, row-major. It crosses rooms without being interpreted; arithmetic
//! happens in the graphs.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

#[cfg(target_endian = "big")]
compile_error!("tensors are kept in the byte order of safetensors and ONNX, which is little-endian");

/// Why a tensor, or a file of tensors, is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, not {found}")]
    Size { dtype: Dtype, shape: Vec<usize>, expected: usize, found: usize },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a valid safetensors file ({source}); write it anew or take another copy", path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{}: tensor `{name}` has the element type {dtype:?}, which no ONNX tensor of a parameter has", path.display())]
    UnsupportedDtype { path: PathBuf, name: String, dtype: safetensors::Dtype },
    #[error("the tensors cannot be written as safetensors: {source}")]
    Encode { source: safetensors::SafeTensorError },
}

/// Element types, by ONNX's names in lower case (`float32`, `int64`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    Float16,
    Bfloat16,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Int8 | Dtype::Uint8 | Dtype::Bool => 1,
            Dtype::Float16 | Dtype::Bfloat16 | Dtype::Int16 | Dtype::Uint16 => 2,
            Dtype::Float32 | Dtype::Int32 | Dtype::Uint32 => 4,
            Dtype::Float64 | Dtype::Int64 | Dtype::Uint64 => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Dtype::Float16 => "float16",
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Float32 => "float32",
            Dtype::Float64 => "float64",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Uint8 => "uint8",
            Dtype::Uint16 => "uint16",
            Dtype::Uint32 => "uint32",
            Dtype::Uint64 => "uint64",
            Dtype::Bool => "bool",
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64)
    }

    /// Signed or unsigned; `bool` is not one.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != Dtype::Bool
    }

    /// The smallest and largest value of an integer type; `None` for the others.
    pub fn integer_range(self) -> Option<(i128, i128)> {
        Some(match self {
            Dtype::Int8 => (i8::MIN.into(), i8::MAX.into()),
            Dtype::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Dtype::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Dtype::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Dtype::Uint8 => (0, u8::MAX.into()),
            Dtype::Uint16 => (0, u16::MAX.into()),
            Dtype::Uint32 => (0, u32::MAX.into()),
            Dtype::Uint64 => (0, u64::MAX.into()),
            _ => return None,
        })
    }

    /// `None` for strings, which are never parameters.
    pub fn from_ir(dtype: crate::ir::DType) -> Option<Dtype> {
        use crate::ir::DType as D;
        Some(match dtype {
            D::F16 => Dtype::Float16,
            D::BF16 => Dtype::Bfloat16,
            D::F32 => Dtype::Float32,
            D::F64 => Dtype::Float64,
            D::I8 => Dtype::Int8,
            D::I16 => Dtype::Int16,
            D::I32 => Dtype::Int32,
            D::I64 => Dtype::Int64,
            D::U8 => Dtype::Uint8,
            D::U16 => Dtype::Uint16,
            D::U32 => Dtype::Uint32,
            D::U64 => Dtype::Uint64,
            D::Bool => Dtype::Bool,
            D::Str => return None,
        })
    }

    pub fn to_ir(self) -> crate::ir::DType {
        use crate::ir::DType as D;
        match self {
            Dtype::Float16 => D::F16,
            Dtype::Bfloat16 => D::BF16,
            Dtype::Float32 => D::F32,
            Dtype::Float64 => D::F64,
            Dtype::Int8 => D::I8,
            Dtype::Int16 => D::I16,
            Dtype::Int32 => D::I32,
            Dtype::Int64 => D::I64,
            Dtype::Uint8 => D::U8,
            Dtype::Uint16 => D::U16,
            Dtype::Uint32 => D::U32,
            Dtype::Uint64 => D::U64,
            Dtype::Bool => D::Bool,
        }
    }

    fn to_safetensors(self) -> safetensors::Dtype {
        use safetensors::Dtype as S;
        match self {
            Dtype::Float16 => S::F16,
            Dtype::Bfloat16 => S::BF16,
            Dtype::Float32 => S::F32,
            Dtype::Float64 => S::F64,
            Dtype::Int8 => S::I8,
            Dtype::Int16 => S::I16,
            Dtype::Int32 => S::I32,
            Dtype::Int64 => S::I64,
            Dtype::Uint8 => S::U8,
            Dtype::Uint16 => S::U16,
            Dtype::Uint32 => S::U32,
            Dtype::Uint64 => S::U64,
            Dtype::Bool => S::BOOL,
        }
    }

    fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        use safetensors::Dtype as S;
        Some(match dtype {
            S::F16 => Dtype::Float16,
            S::BF16 => Dtype::Bfloat16,
            S::F32 => Dtype::Float32,
            S::F64 => Dtype::Float64,
            S::I8 => Dtype::Int8,
            S::I16 => Dtype::Int16,
            S::I32 => Dtype::Int32,
            S::I64 => Dtype::Int64,
            S::U8 => Dtype::Uint8,
            S::U16 => Dtype::Uint16,
            S::U32 => Dtype::Uint32,
            S::U64 => Dtype::Uint64,
            S::BOOL => Dtype::Bool,
            _ => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Element type, shape and little-endian, row-major bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    /// # Errors
    /// [`Error::Size`] if `data` is not exactly the bytes that the shape takes.
    pub fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Tensor, Error> {
        let expected = elements(&shape).saturating_mul(dtype.size());
        if data.len() != expected {
            return Err(Error::Size { dtype, shape, expected, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: Dtype, shape: Vec<usize>) -> Tensor {
        let data = vec![0; elements(&shape) * dtype.size()];
        Tensor { dtype, shape, data }
    }

    /// A float32 scalar (rank 0).
    pub fn scalar(value: f32) -> Tensor {
        Tensor { dtype: Dtype::Float32, shape: Vec::new(), data: value.to_le_bytes().to_vec() }
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same bytes under another shape of as many elements.
    ///
    /// # Errors
    /// [`Error::Size`] if the number of elements differs.
    pub fn reshape(self, shape: Vec<usize>) -> Result<Tensor, Error> {
        Tensor::new(self.dtype, shape, self.data)
    }

    /// Every element as f64, in order. Integers beyond 2^53 round.
    pub fn iter_f64(&self) -> impl Iterator<Item = f64> + '_ {
        self.data.chunks_exact(self.dtype.size()).map(|bytes| element_f64(self.dtype, bytes))
    }

    /// Every element of an integer or bool tensor as i64, in order; floats truncate. Values beyond i64 saturate.
    pub fn iter_i64(&self) -> impl Iterator<Item = i64> + '_ {
        self.data.chunks_exact(self.dtype.size()).map(|bytes| element_i64(self.dtype, bytes))
    }

    /// The first NaN or infinity of a float tensor.
    pub fn first_non_finite(&self) -> Option<f64> {
        if self.dtype.is_float() { self.iter_f64().find(|value| !value.is_finite()) } else { None }
    }
}

/// Product of the dimensions.
pub fn elements(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// One element as f64; `bytes` are the `dtype.size()` bytes of it.
pub fn element_f64(dtype: Dtype, bytes: &[u8]) -> f64 {
    match dtype {
        Dtype::Float16 => f16::from_le_bytes(take(bytes)).to_f64(),
        Dtype::Bfloat16 => bf16::from_le_bytes(take(bytes)).to_f64(),
        Dtype::Float32 => f32::from_le_bytes(take(bytes)).into(),
        Dtype::Float64 => f64::from_le_bytes(take(bytes)),
        Dtype::Uint64 => u64::from_le_bytes(take(bytes)) as f64,
        _ => element_i64(dtype, bytes) as f64,
    }
}

/// One element as i64; `bytes` are the `dtype.size()` bytes of it.
pub fn element_i64(dtype: Dtype, bytes: &[u8]) -> i64 {
    match dtype {
        Dtype::Int8 => i8::from_le_bytes(take(bytes)).into(),
        Dtype::Int16 => i16::from_le_bytes(take(bytes)).into(),
        Dtype::Int32 => i32::from_le_bytes(take(bytes)).into(),
        Dtype::Int64 => i64::from_le_bytes(take(bytes)),
        Dtype::Uint8 => bytes[0].into(),
        Dtype::Uint16 => u16::from_le_bytes(take(bytes)).into(),
        Dtype::Uint32 => u32::from_le_bytes(take(bytes)).into(),
        Dtype::Uint64 => u64::from_le_bytes(take(bytes)).try_into().unwrap_or(i64::MAX),
        Dtype::Bool => (bytes[0] != 0).into(),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64 => element_f64(dtype, bytes) as i64,
    }
}

/// Reads every tensor of a safetensors file.
pub fn read_safetensors(path: &Path) -> Result<Tensors, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    decode_safetensors(path, &bytes)
}

/// The tensors of a safetensors file whose bytes are `bytes`; `path` only names it in errors.
pub fn decode_safetensors(path: &Path, bytes: &[u8]) -> Result<Tensors, Error> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|source| Error::Safetensors { path: path.to_owned(), source })?;
    file.iter()
        .map(|(name, view)| {
            let dtype = Dtype::from_safetensors(view.dtype()).ok_or_else(|| Error::UnsupportedDtype {
                path: path.to_owned(),
                name: name.to_owned(),
                dtype: view.dtype(),
            })?;
            Ok((name.to_owned(), Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec())?))
        })
        .collect()
}

/// The bytes of a safetensors file; the same tensors give the same bytes.
pub fn encode_safetensors(tensors: &Tensors) -> Result<Vec<u8>, Error> {
    let views = tensors
        .iter()
        .map(|(name, t)| {
            let view = safetensors::tensor::TensorView::new(t.dtype.to_safetensors(), t.shape.clone(), &t.data)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|source| Error::Encode { source })?;
    safetensors::serialize(views, None).map_err(|source| Error::Encode { source })
}
