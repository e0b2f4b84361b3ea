//! ONNX Runtime: find a shared library, load it once, open sessions, run training steps with bound buffers.
//! No other room names the `ort` crate.

mod accumulate;
mod blend;
mod bound;
mod error;
mod find;
mod row;
mod session;
mod step;
mod value;
mod wired;

pub use accumulate::{Accumulation, Parts};
pub use blend::Blend;
pub use bound::Bound;
pub use error::{Attempt, Error};
pub use find::{Fetch, Library, Origin, Package, install};
pub use row::Row;
pub use session::{Device, MOST_THREADS, Options, Port, Runtime, Session};
pub use step::{Carried, Step};
pub use wired::{Feed, Held};

/// The oldest ONNX Runtime that is accepted, as (major, minor).
pub const MINIMUM_VERSION: (u64, u64) = (1, 18);
