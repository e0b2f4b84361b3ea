//! How large what files say may become. A file of a few bytes can ask for a terabyte or a year; everything that it takes to
//! follow it is counted against these.

/// Limits on one model, and on data. The command line has an option for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes of a model, those in bodies and in local functions that are inlined included.
    pub nodes: usize,
    /// How deep functions and subgraphs may nest.
    pub depth: usize,
    /// Bytes of one tensor that a file describes in fewer bytes: sparse, or packed.
    pub unpacked: u64,
    /// Whether shapes that neither the operators nor the file say are asked of tract.
    pub inference: bool,
}

impl Limits {
    /// The most that `depth` can be: each level takes some of the stack, and protobuf allows no more than a hundred messages
    /// in each other, of which a subgraph takes three.
    pub const DEEPEST: usize = 48;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 1_000_000, depth: Limits::DEEPEST, unpacked: 16 << 30, inference: true }
    }
}

/// Whether float32, which graphs compute with, holds the number: finite, and no zero where it is none.
pub(crate) fn fits_f32(value: f64) -> bool {
    (value as f32).is_finite() && (value == 0.0 || value as f32 != 0.0)
}
