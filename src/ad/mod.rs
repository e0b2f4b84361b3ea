//! Differentiation: linearise, then push tangents (`jvp`) or pull cotangents (`vjp`, `grad`). Names no operator.

mod linearise;
mod models;
mod second;
mod tan;

pub(crate) use linearise::tangent_of;
pub use linearise::{Linearised, linearise};
pub use models::{Differentiated, grad_model, jvp_model};
pub use second::Second;
pub use tan::{Kind, Tan, TanNode, Tape};
