//! Class weights out of a file: an `.npy` array of one axis, or a JSON array of numbers.

use crate::error::{Error, Result};
use crate::train::data;
use std::path::Path;

/// # Errors
/// [`Error::Io`]; [`Error::ClassWeightsFile`] for anything but finite numbers of 0 or more, one above 0.
pub fn read(path: &Path) -> Result<Vec<f64>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let fault = |why: String| Error::ClassWeightsFile { path: path.to_owned(), why };
    let npy = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
    let weights = if npy { from_npy(&bytes) } else { from_json(&bytes) }.map_err(fault)?;
    if let Some((class, weight)) = weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
        return Err(fault(format!("class {class} has the weight {weight}; expected finite numbers of 0 or more")));
    }
    match weights.iter().any(|w| *w > 0.0) {
        true => Ok(weights),
        false => Err(fault("no weight is above 0".to_string())),
    }
}

fn from_npy(bytes: &[u8]) -> Result<Vec<f64>, String> {
    match data::parse_npy(bytes)? {
        data::Content::Numbers(array) if array.shape.len() == 1 => Ok(array.tensor()?.iter_f64().collect()),
        data::Content::Numbers(array) => Err(format!("an array of shape {:?}; expected one axis", array.shape)),
        data::Content::Unsupported(found) => Err(format!("elements of NumPy type {found}; expected numbers")),
        data::Content::Images(_) => Err("images; expected numbers".to_owned()),
    }
}

fn from_json(bytes: &[u8]) -> Result<Vec<f64>, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a JSON array of numbers: {error}"))
}
