//! `.npz`: a zip archive of `.npy` arrays, as `numpy.savez` and `numpy.savez_compressed` write it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use zip::{CompressionMethod, ZipArchive};

use super::{
    Array, Error, Options, Source, has_extension,
    npy::Header,
    stored::{Place, Unpack},
};

/// Deflate makes a byte of no more than so many: an entry that claims more is a lie, or a bomb.
const MOST_DEFLATED: u64 = 1032;

pub(super) fn matches(path: &Path) -> bool {
    has_extension(path, "npz")
}

pub(super) fn read(path: &Path, _: &Options) -> Result<Source, Error> {
    let bad = |why: String| Error::Npz { path: path.to_owned(), why };
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let mut archive = ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| bad(error.to_string()))?;
        let entry_name = entry.name().map_err(|error| bad(error.to_string()))?.into_owned();
        if entry_name.ends_with("data.pkl") {
            return Err(Error::Pickle { path: path.to_owned() });
        }
        let Some(name) = entry_name.strip_suffix(".npy") else {
            continue;
        };
        let bad = |why: String| bad(format!("{entry_name}: {why}"));
        let header = Header::read(&mut entry).map_err(bad)?;
        let (size, packed, start) = (entry.size(), entry.compressed_size(), entry.data_start());
        let behind = header.bytes;
        if size > packed.saturating_mul(MOST_DEFLATED) {
            return Err(bad(format!("{packed} bytes do not unpack to {size}")));
        }
        let place = match (entry.compression(), start) {
            (CompressionMethod::Stored, Some(start)) if size == packed => {
                Place::File { path: path.to_owned(), start: start + behind }
            }
            _ => Place::Stream(unpack(path, index, behind)),
        };
        let content = header.content(size.saturating_sub(behind), place).map_err(bad)?;
        arrays.push(Array { name: name.to_owned(), content, image: false });
    }
    Ok(Source::new(path, arrays))
}

/// Reads the entry anew, from behind its header on.
fn unpack(path: &Path, index: usize, header: u64) -> Unpack {
    let path = path.to_owned();
    Box::new(move |most, sink: &mut dyn Write| {
        let mut archive = ZipArchive::new(File::open(&path)?)?;
        let mut entry = archive.by_index(index)?;
        io::copy(&mut entry.by_ref().take(header), &mut io::sink())?;
        io::copy(&mut entry.take(most), sink)
    })
}
