//! What is known of the inputs of a control flow operator's body, from those of the operator.

use super::raw::RawNode;
use crate::error::Result;
use crate::ir::{Attr, DType, Dim, Fact, Graph, Node, Val};

/// After so many builds of a Loop's body nothing is assumed of its states' shapes.
const ROUNDS: usize = 4;

/// The element types of what a control flow operator's body gives.
pub(super) fn dtypes(node: &Node) -> Vec<DType> {
    let Some(graph) = node.attrs.graphs().next() else { return vec![DType::F32] };
    // The first output of a loop's body is its condition.
    let skip = usize::from(node.op == "Loop");
    graph.outputs.iter().skip(skip).map(|&id| graph.value(id).fact.dtype).collect()
}

/// Facts of the body's inputs, as those of the node's inputs have it. A Loop's states may change their shapes.
fn inputs(node: &RawNode, inputs: &[Option<Val>]) -> Vec<Fact> {
    let typed = |v: &Option<Val>| v.map_or(Fact::unknown(DType::F32), |v| Fact { ints: None, ..v.fact() });
    match node.op.as_str() {
        "Loop" => {
            let counter = [Fact::new(DType::I64, []), Fact::new(DType::Bool, [])];
            counter.into_iter().chain(inputs.iter().skip(2).map(typed)).collect()
        }
        "Scan" => {
            let slices = int_attr(node, "num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let states = inputs.len().saturating_sub(slices);
            let cut = |(k, v): (usize, &Option<Val>)| slice(typed(v), axis(node, k));
            let slices = inputs.iter().skip(states).enumerate().map(cut);
            inputs.iter().take(states).map(typed).chain(slices).collect()
        }
        _ => Vec::new(),
    }
}

fn int_attr(node: &RawNode, name: &str) -> Option<i64> {
    match node.attrs.get(name) {
        Some(super::raw::RawAttr::Plain(Attr::Int(n))) => Some(*n),
        _ => None,
    }
}

/// The axis along which a Scan cuts input `k`.
fn axis(node: &RawNode, k: usize) -> i64 {
    match node.attrs.get("scan_input_axes") {
        Some(super::raw::RawAttr::Plain(Attr::Ints(axes))) => axes.get(k).copied().unwrap_or(0),
        _ => 0,
    }
}

/// A fact without one of its axes.
fn slice(mut fact: Fact, axis: i64) -> Fact {
    if let Some(shape) = &mut fact.shape {
        match crate::ops::from_front(axis, shape.len()) {
            Ok(at) => drop(shape.remove(at)),
            Err(_) => fact.shape = None,
        }
    }
    fact
}

/// The body, built with facts of its inputs that hold in every round.
pub(super) fn build(
    node: &RawNode,
    given: &[Option<Val>],
    build: impl Fn(Vec<Fact>) -> Result<Graph>,
) -> Result<Graph> {
    let mut facts = inputs(node, given);
    if node.op != "Loop" {
        return build(facts);
    }
    for _ in 0..ROUNDS {
        let body = build(facts.clone())?;
        let mut changed = false;
        for (k, (fact, out)) in facts.iter_mut().skip(2).zip(body.outputs.iter().skip(1)).enumerate() {
            // The body's own declaration may say less of its input than is known.
            let taken = body.inputs.get(k + 2).map(|&id| &body.value(id).fact);
            let next = merge(taken.unwrap_or(fact), &body.value(*out).fact, &format!("?{}.{k}", node.name));
            changed |= taken.is_some_and(|taken| taken.shape != next.shape);
            fact.shape = next.shape;
        }
        if !changed {
            return Ok(body);
        }
    }
    facts.iter_mut().skip(2).for_each(|fact| fact.shape = None);
    build(facts)
}

/// What holds before and after a round.
fn merge(before: &Fact, after: &Fact, label: &str) -> Fact {
    let shape = match (&before.shape, &after.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            let dim = |(axis, (a, b)): (usize, (&Dim, &Dim))| {
                if a == b { a.clone() } else { Dim::symbol(&format!("{label}.{axis}")) }
            };
            Some(a.iter().zip(b).enumerate().map(dim).collect())
        }
        _ => None,
    };
    Fact { dtype: before.dtype, shape, ints: None }
}
