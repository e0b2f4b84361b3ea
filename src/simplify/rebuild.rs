//! The whole graph made again, so that every rewrite, fold and merge applies to imported nodes too.

use super::without_dead_code;
use crate::error::Result;
use crate::ir::{Builder, Graph, Val, ValueId};
use foldhash::HashMap;

/// The same function with every rewrite applied: names of inputs, initialisers and outputs stay, names of what
/// remains of the rest too.
pub fn simplify(graph: &Graph) -> Result<Graph> {
    Ok(without_dead_code(rebuild(graph)?))
}

/// The same, with what no output needs.
pub(crate) fn rebuild(graph: &Graph) -> Result<Graph> {
    let b = Builder::new();
    let mut values: HashMap<ValueId, Val> = HashMap::default();
    for &id in &graph.inputs {
        let value = graph.value(id);
        values.insert(id, b.input(&value.name, value.fact.clone(), value.data.clone()));
    }
    let inputs = graph.input_set();
    for id in graph.value_ids().filter(|id| !inputs.contains(id)) {
        let value = graph.value(id);
        match (&value.data, value.producer) {
            (Some(data), _) => {
                let made = if value.name.starts_with("const/") {
                    b.constant(data.clone())
                } else {
                    b.initializer(&value.name, data.clone())
                };
                values.insert(id, made);
            }
            (None, None) => {
                values.insert(id, b.captured(&value.name, value.fact.clone()));
            }
            _ => {}
        }
    }
    for node in &graph.nodes {
        b.scope(&node.name);
        let inputs: Vec<Option<Val>> =
            node.inputs.iter().map(|id| id.and_then(|id| values.get(&id).copied())).collect();
        let before = b.read(|g| g.values.len());
        let opaque = !node.domain.is_empty()
            || !node.captures.is_empty()
            || node.outputs.iter().any(Option::is_none)
            || node.attrs.graphs().next().is_some();
        if opaque || crate::ops::lookup(&node.op).is_none() {
            values.extend(b.copy_node(graph, node, &values));
            continue;
        }
        let made = b.node(&node.op, &inputs, node.attrs.clone(), node.outputs.len());
        for (old, new) in node.outputs.iter().flatten().zip(made) {
            let value = graph.value(*old);
            b.refine_fact(new, &value.fact);
            let is_new = new.id().0 as usize >= before && b.read(|g| g.value(new.id()).data.is_none());
            if is_new && b.is_free(&value.name) {
                b.rename(new, &value.name);
                b.set_metadata(new, &node.metadata);
            }
            values.insert(*old, new);
        }
    }
    for id in &graph.outputs {
        if let Some(v) = values.get(id) {
            output(&b, *v, graph.name_of(*id));
        }
    }
    let mut made = b.finish()?;
    made.name = graph.name.clone();
    Ok(made)
}

/// An output of exactly that name: what has it by its node's name gives way.
fn output(b: &Builder, val: Val, name: &str) {
    let given = b.output(val, name);
    if given == name {
        return;
    }
    if let Some(other) = b.find(name) {
        b.rename(other, &b.fresh_name(name));
    }
    if let Some(made) = b.find(&given) {
        b.rename(made, name);
    }
}
