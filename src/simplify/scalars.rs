//! Scalars beside tensors whose last axis has size 1, such as filters of 1×1 convolutions, get as many axes as the tensor:
//! ONNX Runtime 1.32 computes `[144, 576, 1, 1] ⊙ []` an element at a time, fifteen times more slowly than
//! `[144, 576, 1, 1] ⊙ [1, 1, 1, 1]`.

use super::insertion::Insertion;
use crate::ir::{Attrs, DType, Dim, Fact, Graph, Node, Tensor, Value, ValueId};
use foldhash::HashMap;
use std::cell::RefCell;

/// The same function with a copy of each such scalar for each number of axes.
pub(crate) fn scalars_of_rank(graph: Graph) -> Graph {
    if !graph.nodes.iter().any(|node| short_scalar(&graph, node).is_some()) {
        return graph;
    }
    let made: RefCell<HashMap<(ValueId, usize), ValueId>> = RefCell::default();
    Insertion::rewritten(graph, |to, mut node| {
        if let Some((place, scalar, rank)) = short_scalar(&to.graph, &node) {
            let long = *made.borrow_mut().entry((scalar, rank)).or_insert_with(|| with_axes(to, scalar, rank));
            node.inputs[place] = Some(long);
        }
        to.put(node);
    })
}

/// The input that is a scalar of fewer axes than the other, whose last axis is 1: its place, itself, the other's axes.
fn short_scalar(graph: &Graph, node: &Node) -> Option<(usize, ValueId, usize)> {
    if !matches!(node.op.as_str(), "Add" | "Sub" | "Mul" | "Div") || !node.domain.is_empty() {
        return None;
    }
    let shape = |place: usize| graph.value(node.input(place)?).fact.shape.as_deref();
    [(0, 1), (1, 0)].into_iter().find_map(|(scalar, tensor)| {
        let (scalar_shape, tensor) = (shape(scalar)?, shape(tensor)?);
        let one = scalar_shape.iter().all(Dim::is_one) && scalar_shape.len() < tensor.len();
        let trailing = tensor.last().is_some_and(Dim::is_one) && !tensor.iter().all(Dim::is_one);
        (one && trailing).then_some((scalar, node.input(scalar)?, tensor.len()))
    })
}

/// The scalar with `rank` axes of size 1: other data where it is a constant, else by a node that reshapes it.
fn with_axes(to: &mut Insertion, scalar: ValueId, rank: usize) -> ValueId {
    let Value { name, fact, data, producer } = to.graph.value(scalar).clone();
    let long = Fact::new(fact.dtype, vec![Dim::Fixed(1); rank]);
    let base = format!("{name}/rank{rank}");
    match data {
        Some(data) if producer.is_none() && name.starts_with("const/") => {
            to.constant(&base, long, Tensor { shape: vec![1; rank], ..data })
        }
        _ => {
            let ones = Tensor::ints(&[rank], &vec![1; rank]);
            let target = to.constant(&format!("const/ones{rank}"), Fact::new(DType::I64, [Dim::from(rank)]), ones);
            to.node("Reshape", &base, &[scalar, target], Attrs::new(), long)
        }
    }
}
