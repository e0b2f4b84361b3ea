//! Operators with bodies: what `If`, `Loop` and `Scan` have in common, apart from their names.
//!
//! A body is a graph of its own. Values of the graph around it that it reads it knows by their names; the node lists
//! them as its captures.

//!
//! A derivative is a node with bodies again: the body's derivative, cut out of a graph that holds the forward body too.

mod branch;
mod branches;
mod cut;
mod joint;
mod outward;
mod repeat;
mod rounds;

pub(crate) use branch::Branches;
pub(crate) use branches::tangents as branch_tangents;
pub use joint::Joint;
pub(crate) use repeat::Repeat;
pub(crate) use rounds::{Sequence, scan, tangents as round_tangents};
