//! Composites in terms of core operators, before differentiation.

pub mod along;
pub mod attention;
pub mod deform_conv;
pub mod einsum;
pub mod grid_sample;
pub mod loss;
pub mod normalization;
pub mod pool;
pub mod recurrent;
pub mod resize;
pub mod roi_align;
pub(crate) mod sampling;

use crate::ad::Tape;
use crate::error::Result;
use crate::ir::{Builder, Graph, Node, Val, Value, ValueId};
use crate::ops::{self, Cx, Tangent};
use std::collections::HashMap;

/// The graph with every node that is `needed`, and whose operator is differentiated by lowering, replaced by its
/// lowering. Values keep their names.
pub fn composites(mut graph: Graph, needed: impl Fn(&Node) -> bool) -> Result<Graph> {
    while graph.nodes.iter().any(|node| needed(node) && lowering(node).is_some()) {
        graph = once(&graph, &needed)?;
    }
    Ok(graph)
}

type Lowering = for<'g> fn(&Cx<'g>) -> Vec<Val<'g>>;

fn lowering(node: &Node) -> Option<Lowering> {
    match ops::lookup(&node.op).filter(|_| node.domain.is_empty())?.tangent.of(&node.attrs) {
        Tangent::Lower(lower) => Some(lower),
        _ => None,
    }
}

fn once(graph: &Graph, needed: &impl Fn(&Node) -> bool) -> Result<Graph> {
    let b = Builder::new();
    rebuild(graph, &b, needed);
    let name = graph.name.clone();
    Ok(Graph { name, ..b.finish()? })
}

fn rebuild(graph: &Graph, b: &Builder, needed: &impl Fn(&Node) -> bool) {
    let tape = Tape::new(b);
    let mut copied = sources(graph, b);
    // A node made by a lowering must not take a name that comes later.
    for node in &graph.nodes {
        for out in node.outputs.iter().flatten() {
            b.fresh_name(graph.name_of(*out));
        }
    }
    for node in &graph.nodes {
        let made = match lowering(node).filter(|_| needed(node)) {
            Some(lower) => {
                let moved = |id: ValueId| copied.get(&id).map(|v| v.id());
                let inputs = node.inputs.iter().map(|id| id.and_then(moved)).collect();
                let captures = node.captures.iter().filter_map(|&id| moved(id)).collect();
                lowered(graph, b, &tape, &Node { inputs, captures, ..node.clone() }, lower)
            }
            None => b.copy_node(graph, node, &copied),
        };
        copied.extend(made);
    }
    b.scope("");
    for out in &graph.outputs {
        if let Some(&val) = copied.get(out) {
            b.output(val, graph.name_of(*out));
        }
    }
}

/// Inputs, initialisers and captured values.
fn sources<'g>(graph: &Graph, b: &'g Builder) -> HashMap<ValueId, Val<'g>> {
    let inputs = graph.input_set();
    let copy = |id: ValueId| {
        let Value { name, fact, data, .. } = graph.value(id);
        let val = match (inputs.contains(&id), data) {
            (true, default) => b.input(name, fact.clone(), default.clone()),
            (false, Some(data)) => b.initializer(name, data.clone()),
            (false, None) => b.captured(name, fact.clone()),
        };
        (id, val)
    };
    let others = graph.value_ids().filter(|id| graph.value(*id).producer.is_none() && !inputs.contains(id));
    graph.inputs.iter().copied().chain(others).map(copy).collect()
}

fn lowered<'g>(
    graph: &Graph,
    b: &'g Builder,
    tape: &'g Tape<'g>,
    node: &Node,
    lower: Lowering,
) -> Vec<(ValueId, Val<'g>)> {
    let before = b.read(|g| g.values.len());
    b.scope(&node.name);
    let values = lower(&Cx::new(b, tape, node.clone(), Vec::new(), 0));
    let mut made: Vec<(ValueId, Val<'g>)> = Vec::new();
    for (id, val) in node.outputs.iter().zip(values) {
        let Some(id) = *id else { continue };
        let name = graph.name_of(id);
        let own = val.id().0 as usize >= before && b.read(|g| g.value(val.id()).producer.is_some());
        let val = if own && made.iter().all(|(_, other)| other.id() != val.id()) {
            b.rename(val, name);
            b.set_metadata(val, &node.metadata);
            val
        } else {
            renamed_copy(b, val, name)
        };
        made.push((id, val));
    }
    made
}

/// `val` under another name, where its own has to stay.
fn renamed_copy<'g>(b: &'g Builder, val: Val<'g>, name: &str) -> Val<'g> {
    let node = Node {
        name: b.fresh_name(&format!("{name}/Identity")),
        op: "Identity".into(),
        inputs: vec![Some(val.id())],
        ..Node::default()
    };
    b.import(node, &[Some(name.to_string())], &[Some(val.fact())]).pop().flatten().unwrap_or(val)
}

/// The graph with every composite between `wrt` and `of` lowered; ids change, names stay.
pub fn on_path(graph: &Graph, of: &[ValueId], wrt: &[ValueId]) -> Result<Graph> {
    let names = |ids: &[ValueId]| -> Vec<String> { ids.iter().map(|&id| graph.name_of(id).to_string()).collect() };
    let (of, wrt) = (names(of), names(wrt));
    let mut graph = graph.clone();
    loop {
        let known = graph.by_name();
        let ids = |names: &[String]| -> Vec<ValueId> {
            names.iter().filter_map(|n| known.get(n.as_str()).copied()).collect()
        };
        let (above, below) = (graph.ancestors(&ids(&of)), graph.descendants(&ids(&wrt)));
        let on_path = |node: &Node| node.outputs.iter().flatten().any(|id| above.contains(id) && below.contains(id));
        if !graph.nodes.iter().any(|node| on_path(node) && lowering(node).is_some()) {
            return Ok(graph);
        }
        graph = once(&graph, &on_path)?;
    }
}
