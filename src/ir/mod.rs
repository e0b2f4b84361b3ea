//! The graph: values with facts, nodes in topological order, and the builder that makes both.
//!
//! `dim` is the arithmetic of symbolic dimensions, `fact` what is known of a value before running, `tensor` constant
//! data, `graph` the arena, `builder` the only way to add a node, `verify` the invariants checked after every pass.

mod attr;
mod builder;
mod dim;
mod dtype;
mod fact;
mod graph;
mod known;
mod shape;
pub(crate) mod small;
mod tensor;
mod val;
mod verify;

pub use attr::{Attr, Attrs};
pub(crate) use builder::refine;
pub use builder::{Builder, CONSTANT_LIMIT};
pub use dim::Dim;
pub use dtype::DType;
pub use fact::Fact;
pub use graph::{Graph, Model, Node, NodeId, Value, ValueId, ValueSet};
pub use shape::{broadcast, broadcast_named, count, fixed, same_or_one};
pub use tensor::{Bytes, MappedFile, Tensor};
pub use val::Val;
pub use verify::verify;
