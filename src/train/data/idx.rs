//! A directory of IDX files, the format of MNIST and its relatives: `train-images…`, `train-labels…` and, set apart for
//! evaluation, `t10k-…` or `test-…`; each with or without gzip.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    Array, Content, Error, Options, Source, Stored,
    stored::{Place, length, wrong_length},
};
use crate::tensor::DType;

pub(super) fn matches(path: &Path) -> bool {
    path.is_dir() && find(path, &["train-images"]).is_some()
}

pub(super) fn read(path: &Path, _: &Options) -> Result<Source, Error> {
    let arrays = read_pair(path, &["train-images"], &["train-labels"])?;
    let held_out = match find(path, &["t10k-images", "test-images"]) {
        Some(_) => Some(read_pair(path, &["t10k-images", "test-images"], &["t10k-labels", "test-labels"])?),
        None => None,
    };
    Ok(Source { held_out, ..Source::new(path, arrays) })
}

fn read_pair(directory: &Path, images: &[&str], labels: &[&str]) -> Result<Vec<Array>, Error> {
    let file = |parts: &[&str]| {
        find(directory, parts).ok_or_else(|| Error::File {
            path: directory.to_owned(),
            why: format!("there is no file {}-idx…; expected one beside the other IDX files", parts[0]),
        })
    };
    let array = |name: &str, path: PathBuf| {
        let stored = read_file(&path)?;
        // Bytes of rank 3 and more are pixels; a vector of bytes is a plain feature.
        let image = stored.dtype == DType::U8 && stored.shape.len() >= 3;
        Ok(Array { name: name.to_owned(), content: Content::Numbers(stored), image })
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

fn read_file(path: &Path) -> Result<Stored, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bad = |why| Error::File { path: path.to_owned(), why };
    let mut file = File::open(path).map_err(io)?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let header = if packed { header(&mut gunzip(&file)) } else { header(&mut file) };
    let (dtype, shape, bytes) = header.map_err(bad)?;
    let place = if packed {
        let path = path.to_owned();
        Place::Stream(Box::new(move |most, sink: &mut dyn Write| {
            let mut elements = gunzip(File::open(&path)?);
            io::copy(&mut elements.by_ref().take(bytes), &mut io::sink())
                .and_then(|_| io::copy(&mut elements.take(most), sink))
                .map_err(|error| damaged(&path, &error))
        }))
    } else {
        let found = file.metadata().map_err(io)?.len().saturating_sub(bytes);
        if found != length(&shape, dtype) {
            return Err(bad(wrong_length(found, &shape, dtype)));
        }
        Place::File { path: path.to_owned(), start: bytes }
    };
    Ok(Stored { dtype, shape, big_endian: true, column_major: false, place })
}

fn damaged(path: &Path, error: &io::Error) -> io::Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    io::Error::new(error.kind(), format!("{name} is damaged or cut short ({error}); take another copy"))
}

fn gunzip<R: Read>(file: R) -> MultiGzDecoder<BufReader<R>> {
    MultiGzDecoder::new(BufReader::new(file))
}

/// Two zero bytes, a type, the rank, a big-endian 32-bit number a dimension: type, shape and the number of these bytes.
fn header(file: &mut impl Read) -> Result<(DType, Vec<usize>, u64), String> {
    let mut start = [0; 4];
    file.read_exact(&mut start).map_err(|error| cut_short(&error, "its type"))?;
    let [0, 0, code, rank] = start else {
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
    let mut dims = vec![0; 4 * usize::from(rank)];
    file.read_exact(&mut dims).map_err(|error| cut_short(&error, "its dimensions"))?;
    let shape = dims.as_chunks::<4>().0.iter().map(|d| u32::from_be_bytes(*d) as usize).collect();
    Ok((dtype, shape, 4 + dims.len() as u64))
}

fn cut_short(error: &io::Error, within: &str) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("cut short within {within}"),
        _ => error.to_string(),
    }
}
