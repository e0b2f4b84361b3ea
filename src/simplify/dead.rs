//! Dead code.

use crate::ir::{DType, Fact, Graph, Node, NodeId, Value, ValueId, ValueSet};
use foldhash::HashMap;

/// The graph without what no output needs. Inputs stay.
pub fn dead_code(graph: &Graph) -> Graph {
    part(graph, &graph.inputs, &graph.outputs, &graph.ancestors(&graph.outputs))
}

/// The same, of a graph that is not needed any more.
pub(crate) fn without_dead_code(graph: Graph) -> Graph {
    let live = graph.ancestors(&graph.outputs);
    let (inputs, outputs) = (graph.inputs.clone(), graph.outputs.clone());
    into_part(graph, &inputs, &outputs, &live)
}

/// The part of the graph that computes `outputs`; `live` is all that they are computed from.
pub(crate) fn part(graph: &Graph, inputs: &[ValueId], outputs: &[ValueId], live: &ValueSet) -> Graph {
    let mut part = Part::of(graph, inputs, live);
    let free: Vec<ValueId> = graph.value_ids().filter(|&id| part.is_free(graph.value(id), id)).collect();
    free.into_iter().for_each(|id| part.add_value(id, graph.value(id).clone()));
    for node in graph.nodes.iter().filter(|node| is_live(node, live)) {
        part.add_node(node.clone(), |id| graph.value(id).clone());
    }
    part.finish(inputs, outputs)
}

/// As [`part`], of a graph that is not needed any more.
pub(crate) fn into_part(mut graph: Graph, inputs: &[ValueId], outputs: &[ValueId], live: &ValueSet) -> Graph {
    let mut part = Part::of(&graph, inputs, live);
    for (k, value) in graph.values.iter_mut().enumerate() {
        let id = ValueId(k as u32);
        if part.is_free(value, id) {
            part.add_value(id, take(value));
        }
    }
    for node in graph.nodes.into_iter().filter(|node| is_live(node, live)) {
        part.add_node(node, |id| take(&mut graph.values[id.0 as usize]));
    }
    part.finish(inputs, outputs)
}

fn is_live(node: &Node, live: &ValueSet) -> bool {
    node.outputs.iter().flatten().any(|id| live.contains(id))
}

/// The value, in whose place nothing is left.
fn take(value: &mut Value) -> Value {
    let nothing = Value { name: String::new(), fact: Fact::unknown(DType::F32), data: None, producer: None };
    std::mem::replace(value, nothing)
}

/// A part of a graph in the making.
struct Part<'a> {
    out: Graph,
    /// Where each value is now.
    moved: Vec<Option<ValueId>>,
    of_inputs: ValueSet,
    live: &'a ValueSet,
}

impl<'a> Part<'a> {
    fn of(graph: &Graph, inputs: &[ValueId], live: &'a ValueSet) -> Part<'a> {
        let out = Graph { name: graph.name.clone(), ..Graph::default() };
        Part { out, moved: vec![None; graph.values.len()], of_inputs: inputs.iter().copied().collect(), live }
    }

    /// Whether no node computes the value, and it is needed.
    fn is_free(&self, value: &Value, id: ValueId) -> bool {
        value.producer.is_none() && (self.live.contains(&id) || self.of_inputs.contains(&id))
    }

    fn add_value(&mut self, id: ValueId, value: Value) {
        self.moved[id.0 as usize] = Some(self.out.add_value(value));
    }

    fn add_node(&mut self, mut node: Node, mut value: impl FnMut(ValueId) -> Value) {
        let id = NodeId(self.out.nodes.len() as u32);
        for input in node.inputs.iter_mut().flatten().chain(&mut node.captures) {
            if let Some(new) = self.moved[input.0 as usize] {
                *input = new;
            }
        }
        for output in node.outputs.iter_mut().flatten() {
            let new = self.out.add_value(Value { producer: Some(id), ..value(*output) });
            self.moved[output.0 as usize] = Some(new);
            *output = new;
        }
        self.out.nodes.push(node);
    }

    fn finish(mut self, inputs: &[ValueId], outputs: &[ValueId]) -> Graph {
        let there = |ids: &[ValueId]| ids.iter().filter_map(|id| self.moved[id.0 as usize]).collect();
        (self.out.inputs, self.out.outputs) = (there(inputs), there(outputs));
        self.out
    }
}

/// The graph with outputs that only copy another value in place of that value: `y = Identity(x)` gives `x` the name `y`.
pub(crate) fn direct_outputs(mut graph: Graph) -> Graph {
    let mut taken: ValueSet = graph.outputs.iter().copied().collect();
    let captured: ValueSet = graph.nodes.iter().flat_map(|node| node.captures.iter().copied()).collect();
    let mut instead: HashMap<ValueId, ValueId> = HashMap::default();
    for place in 0..graph.outputs.len() {
        let copy = graph.outputs[place];
        let Some(of) = copied(&graph, copy).filter(|of| !taken.contains(of) && !captured.contains(&copy)) else {
            continue;
        };
        let name = std::mem::take(&mut graph.value_mut(copy).name);
        match captured.contains(&of) {
            true => graph.rename(of, &name),
            false => graph.value_mut(of).name = name,
        }
        graph.outputs[place] = of;
        taken.insert(of);
        instead.insert(copy, of);
    }
    if instead.is_empty() {
        return graph;
    }
    for input in graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()) {
        *input = *instead.get(input).unwrap_or(input);
    }
    without_dead_code(graph)
}

/// What a value is a copy of, if some node computes that.
fn copied(graph: &Graph, copy: ValueId) -> Option<ValueId> {
    let node = graph.node(graph.value(copy).producer?);
    let of = node.input(0).filter(|_| node.op == "Identity" && node.domain.is_empty())?;
    graph.value(of).producer.is_some().then_some(of)
}
