//! A tensor on the host: element type, shape and bytes, row-major. It crosses rooms without being interpreted; arithmetic
//! happens in the graphs.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Write,
    ops::Deref,
    path::{Path, PathBuf},
};

use half::{bf16, f16};

pub use crate::ir::DType;
use crate::ir::{self, Bytes, MappedFile, small};
use safetensors::tensor::{Metadata, TensorInfo};

#[cfg(target_endian = "big")]
compile_error!("tensors are kept in the byte order of safetensors and ONNX, which is little-endian");

/// Why a tensor, or a file of tensors, is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, not {found}")]
    Size { dtype: DType, shape: Vec<usize>, expected: usize, found: usize },
    #[error("a tensor of strings has no bytes of a fixed size; expected numbers or bool")]
    Strings,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a valid safetensors file ({source}); write it anew or take another copy", path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{}: tensor `{name}` has the element type {dtype:?}, which no ONNX tensor of a parameter has", path.display())]
    UnsupportedDtype { path: PathBuf, name: String, dtype: safetensors::Dtype },
    #[error("the tensors cannot be written as safetensors: {source}")]
    Encode { source: safetensors::SafeTensorError },
}

/// Element type, shape and little-endian, row-major bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// A tensor's bytes: in a file until they change, or in memory.
#[derive(Clone, Default)]
struct Data {
    mapped: Option<Bytes>,
    own: Vec<u8>,
}

impl Deref for Data {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.mapped.as_deref().unwrap_or(&self.own)
    }
}

impl Data {
    fn own(&mut self) -> &mut Vec<u8> {
        if let Some(bytes) = self.mapped.take() {
            self.own = bytes.to_vec();
        }
        &mut self.own
    }
}

impl From<Vec<u8>> for Data {
    fn from(own: Vec<u8>) -> Data {
        Data { mapped: None, own }
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Data) -> bool {
        **self == **other
    }
}

impl Eq for Data {}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    /// # Errors
    /// [`Error::Size`] if `data` is not exactly the bytes that the shape takes; [`Error::Strings`].
    pub fn new(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<Tensor, Error> {
        if dtype == DType::Str {
            return Err(Error::Strings);
        }
        let expected = dtype.bytes(elements(&shape)).unwrap_or(usize::MAX);
        if data.len() != expected {
            return Err(Error::Size { dtype, shape, expected, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data: data.into() })
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: Vec<usize>) -> Tensor {
        let data = vec![0; dtype.bytes(elements(&shape)).unwrap_or(usize::MAX)];
        Tensor { dtype, shape, data: data.into() }
    }

    /// A float32 scalar (rank 0).
    pub fn scalar(value: f32) -> Tensor {
        Tensor { dtype: DType::F32, shape: Vec::new(), data: value.to_le_bytes().to_vec().into() }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub fn into_data(mut self) -> Vec<u8> {
        std::mem::take(self.data.own())
    }

    /// The bytes as a graph holds them: where they are in a file they stay there.
    pub fn into_bytes(self) -> Bytes {
        self.data.mapped.unwrap_or_else(|| Bytes::Owned(self.data.own.into()))
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        self.data.own()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same bytes under another shape of as many elements.
    ///
    /// # Errors
    /// [`Error::Size`] if the number of elements differs.
    pub fn reshape(self, shape: Vec<usize>) -> Result<Tensor, Error> {
        let expected = self.dtype.bytes(elements(&shape)).unwrap_or(usize::MAX);
        match self.data.len() == expected {
            true => Ok(Tensor { shape, ..self }),
            false => Err(Error::Size { dtype: self.dtype, shape, expected, found: self.data.len() }),
        }
    }

    /// Every element as f64, in order. Integers beyond 2^53 round.
    pub fn iter_f64(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.len()).map(|k| element_f64(self.dtype, self.element(k).as_ref()))
    }

    /// Every element of an integer or bool tensor as i64, in order; floats truncate. Values beyond i64 saturate.
    pub fn iter_i64(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|k| element_i64(self.dtype, self.element(k).as_ref()))
    }

    /// The bytes of an element; of one that is packed, a byte that holds its bits alone.
    fn element(&self, k: usize) -> Cow<'_, [u8]> {
        match self.dtype.size() {
            0 => vec![small::code(self.dtype, &self.data, k)].into(),
            size => self.data[k * size..(k + 1) * size].into(),
        }
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
pub fn element_f64(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F16 => f16::from_le_bytes(take(bytes)).to_f64(),
        DType::BF16 => bf16::from_le_bytes(take(bytes)).to_f64(),
        DType::F32 => f32::from_le_bytes(take(bytes)).into(),
        DType::F64 => f64::from_le_bytes(take(bytes)),
        DType::U64 => u64::from_le_bytes(take(bytes)) as f64,
        dtype if dtype.is_small_float() => small::decode(dtype, bytes[0]),
        _ => element_i64(dtype, bytes) as f64,
    }
}

/// One element as i64; `bytes` are the `dtype.size()` bytes of it.
pub fn element_i64(dtype: DType, bytes: &[u8]) -> i64 {
    match dtype {
        DType::I8 => i8::from_le_bytes(take(bytes)).into(),
        DType::I16 => i16::from_le_bytes(take(bytes)).into(),
        DType::I32 => i32::from_le_bytes(take(bytes)).into(),
        DType::I64 => i64::from_le_bytes(take(bytes)),
        DType::U8 => bytes[0].into(),
        DType::U16 => u16::from_le_bytes(take(bytes)).into(),
        DType::U32 => u32::from_le_bytes(take(bytes)).into(),
        DType::U64 => u64::from_le_bytes(take(bytes)).try_into().unwrap_or(i64::MAX),
        DType::Bool => (bytes[0] != 0).into(),
        DType::Str => 0,
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => element_f64(dtype, bytes) as i64,
        _ => small::decode(dtype, bytes[0]) as i64,
    }
}

const SAFETENSORS: [(DType, safetensors::Dtype); 13] = [
    (DType::F16, safetensors::Dtype::F16),
    (DType::BF16, safetensors::Dtype::BF16),
    (DType::F32, safetensors::Dtype::F32),
    (DType::F64, safetensors::Dtype::F64),
    (DType::I8, safetensors::Dtype::I8),
    (DType::I16, safetensors::Dtype::I16),
    (DType::I32, safetensors::Dtype::I32),
    (DType::I64, safetensors::Dtype::I64),
    (DType::U8, safetensors::Dtype::U8),
    (DType::U16, safetensors::Dtype::U16),
    (DType::U32, safetensors::Dtype::U32),
    (DType::U64, safetensors::Dtype::U64),
    (DType::Bool, safetensors::Dtype::BOOL),
];

/// Writes a safetensors file, known as `path`, a tensor at a time.
///
/// # Errors
/// [`Error::Strings`], [`Error::Encode`]; [`Error::Io`].
pub(crate) fn write_safetensors(
    tensors: &BTreeMap<String, ir::Tensor>,
    out: &mut impl Write,
    path: &Path,
) -> Result<(), Error> {
    let mut all = Vec::new();
    for (name, tensor) in tensors {
        all.push((to_safetensors(tensor.dtype).ok_or(Error::Strings)?, name, tensor));
    }
    // Large elements first, so that all are aligned; the order of names stays.
    all.sort_by_key(|(dtype, ..)| Reverse(*dtype));
    let mut end = 0;
    let infos = all.iter().map(|(dtype, name, tensor)| {
        let start = end;
        end += tensor.bytes.len();
        let (shape, data_offsets) = (tensor.shape.clone(), (start, end));
        ((*name).clone(), TensorInfo { dtype: *dtype, shape, data_offsets })
    });
    let encode = |source| Error::Encode { source };
    let header = Metadata::new(None, infos.collect()).map_err(encode)?;
    let mut header = serde_json::to_vec(&header).map_err(|error| encode(error.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut write = || {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        all.iter().try_for_each(|(_, _, tensor)| tensor.bytes.write_to(out))
    };
    write().map_err(|source| Error::Io { path: path.to_owned(), source })
}

pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<DType> {
    SAFETENSORS.iter().find(|row| row.1 == dtype).map(|row| row.0)
}

/// Of every type but strings, which no tensor here has.
pub(crate) fn to_safetensors(dtype: DType) -> Option<safetensors::Dtype> {
    SAFETENSORS.iter().find(|row| row.0 == dtype).map(|row| row.1)
}

/// Larger files are mapped, and their tensors stay in them until they change.
const MAPPED_FROM: u64 = 16 << 20;

/// Reads every tensor of a safetensors file.
pub fn read_safetensors(path: &Path) -> Result<Tensors, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.is_file() && found.len() >= MAPPED_FROM {
        let file = MappedFile::new(&file, path).map_err(failed)?;
        return tensors(path, &file.map, |data| Data { mapped: file.part(data), own: Vec::new() });
    }
    decode_safetensors(path, &std::fs::read(path).map_err(failed)?)
}

/// The tensors of a safetensors file whose bytes are `bytes`; `path` only names it in errors.
pub fn decode_safetensors(path: &Path, bytes: &[u8]) -> Result<Tensors, Error> {
    tensors(path, bytes, |data| data.to_vec().into())
}

/// The tensors in `bytes`, each with the data that `hold` makes of its own.
fn tensors(path: &Path, bytes: &[u8], hold: impl Fn(&[u8]) -> Data) -> Result<Tensors, Error> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|source| Error::Safetensors { path: path.to_owned(), source })?;
    file.iter()
        .map(|(name, view)| {
            let dtype = from_safetensors(view.dtype()).ok_or_else(|| Error::UnsupportedDtype {
                path: path.to_owned(),
                name: name.to_owned(),
                dtype: view.dtype(),
            })?;
            let data = hold(view.data());
            let (shape, found) = (view.shape().to_vec(), data.len());
            match dtype.bytes(elements(&shape)) {
                Some(expected) if expected == found => Ok((name.to_owned(), Tensor { dtype, shape, data })),
                expected => Err(Error::Size { dtype, shape, expected: expected.unwrap_or(usize::MAX), found }),
            }
        })
        .collect()
}

/// The bytes of a safetensors file; the same tensors give the same bytes.
pub fn encode_safetensors(tensors: &Tensors) -> Result<Vec<u8>, Error> {
    let views = tensors
        .iter()
        .map(|(name, t)| {
            let dtype = to_safetensors(t.dtype).ok_or(Error::Strings)?;
            let view = safetensors::tensor::TensorView::new(dtype, t.shape.clone(), &t.data)
                .map_err(|source| Error::Encode { source })?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    safetensors::serialize(views, None).map_err(|source| Error::Encode { source })
}
