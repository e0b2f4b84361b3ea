//! A finished graph in which nodes are replaced by several: values keep their numbers and names, and what is new comes behind.

use crate::ir::{Attrs, Fact, Graph, Node, NodeId, Tensor, Value, ValueId};
use foldhash::HashSet;

/// The graph in the making; its nodes are put back one after the other, with those that come between.
pub(super) struct Insertion {
    pub graph: Graph,
    nodes: Vec<Node>,
    names: HashSet<String>,
}

impl Insertion {
    /// Each node of the graph as `put` writes it.
    pub fn rewritten(mut graph: Graph, put: impl Fn(&mut Insertion, Node)) -> Graph {
        let mut names = HashSet::default();
        graph.own_names(&mut names);
        let old = std::mem::take(&mut graph.nodes);
        let mut insertion = Insertion { graph, nodes: Vec::with_capacity(old.len()), names };
        old.into_iter().for_each(|node| put(&mut insertion, node));
        let Insertion { mut graph, nodes, .. } = insertion;
        for (at, node) in nodes.iter().enumerate() {
            for out in node.outputs.iter().flatten() {
                graph.value_mut(*out).producer = Some(NodeId(at as u32));
            }
        }
        graph.nodes = nodes;
        graph
    }

    /// `name`, with a number behind it if it is taken.
    fn fresh(&mut self, name: &str) -> String {
        let mut own = name.to_string();
        for n in 1.. {
            if self.names.insert(own.clone()) {
                break;
            }
            own = format!("{name}_{n}");
        }
        own
    }

    fn value(&mut self, name: String, fact: Fact, data: Option<Tensor>) -> ValueId {
        self.graph.add_value(Value { name, fact, data, producer: None })
    }

    pub fn constant(&mut self, name: &str, fact: Fact, data: Tensor) -> ValueId {
        let name = self.fresh(name);
        self.value(name, fact, Some(data))
    }

    /// A node with one output of that name.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[ValueId], attrs: Attrs, fact: Fact) -> ValueId {
        let name = self.fresh(name);
        let out = self.value(name.clone(), fact, None);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.put(Node { name, op: op.to_string(), inputs, outputs: vec![Some(out)], attrs, ..Node::default() });
        out
    }

    pub fn put(&mut self, node: Node) {
        self.nodes.push(node);
    }
}
