//! What can be wrong with data. Nothing of it is found in the middle of a run, unless a file changes under it.

use std::{fmt, io, path::PathBuf};

use crate::tensor::DType;

/// Why data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: not data that can be read; expected {}", path.display(), super::expected())]
    UnknownFormat { path: PathBuf },
    #[error(
        "{}: a pickle, as Python's pickle and torch.save write it; reading one runs the code in it, so it is not read; \
         save the arrays with numpy.savez or safetensors",
        path.display()
    )]
    Pickle { path: PathBuf },
    #[error("{}: not a valid .npz file ({why}); numpy.savez writes one", path.display())]
    Npz { path: PathBuf, why: String },
    #[error(
        "{}: array `{array}` is {shape:?} of {dtype}, {size} bytes when unpacked; the limit is {limit}",
        path.display()
    )]
    Unpacked { path: PathBuf, array: String, shape: Vec<usize>, dtype: DType, size: u64, limit: u64 },
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error(
        "augmentations change images; the model's `{input}` takes samples of shape {found:?}, expected [channels, height, width]"
    )]
    NoImages { input: String, found: Vec<usize> },
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
    #[error(
        "no column holds the labels; expected one named {}, or --label-column NAME; the columns are {}",
        super::csv::LABELS.join(", "),
        header.join(", ")
    )]
    NoLabelColumn { header: Vec<String> },
    #[error("array `{array}`: elements of type {found}{}; expected {expected}", pickled(found))]
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
    #[error("array `{array}`: {why}")]
    Unreadable { array: String, why: String },
    #[error("image {}: {why}", path.display())]
    Image { path: PathBuf, why: String },
    #[error(
        "images fill an input of shape [1, height, width] or [3, height, width], grey or RGB; the model's `{input}` takes {}",
        shape(expected)
    )]
    ImageInput { input: String, expected: Vec<Option<usize>> },
    #[error("{} classes, one a directory ({}); the model has {expected}", found.len(), found.join(", "))]
    Classes { found: Vec<String>, expected: usize },
    #[error("{option} has {found} numbers; expected one, or one for each of the {channels} channels of `{input}`")]
    Channels { option: &'static str, found: usize, channels: usize, input: String },
    #[error("mean and std are given, but the model's `{input}` takes {dtype}; expected floats")]
    Normalised { input: String, dtype: DType },
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

/// Faults shown at most: a directory may hold a thousand broken images.
const SHOWN: usize = 20;

fn list(faults: &[Fault]) -> String {
    let shown: String = faults.iter().take(SHOWN).map(|fault| format!("\n  {fault}")).collect();
    match faults.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}\n  and {more} more"),
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "no array".to_owned() } else { names.join(", ") }
}

fn alternatives(fallbacks: &[String]) -> String {
    fallbacks.iter().map(|name| format!(" or `{name}`")).collect()
}

fn pickled(found: &str) -> &'static str {
    if found.ends_with('O') { " (pickled Python objects, which are not read)" } else { "" }
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
