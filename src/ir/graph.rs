//! The arena of values and nodes, and the model around it.

use super::{Attrs, Fact, Tensor};
use foldhash::{HashMap, HashSet};
use std::collections::HashSet as AnySet;
use std::hash::BuildHasher;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub fact: Fact,
    /// An initialiser's data. A value that is an input too has it as its default.
    pub data: Option<Tensor>,
    /// The node that computes it; `None` for inputs, initialisers and values captured from an outer graph.
    pub producer: Option<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub op: String,
    /// `""` for standard operators.
    pub domain: String,
    /// `None`: an optional input left out.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
    pub attrs: Attrs,
    /// What the bodies in `attrs` read of this graph; they know these values by their names.
    pub captures: Vec<ValueId>,
    /// `metadata_props`: exporters keep module paths there.
    pub metadata: Vec<(String, String)>,
}

/// Nodes stand in topological order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub name: String,
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

/// A graph with what the file says around it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub graph: Graph,
    /// The version of the standard operator set that the source file imports.
    pub opset: i64,
    pub ir_version: i64,
    /// Versions of further operator domains.
    pub domains: Vec<(String, i64)>,
    pub producer: (String, String),
    pub doc: String,
    pub metadata: Vec<(String, String)>,
}

impl Model {
    /// The same model around an empty graph.
    pub fn around(&self) -> Model {
        Model {
            graph: Graph::default(),
            opset: self.opset,
            ir_version: self.ir_version,
            domains: self.domains.clone(),
            producer: self.producer.clone(),
            doc: self.doc.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

impl Graph {
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn name_of(&self, id: ValueId) -> &str {
        &self.value(id).name
    }

    pub fn value_ids(&self) -> impl DoubleEndedIterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The value of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.value_ids().find(|&id| self.value(id).name == name)
    }

    /// Every value by its name, for looking up many.
    pub fn by_name(&self) -> HashMap<&str, ValueId> {
        // From the back, so that of equal names the first stays, as in `find`.
        self.value_ids().rev().map(|id| (self.name_of(id), id)).collect()
    }

    pub fn input_set(&self) -> ValueSet {
        self.inputs.iter().copied().collect()
    }

    /// The values of outer graphs that this one reads by name.
    pub fn captured(&self) -> Vec<ValueId> {
        let inputs = self.input_set();
        let open = |id: &ValueId| {
            let value = self.value(*id);
            value.producer.is_none() && value.data.is_none() && !inputs.contains(id)
        };
        let mut seen = HashSet::default();
        let reads = self.nodes.iter().flat_map(Node::reads).chain(self.outputs.iter().copied());
        reads.filter(|id| open(id) && seen.insert(*id)).collect()
    }

    /// The captured value of that name.
    pub fn captured_value(&self, name: &str) -> Option<ValueId> {
        let open = |id: &ValueId| self.value(*id).producer.is_none() && self.value(*id).data.is_none();
        self.value_ids().find(|id| open(id) && self.name_of(*id) == name && !self.inputs.contains(id))
    }

    /// Gives a value another name, in the bodies that capture it too.
    pub fn rename(&mut self, id: ValueId, name: &str) {
        let old = std::mem::replace(&mut self.value_mut(id).name, name.to_string());
        for node in self.nodes.iter_mut().filter(|n| n.captures.contains(&id)) {
            node.rename_captured(&old, name);
        }
    }

    /// Every name of a value or node in this graph and in the bodies inside, those of captured values left out.
    pub fn own_names(&self, names: &mut AnySet<String, impl BuildHasher>) {
        let captured: HashSet<ValueId> = self.captured().into_iter().collect();
        names.extend(self.value_ids().filter(|id| !captured.contains(id)).map(|id| self.name_of(id).to_string()));
        for node in &self.nodes {
            names.insert(node.name.clone());
            node.attrs.graphs().for_each(|body| body.own_names(names));
        }
    }

    pub fn add_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() as u32 - 1)
    }

    pub fn initializers(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.value_ids().filter(|&id| self.value(id).data.is_some())
    }

    /// The nodes that read each value.
    pub fn uses(&self) -> HashMap<ValueId, Vec<NodeId>> {
        let mut uses: HashMap<ValueId, Vec<NodeId>> = HashMap::default();
        for id in self.node_ids() {
            for input in self.node(id).reads() {
                uses.entry(input).or_default().push(id);
            }
        }
        uses
    }

    /// Everything that `of` is computed from, `of` included.
    pub fn ancestors(&self, of: &[ValueId]) -> ValueSet {
        let mut seen = ValueSet::default();
        let mut stack = of.to_vec();
        while let Some(id) = stack.pop() {
            if seen.insert(id)
                && let Some(node) = self.value(id).producer
            {
                stack.extend(self.node(node).reads().filter(|id| !seen.contains(id)));
            }
        }
        seen
    }

    /// Everything computed from `from`, `from` included.
    pub fn descendants(&self, from: &[ValueId]) -> ValueSet {
        let mut seen: ValueSet = from.iter().copied().collect();
        for node in &self.nodes {
            if node.reads().any(|id| seen.contains(&id)) {
                seen.extend(node.outputs.iter().flatten().copied());
            }
        }
        seen
    }
}

/// Some values of a graph, a bit each.
#[derive(Clone, Debug, Default)]
pub struct ValueSet(Vec<u64>);

impl ValueSet {
    pub fn contains(&self, id: &ValueId) -> bool {
        self.0.get(id.0 as usize / 64).is_some_and(|word| word >> (id.0 % 64) & 1 != 0)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = ValueId> + '_ {
        (0..64 * self.0.len() as u32).map(ValueId).filter(|id| self.contains(id))
    }

    /// Whether it is new.
    pub fn insert(&mut self, id: ValueId) -> bool {
        let at = id.0 as usize / 64;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        let (word, bit) = (&mut self.0[at], 1 << (id.0 % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

impl Extend<ValueId> for ValueSet {
    fn extend<I: IntoIterator<Item = ValueId>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl FromIterator<ValueId> for ValueSet {
    fn from_iter<I: IntoIterator<Item = ValueId>>(ids: I) -> ValueSet {
        let mut set = ValueSet::default();
        set.extend(ids);
        set
    }
}

impl Node {
    /// Every value the node reads, captures included.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// The bodies know a captured value by another name from here on.
    pub fn rename_captured(&mut self, old: &str, new: &str) {
        for body in self.attrs.graphs_mut() {
            for id in body.captured().into_iter().filter(|&id| body.name_of(id) == old).collect::<Vec<_>>() {
                body.rename(id, new);
            }
        }
    }

    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }
}
