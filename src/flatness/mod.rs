//! Relative flatness: layers, heads, and κ built with `ad` and the builder only.

mod curvature;
mod directions;
mod exact;
mod form;
mod head;
mod hutchinson;
mod kappa;
mod lanes;
mod layer;
mod parameters;
mod price;
mod route;
mod sharing;
mod stretch;
mod survey;

pub use form::{Form, Stored};
pub use head::{Axis, Class, Head};
pub use hutchinson::{Probe, Probes};
pub use kappa::{EXACT_LIMIT, Estimator, Kappa, Measure, Objective, Purpose, Request, build};
pub use layer::{Layer, find, layers, module_path};
pub use parameters::{Parameter, parameters};
pub use route::{PASSES_LIMIT, Refusal, Route, Site};
pub use survey::{Finding, Offer, survey};
