//! What an operator's `facts` sees: facts of the inputs, constants, attributes.

use crate::ir::{Attrs, DType, Dim, Fact, Graph, Tensor, ValueId, broadcast_named, count};
use std::borrow::Cow;
use thiserror::Error;

/// More axes than this no runtime takes.
const MAX_RANK: usize = 64;

/// Why inputs do not fit an operator; the node and the inputs' facts are added by whoever reports it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Fault {
    #[error("input {index} is missing; the operator needs {needs}")]
    Missing { index: usize, needs: &'static str },
    #[error("input {index} has rank {found}, expected {expected}")]
    Rank { index: usize, found: usize, expected: String },
    #[error("{what}: {found} does not fit {expected}")]
    Shape { what: &'static str, found: String, expected: String },
    #[error("attribute {name} is {found}, expected {expected}")]
    Attribute { name: &'static str, found: String, expected: String },
    #[error("the rank of input {index} is not known")]
    UnknownRank { index: usize },
    #[error("the result would be {fact}; a size is 0 or more, and no tensor has more than 2^48 elements")]
    Size { fact: String },
    #[error("{what}")]
    Unsupported { what: String },
}

pub struct FactCx<'a> {
    graph: &'a Graph,
    pub op: &'a str,
    inputs: Cow<'a, [Option<ValueId>]>,
    pub attrs: &'a Attrs,
    /// How many outputs the node has.
    pub outputs: usize,
    label: &'a str,
}

impl<'a> FactCx<'a> {
    pub fn new(
        graph: &'a Graph,
        op: &'a str,
        inputs: &'a [Option<ValueId>],
        attrs: &'a Attrs,
        outputs: usize,
        label: &'a str,
    ) -> FactCx<'a> {
        FactCx { graph, op, inputs: Cow::Borrowed(inputs), attrs, outputs, label }
    }

    /// The same node with some of its inputs, as another operator sees them.
    pub fn of_inputs(&self, op: &'a str, at: &[usize]) -> FactCx<'a> {
        let chosen: Vec<Option<ValueId>> = at.iter().map(|&i| self.inputs.get(i).copied().flatten()).collect();
        FactCx { op, inputs: Cow::Owned(chosen), graph: self.graph, attrs: self.attrs, outputs: 1, label: self.label }
    }

    pub fn arity(&self) -> usize {
        self.inputs.len()
    }

    pub fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    pub fn get(&self, i: usize) -> Option<&'a Fact> {
        let id = self.inputs.get(i).copied().flatten()?;
        Some(&self.graph.value(id).fact)
    }

    pub fn input(&self, i: usize) -> Result<&'a Fact, Fault> {
        self.get(i).ok_or(Fault::Missing { index: i, needs: "it" })
    }

    pub fn dtype(&self, i: usize) -> Result<DType, Fault> {
        Ok(self.input(i)?.dtype)
    }

    /// The shape of input `i`; a `Fault` if its rank is unknown. See [`FactCx::unknown_rank`] for the way out.
    pub fn shape(&self, i: usize) -> Result<&'a [Dim], Fault> {
        self.input(i)?.shape.as_deref().ok_or(Fault::UnknownRank { index: i })
    }

    /// The way out of an unknown rank: one output of unknown shape.
    pub fn unknown_rank(&self, dtype: DType, facts: Result<Vec<Fact>, Fault>) -> Result<Vec<Fact>, Fault> {
        match facts {
            Err(Fault::UnknownRank { .. }) => Ok(vec![Fact::unknown(dtype)]),
            other => other,
        }
    }

    /// Axes counted from the front.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
        axes.iter().map(|&axis| self.axis(axis, rank)).collect()
    }

    /// As many unknown dimensions as the integer input `i` has elements, where that is known.
    pub fn unknown_dims(&self, i: usize) -> Option<Vec<Dim>> {
        let [n] = self.get(i)?.shape.as_deref()? else { return None };
        let n = usize::try_from(n.fixed()?).ok().filter(|&n| n <= MAX_RANK)?;
        Some((0..n).map(|axis| self.unknown(axis)).collect())
    }

    /// The known elements of an integer input of rank 0 or 1, dimensions included.
    pub fn ints(&self, i: usize) -> Option<&'a [Dim]> {
        self.get(i)?.ints.as_deref()
    }

    /// The known elements of an integer input, as numbers.
    pub fn fixed_ints(&self, i: usize) -> Option<Vec<i64>> {
        crate::ir::fixed(self.ints(i)?)
    }

    /// The data of a constant input.
    pub fn data(&self, i: usize) -> Option<&'a Tensor> {
        let id = self.inputs.get(i).copied().flatten()?;
        self.graph.value(id).data.as_ref()
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attrs.int(name).unwrap_or(default)
    }

    /// An axis attribute or element, counted from the front.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Fault> {
        from_front(axis, rank)
    }

    /// Input `i`, where it is there and its shape is known, is one number.
    pub fn one_number(&self, i: usize) -> Result<(), Fault> {
        match self.get(i).and_then(|fact| fact.shape.as_deref()) {
            Some(shape) if count(shape).fixed().is_some_and(|n| n != 1) => {
                Err(Fault::Shape { what: "shape", found: show(shape), expected: "one number".to_string() })
            }
            _ => Ok(()),
        }
    }

    /// As far as both are known, the shape of input `i` is `expected`.
    pub fn has_shape(&self, i: usize, expected: &[Dim]) -> Result<(), Fault> {
        let Some(found) = self.get(i).and_then(|fact| fact.shape.as_deref()) else { return Ok(()) };
        let differ = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Fixed(a), Dim::Fixed(b)) if a != b);
        if found.len() != expected.len() || found.iter().zip(expected).any(differ) {
            return Err(Fault::Shape { what: "shape", found: show(found), expected: show(expected) });
        }
        Ok(())
    }

    /// A dimension of which nothing is known, named after the node.
    pub fn unknown(&self, axis: usize) -> Dim {
        Dim::symbol(&format!("?{}.{axis}", self.label))
    }

    /// A dimension of which nothing is known, named after the node and what it is.
    pub fn made_up(&self, what: &str) -> Dim {
        Dim::symbol(&format!("?{}.{what}", self.label))
    }

    /// Numpy's broadcast of the shapes of the inputs `at`.
    pub fn broadcast(&self, at: &[usize]) -> Result<Vec<Dim>, Fault> {
        let mut shape: Vec<Dim> = Vec::new();
        for &i in at {
            let next = self.shape(i)?;
            shape = broadcast_named(&shape, next).ok_or_else(|| Fault::Shape {
                what: "broadcast",
                found: show(next),
                expected: show(&shape),
            })?;
        }
        Ok(shape)
    }

    /// One output of the type of input 0 and the broadcast shape of all inputs; unknown where a rank is.
    pub fn elementwise(&self, dtype: DType) -> Result<Vec<Fact>, Fault> {
        let all: Vec<usize> = (0..self.arity()).filter(|&i| self.has(i)).collect();
        match self.broadcast(&all) {
            Ok(shape) => Ok(vec![Fact::new(dtype, shape)]),
            Err(Fault::UnknownRank { .. }) => Ok(vec![Fact::unknown(dtype)]),
            Err(fault) => Err(fault),
        }
    }
}

/// `[N,10]`
pub fn show(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(","))
}

/// An axis counted from the front.
pub(crate) fn from_front(axis: i64, rank: usize) -> Result<usize, Fault> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(at).ok().filter(|&at| at < rank).ok_or_else(|| Fault::Attribute {
        name: "axis",
        found: axis.to_string(),
        expected: format!("{}..{rank}", -(rank as i64)),
    })
}
