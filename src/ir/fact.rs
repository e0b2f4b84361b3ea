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
