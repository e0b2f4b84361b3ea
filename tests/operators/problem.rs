//! A case as a graph with data.

use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Builder, DType, Dim, Fact, Tensor, Val};
use fam_onnx::ops::{Array, Case, Input, Op};
use std::cell::RefCell;
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq)]
pub enum Dims {
    Static,
    /// The first dimension of every real input is a symbol, one for each size above 1.
    Symbolic,
}

/// splitmix64: the same numbers on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `n` numbers at least 0.07 apart and 0.035 away from 0, in random order.
    fn distinct(&mut self, n: usize) -> Vec<f64> {
        let middle = (n / 2) as f64 - 0.5;
        let mut values: Vec<f64> = (0..n).map(|i| (i as f64 - middle) * 0.11 + self.uniform(-0.02, 0.02)).collect();
        for i in (1..n).rev() {
            values.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        values
    }
}

pub struct Problem<'g> {
    pub b: &'g Builder,
    /// The real inputs.
    pub wrt: Vec<Val<'g>>,
    pub outs: Vec<Val<'g>>,
    /// The data of the graph's inputs, by name.
    feeds: RefCell<HashMap<String, Array>>,
    rng: RefCell<Rng>,
}

/// A data type that carries derivatives is f64 here, so that constants in rules are exact.
const REAL: DType = DType::F64;

impl<'g> Problem<'g> {
    /// A graph without nodes.
    pub fn empty(b: &'g Builder, seed: u64) -> Problem<'g> {
        let (feeds, rng) = (RefCell::default(), RefCell::new(Rng::new(seed)));
        Problem { b, wrt: Vec::new(), outs: Vec::new(), feeds, rng }
    }

    pub fn new(b: &'g Builder, op: &Op, case: &Case, seed: u64, dims: Dims) -> Result<Problem<'g>, String> {
        let mut p = Problem::empty(b, seed);
        let inputs = p.inputs(case, dims);
        p.outs = b.node(op.name, &inputs, case.attrs.clone(), case.outputs);
        b.check().map_err(|e| e.to_string())?;
        Ok(p)
    }

    fn inputs(&mut self, case: &Case, dims: Dims) -> Vec<Option<Val<'g>>> {
        let sizes = case.inputs.iter().map(|input| match input {
            Input::Distinct { shape } => shape.iter().product(),
            _ => 0,
        });
        let mut distinct = self.rng.borrow_mut().distinct(sizes.sum());
        let mut inputs = Vec::new();
        for input in &case.inputs {
            let (shape, data) = match input {
                Input::None => {
                    inputs.push(None);
                    continue;
                }
                Input::Constant(tensor) => {
                    inputs.push(Some(self.b.constant(real_scalar(tensor))));
                    continue;
                }
                Input::Data(tensor) => {
                    let shape: Vec<Dim> = tensor.shape.iter().map(|&n| Dim::from(n)).collect();
                    let val = self.b.input("data", Fact::new(tensor.dtype, shape), None);
                    self.feeds.borrow_mut().insert(val.name(), Array::from_tensor(tensor).expect("a whole tensor"));
                    inputs.push(Some(val));
                    continue;
                }
                Input::Real { shape, low, high } => (shape, self.random(shape, *low, *high)),
                Input::Distinct { shape } => (shape, array(shape, distinct.split_off(distinct.len() - size(shape)))),
            };
            let val = self.b.input("x", Fact::new(REAL, symbolic(shape, dims)), None);
            self.feeds.borrow_mut().insert(val.name(), data);
            self.wrt.push(val);
            inputs.push(Some(val));
        }
        inputs
    }

    fn random(&self, shape: &[usize], low: f64, high: f64) -> Array {
        let mut rng = self.rng.borrow_mut();
        array(shape, (0..size(shape)).map(|_| rng.uniform(low, high)).collect())
    }

    /// A further real input with random data.
    pub fn real(&self, shape: &[usize]) -> Val<'g> {
        self.real_like(shape, shape.iter().map(|&n| Dim::from(n)).collect())
    }

    /// The same, with its shape as it is known before running.
    fn real_like(&self, shape: &[usize], dims: Vec<Dim>) -> Val<'g> {
        let val = self.b.input("v", Fact::new(REAL, dims), None);
        self.feed(val, self.random(shape, -1.0, 1.0));
        val
    }

    /// An input of the shape of each value, with random data; `lead` is a further first axis.
    pub fn directions(&self, of: &[Val<'g>], lead: Option<usize>) -> Result<Vec<Val<'g>>, String> {
        let arrays = self.eval(of)?;
        let one = |(val, array): (&Val<'g>, &Array)| {
            let shape: Vec<usize> = lead.into_iter().chain(array.shape().iter().copied()).collect();
            let dims = lead.map(Dim::from).into_iter().chain(val.shape()).collect();
            self.real_like(&shape, dims)
        };
        Ok(of.iter().zip(&arrays).map(one).collect())
    }

    pub fn data(&self, val: Val<'g>) -> Array {
        self.feeds.borrow()[&val.name()].clone()
    }

    pub fn feed(&self, val: Val<'g>, data: Array) {
        self.feeds.borrow_mut().insert(val.name(), data);
    }

    pub fn eval(&self, of: &[Val<'g>]) -> Result<Vec<Array>, String> {
        self.b.check().map_err(|e| e.to_string())?;
        self.eval_with(of, &self.feeds.borrow())
    }

    fn eval_with(&self, of: &[Val<'g>], feeds: &HashMap<String, Array>) -> Result<Vec<Array>, String> {
        let ids: Vec<_> = of.iter().map(|v| v.id()).collect();
        let mut graph = self.b.read(|g| g.clone());
        let needed = graph.ancestors(&ids);
        graph.nodes.retain(|n| n.outputs.iter().flatten().any(|id| needed.contains(id)));
        let values = evaluate(&graph, feeds).map_err(|e| e.to_string())?;
        ids.iter().map(|id| values.get(id).cloned().ok_or(format!("{} is not computed", graph.name_of(*id)))).collect()
    }

    /// The values at `x + step · v`.
    pub fn eval_moved(&self, of: &[Val<'g>], along: &[Val<'g>], step: f64) -> Result<Vec<Array>, String> {
        let mut feeds = self.feeds.borrow().clone();
        for (x, v) in self.wrt.iter().zip(along) {
            let direction = self.data(*v).data * step;
            if let Some(array) = feeds.get_mut(&x.name()) {
                array.data += &direction;
            }
        }
        self.eval_with(of, &feeds)
    }
}

fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn array(shape: &[usize], data: Vec<f64>) -> Array {
    Array::from_vec(REAL, shape, data).expect("as many elements as the shape has")
}

/// Constant float scalars have the type of the real inputs.
fn real_scalar(tensor: &Tensor) -> Tensor {
    match (tensor.dtype, tensor.shape.as_slice()) {
        (DType::F32, []) => Tensor::from_f64(REAL, &[], tensor.to_f64()),
        _ => tensor.clone(),
    }
}

fn symbolic(shape: &[usize], dims: Dims) -> Vec<Dim> {
    let mut known: Vec<Dim> = shape.iter().map(|&n| Dim::from(n)).collect();
    if let (Some(first), Some(&n), Dims::Symbolic) = (known.first_mut(), shape.first(), dims)
        && n > 1
    {
        *first = Dim::symbol(&format!("N{n}"));
    }
    known
}

/// The value of a dimension of a symbolic problem; `None` where a symbol of it says nothing.
pub fn size_of(dim: &Dim) -> Option<i64> {
    match dim {
        Dim::Fixed(n) => Some(*n),
        Dim::Symbol(poly) => poly
            .terms()
            .map(|(symbols, c)| {
                let factors = symbols.iter().map(|s| s.strip_prefix('N')?.parse::<i64>().ok());
                factors.product::<Option<i64>>().map(|product| c * product)
            })
            .sum(),
    }
}
