//! A target a file: a function from bytes that panics where the crate breaks a promise. Errors are what hostile bytes
//! should give; they are made into text, which must not fail either.

mod arrays;
mod config;
mod derivative;
mod idx;
mod images;
mod inject;
mod model;
mod ort_checkpoint;
mod scratch;
mod table;
mod tensors;
mod transform;

pub use arrays::arrays;
pub use config::config;
pub use derivative::derivative;
pub use idx::idx;
pub use images::images;
pub use inject::inject;
pub use model::model;
pub use ort_checkpoint::ort_checkpoint;
pub use table::table;
pub use tensors::tensors;
pub use transform::transform;

/// What takes the bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name that `cargo fuzz run` takes.
pub const TARGETS: &[(&str, Target)] = &[
    ("arrays", arrays),
    ("config", config),
    ("derivative", derivative),
    ("idx", idx),
    ("images", images),
    ("inject", inject),
    ("model", model),
    ("ort_checkpoint", ort_checkpoint),
    ("table", table),
    ("tensors", tensors),
    ("transform", transform),
];

/// A value, or nothing for an error that can be shown.
fn sound<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().is_empty(), "an error without words")).ok()
}
