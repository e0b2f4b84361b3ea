//! A body of tangents or cotangents, cut out of a body that has the forward pass in it too.
//!
//! What the new body needs of the forward pass comes from outside: constants and what does not change from round to
//! round are captured, slices of sequences come in again, and the rest the forward node hands out as further stacks.
//! Only values of the forward body are handed out; what a rule computes from them is computed again.

use super::Repeat;
use crate::ir::{Attr, Builder, Dim, Fact, Graph, Node, NodeId, Tensor, Val, ValueId, ValueSet};
use crate::ops::Fault;
use std::collections::HashMap;

/// Where the new body has a value from.
#[derive(Clone, Copy)]
enum Place<'g> {
    /// An input of the new body, or constant data.
    Given,
    /// A value outside.
    Outer(Val<'g>),
    /// What comes in each round: the slice of a sequence, or what the forward node hands out.
    Round,
    /// The new body computes it.
    Own,
}

/// A graph that holds the forward body and, behind it, what was made of it.
pub(super) struct Cut<'g, 'a> {
    pub b: &'g Builder,
    pub graph: &'a Graph,
    /// Values below this id are the forward body's.
    pub original: u32,
    /// The new body's inputs.
    pub inputs: &'a [ValueId],
    varying: ValueSet,
    outside: HashMap<ValueId, Option<Val<'g>>>,
    places: HashMap<ValueId, Place<'g>>,
}

impl<'g, 'a> Cut<'g, 'a> {
    /// `given`: the inputs of the forward body, besides those of the new one.
    pub fn new(b: &'g Builder, graph: &'a Graph, original: u32, inputs: &'a [ValueId]) -> Cut<'g, 'a> {
        let varying = graph.descendants(&[&graph.inputs, inputs].concat());
        Cut { b, graph, original, inputs, varying, outside: HashMap::new(), places: HashMap::new() }
    }

    /// Settles where everything comes from that `outputs` need; gives the values that come in each round, in order.
    pub fn settle(&mut self, outputs: &[ValueId]) -> Vec<ValueId> {
        let mut rounds = Vec::new();
        let mut open = outputs.to_vec();
        while let Some(id) = open.pop() {
            if self.places.contains_key(&id) {
                continue;
            }
            let place = self.place(id);
            match place {
                Place::Own => {
                    let producer = self.graph.value(id).producer;
                    open.extend(producer.iter().flat_map(|&node| self.graph.node(node).reads()));
                }
                Place::Round => rounds.push(id),
                Place::Given | Place::Outer(_) => {}
            }
            self.places.insert(id, place);
        }
        rounds.sort_unstable();
        rounds
    }

    fn place(&mut self, id: ValueId) -> Place<'g> {
        let value = self.graph.value(id);
        if self.inputs.contains(&id) || (value.data.is_some() && value.producer.is_none()) {
            return Place::Given;
        }
        if let Some(outer) = self.dimensions(id) {
            return Place::Outer(outer);
        }
        if !self.varying.contains(&id)
            && let Some(outer) = self.outside(id)
        {
            return Place::Outer(outer);
        }
        if id.0 < self.original { Place::Round } else { Place::Own }
    }

    /// Integers that are dimensions known outside.
    fn dimensions(&self, id: ValueId) -> Option<Val<'g>> {
        let fact = &self.graph.value(id).fact;
        let (ints, rank) = (fact.ints.as_ref()?, fact.rank()?);
        if !ints.iter().all(|d| self.b.knows_dim(d)) {
            return None;
        }
        let all = self.b.shape_value(ints).cast(fact.dtype);
        Some(if rank == 0 { all.squeeze(&[0]) } else { all })
    }

    /// A value that is the same in each round, computed outside; `None` if a node on the way has a body itself.
    fn outside(&mut self, id: ValueId) -> Option<Val<'g>> {
        if let Some(known) = self.outside.get(&id) {
            return *known;
        }
        let needed = self.graph.ancestors(&[id]);
        let ids: Vec<ValueId> = needed.iter().filter(|id| !self.outside.contains_key(id)).collect();
        for id in ids {
            let value = self.graph.value(id);
            if value.producer.is_none() {
                let val = match &value.data {
                    Some(data) => Some(constant(self.b, &value.name, data)),
                    None => self.b.find(&value.name),
                };
                self.outside.insert(id, val);
            }
        }
        for node in &self.graph.nodes {
            let wanted = |id: &ValueId| needed.contains(id) && !self.outside.contains_key(id);
            if node.outputs.iter().flatten().any(wanted) {
                self.hoist(node);
            }
        }
        self.outside.get(&id).copied().flatten()
    }

    fn hoist(&mut self, node: &Node) {
        let input = |id: &Option<ValueId>| match id {
            None => Some(None),
            Some(id) => self.outside.get(id).copied().flatten().map(Some),
        };
        let inputs: Option<Vec<Option<Val>>> = node.inputs.iter().map(input).collect();
        let plain = node.domain.is_empty() && node.attrs.graphs().next().is_none();
        let made = match inputs.filter(|_| plain) {
            Some(inputs) => self.b.node(&node.op, &inputs, node.attrs.clone(), node.outputs.len()),
            None => Vec::new(),
        };
        for (k, id) in node.outputs.iter().enumerate() {
            if let Some(id) = id {
                self.outside.insert(*id, made.get(k).copied());
            }
        }
    }

    /// The new body, with inputs for `rounds` behind its own.
    pub fn body(&self, rounds: &[ValueId], outputs: &[ValueId]) -> Graph {
        let made = Builder::new();
        made.scope(&self.b.current_scope());
        let mut values: HashMap<ValueId, Val> = HashMap::new();
        let mut placed: Vec<(ValueId, Place)> = self.places.iter().map(|(id, place)| (*id, *place)).collect();
        placed.sort_by_key(|(id, _)| *id);
        // Names from outside first: what is made here gives way to them.
        for (id, place) in placed.iter().copied() {
            if let Place::Outer(outer) = place {
                values.insert(id, made.capture(outer));
            }
        }
        for &id in self.inputs.iter().chain(rounds) {
            let value = self.graph.value(id);
            values.insert(id, made.input(&value.name, Fact { ints: None, ..value.fact.clone() }, None));
        }
        for (id, place) in placed.iter().copied() {
            let value = self.graph.value(id);
            if let (Place::Given, Some(data)) = (place, &value.data) {
                values.insert(id, constant(&made, &value.name, data));
            }
        }
        for node in &self.graph.nodes {
            let own = |id: &ValueId| matches!(self.places.get(id), Some(Place::Own));
            if node.outputs.iter().flatten().any(own) {
                self.copy(node, &made, &mut values);
            }
        }
        for id in outputs {
            if let Some(&val) = values.get(id) {
                made.output(val, &format!("{}.next", self.graph.name_of(*id)));
            }
        }
        made.finish().unwrap_or_else(|error| {
            self.b.fault(error);
            Graph::default()
        })
    }

    fn copy<'n>(&self, node: &Node, to: &'n Builder, values: &mut HashMap<ValueId, Val<'n>>) {
        if node.attrs.graphs().next().is_some() || node.outputs.iter().any(Option::is_none) {
            values.extend(to.copy_node_afresh(self.graph, node, values));
            return;
        }
        to.scope(&node.name);
        let inputs: Vec<Option<Val>> =
            node.inputs.iter().map(|id| id.and_then(|id| values.get(&id).copied())).collect();
        let made = to.node(&node.op, &inputs, node.attrs.clone(), node.outputs.len());
        for (&old, new) in node.outputs.iter().flatten().zip(made) {
            to.refine_fact(new, &self.graph.value(old).fact);
            values.insert(old, new);
        }
    }
}

/// A body's data of more elements are weights, which keep their names.
const CONSTANT_LIMIT: usize = 64;

fn constant<'g>(b: &'g Builder, name: &str, data: &Tensor) -> Val<'g> {
    if data.len() <= CONSTANT_LIMIT { b.constant(data.clone()) } else { b.initializer(name, data.clone()) }
}

/// What the forward node hands out, stacked, of the values `of` of its body; the node is extended where it does not yet.
pub(super) fn stacks<'g>(b: &'g Builder, node: NodeId, repeat: &Repeat, of: &[ValueId]) -> Vec<Val<'g>> {
    let skip = repeat.body.outputs.len() - repeat.stacks();
    let handed = |body: &Graph, id: ValueId| {
        let same = |k: &usize| {
            let out = repeat.stacked(*k);
            let copied = body.value(out).producer.map(|n| body.node(n)).filter(|n| n.op == "Identity");
            let plain = !repeat.stack_reversed(*k) && repeat.stack_axis(*k, 1).is_ok_and(|axis| axis == 0);
            plain && (out == id || copied.and_then(|n| n.input(0)) == Some(id))
        };
        (0..repeat.stacks()).find(same)
    };
    let mut places = Vec::new();
    let body = Builder::of((*repeat.body).clone());
    for &id in of {
        places.push(handed(&repeat.body, id).unwrap_or_else(|| {
            let val = body.val(id);
            body.output(val, &format!("{}.stacked", val.name()));
            body.read(|g| g.outputs.len()) - 1 - skip
        }));
    }
    let Ok(body) = body.finish() else { return Vec::new() };
    let before = skip - repeat.states;
    extend(b, node, repeat, body, before);
    let output = |k: usize| b.read(|g| g.node(node).output(repeat.states + k));
    places.into_iter().filter_map(output).map(|id| b.val(id)).collect()
}

/// The node with another body, that stacks more.
fn extend(b: &Builder, node: NodeId, repeat: &Repeat, body: Graph, after: usize) {
    let more = body.outputs.len() - repeat.body.outputs.len();
    let rounds = rounds(b, node, repeat);
    let fact = |&id: &ValueId| {
        let fact = &body.value(id).fact;
        let shape = fact.shape.as_ref().map(|shape| [std::slice::from_ref(&rounds), shape.as_slice()].concat());
        Fact { dtype: fact.dtype, shape, ints: None }
    };
    let facts: Vec<Fact> = body.outputs.iter().skip(repeat.body.outputs.len()).map(fact).collect();
    let there = repeat.body.outputs.len() - after;
    let mut attrs = b.read(|g| g.node(node).attrs.clone());
    for name in ["scan_output_axes", "scan_output_directions"] {
        if let Some(Attr::Ints(all)) = attrs.get_mut(name) {
            all.extend(vec![0; more]);
        }
    }
    b.extend_node(node, attrs.with("body", body), there, facts);
}

/// How often the body runs, as a dimension of what the node stacks.
fn rounds(b: &Builder, node: NodeId, repeat: &Repeat) -> Dim {
    let (inputs, outputs, name) = b.read(|g| {
        let node = g.node(node);
        (node.inputs.clone(), node.outputs.clone(), node.name.clone())
    });
    let dim = |id: Option<ValueId>, axis: &dyn Fn(usize) -> Result<usize, Fault>| {
        let shape = b.val(id?).fact().shape?;
        shape.get(axis(shape.len()).ok()?).cloned()
    };
    let slice = |k: usize| {
        dim(inputs.get(repeat.before + repeat.states + k).copied().flatten(), &|rank| repeat.slice_axis(k, rank))
    };
    let stack = |k: usize| dim(outputs.get(repeat.states + k).copied().flatten(), &|rank| repeat.stack_axis(k, rank));
    let known = (0..repeat.slices).find_map(slice).or_else(|| (0..repeat.stacks()).find_map(stack));
    known.unwrap_or_else(|| Dim::symbol(&format!("?{name}.rounds")))
}
