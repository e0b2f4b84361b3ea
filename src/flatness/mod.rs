//! Relative flatness: layers, heads, and κ built with `ad` and the builder only.

mod exact;
mod head;
mod hutchinson;
mod kappa;
mod layer;
mod parameters;

pub use exact::{Exact, Measure};
pub use head::{Class, classify};
pub use hutchinson::Probe;
pub use kappa::{Estimator, Kappa, Objective, Request, build};
pub use layer::{Form, Layer, find, layers, module_path};
pub use parameters::{Parameter, parameters};
