//! What a body's facts say outside of it.

use crate::ir::{Dim, Fact, Graph, ValueId};
use crate::ops::FactCx;
use std::collections::HashSet;

/// The dimensions of a body's values as the graph around it may know them.
pub(super) struct Outward<'a> {
    c: &'a FactCx<'a>,
    /// Made-up symbols that stand outside too.
    known: HashSet<String>,
}

impl<'a> Outward<'a> {
    pub fn of(c: &'a FactCx<'a>, bodies: &[&Graph]) -> Outward<'a> {
        let captured = bodies.iter().flat_map(|body| body.captured().into_iter().map(|id| &body.value(id).fact));
        let inputs = (0..c.arity()).filter_map(|i| c.get(i));
        let dims = captured.chain(inputs).flat_map(|fact| fact.shape.iter().flatten());
        let known = dims.flat_map(made_up).collect();
        Outward { c, known }
    }

    /// A dimension of output `k`; one that only the body knows has another name outside.
    fn dim(&self, dim: &Dim, k: usize, axis: usize) -> Dim {
        if made_up(dim).all(|symbol| self.known.contains(&symbol)) {
            return dim.clone();
        }
        self.c.made_up(&format!("{k}.{axis}"))
    }

    /// The fact of output `k` where a body gives `id`.
    pub fn fact(&self, body: &Graph, id: ValueId, k: usize) -> Fact {
        let fact = &body.value(id).fact;
        let dims = |shape: &Vec<Dim>| shape.iter().enumerate().map(|(axis, d)| self.dim(d, k, axis)).collect();
        Fact { dtype: fact.dtype, shape: fact.shape.as_ref().map(dims), ints: None }
    }

    /// What holds of output `k` where it is the one or the other.
    pub fn either(&self, one: &Fact, other: &Fact, k: usize) -> Fact {
        let shape = match (&one.shape, &other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                let both = a.iter().zip(b).enumerate();
                Some(both.map(|(i, (a, b))| if a == b { a.clone() } else { self.c.made_up(&format!("{k}.{i}")) }))
            }
            _ => None,
        };
        Fact { dtype: one.dtype, shape: shape.map(Iterator::collect), ints: None }
    }
}

/// The symbols of a dimension that inference made up.
fn made_up(dim: &Dim) -> impl Iterator<Item = String> + use<> {
    let symbols: Vec<String> = match dim {
        Dim::Fixed(_) => Vec::new(),
        Dim::Symbol(poly) => poly.terms().flat_map(|(symbols, _)| symbols.iter().map(|s| s.to_string())).collect(),
    };
    symbols.into_iter().filter(|s| s.starts_with('?'))
}
