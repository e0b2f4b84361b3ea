//! A directory of IDX files, the format of MNIST and its relatives: `train-images…`, `train-labels…` and, set apart for
//! evaluation, `t10k-…` or `test-…`; each with or without gzip.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::{Array, Content, Error, Source};
use crate::tensor::{DType, Tensor, elements};

pub(super) fn matches(path: &Path) -> bool {
    path.is_dir() && find(path, &["train-images"]).is_some()
}

pub(super) fn read(path: &Path) -> Result<Source, Error> {
    let arrays = read_pair(path, &["train-images"], &["train-labels"])?;
    let held_out = match find(path, &["t10k-images", "test-images"]) {
        Some(_) => Some(read_pair(path, &["t10k-images", "test-images"], &["t10k-labels", "test-labels"])?),
        None => None,
    };
    Ok(Source { path: path.to_owned(), arrays, held_out })
}

fn read_pair(directory: &Path, images: &[&str], labels: &[&str]) -> Result<Vec<Array>, Error> {
    let file = |parts: &[&str]| {
        find(directory, parts).ok_or_else(|| Error::Idx {
            path: directory.to_owned(),
            why: format!("there is no file {}-idx…; expected one beside the other IDX files", parts[0]),
        })
    };
    let array = |name: &str, path: PathBuf| {
        let tensor = read_file(&path)?;
        // Bytes of rank 3 and more are pixels; a vector of bytes is a plain feature.
        let image = tensor.dtype() == DType::U8 && tensor.shape().len() >= 3;
        Ok(Array { name: name.to_owned(), content: Content::Tensor(tensor), image })
    };
    Ok(vec![array("x", file(images)?)?, array("y", file(labels)?)?])
}

/// The first file, in order of names, whose name contains one of `parts`.
fn find(directory: &Path, parts: &[&str]) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    files.sort();
    files.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && name.contains("idx") && parts.iter().any(|part| name.contains(part))
    })
}

fn read_file(path: &Path) -> Result<Tensor, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).map_err(io)?;
    } else {
        file.read_to_end(&mut bytes).map_err(io)?;
    }
    parse(&bytes).map_err(|why| Error::Idx { path: path.to_owned(), why })
}

/// Two zero bytes, a type, the rank, a big-endian 32-bit number a dimension, big-endian elements.
fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let Some((&[0, 0, code, rank], rest)) = bytes.split_first_chunk::<4>() else {
        return Err("not an IDX file: it does not begin with two zero bytes, a type and a rank".to_owned());
    };
    let dtype = match code {
        0x08 => DType::U8,
        0x09 => DType::I8,
        0x0B => DType::I16,
        0x0C => DType::I32,
        0x0D => DType::F32,
        0x0E => DType::F64,
        other => {
            return Err(format!("not an IDX file: its type is 0x{other:02X}; expected 08, 09, 0B, 0C, 0D or 0E"));
        }
    };
    let (dims, data) = rest.split_at_checked(4 * usize::from(rank)).ok_or("cut short within its dimensions")?;
    let shape: Vec<usize> =
        dims.chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize).collect();
    let length = elements(&shape).saturating_mul(dtype.size());
    if data.len() != length {
        return Err(format!("{} bytes of data; expected {length} for shape {shape:?} of {dtype}", data.len()));
    }
    let mut data = data.to_vec();
    data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    Tensor::new(dtype, shape, data).map_err(|error| error.to_string())
}
