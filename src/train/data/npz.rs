//! `.npz`: a zip archive of `.npy` arrays, as `numpy.savez` and `numpy.savez_compressed` write it.

use std::{fs::File, io::Read, path::Path};

use super::{Array, Content, Error, Source};
use crate::tensor::{DType, Tensor, elements};

pub(super) fn matches(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz")) && path.is_file()
}

pub(super) fn read(path: &Path) -> Result<Source, Error> {
    let bad = |why: String| Error::Npz { path: path.to_owned(), why };
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| bad(error.to_string()))?;
        let entry_name = entry.name().map_err(|error| bad(error.to_string()))?.into_owned();
        let Some(name) = entry_name.strip_suffix(".npy") else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| bad(format!("{entry_name}: {error}")))?;
        let content = parse_npy(&bytes).map_err(|why| bad(format!("{entry_name}: {why}")))?;
        arrays.push(Array { name: name.to_owned(), content, image: false });
    }
    Ok(Source { path: path.to_owned(), arrays, held_out: None })
}

/// The array of a whole `.npy` file of format version 1, 2 or 3.
pub(crate) fn parse_npy(bytes: &[u8]) -> Result<Content, String> {
    let (header, data) = split_header(bytes)?;
    let descr =
        match field(header, "descr")?.split_once('\'').map(|(before, rest)| (before.trim(), rest.split('\'').next())) {
            Some(("", Some(descr))) => descr,
            _ => return Ok(Content::Unsupported("a record".to_owned())),
        };
    let fortran = field(header, "fortran_order")?.starts_with("True");
    let shape = parse_shape(field(header, "shape")?)?;
    let Some((dtype, big_endian)) = parse_descr(descr) else {
        return Ok(Content::Unsupported(descr.to_owned()));
    };
    let length = elements(&shape).saturating_mul(dtype.size());
    if data.len() != length {
        return Err(format!("{} bytes of data; expected {length} for shape {shape:?} of {dtype}", data.len()));
    }
    let mut data = if fortran { to_row_major(data, &shape, dtype.size()) } else { data.to_vec() };
    if big_endian {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    Tensor::new(dtype, shape, data).map(Content::Tensor).map_err(|error| error.to_string())
}

/// The header's text, a Python dict, and the data after it.
fn split_header(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let short = || "cut short".to_owned();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("it does not begin as an .npy file does")?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(short)?;
    let (length, rest) = match version[0] {
        1 => rest.split_at_checked(2).map(|(n, rest)| (usize::from(u16::from_le_bytes([n[0], n[1]])), rest)),
        2 | 3 => {
            rest.split_at_checked(4).map(|(n, rest)| (u32::from_le_bytes([n[0], n[1], n[2], n[3]]) as usize, rest))
        }
        other => return Err(format!("format version {other}; expected 1, 2 or 3")),
    }
    .ok_or_else(short)?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text".to_owned())?;
    Ok((header, data))
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

/// Column-major (Fortran) to row-major (C) order.
fn to_row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    if data.is_empty() {
        return Vec::new();
    }
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for &dim in shape {
        strides.push(stride);
        stride *= dim;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    let mut offset = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[offset..offset + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            offset += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            offset -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}
