//! `.safetensors`: a header in JSON, then the elements of every tensor.

use std::{fs::File, io::Read, path::Path};

use ::safetensors::tensor::Metadata;

use super::{
    Array, Content, Error, Options, Source, Stored, has_extension,
    stored::{Place, length as bytes_of, wrong_length},
};
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
    let metadata: Metadata = serde_json::from_slice(&header[8..]).map_err(|error| bad(error.to_string()))?;
    let start = 8 + length;
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut arrays = Vec::new();
    for (name, info) in tensors {
        let (first, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if first > end || end > size - start {
            let held = size - start;
            return Err(bad(format!(
                "tensor `{name}` lies in the bytes {first} to {end} of {held}; is the file cut short?"
            )));
        }
        let content = match from_safetensors(info.dtype) {
            Some(dtype) if end - first != bytes_of(&info.shape, dtype) => {
                return Err(bad(format!("tensor `{name}`: {}", wrong_length(end - first, &info.shape, dtype))));
            }
            Some(dtype) => Content::Numbers(Stored {
                dtype,
                shape: info.shape.clone(),
                big_endian: false,
                column_major: false,
                place: Place::File { path: path.to_owned(), start: start + first },
            }),
            None => Content::Unsupported(format!("{:?}", info.dtype)),
        };
        arrays.push(Array { name, content, image: false });
    }
    Ok(Source::new(path, arrays))
}
