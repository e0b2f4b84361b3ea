//! Constant data: dtype, shape and little-endian bytes, owned or memory-mapped.

use super::{DType, small};
use half::{bf16, f16};
use memmap2::{Mmap, MmapMut};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone)]
pub enum Bytes {
    Owned(Arc<[u8]>),
    Mapped { file: Arc<MappedFile>, offset: usize, len: usize },
}

/// A file with weights, mapped for reading.
pub struct MappedFile {
    pub path: PathBuf,
    pub map: Mmap,
    /// It is not a file of weights beside a model, but the model itself, or none.
    pub is_model: bool,
}

impl MappedFile {
    /// A file of weights.
    ///
    /// # Errors
    /// Those of mapping it.
    pub fn new(file: &File, path: &Path) -> std::io::Result<Arc<MappedFile>> {
        MappedFile::of(file, path, false)
    }

    /// The file of a model.
    pub(crate) fn model(file: &File, path: &Path) -> std::io::Result<Arc<MappedFile>> {
        MappedFile::of(file, path, true)
    }

    #[allow(unsafe_code)]
    fn of(file: &File, path: &Path, is_model: bool) -> std::io::Result<Arc<MappedFile>> {
        // SAFETY: the map is only read. Bytes change under it only if another process writes into the file in place while
        // it is in use; writers of models and weights, this one included, replace files instead.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Arc::new(MappedFile { path: path.to_owned(), map, is_model }))
    }

    /// Bytes as a part of the file, if they are one.
    pub(crate) fn part(self: &Arc<Self>, bytes: &[u8]) -> Option<Bytes> {
        let offset = (bytes.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize)?;
        let end = offset.checked_add(bytes.len()).filter(|&end| end <= self.map.len());
        end.map(|_| Bytes::Mapped { file: self.clone(), offset, len: bytes.len() })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            // The reader checks the range against the file before it makes one.
            Bytes::Mapped { file, offset, len } => file.map.get(*offset..offset + len).unwrap_or(&[]),
        }
    }
}

/// As many bytes are read from a file at once.
const CHUNK: usize = 1 << 18;

/// Fewer zeros than this take their memory.
const LARGE: usize = 1 << 20;

impl Bytes {
    /// Zeros; many of them take memory only where something looks at them.
    pub fn zeros(len: usize) -> Bytes {
        let mapped = || MmapMut::map_anon(len).and_then(MmapMut::make_read_only).ok();
        match mapped().filter(|_| len >= LARGE) {
            Some(map) => {
                let file = Arc::new(MappedFile { path: PathBuf::new(), map, is_model: true });
                Bytes::Mapped { file, offset: 0, len }
            }
            None => Bytes::Owned(vec![0; len].into()),
        }
    }

    /// Writes them. Those of a mapped file are read from it, not through the mapping, whose pages would stay in memory.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Bytes::Mapped { file, offset, len } = self else { return out.write_all(self) };
        // Where the file has gone or changed, its mapping is still there.
        let Ok(part) = at(&file.path, file.map.len(), *offset) else { return out.write_all(self) };
        let (mut part, mut buffer, mut left) = (part.take(*len as u64), vec![0; CHUNK.min(*len)], *len);
        while left > 0 {
            match part.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => {
                    out.write_all(&buffer[..n])?;
                    left -= n;
                }
            }
        }
        Ok(())
    }
}

/// The file from that byte on, if it is still as long as it was.
fn at(path: &Path, len: usize, offset: usize) -> std::io::Result<File> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != len as u64 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    file.seek(SeekFrom::Start(offset as u64))?;
    Ok(file)
}

#[derive(Clone)]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Little-endian, row-major, elements of fewer bits packed; empty for strings.
    pub bytes: Bytes,
    /// The elements of a string tensor.
    pub strings: Vec<String>,
}

impl Tensor {
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Tensor {
        Tensor { dtype, shape, bytes: Bytes::Owned(bytes.into()), strings: Vec::new() }
    }

    pub fn ints(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_bytes(DType::I64, shape.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Elements rounded (floats), truncated (integers) or compared with 0 (bool).
    pub fn from_f64(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = f64>) -> Tensor {
        if dtype.is_small_float() || (1..8).contains(&dtype.bits()) {
            let codes: Vec<u8> = values.into_iter().map(|v| small::encode(dtype, v)).collect();
            return Tensor::from_bytes(dtype, shape.to_vec(), small::pack(dtype, &codes));
        }
        let mut bytes = Vec::new();
        for v in values {
            match dtype {
                DType::F32 => bytes.extend((v as f32).to_le_bytes()),
                DType::F64 => bytes.extend(v.to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f64(v).to_le_bytes()),
                DType::BF16 => bytes.extend(bf16::from_f64(v).to_le_bytes()),
                DType::I8 => bytes.extend((v as i8).to_le_bytes()),
                DType::I16 => bytes.extend((v as i16).to_le_bytes()),
                DType::I32 => bytes.extend((v as i32).to_le_bytes()),
                DType::I64 => bytes.extend((v as i64).to_le_bytes()),
                DType::U8 => bytes.push(v as u8),
                DType::U16 => bytes.extend((v as u16).to_le_bytes()),
                DType::U32 => bytes.extend((v as u32).to_le_bytes()),
                DType::U64 => bytes.extend((v as u64).to_le_bytes()),
                DType::Bool => bytes.push(u8::from(v != 0.0)),
                _ => {}
            }
        }
        Tensor::from_bytes(dtype, shape.to_vec(), bytes)
    }

    pub fn scalar(dtype: DType, value: f64) -> Tensor {
        Tensor::from_f64(dtype, &[], [value])
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn to_f64(&self) -> Vec<f64> {
        fn read<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|c| one(*c)).collect()
        }
        let b = &*self.bytes;
        match self.dtype {
            DType::F32 => read(b, |c| f64::from(f32::from_le_bytes(c))),
            DType::F64 => read(b, f64::from_le_bytes),
            DType::F16 => read(b, |c| f16::from_le_bytes(c).to_f64()),
            DType::BF16 => read(b, |c| bf16::from_le_bytes(c).to_f64()),
            DType::I8 => read(b, |c| f64::from(i8::from_le_bytes(c))),
            DType::I16 => read(b, |c| f64::from(i16::from_le_bytes(c))),
            DType::I32 => read(b, |c| f64::from(i32::from_le_bytes(c))),
            DType::I64 => read(b, |c| i64::from_le_bytes(c) as f64),
            DType::U8 | DType::Bool => b.iter().map(|&v| f64::from(v)).collect(),
            DType::U16 => read(b, |c| f64::from(u16::from_le_bytes(c))),
            DType::U32 => read(b, |c| f64::from(u32::from_le_bytes(c))),
            DType::U64 => read(b, |c| u64::from_le_bytes(c) as f64),
            DType::Str => Vec::new(),
            dtype => (0..self.len()).map(|k| small::decode(dtype, small::code(dtype, b, k))).collect(),
        }
    }

    /// The elements of an integer or bool tensor, exactly.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match self.dtype {
            DType::I64 => Some(self.bytes.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect()),
            d if d.is_int() || d == DType::Bool => Some(self.to_f64().into_iter().map(|v| v as i64).collect()),
            _ => None,
        }
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && *self.bytes == *other.bytes
            && self.strings == other.strings
    }
}

impl Eq for Tensor {}

impl Hash for Tensor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.dtype, &self.shape, &self.strings).hash(state);
        self.bytes.hash(state);
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype.onnx_name(), self.shape)
    }
}
