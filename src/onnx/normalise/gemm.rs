//! Gemm: attributes written out.

use super::Draft;
use crate::ops::Fault;

pub fn gemm(d: &mut Draft) -> Result<(), Fault> {
    d.fill("alpha", 1.0f32);
    d.fill("beta", 1.0f32);
    d.fill("transA", 0);
    d.fill("transB", 0);
    Ok(())
}
