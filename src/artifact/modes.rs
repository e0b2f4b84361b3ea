//! Nodes that an exporter left in training mode, put into the mode that they train in here.

use crate::ir::{Graph, Node, ValueId};
use std::collections::HashSet;

/// Batch norm by its running statistics where it is frozen, Dropout off where it does not train; says so in `notes`.
pub(super) fn settle(graph: &mut Graph, frozen_batch_norm: bool, dropout_off: bool, notes: &mut Vec<String>) {
    let read: HashSet<ValueId> =
        graph.nodes.iter().flat_map(Node::reads).chain(graph.outputs.iter().copied()).collect();
    let (mut norms, mut dropouts) = (0, 0);
    for node in graph.nodes.iter_mut().filter(|n| n.domain.is_empty()) {
        let only_first = node.outputs.iter().skip(1).flatten().all(|id| !read.contains(id));
        match node.op.as_str() {
            "BatchNormalization" if frozen_batch_norm && node.attrs.int("training_mode") == Some(1) && only_first => {
                node.attrs = std::mem::take(&mut node.attrs).with("training_mode", 0);
                node.outputs.truncate(1);
                norms += 1;
            }
            "Dropout" if dropout_off && node.input(2).is_some() && only_first => {
                node.inputs.truncate(2);
                node.outputs.truncate(1);
                dropouts += 1;
            }
            _ => {}
        }
    }
    if norms > 0 {
        notes.push(format!(
            "{norms} batch norms were exported in training mode; they use their running statistics here, unless they train"
        ));
    }
    if dropouts > 0 {
        notes.push(format!("{dropouts} dropouts were exported in training mode; they are off here, unless they train"));
    }
}
