//! What holds of every graph, checked after each pass in tests.

use super::{Graph, ValueId};
use crate::error::{Error, Result};
use std::collections::HashSet;

/// Names are unique in the graph and its bodies, every value read is there before its reader, outputs exist.
pub fn verify(graph: &Graph) -> Result<()> {
    level(graph, &mut HashSet::new(), &HashSet::new())
}

/// `names`: those in use so far; `captured`: values of `graph` that stand in an outer one.
fn level<'a>(graph: &'a Graph, names: &mut HashSet<&'a str>, captured: &HashSet<ValueId>) -> Result<()> {
    let broken = |what: String| Err(Error::BrokenGraph { what });
    for id in live_values(graph) {
        if !captured.contains(&id) && !names.insert(graph.name_of(id)) {
            return broken(format!("two values are called {:?}", graph.name_of(id)));
        }
    }
    let mut ready: HashSet<ValueId> = graph.value_ids().filter(|&id| graph.value(id).producer.is_none()).collect();
    for id in graph.node_ids() {
        let node = graph.node(id);
        for read in node.reads() {
            if !ready.contains(&read) {
                return broken(format!("node {:?} reads {:?} before it is computed", node.name, graph.name_of(read)));
            }
        }
        let known: HashSet<&str> = node.captures.iter().map(|&id| graph.name_of(id)).collect();
        for body in node.attrs.graphs() {
            let open: HashSet<ValueId> = body.captured().into_iter().collect();
            if let Some(&id) = open.iter().find(|&&id| !known.contains(body.name_of(id))) {
                let name = body.name_of(id);
                return broken(format!(
                    "a body of node {:?} reads {name:?}, which the node does not capture",
                    node.name
                ));
            }
            level(body, names, &open)?;
        }
        for &out in node.outputs.iter().flatten() {
            if graph.value(out).producer != Some(id) {
                return broken(format!("{:?} does not know its producer {:?}", graph.name_of(out), node.name));
            }
            ready.insert(out);
        }
    }
    match graph.outputs.iter().find(|id| !ready.contains(id)) {
        Some(&id) => broken(format!("output {:?} is never computed", graph.name_of(id))),
        None => Ok(()),
    }
}

fn live_values(graph: &Graph) -> HashSet<ValueId> {
    let nodes = graph.nodes.iter().flat_map(|n| n.reads().chain(n.outputs.iter().flatten().copied()));
    nodes.chain(graph.inputs.iter().copied()).chain(graph.outputs.iter().copied()).collect()
}
