//! Dead code.

use crate::ir::{Graph, ValueId};
use std::collections::{HashMap, HashSet};

/// The graph without what no output needs. Inputs stay.
pub fn dead_code(graph: &Graph) -> Graph {
    part(graph, &graph.inputs, &graph.outputs, &graph.ancestors(&graph.outputs))
}

/// The part of the graph that computes `outputs`; `live` is all that they are computed from.
pub(crate) fn part(graph: &Graph, inputs: &[ValueId], outputs: &[ValueId], live: &HashSet<ValueId>) -> Graph {
    let of_inputs: HashSet<ValueId> = inputs.iter().copied().collect();
    let mut out = Graph { name: graph.name.clone(), ..Graph::default() };
    let mut moved: HashMap<ValueId, ValueId> = HashMap::new();
    for id in graph.value_ids() {
        let value = graph.value(id);
        let free = value.producer.is_none() && (live.contains(&id) || of_inputs.contains(&id));
        if free {
            moved.insert(id, out.add_value(value.clone()));
        }
    }
    for node in &graph.nodes {
        if !node.outputs.iter().flatten().any(|id| live.contains(id)) {
            continue;
        }
        let id = crate::ir::NodeId(out.nodes.len() as u32);
        let mut node = node.clone();
        for input in node.inputs.iter_mut().flatten().chain(&mut node.captures) {
            if let Some(new) = moved.get(input) {
                *input = *new;
            }
        }
        for output in node.outputs.iter_mut().flatten() {
            let mut value = graph.value(*output).clone();
            value.producer = Some(id);
            let new = out.add_value(value);
            moved.insert(*output, new);
            *output = new;
        }
        out.nodes.push(node);
    }
    let there = |ids: &[ValueId]| ids.iter().filter_map(|id| moved.get(id).copied()).collect();
    out.inputs = there(inputs);
    out.outputs = there(outputs);
    out
}

/// The graph with outputs that only copy another value in place of that value: `y = Identity(x)` gives `x` the name `y`.
pub(crate) fn direct_outputs(mut graph: Graph) -> Graph {
    let mut taken: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut any = false;
    for place in 0..graph.outputs.len() {
        let copy = graph.outputs[place];
        let Some(of) = copied(&graph, copy).filter(|of| !taken.contains(of)) else { continue };
        let name = std::mem::take(&mut graph.value_mut(copy).name);
        graph.rename(of, &name);
        for input in graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()).filter(|id| **id == copy)
        {
            *input = of;
        }
        graph.outputs[place] = of;
        taken.insert(of);
        any = true;
    }
    if any { dead_code(&graph) } else { graph }
}

/// What a value is a copy of, if some node computes that and no body captures the copy.
fn copied(graph: &Graph, copy: ValueId) -> Option<ValueId> {
    let node = graph.node(graph.value(copy).producer?);
    let of = node.input(0).filter(|_| node.op == "Identity" && node.domain.is_empty())?;
    let captured = graph.nodes.iter().any(|node| node.captures.contains(&copy));
    (graph.value(of).producer.is_some() && !captured).then_some(of)
}
