//! Named rewrites that the builder applies as nodes are made, and passes over whole graphs.

use crate::ir::{Attrs, Builder, Val};

/// What `op(inputs; attrs)` equals in simpler terms, if a rewrite applies.
pub fn rewrite<'g>(_b: &'g Builder, _op: &str, _inputs: &[Option<Val<'g>>], _attrs: &Attrs) -> Option<Val<'g>> {
    None
}
