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
