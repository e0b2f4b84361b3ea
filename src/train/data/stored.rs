//! Where the numbers of an array lie, and how they are laid out there.
//!
//! Large arrays stay in their file and are read at a position when a batch wants them. A mapping of the file would do as well,
//! but dies with the process when the file shrinks under it, and fills the address space; a read returns an error.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::{SpooledData, SpooledTempFile};

use crate::tensor::{DType, Tensor, elements};

/// Bytes up to which an array is kept in memory. A larger one that cannot be read in place (compressed, or column after
/// column) is unpacked to a temporary file.
pub(super) const IN_MEMORY: u64 = 256 << 20;

/// Bytes of the samples that are turned from columns to rows at a time.
const BLOCK: usize = 16 << 20;

/// An array of numbers in a file, with its header read and nothing else.
#[derive(Debug)]
pub struct Stored {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub(super) big_endian: bool,
    /// Fortran's order: the first axis runs fastest.
    pub(super) column_major: bool,
    pub(super) place: Place,
}

pub(super) enum Place {
    /// Row-major already.
    Ready(Bytes),
    /// Uncompressed, from byte `start` on.
    File {
        path: PathBuf,
        start: u64,
    },
    Stream(Unpack),
}

/// Writes the array's bytes, up to the given number of them, and returns how many these were.
pub(super) type Unpack = Box<dyn Fn(u64, &mut dyn Write) -> io::Result<u64> + Send + Sync>;

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Ready(bytes) => write!(f, "{bytes:?}"),
            Place::File { path, start } => write!(f, "{} from {start}", path.display()),
            Place::Stream(_) => f.write_str("a stream"),
        }
    }
}

impl Stored {
    /// Numbers in memory, row-major and little-endian.
    pub fn of(tensor: Tensor) -> Stored {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let place = Place::Ready(Bytes::Memory(tensor.into_data()));
        Stored { dtype, shape, big_endian: false, column_major: false, place }
    }

    /// Bytes of the whole array.
    pub(super) fn length(&self) -> u64 {
        length(&self.shape, self.dtype)
    }

    /// Whether nothing has to be unpacked or rearranged before it can be read.
    pub(super) fn is_in_place(&self) -> bool {
        !self.column_major && !matches!(self.place, Place::Stream(_))
    }

    /// The whole array in memory, row-major and little-endian.
    ///
    /// # Errors
    /// What [`Error::File`](super::Error::File) takes for `why`.
    pub fn tensor(self) -> Result<Tensor, String> {
        let (dtype, shape, big_endian) = (self.dtype, self.shape.clone(), self.big_endian);
        let length = self.length();
        if length > IN_MEMORY {
            return Err(format!("{length} bytes; expected at most {IN_MEMORY}"));
        }
        let length = length as usize;
        let bytes = self.bytes()?;
        let mut data = vec![0; length];
        bytes.read_at(0, &mut data).map_err(|error| error.to_string())?;
        if big_endian {
            data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
        }
        Tensor::new(dtype, shape, data).map_err(|error| error.to_string())
    }

    /// The bytes in row-major order, for reading at any position.
    pub(super) fn bytes(self) -> Result<Bytes, String> {
        let (length, shape, dtype) = (self.length(), self.shape, self.dtype);
        let plain = match self.place {
            Place::Ready(bytes) => bytes,
            Place::File { path, start } => open(&path, start, length).map_err(|error| error.to_string())?,
            Place::Stream(unpack) => spool(&unpack, length, &shape, dtype)?,
        };
        if self.column_major && shape.len() > 1 && length > 0 {
            return row_major(&plain, &shape, dtype.size()).map_err(|error| error.to_string());
        }
        Ok(plain)
    }
}

/// Bytes of an array.
pub(super) fn length(shape: &[usize], dtype: DType) -> u64 {
    shape.iter().fold(dtype.size() as u64, |n, &d| n.saturating_mul(d as u64))
}

/// Why data of another length than the header's cannot be used.
pub(super) fn wrong_length(found: u64, shape: &[usize], dtype: DType) -> String {
    format!("{found} bytes of data; expected {} for shape {shape:?} of {dtype}", length(shape, dtype))
}

/// A row-major array to read from.
pub(super) enum Bytes {
    Memory(Vec<u8>),
    File { file: File, start: u64 },
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bytes::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Bytes::File { file, start } => write!(f, "{file:?} from {start}"),
        }
    }
}

impl Bytes {
    /// Fills `out` from the array's byte `at` on.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Bytes::Memory(_) => {
                out.copy_from_slice(self.slice(at, out.len(), &mut Vec::new())?);
                Ok(())
            }
            Bytes::File { file, start } => read_exact_at(file, out, start + at),
        }
    }

    /// `length` bytes from `at` on, in `scratch` where they are not in memory.
    pub fn slice<'a>(&'a self, at: u64, length: usize, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        match self {
            Bytes::Memory(bytes) => usize::try_from(at)
                .ok()
                .and_then(|at| bytes.get(at..at.checked_add(length)?))
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            Bytes::File { .. } => {
                scratch.resize(length, 0);
                self.read_at(at, scratch)?;
                Ok(scratch)
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (out, at) = (&mut out[n..], at + n as u64),
        }
    }
    Ok(())
}

fn open(path: &Path, start: u64, length: u64) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if length > IN_MEMORY {
        return Ok(Bytes::File { file, start });
    }
    let mut bytes = vec![0; length as usize];
    read_exact_at(&file, &mut bytes, start)?;
    Ok(Bytes::Memory(bytes))
}

/// Unpacks a stream, which must be as long as its header says; never more than that is written.
fn spool(unpack: &Unpack, length: u64, shape: &[usize], dtype: DType) -> Result<Bytes, String> {
    let mut sink = spooled();
    // One byte more shows a stream that is too long, and lets the reader get to its end, where a checksum is.
    let found = unpack(length.saturating_add(1), &mut sink).map_err(|error| error.to_string())?;
    match found {
        found if found > length => Err(format!("more data than the {length} bytes of shape {shape:?} of {dtype}")),
        found if found < length => Err(wrong_length(found, shape, dtype)),
        _ => finish(sink).map_err(|error| error.to_string()),
    }
}

/// A sink in memory that moves to a temporary file when it grows.
pub(super) fn spooled() -> SpooledTempFile {
    tempfile::spooled_tempfile(IN_MEMORY as usize)
}

pub(super) fn finish(sink: SpooledTempFile) -> io::Result<Bytes> {
    Ok(match sink.into_inner() {
        SpooledData::InMemory(cursor) => Bytes::Memory(cursor.into_inner()),
        SpooledData::OnDisk(mut file) => {
            file.flush()?;
            Bytes::File { file, start: 0 }
        }
    })
}

/// Column-major (Fortran) to row-major (C) order, for some samples at a time. In column-major order the array is a matrix with a
/// row for each element of a sample, in which the samples lie side by side.
fn row_major(source: &Bytes, shape: &[usize], size: usize) -> io::Result<Bytes> {
    let (samples, sample) = (shape[0], &shape[1..]);
    let row = elements(sample) * size;
    let places = row_major_places(sample);
    let mut sink = spooled();
    let block = (BLOCK / row.max(1)).clamp(1, samples);
    let (mut line, mut rows) = (vec![0; block * size], vec![0; block * row]);
    for first in (0..samples).step_by(block) {
        let count = block.min(samples - first);
        for (k, place) in places.iter().enumerate() {
            let line = &mut line[..count * size];
            source.read_at(((k * samples + first) * size) as u64, line)?;
            for (element, row) in line.chunks_exact(size).zip(rows.chunks_exact_mut(row)) {
                row[place * size..(place + 1) * size].copy_from_slice(element);
            }
        }
        sink.write_all(&rows[..count * row])?;
    }
    finish(sink)
}

/// The row-major position of each element, in column-major order.
fn row_major_places(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    (0..elements(shape))
        .map(|mut k| {
            let digits = shape.iter().zip(&strides).map(|(&dim, stride)| {
                let digit = k % dim;
                k /= dim;
                digit * stride
            });
            digits.sum()
        })
        .collect()
}
