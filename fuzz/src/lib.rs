//! What is fuzzed: `cargo fuzz run TARGET` calls these, and so does the crate's own `tests/fuzz.rs`, which includes the modules.

pub mod graphs;
pub mod mutate;
pub mod seeds;
pub mod targets;
