//! Training data. A format says which arrays its files hold and where; all else is done once, for every format: arrays are
//! bound to the inputs of the graph, looked through before the first step, and converted to the graph's types as they are
//! read, so that a set of samples may be larger than memory.

mod augment;
mod convert;
mod csv;
mod dataset;
mod error;
mod idx;
mod images;
mod npy;
mod npz;
mod prefetch;
mod safetensors;
mod spec;
mod stored;

use std::path::{Path, PathBuf};

pub use augment::{Augment, Augmenter};
pub use dataset::{Column, Dataset};
pub use error::{Error, Fault, Role};
pub use images::Images;
pub(crate) use npy::parse as parse_npy;
pub use prefetch::{Batch, Draw, Filled, Prefetch, Reader};
pub use spec::{Slot, Spec};
pub use stored::Stored;

use crate::limits::Limits;

/// An array as a file has it.
#[derive(Debug)]
pub struct Array {
    pub name: String,
    pub content: Content,
    /// Whether the values are image bytes, which become 0 … 1 where the model takes floats.
    pub image: bool,
}

#[derive(Debug)]
pub enum Content {
    Numbers(Stored),
    /// Files that are decoded to the size that the model takes.
    Images(Images),
    /// A type that no graph input has (text, complex numbers, records), as the file writes it.
    Unsupported(String),
}

/// All arrays of a file or directory.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub arrays: Vec<Array>,
    /// A part that the format itself sets apart for evaluation (MNIST's `t10k-…` files, a directory `val`).
    pub held_out: Option<Vec<Array>>,
    /// Names of the classes, in the order of their numbers, where the format has names.
    pub classes: Option<Vec<String>>,
    /// Names of the columns of a table.
    pub header: Option<Vec<String>>,
    pub options: Options,
}

impl Source {
    fn new(path: &Path, arrays: Vec<Array>) -> Source {
        let path = path.to_owned();
        Source { path, arrays, held_out: None, classes: None, header: None, options: Options::default() }
    }
}

/// How data are read, beyond what the files say.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Subtracted from the model's first input, after image bytes became 0 … 1: one number, or one a channel; empty for 0.
    pub mean: Vec<f64>,
    /// Divides the model's first input after that: one number, or one a channel; empty for 1.
    pub std: Vec<f64>,
    /// The column of a table that holds the labels.
    pub label_column: Option<String>,
    /// Bytes that an array may unpack to, where it is packed or lies column after column.
    pub max_unpacked: u64,
}

impl Default for Options {
    fn default() -> Options {
        let max_unpacked = Limits::default().unpacked;
        Options { mean: Vec::new(), std: Vec::new(), label_column: None, max_unpacked }
    }
}

/// A way in which data are stored.
struct Format {
    /// For messages.
    name: &'static str,
    matches: fn(&Path) -> bool,
    read: fn(&Path, &Options) -> Result<Source, Error>,
}

const FORMATS: [Format; 6] = [
    Format { name: "an .npz file", matches: npz::matches, read: npz::read },
    Format { name: "a directory of .npy files", matches: npy::matches, read: npy::read },
    Format {
        name: "a directory of IDX files (train-images…, train-labels…)", matches: idx::matches, read: idx::read
    },
    Format { name: "a .safetensors file", matches: safetensors::matches, read: safetensors::read },
    Format {
        name: "a directory with a directory of images for each class",
        matches: images::matches,
        read: images::read,
    },
    Format { name: "a .csv file", matches: csv::matches, read: csv::read },
];

/// Looks at the data at `path`, whatever format they are in: names, types and shapes; the numbers are read when they are bound.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::UnknownFormat`] if no format recognises it, and the format's own error.
pub fn read(path: &Path, options: &Options) -> Result<Source, Error> {
    if let Err(source) = std::fs::metadata(path) {
        return Err(Error::Io { path: path.to_owned(), source });
    }
    if is_pickle(path) {
        return Err(Error::Pickle { path: path.to_owned() });
    }
    let Some(format) = FORMATS.iter().find(|format| (format.matches)(path)) else {
        return Err(Error::UnknownFormat { path: path.to_owned() });
    };
    let source = Source { options: options.clone(), ..(format.read)(path, options)? };
    check_size(&source)?;
    Ok(source)
}

/// Refuses arrays that would be unpacked to more than the options allow.
fn check_size(source: &Source) -> Result<(), Error> {
    let limit = source.options.max_unpacked;
    for array in source.arrays.iter().chain(source.held_out.iter().flatten()) {
        if let Content::Numbers(stored) = &array.content
            && !stored.is_in_place()
            && stored.length() > limit
        {
            let (path, array, size) = (source.path.clone(), array.name.clone(), stored.length());
            return Err(Error::Unpacked { path, array, shape: stored.shape.clone(), dtype: stored.dtype, size, limit });
        }
    }
    Ok(())
}

fn is_pickle(path: &Path) -> bool {
    ["pkl", "pickle", "pt", "pth"].iter().any(|extension| has_extension(path, extension))
}

/// A file with this extension, in upper or lower case.
fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) && path.is_file()
}

fn expected() -> String {
    let names = FORMATS.map(|format| format.name);
    let [first @ .., last] = &names;
    format!("{} or {last}", first.join(", "))
}
