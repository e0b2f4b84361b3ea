//! The only way to add a node: facts at construction, equal nodes once, constants folded, rewrites applied.
//!
//! A fault (a shape that does not fit, an unknown operator) is kept and returned by [`Builder::finish`]; until then the
//! builder hands out values of unknown rank, so that rules stay formulas without `?`.

use super::known::{Key, Known};
use super::{Attrs, DType, Dim, Fact, Graph, Node, NodeId, Tensor, Val, Value, ValueId, broadcast_named, count};
use crate::error::{Error, Result};
use crate::ops::{self, Fault};
use crate::simplify::{self, Range};
use foldhash::{HashMap, HashSet};
use std::cell::RefCell;
use std::collections::HashMap as AnyMap;
use std::hash::BuildHasher;

/// Constants of at most this many elements are folded.
const FOLD_LIMIT: usize = 4096;

/// A derivative needs no constant of more elements than this.
pub const CONSTANT_LIMIT: usize = 1 << 24;

#[derive(Default)]
pub struct Builder {
    state: RefCell<State>,
    /// What is known of the numbers of the first values.
    ranges: RefCell<Vec<Range>>,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// Nodes already there, by what they compute.
    nodes: Known,
    constants: HashMap<Tensor, ValueId>,
    /// Values whose data may be computed with: constants made here and imported integers, never weights.
    foldable: HashSet<ValueId>,
    names: HashSet<String>,
    suffix: HashMap<String, usize>,
    scope: String,
    /// Where each symbolic dimension can be read at run time.
    dims: HashMap<Dim, (ValueId, usize)>,
    /// A symbol that stands in `dims` with a number added to it only: the whole.
    shifted: HashMap<Dim, Dim>,
    /// The two dimensions of which a broadcast one is made.
    either: HashMap<Dim, (Dim, Dim)>,
    /// The nodes whose bodies capture a value.
    captured_by: HashMap<ValueId, Vec<NodeId>>,
    fault: Option<Error>,
    /// Values below this id keep their names.
    named: u32,
    /// The graph's outputs, for looking up.
    outputs: HashSet<ValueId>,
}

impl State {
    /// `base`, or `base_1`, `base_2` … if taken.
    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        while !self.names.insert(name.clone()) {
            let n = self.suffix.entry(base.to_string()).or_insert(0);
            *n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    /// Gives a value another name, in the bodies that capture it too.
    fn rename(&mut self, id: ValueId, name: &str) -> String {
        let old = std::mem::replace(&mut self.graph.value_mut(id).name, name.to_string());
        for &node in self.captured_by.get(&id).into_iter().flatten() {
            self.graph.nodes[node.0 as usize].rename_captured(&old, name);
        }
        old
    }

    /// Names in a node's bodies that are taken give way, so that a name means one thing in a model.
    fn own_bodies(&mut self, node: &mut Node) {
        for body in node.attrs.graphs_mut() {
            self.own_names(body);
        }
    }

    fn own_names(&mut self, body: &mut Graph) {
        let captured: HashSet<ValueId> = body.captured().into_iter().collect();
        for id in body.value_ids().filter(|id| !captured.contains(id)) {
            let name = self.fresh(body.name_of(id));
            if name != body.name_of(id) {
                body.rename(id, &name);
            }
        }
        for node in &mut body.nodes {
            let named = node.outputs.iter().flatten().any(|id| body.values[id.0 as usize].name == node.name);
            if !named {
                node.name = self.fresh(&node.name);
            }
            self.own_bodies(node);
        }
    }

    /// The values that the bodies in `attrs` capture, and a name that is none of this graph's.
    fn captures(&self, attrs: &Attrs) -> (Vec<ValueId>, Option<String>) {
        let mut captures = Vec::new();
        if attrs.graphs().next().is_none() {
            return (captures, None);
        }
        let known = self.graph.by_name();
        for body in attrs.graphs() {
            for name in body.captured().into_iter().map(|id| body.name_of(id)) {
                match known.get(name) {
                    Some(id) if captures.contains(id) => {}
                    Some(&id) => captures.push(id),
                    None => return (captures, Some(name.to_string())),
                }
            }
        }
        (captures, None)
    }

    fn add_output(&mut self, id: ValueId) {
        self.graph.outputs.push(id);
        self.outputs.insert(id);
    }

    fn add_value(&mut self, name: String, fact: Fact, data: Option<Tensor>, producer: Option<NodeId>) -> ValueId {
        let dims = fact.shape.clone().unwrap_or_default();
        let constant = data.is_some();
        let id = self.graph.add_value(Value { name, fact, data, producer });
        for (axis, dim) in dims.into_iter().enumerate() {
            if dim.fixed().is_none() && !constant {
                self.stands_at(dim, id, axis);
            }
        }
        id
    }
}

impl State {
    /// Axis `axis` of a value is of that size.
    fn stands_at(&mut self, dim: Dim, id: ValueId, axis: usize) {
        if let Some(symbol) = dim.without_constant().filter(|symbol| *symbol != dim && symbol.as_symbol().is_some()) {
            self.shifted.entry(symbol).or_insert_with(|| dim.clone());
        }
        self.dims.entry(dim).or_insert((id, axis));
    }
}

/// The fact of constant data.
fn fact_of(tensor: &Tensor) -> Fact {
    let shape: Vec<Dim> = tensor.shape.iter().map(|&n| Dim::from(n)).collect();
    let ints = (tensor.shape.len() <= 1 && tensor.len() <= 64)
        .then(|| tensor.to_i64())
        .flatten()
        .map(|v| v.into_iter().map(Dim::Fixed).collect());
    Fact::new(tensor.dtype, shape).with_ints(ints)
}

impl Builder {
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Goes on with a graph: all its values keep their ids and names.
    pub fn of(graph: Graph) -> Builder {
        let mut state = State::default();
        let inputs = graph.input_set();
        for id in graph.value_ids() {
            let value = graph.value(id);
            state.names.insert(value.name.clone());
            let is_input = inputs.contains(&id);
            if let Some(data) = &value.data
                && !is_input
                && !data.dtype.is_float()
            {
                state.foldable.insert(id);
                state.constants.entry(data.clone()).or_insert(id);
            }
            if value.data.is_none() || is_input {
                for (axis, dim) in value.fact.shape.iter().flatten().enumerate() {
                    if dim.fixed().is_none() {
                        state.stands_at(dim.clone(), id, axis);
                    }
                }
            }
        }
        for (k, node) in graph.nodes.iter().enumerate() {
            state.names.insert(node.name.clone());
            node.attrs.graphs().for_each(|body| body.own_names(&mut state.names));
            for &id in &node.captures {
                state.captured_by.entry(id).or_default().push(NodeId(k as u32));
            }
            if ops::is_pure(&node.op) && node.domain.is_empty() && node.outputs.iter().all(Option::is_some) {
                state.nodes.add(&graph, (&node.op, &node.inputs, &node.attrs), NodeId(k as u32));
            }
        }
        state.named = graph.values.len() as u32;
        state.outputs = graph.outputs.iter().copied().collect();
        state.graph = graph;
        Builder { state: RefCell::new(state), ..Builder::default() }
    }

    /// The graph, or the first fault.
    pub fn finish(self) -> Result<Graph> {
        let state = self.state.into_inner();
        match state.fault {
            Some(fault) => Err(fault),
            None => Ok(state.graph),
        }
    }

    /// The first fault so far.
    pub fn check(&self) -> Result<()> {
        match self.state.borrow_mut().fault.take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    pub fn fault(&self, error: Error) {
        self.state.borrow_mut().fault.get_or_insert(error);
    }

    /// Reads the graph as it stands.
    pub fn read<T>(&self, f: impl FnOnce(&Graph) -> T) -> T {
        f(&self.state.borrow().graph)
    }

    /// Whether no element is infinite, or no number at all, as long as inputs and weights are numbers and nothing
    /// overflows. `false` where that is not known.
    pub fn is_finite(&self, v: Val) -> bool {
        let mut ranges = self.ranges.borrow_mut();
        simplify::extend_ranges(&self.state.borrow().graph, &mut ranges);
        ranges.get(v.id().0 as usize).is_some_and(|range| range.finite)
    }

    pub fn val(&self, id: ValueId) -> Val<'_> {
        Val::new(self, id)
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<Val<'_>> {
        self.read(|g| g.find(name)).map(|id| self.val(id))
    }

    /// Nodes made from here on are named after `scope`; where it ends in `/`, after it and their operator.
    pub fn scope(&self, scope: &str) {
        self.state.borrow_mut().scope = scope.to_string();
    }

    pub fn current_scope(&self) -> String {
        self.state.borrow().scope.clone()
    }

    /// `name`, with a numeric suffix if it exists.
    pub fn fresh_name(&self, name: &str) -> String {
        self.state.borrow_mut().fresh(name)
    }

    /// A graph input. `default` makes it an initialiser too.
    pub fn input(&self, name: &str, fact: Fact, default: Option<Tensor>) -> Val<'_> {
        let mut s = self.state.borrow_mut();
        let name = s.fresh(name);
        let id = s.add_value(name, fact, None, None);
        s.graph.value_mut(id).data = default;
        s.graph.inputs.push(id);
        drop(s);
        self.val(id)
    }

    /// A named initialiser: a weight, never folded into anything unless it is an integer.
    pub fn initializer(&self, name: &str, data: Tensor) -> Val<'_> {
        let mut s = self.state.borrow_mut();
        let name = s.fresh(name);
        let foldable = !data.dtype.is_float();
        let shared = (foldable && data.len() <= FOLD_LIMIT).then(|| data.clone());
        let id = s.add_value(name, fact_of(&data), Some(data), None);
        if foldable {
            s.foldable.insert(id);
        }
        if let Some(data) = shared {
            s.constants.entry(data).or_insert(id);
        }
        drop(s);
        self.val(id)
    }

    /// Keeps names for values and nodes that are imported later.
    pub fn reserve<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        self.state.borrow_mut().names.extend(names.into_iter().map(str::to_string));
    }

    /// A value of an outer graph that this subgraph reads by name.
    pub fn captured(&self, name: &str, fact: Fact) -> Val<'_> {
        let mut s = self.state.borrow_mut();
        s.names.insert(name.to_string());
        let id = s.add_value(name.to_string(), fact, None, None);
        drop(s);
        self.val(id)
    }

    /// A constant, made once however often it is asked for.
    pub fn constant(&self, data: Tensor) -> Val<'_> {
        let mut s = self.state.borrow_mut();
        let id = match s.constants.get(&data) {
            Some(&id) => id,
            None => {
                let name = constant_name(&data);
                let name = s.fresh(&name);
                let id = s.add_value(name, fact_of(&data), Some(data.clone()), None);
                s.constants.insert(data, id);
                s.foldable.insert(id);
                id
            }
        };
        drop(s);
        self.val(id)
    }

    /// A constant whose `k`-th element is `f(k)`; a fault beyond [`CONSTANT_LIMIT`].
    pub fn tabulated<'g>(&'g self, dtype: DType, shape: &[usize], f: impl Fn(usize) -> f64) -> Val<'g> {
        let elements = shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        if elements > CONSTANT_LIMIT {
            self.fault(Error::ConstantTooLarge { shape: shape.to_vec(), limit: CONSTANT_LIMIT });
            return self.zeros(dtype, &shape.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>());
        }
        self.constant(Tensor::from_f64(dtype, shape, (0..elements).map(f)))
    }

    /// Whether something has gone wrong.
    pub fn has_fault(&self) -> bool {
        self.state.borrow().fault.is_some()
    }

    /// A rank-0 constant.
    pub fn scalar(&self, dtype: DType, value: f64) -> Val<'_> {
        self.constant(Tensor::scalar(dtype, value))
    }

    /// A 1-D int64 constant.
    pub fn ints(&self, values: &[i64]) -> Val<'_> {
        self.constant(Tensor::ints(&[values.len()], values))
    }

    /// The data of a constant that may be computed with.
    pub fn constant_data(&self, val: Val<'_>) -> Option<Tensor> {
        let s = self.state.borrow();
        if s.foldable.contains(&val.id()) { s.graph.value(val.id()).data.clone() } else { None }
    }

    /// The node `op(inputs; attrs)` with one output, if it is there.
    pub fn existing<'g>(&'g self, op: &str, inputs: &[Val<'g>], attrs: &Attrs) -> Option<Val<'g>> {
        let mut ids: Vec<Option<ValueId>> = inputs.iter().map(|v| Some(v.id())).collect();
        if ops::is_commutative(op) {
            ids.sort();
        }
        let s = self.state.borrow();
        let node = s.nodes.get(&s.graph, (op, &ids, attrs))?;
        let output = s.graph.node(node).output(0);
        drop(s);
        output.map(|id| self.val(id))
    }

    /// The node `op(inputs; attrs)` with one output.
    pub fn op<'g>(&'g self, op: &str, inputs: &[Val<'g>], attrs: Attrs) -> Val<'g> {
        let inputs: Vec<Option<Val>> = inputs.iter().map(|&v| Some(v)).collect();
        self.node(op, &inputs, attrs, 1)[0]
    }

    /// The node `op(inputs; attrs)`: exactly `outputs` values.
    pub fn node<'g>(&'g self, op: &str, inputs: &[Option<Val<'g>>], attrs: Attrs, outputs: usize) -> Vec<Val<'g>> {
        if outputs == 1
            && let Some(val) = crate::simplify::rewrite(self, op, inputs, &attrs)
        {
            return vec![val];
        }
        let ids: Vec<Option<ValueId>> = inputs.iter().map(|v| v.map(|v| v.id())).collect();
        let mut keyed = ids.clone();
        if ops::is_commutative(op) {
            keyed.sort();
        }
        let pure = ops::is_pure(op);
        let found = {
            let s = self.state.borrow();
            let known = if pure { s.nodes.get(&s.graph, (op, &keyed, &attrs)) } else { None };
            known.map(|node| s.graph.node(node).outputs.iter().map_while(|id| *id).collect::<Vec<_>>())
        };
        if let Some(found) = found {
            let optional = ops::has_optional_outputs(op);
            if found.len() == outputs || (optional && found.len() > outputs) {
                return found.into_iter().take(outputs).map(|id| self.val(id)).collect();
            }
            if optional && let Some(grown) = self.add_outputs((op, &keyed, &attrs), &found, outputs) {
                return grown;
            }
        }
        let facts = match self.facts(op, &ids, &attrs, outputs) {
            Ok(facts) => facts,
            Err(error) => {
                self.fault(error);
                vec![Fact::unknown(DType::F32); outputs]
            }
        };
        if let Some(folded) = self.fold(op, &ids, &attrs, &facts) {
            return folded;
        }
        let name = {
            let mut s = self.state.borrow_mut();
            let base = match s.scope.as_str() {
                "" => op.to_string(),
                folder if folder.ends_with('/') => format!("{folder}{op}"),
                scope if !s.names.contains(scope) => scope.to_string(),
                scope => format!("{scope}/{op}"),
            };
            s.fresh(&base)
        };
        let names = match outputs {
            1 => vec![Some(name.clone())],
            n => (0..n).map(|k| Some(format!("{name}:{k}"))).collect(),
        };
        let (captures, unknown) = self.state.borrow().captures(&attrs);
        if let Some(tensor) = unknown {
            self.fault(Error::MissingInput { tensor });
        }
        let node = Node { name, op: op.to_string(), inputs: ids, attrs: attrs.clone(), captures, ..Node::default() };
        let made = self.push(node, &names, facts);
        if pure {
            let s = &mut *self.state.borrow_mut();
            let node = NodeId(s.graph.nodes.len() as u32 - 1);
            s.nodes.replace(&s.graph, (op, &keyed, &attrs), node);
        }
        made.into_iter().flatten().collect()
    }

    /// More optional outputs for a node that is there; `None` if it cannot have them.
    fn add_outputs<'g>(&'g self, key: Key<'_>, found: &[ValueId], outputs: usize) -> Option<Vec<Val<'g>>> {
        let facts = self.facts(key.0, key.1, key.2, outputs).ok()?;
        let mut ids = found.to_vec();
        let mut s = self.state.borrow_mut();
        let producer = s.graph.value(*ids.first()?).producer?;
        for (k, fact) in facts.into_iter().enumerate().skip(found.len()) {
            let name = format!("{}:{k}", s.graph.node(producer).name);
            let name = s.fresh(&name);
            ids.push(s.add_value(name, fact, None, Some(producer)));
        }
        s.graph.nodes[producer.0 as usize].outputs = ids.iter().copied().map(Some).collect();
        drop(s);
        Some(ids.into_iter().map(|id| self.val(id)).collect())
    }

    /// Output `k` of the node that computes `val`, which it may not have had so far.
    pub fn grow<'g>(&'g self, val: Val<'g>, k: usize, fact: Fact) -> Val<'g> {
        let mut s = self.state.borrow_mut();
        let Some(producer) = s.graph.value(val.id()).producer else { return val };
        let node = s.graph.node(producer);
        if let Some(&Some(there)) = node.outputs.get(k) {
            drop(s);
            return self.val(there);
        }
        let name = format!("{}:{k}", node.name);
        let name = s.fresh(&name);
        let id = s.add_value(name, fact, None, Some(producer));
        let outputs = &mut s.graph.nodes[producer.0 as usize].outputs;
        outputs.resize(outputs.len().max(k + 1), None);
        outputs[k] = Some(id);
        drop(s);
        self.val(id)
    }

    /// Adds a node as it stands, without rewriting: for import. Output names are taken literally.
    pub fn import<'g>(
        &'g self,
        node: Node,
        names: &[Option<String>],
        declared: &[Option<Fact>],
    ) -> Vec<Option<Val<'g>>> {
        let own = if node.domain.is_empty() && ops::lookup(&node.op).is_some() {
            match self.facts(&node.op, &node.inputs, &node.attrs, names.len()) {
                Ok(facts) => Some(facts),
                // What is computed from a value of unknown rank is not known either, nor with padding that depends on a
                // size at run time; the file may say more.
                Err(Error::Operator { fault: Fault::UnknownRank { .. }, .. })
                | Err(Error::Operator { fault: Fault::Attribute { name: "auto_pad", .. }, .. }) => None,
                Err(error) => {
                    self.fault(error.at_node(&node.name));
                    None
                }
            }
        } else {
            None
        };
        let facts: Vec<Fact> = (0..names.len())
            .map(|k| match (own.as_ref().and_then(|f| f.get(k)).cloned(), declared.get(k).cloned().flatten()) {
                (Some(own), Some(declared)) => refine(own, declared),
                (Some(fact), None) | (None, Some(fact)) => fact,
                (None, None) => Fact::unknown(DType::F32),
            })
            .collect();
        let pure = ops::is_pure(&node.op) && node.domain.is_empty() && names.iter().all(Option::is_some);
        let made = self.push(node, names, facts);
        if pure {
            let s = &mut *self.state.borrow_mut();
            let id = NodeId(s.graph.nodes.len() as u32 - 1);
            let node = s.graph.node(id);
            s.nodes.add(&s.graph, (&node.op, &node.inputs, &node.attrs), id);
        }
        made
    }

    /// Adds a node of another graph as it stands, its inputs and captures replaced by `values`; its outputs keep their
    /// names and facts.
    pub fn copy_node<'g>(
        &'g self,
        from: &Graph,
        node: &Node,
        values: &AnyMap<ValueId, Val<'g>, impl BuildHasher>,
    ) -> Vec<(ValueId, Val<'g>)> {
        self.copy_node_as(from, node, values, |id| from.name_of(id).to_string())
    }

    /// As [`Builder::copy_node`], where outputs get other names.
    fn copy_node_as<'g>(
        &'g self,
        from: &Graph,
        node: &Node,
        values: &AnyMap<ValueId, Val<'g>, impl BuildHasher>,
        name: impl Fn(ValueId) -> String,
    ) -> Vec<(ValueId, Val<'g>)> {
        let moved = |id: &ValueId| values.get(id).map(|v| v.id());
        let mut copy = node.clone();
        copy.inputs = node.inputs.iter().map(|id| id.as_ref().and_then(moved)).collect();
        copy.captures = node.captures.iter().filter_map(moved).collect();
        for id in &node.captures {
            if let Some(new) = values.get(id).map(|v| v.name()).filter(|new| new != from.name_of(*id)) {
                copy.rename_captured(from.name_of(*id), &new);
            }
        }
        let names: Vec<Option<String>> = node.outputs.iter().map(|id| id.map(&name)).collect();
        let facts: Vec<_> = node.outputs.iter().map(|id| id.map(|id| from.value(id).fact.clone())).collect();
        let made = self.import(copy, &names, &facts);
        node.outputs.iter().zip(made).filter_map(|(id, val)| (*id).zip(val)).collect()
    }

    /// As [`Builder::copy_node`], where outputs whose names are taken get others.
    pub fn copy_node_afresh<'g>(
        &'g self,
        from: &Graph,
        node: &Node,
        values: &AnyMap<ValueId, Val<'g>, impl BuildHasher>,
    ) -> Vec<(ValueId, Val<'g>)> {
        self.copy_node_as(from, node, values, |id| self.fresh_name(from.name_of(id)))
    }

    /// A value of an outer graph: constants that may be computed with stand here too, others are captured.
    pub fn capture(&self, outer: Val<'_>) -> Val<'_> {
        match outer.builder().constant_data(outer) {
            Some(data) if data.len() <= FOLD_LIMIT => self.constant(data),
            _ => {
                let name = outer.name();
                let known = self.read(|g| g.captured_value(&name));
                known.map_or_else(|| self.captured(&name, outer.fact()), |id| self.val(id))
            }
        }
    }

    /// Gives a node other attributes and further outputs, behind the first `there` it has or leaves out.
    pub fn extend_node(&self, node: NodeId, attrs: Attrs, there: usize, facts: Vec<Fact>) {
        let mut s = self.state.borrow_mut();
        let mut old = HashSet::default();
        s.graph.node(node).attrs.graphs().for_each(|body| body.own_names(&mut old));
        s.names.retain(|name| !old.contains(name));
        let mut changed = Node { attrs, ..s.graph.node(node).clone() };
        s.own_bodies(&mut changed);
        let (captures, _) = s.captures(&changed.attrs);
        for &id in captures.iter().filter(|id| !changed.captures.contains(id)) {
            s.captured_by.entry(id).or_default().push(node);
        }
        // What stood in front stays: places of captures are known elsewhere.
        let more: Vec<ValueId> = captures.into_iter().filter(|id| !changed.captures.contains(id)).collect();
        changed.captures.extend(more);
        changed.outputs.resize(there, None);
        for fact in facts {
            let name = format!("{}:{}", changed.name, changed.outputs.len());
            let name = s.fresh(&name);
            changed.outputs.push(Some(s.add_value(name, fact, None, Some(node))));
        }
        s.graph.nodes[node.0 as usize] = changed;
    }

    /// Whether the dimension can be computed at run time.
    pub fn knows_dim(&self, dim: &Dim) -> bool {
        let Dim::Symbol(poly) = dim else { return true };
        let whole = {
            let s = self.state.borrow();
            if s.dims.contains_key(dim) || s.shifted.contains_key(dim) {
                Some(true)
            } else {
                s.either.get(dim).cloned().map(|_| false)
            }
        };
        match whole {
            Some(true) => true,
            Some(false) => {
                let pair = self.state.borrow().either.get(dim).cloned();
                pair.is_some_and(|(a, b)| self.knows_dim(&a) && self.knows_dim(&b))
            }
            None => poly.terms().all(|(symbols, _)| {
                symbols.iter().all(|symbol| {
                    let symbol = Dim::symbol(symbol);
                    symbol != *dim && self.knows_dim(&symbol)
                })
            }),
        }
    }

    fn push<'g>(&'g self, mut node: Node, names: &[Option<String>], facts: Vec<Fact>) -> Vec<Option<Val<'g>>> {
        let mut s = self.state.borrow_mut();
        let id = NodeId(s.graph.nodes.len() as u32);
        let ids: Vec<Option<ValueId>> = names
            .iter()
            .zip(facts)
            .map(|(name, fact)| {
                let name = name.clone()?;
                s.names.insert(name.clone());
                Some(s.add_value(name, fact, None, Some(id)))
            })
            .collect();
        node.outputs = ids.clone();
        s.names.insert(node.name.clone());
        s.own_bodies(&mut node);
        for &captured in &node.captures {
            s.captured_by.entry(captured).or_default().push(id);
        }
        s.graph.nodes.push(node);
        drop(s);
        ids.into_iter().map(|id| id.map(|id| self.val(id))).collect()
    }

    /// Copies a node's `metadata_props` to the node that computes `val`.
    pub fn set_metadata(&self, val: Val<'_>, metadata: &[(String, String)]) {
        let mut s = self.state.borrow_mut();
        if let Some(producer) = s.graph.value(val.id()).producer {
            s.graph.nodes[producer.0 as usize].metadata = metadata.to_vec();
        }
    }

    /// Makes `val` a graph output called `name`, with a numeric suffix if that exists; gives the name it got. A value
    /// that has a name of its own (an input, a tensor of the imported graph) keeps it and is copied.
    pub fn output(&self, val: Val<'_>, name: &str) -> String {
        let mut s = self.state.borrow_mut();
        let value = s.graph.value(val.id());
        let taken = s.outputs.contains(&val.id());
        if value.name == name && !taken {
            s.add_output(val.id());
            return name.to_string();
        }
        let producer = value.producer;
        let named = producer.is_none() || val.id().0 < s.named;
        let fact = value.fact.clone();
        let name = s.fresh(name);
        if !taken && !named {
            let old = s.rename(val.id(), &name);
            // A value made here shares its name with no node but its own.
            if producer.is_none_or(|node| s.graph.node(node).name != old) {
                s.names.remove(&old);
            }
            s.add_output(val.id());
            return name;
        }
        let node_name = s.fresh(&format!("{name}/Identity"));
        let node = Node { name: node_name, op: "Identity".into(), inputs: vec![Some(val.id())], ..Node::default() };
        drop(s);
        if let Some(Some(copy)) = self.push(node, &[Some(name.clone())], vec![fact]).pop() {
            self.state.borrow_mut().add_output(copy.id());
        }
        name
    }

    /// Whether no value and no node has that name.
    pub fn is_free(&self, name: &str) -> bool {
        !self.state.borrow().names.contains(name)
    }

    /// A copy of a value as a variable of its own, which no rewrite looks through.
    pub fn copy<'g>(&'g self, val: Val<'g>, name: &str) -> Val<'g> {
        let name = self.fresh_name(name);
        let node = Node { name: name.clone(), op: "Identity".into(), inputs: vec![Some(val.id())], ..Node::default() };
        self.push(node, &[Some(name)], vec![val.fact()]).pop().flatten().unwrap_or(val)
    }

    /// Gives the value another name.
    pub fn rename(&self, val: Val<'_>, name: &str) {
        let mut s = self.state.borrow_mut();
        s.names.insert(name.to_string());
        s.rename(val.id(), name);
    }

    /// Says more of a value than its operator could. What a rewrite has put a negation outside of has that shape too.
    pub fn refine_fact(&self, val: Val<'_>, known: &Fact) {
        let mut s = self.state.borrow_mut();
        let (mut next, mut known) = (Some(val.id()), known.clone());
        // The shape of −v is that of v: a rewrite may have pulled the sign out of the node that `known` speaks of.
        while let Some(id) = next {
            let fact = refine(s.graph.value(id).fact.clone(), known.clone());
            for (axis, dim) in fact.shape.iter().flatten().enumerate() {
                if dim.fixed().is_none() {
                    s.stands_at(dim.clone(), id, axis);
                }
            }
            s.graph.value_mut(id).fact = fact;
            let producer = s.graph.value(id).producer.map(|node| s.graph.node(node));
            known.ints = None;
            next = producer.filter(|node| node.op == "Neg").and_then(|node| node.input(0));
        }
    }

    fn facts(&self, op: &str, inputs: &[Option<ValueId>], attrs: &Attrs, outputs: usize) -> Result<Vec<Fact>> {
        let s = self.state.borrow();
        let Some(known) = ops::lookup(op) else {
            return Err(Error::UnknownOperator { op: op.to_string() });
        };
        let label = format!("{}%{}", s.scope, s.graph.values.len());
        let cx = ops::FactCx::new(&s.graph, op, inputs, attrs, outputs, &label);
        let facts = (known.facts)(&cx).and_then(|facts| match facts.iter().find(|fact| !fact.is_possible()) {
            Some(fact) => Err(Fault::Size { fact: fact.to_string() }),
            None => Ok(facts),
        });
        let mut facts = facts.map_err(|fault| {
            let seen = inputs.iter().map(|id| match id {
                Some(id) => format!("{}: {}", s.graph.name_of(*id), s.graph.value(*id).fact),
                None => "-".to_string(),
            });
            Error::Operator { node: s.scope.clone(), op: op.to_string(), inputs: seen.collect(), fault }
        })?;
        let last = facts.last().cloned().unwrap_or(Fact::unknown(DType::F32));
        facts.resize(outputs, last);
        Ok(facts)
    }

    /// The outputs as constants, where all of them can be computed now.
    fn fold<'g>(&'g self, op: &str, inputs: &[Option<ValueId>], attrs: &Attrs, facts: &[Fact]) -> Option<Vec<Val<'g>>> {
        if let [fact] = facts
            && let Some(ints) = &fact.ints
            && let Some(values) = super::fixed(ints)
        {
            let shape: Vec<usize> = super::fixed(fact.shape.as_ref()?)?.iter().map(|&n| n as usize).collect();
            let tensor = Tensor::ints(&shape, &values);
            let tensor = if fact.dtype == DType::I64 {
                tensor
            } else {
                Tensor::from_f64(fact.dtype, &shape, values.iter().map(|&v| v as f64))
            };
            return Some(vec![self.constant(tensor)]);
        }
        if !ops::is_pure(op) || inputs.is_empty() {
            return None;
        }
        for fact in facts {
            let size = count(fact.shape.as_ref()?).fixed()?;
            if size as usize > FOLD_LIMIT {
                return None;
            }
        }
        let data: Vec<Option<Tensor>> = inputs
            .iter()
            .map(|id| match id {
                None => Some(None),
                Some(id) => self.constant_data(self.val(*id)).filter(|t| t.len() <= FOLD_LIMIT).map(Some),
            })
            .collect::<Option<_>>()?;
        let computed = crate::eval::fold(op, &data, attrs, facts)?;
        Some(computed.into_iter().map(|t| self.constant(t)).collect())
    }

    /// `dims` as a 1-D int64 value: a constant where they are fixed, else read from shapes at run time.
    pub fn shape_value<'g>(&'g self, dims: &[Dim]) -> Val<'g> {
        if let Some(values) = super::fixed(dims) {
            return self.ints(&values);
        }
        let mut parts: Vec<Val<'g>> = Vec::new();
        let mut at = 0;
        while at < dims.len() {
            let fixed: Vec<i64> = dims[at..].iter().map_while(Dim::fixed).collect();
            if !fixed.is_empty() {
                parts.push(self.ints(&fixed));
                at += fixed.len();
            } else if let Some((value, axis, run)) = self.dims_of_value(&dims[at..]) {
                parts.push(self.val(value).dims(axis, axis + run));
                at += run;
            } else {
                parts.push(self.dim_value(&dims[at]));
                at += 1;
            }
        }
        match parts.as_slice() {
            [one] => *one,
            _ => self.op("Concat", &parts, Attrs::new().with("axis", 0)),
        }
    }

    /// Where the longest run at the head of `dims` stands in some value's shape: `(value, axis, length)`.
    fn dims_of_value(&self, dims: &[Dim]) -> Option<(ValueId, usize, usize)> {
        let s = self.state.borrow();
        let &(value, axis) = s.dims.get(dims.first()?)?;
        let shape = s.graph.value(value).fact.shape.as_ref()?;
        let run = shape.get(axis..)?.iter().zip(dims).take_while(|(a, b)| a == b).count();
        (run > 0).then_some((value, axis, run))
    }

    /// Numpy's broadcast of two shapes, with dimensions that [`Builder::dim_value`] can compute.
    pub fn broadcast(&self, a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
        let shape = broadcast_named(a, b)?;
        let either = &mut self.state.borrow_mut().either;
        for ((x, y), made) in a.iter().rev().zip(b.iter().rev()).zip(shape.iter().rev()) {
            if made != x && made != y {
                either.entry(made.clone()).or_insert_with(|| (x.clone(), y.clone()));
            }
        }
        Some(shape)
    }

    /// A symbol that stands in some value's shape or is the broadcast of two that do.
    fn symbol_value<'g>(&'g self, dim: &Dim) -> Option<Val<'g>> {
        if let Some((value, axis, _)) = self.dims_of_value(std::slice::from_ref(dim)) {
            return Some(self.val(value).dims(axis, axis + 1));
        }
        let shifted = self.state.borrow().shifted.get(dim).cloned();
        if let Some(whole) = shifted {
            let constant = whole.clone() - dim.clone();
            return Some(self.symbol_value(&whole)? - self.dim_value(&constant));
        }
        let (x, y) = self.state.borrow().either.get(dim).cloned()?;
        let (x, y) = (self.dim_value(&x), self.dim_value(&y));
        let out = x.equal(self.ints(&[1])).select(y, x);
        self.refine_fact(out, &Fact::new(DType::I64, [Dim::Fixed(1)]).with_ints(Some(vec![dim.clone()])));
        Some(out)
    }

    /// A dimension as an int64 value of shape `[1]`.
    pub fn dim_value<'g>(&'g self, dim: &Dim) -> Val<'g> {
        let poly = match dim {
            Dim::Fixed(n) => return self.ints(&[*n]),
            Dim::Symbol(poly) => poly.clone(),
        };
        if let Some(value) = self.symbol_value(dim) {
            return value;
        }
        let mut sum: Option<Val<'g>> = None;
        for (symbols, coefficient) in poly.terms() {
            let mut term = self.ints(&[coefficient]);
            for symbol in symbols {
                let dim = Dim::symbol(symbol);
                let Some(factor) = self.symbol_value(&dim) else {
                    self.fault(Error::UnknownDimension { dim: dim.to_string() });
                    return term;
                };
                term = if coefficient == 1 && self.constant_data(term).is_some() { factor } else { term * factor };
            }
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        sum.unwrap_or_else(|| self.ints(&[0]))
    }

    /// A dimension as a rank-0 value of a float type.
    pub fn dim_scalar<'g>(&'g self, dim: &Dim, dtype: DType) -> Val<'g> {
        match dim {
            Dim::Fixed(n) => self.scalar(dtype, *n as f64),
            Dim::Symbol(_) => self.dim_value(dim).squeeze(&[0]).cast(dtype),
        }
    }

    /// A tensor of zeros.
    pub fn zeros<'g>(&'g self, dtype: DType, shape: &[Dim]) -> Val<'g> {
        self.scalar(dtype, 0.0).expand(shape)
    }

    /// `0, 1, … n−1` as int64.
    pub fn range<'g>(&'g self, n: &Dim) -> Val<'g> {
        match n.fixed() {
            Some(n) if n >= 0 && n as usize <= FOLD_LIMIT => self.ints(&(0..n).collect::<Vec<_>>()),
            _ => {
                let int = |v: i64| self.constant(Tensor::ints(&[], &[v]));
                self.op("Range", &[int(0), self.dim_value(n).squeeze(&[0]), int(1)], Attrs::new())
            }
        }
    }
}

/// Constants are named after what they hold, so that a graph reads well in a viewer.
fn constant_name(data: &Tensor) -> String {
    match (data.len(), data.to_i64()) {
        (1, Some(v)) => format!("const/{}", v[0]),
        (n, Some(v)) if n <= 8 => format!("const/{}", v.iter().map(i64::to_string).collect::<Vec<_>>().join("_")),
        (1, None) => format!("const/{}", data.to_f64().first().copied().unwrap_or_default()),
        _ => "const".to_string(),
    }
}

/// What both say; a symbol made up for lack of knowledge gives way to a declared dimension.
pub(crate) fn refine(own: Fact, declared: Fact) -> Fact {
    let shape = match (own.shape, declared.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => Some(
            a.into_iter()
                .zip(b)
                .map(|(a, b)| match (&a, &b) {
                    (Dim::Fixed(_), _) => a,
                    (Dim::Symbol(_), Dim::Fixed(_)) => b,
                    (Dim::Symbol(p), Dim::Symbol(_))
                        if p.terms().any(|(m, _)| m.iter().any(|s| s.starts_with('?'))) =>
                    {
                        b
                    }
                    _ => a,
                })
                .collect(),
        ),
        (Some(a), _) => Some(a),
        (None, b) => b,
    };
    Fact { dtype: own.dtype, shape, ints: own.ints.or(declared.ints) }
}
