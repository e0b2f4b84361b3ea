//! What an operator's reference evaluation sees. All arithmetic is in f64; the type only says how results round.

use super::Fault;
use crate::ir::{Attrs, DType, Graph, Tensor};
use ndarray::{ArrayD, Dimension, IxDyn};
use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub dtype: DType,
    pub data: ArrayD<f64>,
}

impl Array {
    pub fn new(dtype: DType, data: ArrayD<f64>) -> Array {
        Array { dtype, data }
    }

    pub fn from_vec(dtype: DType, shape: &[usize], data: Vec<f64>) -> Result<Array, Fault> {
        let found = data.len();
        ArrayD::from_shape_vec(IxDyn(shape), data).map(|data| Array { dtype, data }).map_err(|_| Fault::Shape {
            what: "elements",
            found: found.to_string(),
            expected: format!("{shape:?}"),
        })
    }

    /// The array whose element at each index is `f(index)`.
    pub fn tabulate(
        dtype: DType,
        shape: &[usize],
        mut f: impl FnMut(&[usize]) -> Result<f64, Fault>,
    ) -> Result<Array, Fault> {
        let data = ndarray::indices(IxDyn(shape)).into_iter().map(|at| f(at.slice())).collect::<Result<_, _>>()?;
        Array::from_vec(dtype, shape, data)
    }

    /// The element at an index.
    pub fn at(&self, index: &[usize]) -> Result<f64, Fault> {
        self.data.get(index).copied().ok_or_else(|| Fault::Shape {
            what: "index",
            found: format!("{index:?}"),
            expected: format!("{:?}", self.shape()),
        })
    }

    pub fn from_tensor(tensor: &Tensor) -> Result<Array, Fault> {
        Array::from_vec(tensor.dtype, &tensor.shape, tensor.to_f64())
    }

    pub fn to_tensor(&self) -> Tensor {
        Tensor::from_f64(self.dtype, self.data.shape(), self.data.iter().copied())
    }

    pub fn shape(&self) -> &[usize] {
        self.data.shape()
    }

    pub fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|&v| v as i64).collect()
    }
}

pub struct EvalCx<'a> {
    pub op: &'a str,
    pub inputs: &'a [Option<Array>],
    pub attrs: &'a Attrs,
    /// How many outputs the node has.
    pub outputs: usize,
    /// What the node's bodies capture, by name.
    pub captured: &'a HashMap<String, Array>,
}

impl<'a> EvalCx<'a> {
    /// The outputs of one of the node's bodies.
    pub fn run(&self, body: &Graph, inputs: &[Array]) -> Result<Vec<Array>, Fault> {
        let mut feeds = self.captured.clone();
        feeds.extend(body.inputs.iter().map(|&id| body.name_of(id).to_string()).zip(inputs.iter().cloned()));
        let failed = |e: crate::Error| Fault::Unsupported { what: format!("in its body, {e}") };
        let values = crate::eval::evaluate(body, &feeds).map_err(failed)?;
        let missing = |id| Fault::Unsupported { what: format!("its body never computes {:?}", body.name_of(id)) };
        body.outputs.iter().map(|&id| values.get(&id).cloned().ok_or_else(|| missing(id))).collect()
    }

    pub fn get(&self, i: usize) -> Option<&'a Array> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    pub fn input(&self, i: usize) -> Result<&'a Array, Fault> {
        self.get(i).ok_or(Fault::Missing { index: i, needs: "it" })
    }

    /// The data of input `i`.
    pub fn data(&self, i: usize) -> Result<&'a ArrayD<f64>, Fault> {
        Ok(&self.input(i)?.data)
    }

    pub fn dtype(&self, i: usize) -> DType {
        self.get(i).map_or(DType::F32, |a| a.dtype)
    }

    /// The elements of an integer input, if it is there.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.get(i).map(Array::ints)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attrs.int(name).unwrap_or(default)
    }

    pub fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.attrs.float(name).unwrap_or(default))
    }

    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Fault> {
        super::fact_cx::from_front(axis, rank)
    }

    /// `y = f(x)` elementwise.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Result<Vec<Array>, Fault> {
        let x = self.input(0)?;
        Ok(vec![Array::new(x.dtype, x.data.mapv(f))])
    }

    /// `z = f(x, y)` elementwise with numpy's broadcasting, of the type `dtype`.
    pub fn zip(&self, dtype: DType, f: impl Fn(f64, f64) -> f64) -> Result<Vec<Array>, Fault> {
        let (x, y) = (self.data(0)?, self.data(1)?);
        Ok(vec![Array::new(dtype, zip(x, y, f)?)])
    }
}

/// An index counted from the front; negative ones count from the end.
pub fn wrapped(index: i64, size: usize) -> Result<usize, Fault> {
    let at = if index < 0 { index.saturating_add(size as i64) } else { index };
    usize::try_from(at).ok().filter(|&at| at < size).ok_or_else(|| Fault::Shape {
        what: "index",
        found: index.to_string(),
        expected: format!("0..{size}"),
    })
}

/// Numpy's broadcast of two shapes.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Fault::Shape { what: "broadcast", found: format!("{b:?}"), expected: format!("{a:?}") }),
        })
        .collect()
}

/// `x` broadcast to `shape`.
pub fn broadcast_to(x: &ArrayD<f64>, shape: &[usize]) -> Result<ArrayD<f64>, Fault> {
    x.broadcast(IxDyn(shape)).map(|v| v.to_owned()).ok_or_else(|| Fault::Shape {
        what: "broadcast",
        found: format!("{:?}", x.shape()),
        expected: format!("{shape:?}"),
    })
}

pub fn zip(x: &ArrayD<f64>, y: &ArrayD<f64>, f: impl Fn(f64, f64) -> f64) -> Result<ArrayD<f64>, Fault> {
    let shape = broadcast_shape(x.shape(), y.shape())?;
    let (mut z, y) = (broadcast_to(x, &shape)?, broadcast_to(y, &shape)?);
    z.zip_mut_with(&y, |a, &b| *a = f(*a, b));
    Ok(z)
}
