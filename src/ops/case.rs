//! Test cases of operators: inputs and attributes, from which the table-wide tests make data with a fixed seed.

use crate::ir::{Attr, Attrs, DType, Tensor};

#[derive(Clone, Debug)]
pub enum Input {
    /// Random reals in `low..high`, differentiated.
    Real { shape: Vec<usize>, low: f64, high: f64 },
    /// Random reals that are all at least 0.05 apart, so that order and kinks stay put under a small step.
    Distinct { shape: Vec<usize> },
    /// Given data: indices, shapes, conditions; not differentiated.
    Data(Tensor),
    /// Given data that is an initialiser, for operators that need constants.
    Constant(Tensor),
    /// An optional input left out.
    None,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub inputs: Vec<Input>,
    pub attrs: Attrs,
    pub outputs: usize,
}

impl Case {
    pub fn new() -> Case {
        Case { inputs: Vec::new(), attrs: Attrs::new(), outputs: 1 }
    }

    fn with(mut self, input: Input) -> Case {
        self.inputs.push(input);
        self
    }

    /// A real input in −1.5..1.5.
    pub fn real(self, shape: &[usize]) -> Case {
        self.within(shape, -1.5, 1.5)
    }

    pub fn within(self, shape: &[usize], low: f64, high: f64) -> Case {
        self.with(Input::Real { shape: shape.to_vec(), low, high })
    }

    /// A real input without ties, none of it near 0.
    pub fn distinct(self, shape: &[usize]) -> Case {
        self.with(Input::Distinct { shape: shape.to_vec() })
    }

    pub fn bools(self, shape: &[usize], values: &[bool]) -> Case {
        let values = values.iter().map(|&v| f64::from(u8::from(v)));
        self.with(Input::Data(Tensor::from_f64(DType::Bool, shape, values)))
    }

    /// An int64 input known only at run time.
    pub fn ints(self, shape: &[usize], values: &[i64]) -> Case {
        self.with(Input::Data(Tensor::ints(shape, values)))
    }

    /// A constant int64 input.
    pub fn const_ints(self, shape: &[usize], values: &[i64]) -> Case {
        self.with(Input::Constant(Tensor::ints(shape, values)))
    }

    /// A constant float scalar.
    pub fn const_real(self, value: f64) -> Case {
        self.with(Input::Constant(Tensor::scalar(DType::F32, value)))
    }

    /// A constant of any type.
    pub fn constant(self, tensor: Tensor) -> Case {
        self.with(Input::Constant(tensor))
    }

    pub fn data(self, tensor: Tensor) -> Case {
        self.with(Input::Data(tensor))
    }

    pub fn absent(self) -> Case {
        self.with(Input::None)
    }

    pub fn attr(mut self, name: &str, value: impl Into<Attr>) -> Case {
        self.attrs = self.attrs.with(name, value);
        self
    }

    pub fn outputs(mut self, n: usize) -> Case {
        self.outputs = n;
        self
    }
}

impl Default for Case {
    fn default() -> Case {
        Case::new()
    }
}

/// Broadcasting partners for a binary operator: same shape, scalar, row, column, both grown.
pub fn broadcasts(low: f64, high: f64) -> Vec<Case> {
    let pairs: [(&[usize], &[usize]); 6] = [
        (&[2, 3], &[2, 3]),
        (&[2, 3], &[]),
        (&[2, 3], &[3]),
        (&[2, 1], &[2, 3]),
        (&[3, 1], &[1, 2]),
        (&[2], &[3, 1, 2]),
    ];
    pairs.into_iter().map(|(a, b)| Case::new().within(a, low, high).within(b, low, high)).collect()
}
