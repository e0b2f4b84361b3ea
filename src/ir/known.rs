//! Nodes by what they compute, so that equal ones are made once.

use super::{Attrs, Graph, NodeId, ValueId};
use crate::ops;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::BuildHasher;

/// What a node computes: operator, inputs, attributes.
pub(super) type Key<'a> = (&'a str, &'a [Option<ValueId>], &'a Attrs);

/// The graph holds the nodes; here stand their hashes and places.
#[derive(Default)]
pub(super) struct Known {
    state: RandomState,
    nodes: HashTable<(u64, NodeId)>,
}

/// Whether the node computes that; inputs of operators that commute stand sorted in the key.
fn is(graph: &Graph, node: NodeId, (op, inputs, attrs): Key<'_>) -> bool {
    let node = graph.node(node);
    let same = || {
        if !ops::is_commutative(op) {
            return node.inputs == inputs;
        }
        let mut sorted = node.inputs.clone();
        sorted.sort();
        sorted == inputs
    };
    node.op == op && node.attrs == *attrs && (node.inputs == inputs || same())
}

impl Known {
    /// The node that computes that.
    pub fn get(&self, graph: &Graph, key: Key<'_>) -> Option<NodeId> {
        let hash = self.state.hash_one(key);
        let found = self.nodes.find(hash, |&(other, node)| other == hash && is(graph, node, key));
        found.map(|&(_, node)| node)
    }

    /// A node that computes that, unless one does.
    pub fn add(&mut self, graph: &Graph, key: Key<'_>, node: NodeId) {
        self.put(graph, key, node, false);
    }

    /// A node that computes that, in place of any that does.
    pub fn replace(&mut self, graph: &Graph, key: Key<'_>, node: NodeId) {
        self.put(graph, key, node, true);
    }

    fn put(&mut self, graph: &Graph, key: Key<'_>, node: NodeId, replace: bool) {
        let hash = self.state.hash_one(key);
        let same = |&(other, node): &(u64, NodeId)| other == hash && is(graph, node, key);
        match self.nodes.entry(hash, same, |&(hash, _)| hash) {
            Entry::Occupied(mut there) if replace => there.get_mut().1 = node,
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => drop(place.insert((hash, node))),
        }
    }
}
