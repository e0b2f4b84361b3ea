//! Random valid graphs from the operator table, what must hold of every one of them, and the smallest one of which it does
//! not.

mod check;
mod draw;
mod general;
mod plan;
mod shrink;

pub use check::{derivatives, differentiated, failure};
pub use draw::{NOT_DRAWN, draw};
pub use plan::{Kind, Plan, Variant};
pub use shrink::shrink;
