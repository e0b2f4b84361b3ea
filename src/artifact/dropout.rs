//! Dropout that trains: its mask is an input of the graph, one for the forward pass, the gradient and κ, that whoever drives
//! the graph draws afresh for each batch.

use crate::error::{Error, Result};
use crate::ir::{Attrs, DType, Dim, Fact, Graph, Node, NodeId, Tensor, Value, ValueId};
use std::collections::HashSet;

/// Where the operator has no ratio of its own.
const RATIO: f64 = 0.5;

/// An input of ones and zeros.
pub(super) struct Mask {
    pub name: String,
    pub shape: Vec<Dim>,
    /// The probability of a one.
    pub keep: f64,
}

/// Makes of every Dropout `y = x ⊙ mask/(1 − ratio)`, whichever mode it was exported in.
///
/// # Errors
/// [`Error::Dropout`] with every node whose mask has no shape of samples times fixed sizes, or whose ratio is computed.
pub(super) fn train(graph: &mut Graph, notes: &mut Vec<String>) -> Result<Vec<Mask>> {
    let mut names: HashSet<String> = graph.values.iter().map(|v| v.name.clone()).collect();
    names.extend(graph.nodes.iter().map(|node| node.name.clone()));
    let (mut masks, mut faults) = (Vec::new(), Vec::new());
    for node in std::mem::take(&mut graph.nodes) {
        let ratio = ratio(graph, &node);
        if node.op != "Dropout" || !node.domain.is_empty() || ratio == Some(0.0) {
            graph.nodes.push(node);
            continue;
        }
        let x = node.input(0).map(|id| (id, graph.value(id).fact.clone()));
        match (x, ratio) {
            (Some((x, fact)), Some(ratio)) if (0.0..1.0).contains(&ratio) && is_sampled(graph, &fact) => {
                let mask = insert(graph, &mut names, node, x, fact, ratio);
                masks.push(mask);
            }
            (x, ratio) => {
                let fact = x.map_or_else(|| "nothing".to_string(), |(_, fact)| fact.to_string());
                let ratio = ratio.map_or_else(|| "computed".to_string(), |r| r.to_string());
                faults.push(format!("{} on {fact}, ratio {ratio}", node.name));
                graph.nodes.push(node);
            }
        }
    }
    let producers: Vec<(ValueId, NodeId)> = (0..)
        .zip(&graph.nodes)
        .flat_map(|(at, node)| node.outputs.iter().flatten().map(move |&id| (id, NodeId(at))))
        .collect();
    for (id, node) in producers {
        graph.value_mut(id).producer = Some(node);
    }
    if !faults.is_empty() {
        return Err(Error::Dropout { nodes: faults });
    }
    if masks.is_empty() {
        notes.push(
            "there is no Dropout in this model, so none is trained; exporters leave it out unless the model is exported \
             in training mode"
                .to_string(),
        );
    }
    Ok(masks)
}

/// `None` if it is computed.
fn ratio(graph: &Graph, node: &Node) -> Option<f64> {
    match node.input(1) {
        None => Some(RATIO),
        Some(id) => graph.value(id).data.as_ref()?.to_f64().first().copied(),
    }
}

/// Samples of an input, each of a fixed size.
fn is_sampled(graph: &Graph, fact: &Fact) -> bool {
    let Some([first, rest @ ..]) = fact.shape.as_deref() else { return false };
    let of_input = |id: &ValueId| graph.value(*id).fact.shape.as_ref().and_then(|s| s.first()) == Some(first);
    let batch = first.fixed().is_some() || (first.as_symbol().is_some() && graph.inputs.iter().any(of_input));
    fact.dtype.is_float() && batch && rest.iter().all(|d| d.fixed().is_some())
}

/// Puts the mask's scaling and the product in the place of the node.
fn insert(graph: &mut Graph, names: &mut HashSet<String>, node: Node, x: ValueId, fact: Fact, ratio: f64) -> Mask {
    let mut fresh = |stem: String| {
        let mut name = stem.clone();
        for k in 1.. {
            if names.insert(name.clone()) {
                break;
            }
            name = format!("{stem}_{k}");
        }
        name
    };
    let value = |name: String, fact: Fact, data: Option<Tensor>| Value { name, fact, data, producer: None };
    let name = fresh(format!("mask.{}", node.name.trim_matches('/').replace('/', ".")));
    let mask = graph.add_value(value(name.clone(), fact.clone(), None));
    graph.inputs.push(mask);
    let factor = Tensor::scalar(fact.dtype, 1.0 / (1.0 - ratio));
    let scalar = Fact::new(fact.dtype, Vec::<Dim>::new());
    let factor = graph.add_value(value(fresh(format!("{}/factor", node.name)), scalar, Some(factor)));
    let scale = fresh(format!("{}/scale", node.name));
    let scaled = graph.add_value(value(scale.clone(), fact.clone(), None));
    let made = |name: String, op: &str, inputs: &[ValueId], output: Option<ValueId>, attrs: Attrs| Node {
        name,
        op: op.to_string(),
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: vec![output],
        attrs,
        ..Node::default()
    };
    graph.nodes.push(made(scale, "Mul", &[mask, factor], Some(scaled), Attrs::new()));
    if let Some(kept) = node.output(1) {
        let to = Attrs::new().with("to", i64::from(DType::Bool.code()));
        let cast = fresh(format!("{}/kept", node.name));
        graph.nodes.push(made(cast, "Cast", &[mask], Some(kept), to));
    }
    let product = made(node.name.clone(), "Mul", &[x, scaled], node.output(0), Attrs::new());
    graph.nodes.push(Node { metadata: node.metadata, ..product });
    Mask { name, shape: fact.shape.unwrap_or_default(), keep: 1.0 - ratio }
}
