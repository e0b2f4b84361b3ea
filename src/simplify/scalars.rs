//! Scalars beside tensors whose last axis has size 1, such as filters of 1×1 convolutions, get as many axes as the tensor:
//! ONNX Runtime 1.32 computes `[144, 576, 1, 1] ⊙ []` an element at a time, fifteen times more slowly than
//! `[144, 576, 1, 1] ⊙ [1, 1, 1, 1]`.

use crate::ir::{DType, Dim, Fact, Graph, Node, NodeId, Tensor, Value, ValueId};
use std::collections::{HashMap, HashSet};

/// The same function with a copy of each such scalar for each number of axes.
pub(crate) fn scalars_of_rank(mut graph: Graph) -> Graph {
    if !graph.nodes.iter().any(|node| short_scalar(&graph, node).is_some()) {
        return graph;
    }
    let mut names = HashSet::new();
    graph.own_names(&mut names);
    let mut made: HashMap<(ValueId, usize), ValueId> = HashMap::new();
    let mut nodes: Vec<Node> = Vec::with_capacity(graph.nodes.len());
    for mut node in std::mem::take(&mut graph.nodes) {
        if let Some((place, scalar, rank)) = short_scalar(&graph, &node) {
            let long = made.entry((scalar, rank)).or_insert_with(|| {
                let (long, reshape) = with_axes(&mut graph, &mut names, scalar, rank);
                nodes.extend(reshape);
                long
            });
            node.inputs[place] = Some(*long);
        }
        nodes.push(node);
    }
    for (at, node) in nodes.iter().enumerate() {
        for out in node.outputs.iter().flatten() {
            graph.value_mut(*out).producer = Some(NodeId(at as u32));
        }
    }
    graph.nodes = nodes;
    graph
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

/// The scalar with `rank` axes of size 1: other data where it is a constant, else the node that reshapes it.
fn with_axes(graph: &mut Graph, names: &mut HashSet<String>, scalar: ValueId, rank: usize) -> (ValueId, Option<Node>) {
    let Value { name, fact, data, producer } = graph.value(scalar).clone();
    let long = Fact::new(fact.dtype, vec![Dim::Fixed(1); rank]);
    let mut add = |name: &str, fact: Fact, data: Option<Tensor>| {
        let mut own = name.to_string();
        for n in 1.. {
            if names.insert(own.clone()) {
                break;
            }
            own = format!("{name}_{n}");
        }
        (graph.add_value(Value { name: own.clone(), fact, data, producer: None }), own)
    };
    let base = format!("{name}/rank{rank}");
    match data {
        Some(data) if producer.is_none() && name.starts_with("const/") => {
            let data = Tensor { shape: vec![1; rank], ..data };
            (add(&base, long, Some(data)).0, None)
        }
        _ => {
            let ones = Tensor::ints(&[rank], &vec![1; rank]);
            let (target, _) = add(&format!("const/ones{rank}"), Fact::new(DType::I64, [Dim::from(rank)]), Some(ones));
            let (out, name) = add(&base, long, None);
            let inputs = vec![Some(scalar), Some(target)];
            let node = Node { name, op: "Reshape".to_string(), inputs, outputs: vec![Some(out)], ..Node::default() };
            (out, Some(node))
        }
    }
}
