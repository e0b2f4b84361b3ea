//! `.npy`: a header, which is a Python dict, and the elements; and a directory of such files, each named as its array.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use super::{
    Array, Content, Error, Options, Source, Stored, has_extension,
    stored::{Bytes, Place, length, wrong_length},
};
use crate::tensor::DType;

/// Longest header that is read; NumPy refuses longer ones than 10,000 bytes by default.
const LONGEST_HEADER: usize = 1 << 20;

pub(super) fn matches(path: &Path) -> bool {
    path.is_dir() && files(path).is_ok_and(|files| !files.is_empty())
}

pub(super) fn read(path: &Path, _: &Options) -> Result<Source, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let arrays = files(path).map_err(io)?.iter().map(|file| read_file(file)).collect::<Result<_, Error>>()?;
    Ok(Source::new(path, arrays))
}

fn files(directory: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    files.retain(|path| has_extension(path, "npy"));
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Array, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bad = |why| Error::File { path: path.to_owned(), why };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let header = Header::read(&mut file).map_err(bad)?;
    let start = header.bytes;
    let found = size.saturating_sub(start);
    let content = header.content(found, Place::File { path: path.to_owned(), start }).map_err(bad)?;
    Ok(Array { name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), content, image: false })
}

/// The array of a whole file in memory.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Content, String> {
    let mut rest = bytes;
    let header = Header::read(&mut rest)?;
    header.content(rest.len() as u64, Place::Ready(Bytes::Memory(rest.to_vec())))
}

/// What stands before the elements.
pub(super) struct Header {
    /// Its own length.
    pub bytes: u64,
    /// NumPy's type string; `None` for a record.
    descr: Option<String>,
    column_major: bool,
    shape: Vec<usize>,
}

impl Header {
    /// The header of an `.npy` file of format version 1, 2 or 3.
    pub fn read(file: &mut impl Read) -> Result<Header, String> {
        let mut start = [0; 8];
        take(file, &mut start)?;
        if start[0] == 0x80 && (2..=5).contains(&start[1]) {
            return Err("a pickle, which is not read: reading one runs the code in it; save the array with numpy.save"
                .to_owned());
        }
        let &[magic @ .., version, _] = &start;
        if &magic != b"\x93NUMPY" {
            return Err("it does not begin as an .npy file does".to_owned());
        }
        let mut size = [0; 4];
        let width = match version {
            1 => 2,
            2 | 3 => 4,
            other => return Err(format!("format version {other}; expected 1, 2 or 3")),
        };
        take(file, &mut size[..width])?;
        let length = u32::from_le_bytes(size) as usize;
        if length > LONGEST_HEADER {
            return Err(format!("a header of {length} bytes; expected at most {LONGEST_HEADER}"));
        }
        let mut text = vec![0; length];
        take(file, &mut text)?;
        let text = std::str::from_utf8(&text).map_err(|_| "its header is not text".to_owned())?;
        let descr = field(text, "descr")?.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        Ok(Header {
            bytes: (8 + width + length) as u64,
            descr: descr.map(str::to_owned),
            column_major: field(text, "fortran_order")?.starts_with("True"),
            shape: parse_shape(field(text, "shape")?)?,
        })
    }

    /// The array, with `found` bytes of elements at `place`.
    ///
    /// # Errors
    /// If these are not as many as the shape takes.
    pub fn content(self, found: u64, place: Place) -> Result<Content, String> {
        let Some(descr) = self.descr else {
            return Ok(Content::Unsupported("a record".to_owned()));
        };
        let Some((dtype, big_endian)) = parse_descr(&descr) else {
            return Ok(Content::Unsupported(descr));
        };
        if found != length(&self.shape, dtype) {
            return Err(wrong_length(found, &self.shape, dtype));
        }
        Ok(Content::Numbers(Stored { dtype, shape: self.shape, big_endian, column_major: self.column_major, place }))
    }
}

fn take(file: &mut impl Read, out: &mut [u8]) -> Result<(), String> {
    file.read_exact(out).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "cut short".to_owned(),
        _ => error.to_string(),
    })
}

/// What stands after `'name':`.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, String> {
    header
        .split_once(&format!("'{name}':"))
        .map(|(_, value)| value.trim_start())
        .ok_or_else(|| format!("its header has no field '{name}'"))
}

/// A Python tuple of numbers.
fn parse_shape(text: &str) -> Result<Vec<usize>, String> {
    let inner = text
        .strip_prefix('(')
        .and_then(|text| text.split_once(')'))
        .map(|(inner, _)| inner)
        .ok_or("its header has no shape")?;
    inner
        .split(',')
        .map(str::trim)
        .filter(|number| !number.is_empty())
        .map(|number| number.parse().map_err(|_| format!("`{number}` in its shape is no size")))
        .collect()
}

/// The element type of a NumPy type string and whether its bytes are swapped.
fn parse_descr(descr: &str) -> Option<(DType, bool)> {
    let (order, kind) = descr.split_at_checked(1)?;
    let big_endian = match order {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return None,
    };
    let dtype = match kind {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        _ => return None,
    };
    Some((dtype, big_endian))
}
