//! Data for training and evaluation: arrays whose first axis counts samples, read whole, checked against what the graph takes,
//! and converted to its types once.

mod dataset;
mod idx;
mod npz;
mod spec;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use dataset::{Column, Dataset};
pub(crate) use npz::parse_npy;
pub use spec::{Slot, Spec};

use crate::tensor::{DType, Tensor};

/// Why data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: not data that can be read; expected {}", path.display(), expected())]
    UnknownFormat { path: PathBuf },
    #[error("{}: not a valid .npz file ({why}); numpy.savez writes one", path.display())]
    Npz { path: PathBuf, why: String },
    #[error("{}: {why}", path.display())]
    Idx { path: PathBuf, why: String },
    #[error("{}: the data do not fit the model:{}", path.display(), list(faults))]
    Faults { path: PathBuf, faults: Vec<Fault> },
}

/// One thing wrong with the data. Indices count from 0, the sample first.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error(
        "there is no array for the {role} `{name}`; expected one named `{name}`{}; the file has {}",
        alternatives(fallbacks),
        or_none(found)
    )]
    Missing { role: Role, name: String, fallbacks: Vec<String>, found: Vec<String> },
    #[error("array `{array}`: elements of NumPy type {found}; expected {expected}")]
    Unsupported { array: String, found: String, expected: DType },
    #[error("array `{array}`: {found} values; expected {expected}{}", integers_hint(*found, *expected))]
    Type { array: String, found: DType, expected: DType },
    #[error("array `{array}`: samples of shape {found:?}; expected {}", shape(expected))]
    Shape { array: String, found: Vec<usize>, expected: Vec<Option<usize>> },
    #[error("array `{array}`: a single number; expected an array whose first axis counts the samples")]
    Scalar { array: String },
    #[error("array `{array}`: {found} samples, but `{other}` has {expected}; expected as many of each")]
    Length { array: String, found: usize, other: String, expected: usize },
    #[error("array `{array}`: no samples")]
    Empty { array: String },
    #[error("array `{array}`: {found} at index {index:?}; expected finite numbers")]
    NotFinite { array: String, index: Vec<usize>, found: f64 },
    #[error("array `{array}`: {found} at index {index:?}; expected a value that {expected} can hold")]
    Overflow { array: String, index: Vec<usize>, found: String, expected: DType },
    #[error(
        "array `{array}`: label {found} at index {index:?}; expected a class from 0 to {}{}",
        classes.saturating_sub(1),
        ignored(*ignore_index)
    )]
    Label { array: String, index: Vec<usize>, found: i64, classes: usize, ignore_index: Option<i64> },
    #[error(
        "array `{array}`: label {found} at index {index:?}; expected numbers from {low} to {high}, as the loss takes them"
    )]
    LabelRange { array: String, index: Vec<usize>, found: f64, low: f64, high: f64 },
}

/// What an array is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Input,
    Labels,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Input => "input",
            Role::Labels => "labels",
        })
    }
}

/// An array as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub name: String,
    pub content: Content,
    /// Whether the values are image bytes, which become 0 … 1 where the model takes floats.
    pub image: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Tensor(Tensor),
    /// A type that no graph input has (text, complex numbers, records), as the file writes it.
    Unsupported(String),
}

/// All arrays of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub arrays: Vec<Array>,
    /// A part that the format itself sets apart for evaluation (MNIST's `t10k-…` files).
    pub held_out: Option<Vec<Array>>,
}

/// A way in which data are stored.
struct Format {
    /// For messages.
    name: &'static str,
    matches: fn(&Path) -> bool,
    read: fn(&Path) -> Result<Source, Error>,
}

const FORMATS: [Format; 2] = [
    Format { name: "an .npz file", matches: npz::matches, read: npz::read },
    Format {
        name: "a directory of IDX files (train-images…, train-labels…)", matches: idx::matches, read: idx::read
    },
];

/// Reads the arrays at `path`, whatever format they are in.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::UnknownFormat`] if no format recognises it, and the format's own error.
pub fn read(path: &Path) -> Result<Source, Error> {
    if let Err(source) = std::fs::metadata(path) {
        return Err(Error::Io { path: path.to_owned(), source });
    }
    match FORMATS.iter().find(|format| (format.matches)(path)) {
        Some(format) => (format.read)(path),
        None => Err(Error::UnknownFormat { path: path.to_owned() }),
    }
}

fn expected() -> String {
    FORMATS.map(|format| format.name).join(" or ")
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "no array".to_owned() } else { names.join(", ") }
}

fn alternatives(fallbacks: &[String]) -> String {
    fallbacks.iter().map(|name| format!(" or `{name}`")).collect()
}

fn integers_hint(found: DType, expected: DType) -> &'static str {
    if found.is_float() && expected.is_int() { "; convert it, for instance with .astype(numpy.int64)" } else { "" }
}

fn shape(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> = dims.iter().map(|d| d.map_or("any".to_owned(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

fn ignored(index: Option<i64>) -> String {
    index.map_or(String::new(), |index| format!(", or {index} for what is ignored"))
}
