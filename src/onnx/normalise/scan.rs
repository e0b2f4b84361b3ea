//! Scan of opset 8 has a batch axis and sequence lengths; nothing else is like it.

use super::{Draft, unsupported};
use crate::ops::Fault;

pub fn scan(d: &mut Draft) -> Result<(), Fault> {
    match d.opset {
        8 => Err(unsupported("the Scan of opset 8 was replaced in opset 9; export with opset 9 or newer")),
        _ => Ok(()),
    }
}
