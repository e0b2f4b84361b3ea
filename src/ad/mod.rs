//! Differentiation: linearise, then push tangents (`jvp`) or pull cotangents (`vjp`, `grad`). Names no operator.

mod linearise;

mod tan;

pub use linearise::{Linearised, linearise};

pub use tan::{Kind, Tan, TanNode, Tape};
