//! What is known of a value before anything runs.

use super::{DType, Dim};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, PartialEq, Debug)]
pub struct Fact {
    pub dtype: DType,
    /// `None`: not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// The elements of an integer tensor of rank 0 or 1, where they are known (a shape on its way to a Reshape).
    pub ints: Option<Arc<[Dim]>>,
}

impl Fact {
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Fact {
        Fact { dtype, shape: Some(shape.into()), ints: None }
    }

    pub fn unknown(dtype: DType) -> Fact {
        Fact { dtype, shape: None, ints: None }
    }

    pub fn with_ints(mut self, ints: Option<Vec<Dim>>) -> Fact {
        self.ints = ints.map(Arc::from);
        self
    }

    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }
}

/// A tensor has at most this many elements, and so does each of its axes: a petabyte. Sizes below it can be added and
/// multiplied by small numbers without care.
pub const MAX_ELEMENTS: u64 = 1 << 48;

impl Fact {
    /// Whether some tensor can have this shape: no size is negative, and there are no more than 2⁴⁸ elements.
    pub fn is_possible(&self) -> bool {
        let Some(shape) = &self.shape else { return true };
        let small = shape.iter().all(|d| d.magnitude() <= MAX_ELEMENTS && d.fixed().is_none_or(|n| n >= 0));
        let fixed = || shape.iter().filter_map(Dim::fixed).filter(|&n| n > 0);
        small && fixed().try_fold(1u64, |n, d| n.checked_mul(d as u64)).is_some_and(|n| n <= MAX_ELEMENTS)
    }
}

impl fmt::Display for Fact {
    /// `float[N,10]`; `float` where the rank is unknown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.onnx_name())?;
        if let Some(shape) = &self.shape {
            let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
            write!(f, "[{}]", dims.join(","))?;
        }
        Ok(())
    }
}
