//! Transpose: the default reverses the axes.

use super::Draft;
use crate::ops::Fault;

pub fn transpose(d: &mut Draft) -> Result<(), Fault> {
    if let Some(rank) = d.rank(0) {
        d.fill("perm", (0..rank).rev().collect::<Vec<_>>());
    }
    Ok(())
}
