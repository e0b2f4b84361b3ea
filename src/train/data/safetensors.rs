//! `.safetensors`: a header in JSON, then the elements of every tensor.

use std::{fs::File, io::Read, path::Path};

use ::safetensors::SafeTensors;

use super::{Array, Content, Error, Options, Source, Stored, has_extension, stored::Place};
use crate::tensor::from_safetensors;

/// Longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

pub(super) fn matches(path: &Path) -> bool {
    has_extension(path, "safetensors")
}

pub(super) fn read(path: &Path, _: &Options) -> Result<Source, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bad = |why: String| Error::File { path: path.to_owned(), why: format!("not a valid safetensors file ({why})") };
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut header = Vec::new();
    (&file).take(8).read_to_end(&mut header).map_err(io)?;
    let length = header.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let length = length.ok_or_else(|| bad("cut short within its header".to_owned()))?;
    if length > LONGEST_HEADER || 8 + length > size {
        return Err(bad(format!("a header of {length} bytes in a file of {size}")));
    }
    (&file).take(length).read_to_end(&mut header).map_err(io)?;
    let (_, metadata) = SafeTensors::read_metadata(&header).map_err(|error| bad(error.to_string()))?;
    let start = 8 + length;
    let expected = metadata.data_len() as u64;
    if size - start != expected {
        return Err(bad(format!("{} bytes of data; expected {expected}", size - start)));
    }
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let arrays = tensors.into_iter().map(|(name, info)| {
        let content = match from_safetensors(info.dtype) {
            Some(dtype) => Content::Numbers(Stored {
                dtype,
                shape: info.shape.clone(),
                big_endian: false,
                column_major: false,
                place: Place::File { path: path.to_owned(), start: start + info.data_offsets.0 as u64 },
            }),
            None => Content::Unsupported(format!("{:?}", info.dtype)),
        };
        Array { name, content, image: false }
    });
    Ok(Source::new(path, arrays.collect()))
}
