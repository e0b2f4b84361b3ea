//! Random graphs, and all that must hold of them.

use crate::graphs::{draw, failure};

/// Every property of the graph that the bytes draw.
pub fn derivative(data: &[u8]) {
    let plan = draw(data);
    if let Some((property, what)) = failure(&plan) {
        panic!("{property}: {what}\n{}", plan.show());
    }
}
