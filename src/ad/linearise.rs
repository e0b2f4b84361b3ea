//! From nodes to linear maps, and the two ways through them.

use super::{Kind, Tan, TanNode, Tape};
use crate::error::{Error, Result, Unsupported};
use crate::ir::{Dim, Node, Val, ValueId, same_or_one};
use crate::linear::Cotangent;
use crate::ops::{self, Cx, Tangent};
use foldhash::{HashMap, HashSet};
use std::collections::BTreeSet;
use std::rc::Rc;

/// The derivative of some values in others, as linear maps on a tape.
pub struct Linearised<'g> {
    tape: &'g Tape<'g>,
    /// The tangents of what is differentiated.
    pub of: Vec<Tan<'g>>,
    sources: usize,
    /// Where the tangent of each value stands on the tape.
    places: HashMap<ValueId, usize>,
}

/// Linearises the nodes on a path from `wrt` to `of`, each operator by its own rule.
pub fn linearise<'g>(tape: &'g Tape<'g>, of: &[Val<'g>], wrt: &[Val<'g>]) -> Result<Linearised<'g>> {
    let b = tape.builder;
    let of_ids: Vec<ValueId> = of.iter().map(|v| v.id()).collect();
    let wrt_ids: Vec<ValueId> = wrt.iter().map(|v| v.id()).collect();
    let path: Vec<_> = b.read(|g| {
        let (above, below) = (g.ancestors(&of_ids), g.descendants(&wrt_ids));
        g.nodes
            .iter()
            .filter(|n| n.outputs.iter().flatten().any(|o| above.contains(o) && below.contains(o)))
            .cloned()
            .collect()
    });
    let mut walk = Walk { tape, tangents: HashMap::default(), variables: wrt_ids.into_iter().collect() };
    for (k, &value) in wrt.iter().enumerate() {
        if value.dtype().is_float() {
            walk.note(value.id(), tape.source(k, value));
        }
    }
    let scope = b.current_scope();
    // The first fault is the cause of those after it.
    path.iter().take_while(|_| !b.has_fault()).for_each(|node| walk.node(node));
    b.scope(&scope);
    let unsupported = tape.take_blocked();
    if !unsupported.is_empty() {
        return Err(Error::NotDifferentiable { nodes: unsupported });
    }
    b.check()?;
    let of = of.iter().map(|v| walk.tangents.get(&v.id()).copied().unwrap_or(tape.zero())).collect();
    let places = walk.tangents.into_iter().filter_map(|(id, t)| Some((id, t.id()?))).collect();
    Ok(Linearised { tape, of, sources: wrt.len(), places })
}

/// The tangent of `of` from those of the values it is computed from. What it reads besides has no tangent, but for what
/// rewrites found behind these values.
pub(crate) fn tangent_of<'g>(tape: &'g Tape<'g>, of: Val<'g>, mut known: HashMap<ValueId, Tan<'g>>) -> Tan<'g> {
    let b = tape.builder;
    let path = between(tape, of.id(), &mut known);
    let mut walk = Walk { tape, variables: known.keys().copied().collect(), tangents: known };
    let scopes = (b.current_scope(), tape.scope());
    path.iter().for_each(|node| walk.node(node));
    b.scope(&scopes.0);
    tape.set_scope(&scopes.1);
    walk.tangents.get(&of.id()).copied().unwrap_or(tape.zero())
}

/// The nodes between `known` values and `of`, in order, as far as reals go: integers carry no tangents. Values met whose
/// tangents the tape has become known.
fn between<'g>(tape: &Tape<'g>, of: ValueId, known: &mut HashMap<ValueId, Tan<'g>>) -> Vec<Node> {
    tape.builder.read(|g| {
        let (mut seen, mut nodes, mut next) = (HashSet::default(), BTreeSet::new(), vec![of]);
        while let Some(id) = next.pop() {
            if known.contains_key(&id) || !seen.insert(id) || !g.value(id).fact.dtype.is_float() {
                continue;
            }
            if let Some(tangent) = tape.known(id) {
                known.insert(id, tangent);
                continue;
            }
            if let Some(producer) = g.value(id).producer
                && nodes.insert(producer)
            {
                next.extend(g.node(producer).reads());
            }
        }
        nodes.into_iter().map(|id| g.node(id).clone()).collect()
    })
}

/// Tangents on their way through a graph.
struct Walk<'g> {
    tape: &'g Tape<'g>,
    tangents: HashMap<ValueId, Tan<'g>>,
    /// Values that are variables of their own: no node says what their tangents are.
    variables: HashSet<ValueId>,
}

impl<'g> Walk<'g> {
    /// The tangents of a node's outputs.
    fn node(&mut self, node: &Node) {
        let (tape, b) = (self.tape, self.tape.builder);
        let captures = node.captures.iter().copied().map(Some);
        let read = node.inputs.iter().copied().chain(captures);
        let dx: Vec<Tan<'g>> =
            read.map(|id| id.and_then(|id| self.tangents.get(&id).copied()).unwrap_or(tape.zero())).collect();
        if dx.iter().all(|t| t.is_zero()) {
            return;
        }
        let known = if node.domain.is_empty() { ops::lookup(&node.op) } else { None };
        let kind = match known.map(|op| op.tangent.of(&node.attrs)) {
            Some(Tangent::Zero) => return,
            Some(Tangent::Blocked(reason)) => return self.block(node, reason),
            Some(Tangent::Select(_)) | None => return self.block(node, "there is no rule for this operator"),
            Some(kind) => kind,
        };
        let rounded = self.stands_for_rounded(node, kind);
        // A rule asks for shapes: a rank that is not known is a fault before it does.
        let ranks = |id: &ValueId| b.val(*id).shape();
        node.inputs.iter().flatten().filter(|id| self.tangents.contains_key(id)).for_each(|id| drop(ranks(id)));
        self.carrying(node, rounded).iter().for_each(|(_, out)| drop(ranks(&out.id())));
        if b.has_fault() {
            return;
        }
        tape.set_scope(&node.name);
        b.scope(&format!("{}.linear", node.name));
        let mut together: Option<Vec<Tan<'g>>> = None;
        for (k, out) in self.carrying(node, rounded) {
            let cx = Cx::new(b, tape, node.clone(), dx.clone(), k);
            let before = tape.len();
            let t = match kind {
                Tangent::Rule(rule) | Tangent::StraightThrough(rule) => rule(&cx),
                Tangent::Joint(rule) => {
                    together.get_or_insert_with(|| rule(&cx)).get(k).copied().unwrap_or(tape.zero())
                }
                Tangent::Lower(lower) => cx.through(&lower(&cx)),
                _ => tape.zero(),
            };
            if rounded && (before..tape.len()).any(|id| tape.node(id).by_integer()) {
                return self.block(node, "it multiplies integers that stand for rounded numbers");
            }
            if !t.is_zero() {
                self.note(out.id(), t.expand(&out.shape()));
            }
        }
    }

    fn note(&mut self, value: ValueId, tangent: Tan<'g>) {
        self.tangents.insert(value, tangent);
        self.tape.note(value, tangent);
    }

    /// Whether a node's integers stand for rounded numbers: it rounds, or what it reads does and carries a tangent.
    fn stands_for_rounded(&self, node: &Node, kind: Tangent) -> bool {
        let b = self.tape.builder;
        let carries = |id: &ValueId| self.tangents.get(id).is_some_and(|t| !t.is_zero());
        let integer = |id: &ValueId| !b.val(*id).dtype().is_float() && carries(id);
        matches!(kind, Tangent::StraightThrough(_)) || node.inputs.iter().flatten().any(integer)
    }

    /// The outputs that have a tangent, with their places.
    fn carrying(&self, node: &Node, rounded: bool) -> Vec<(usize, Val<'g>)> {
        let outputs = node.outputs.iter().enumerate().filter_map(|(k, out)| Some((k, self.tape.builder.val((*out)?))));
        let carries = |v: &Val| (v.dtype().is_float() || rounded) && !self.variables.contains(&v.id());
        outputs.filter(|(_, out)| carries(out)).collect()
    }

    fn block(&self, node: &Node, reason: &str) {
        self.tape.block(Unsupported { node: node.name.clone(), op: node.op.clone(), reason: reason.to_string() });
    }
}

impl<'g> Linearised<'g> {
    /// Pushes tangents forward: `tangents[k]` belongs to the `k`-th `wrt`, `None` is zero. With `lead`, every tangent
    /// has that further first axis, and so has the result.
    pub fn jvp(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        let pushed = self.push(tangents, lead);
        self.of.iter().map(|t| t.id().and_then(|id| pushed[id])).collect()
    }

    /// The tangents at every place of the tape that some `of` needs.
    pub(super) fn push(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        let mut joint: HashMap<usize, Vec<Option<Val<'g>>>> = HashMap::default();
        self.walk("tangent", |pushed, id, node| match &node.kind {
            Kind::Source(k) => tangents.get(*k).copied().flatten(),
            Kind::Sum(x, y) => self.sum(pushed, (*x, *y), id, lead),
            Kind::Apply(map, x) => pushed[*x].map(|v| map.emit(v, &self.tape.node(*x).shape, &node.shape, lead)),
            Kind::Joint(map, inputs) => {
                let tangents: Vec<Option<Val<'g>>> = inputs.iter().map(|x| x.and_then(|x| pushed[x])).collect();
                if tangents.iter().any(Option::is_some) {
                    joint.insert(id, map.emit(&tangents, lead));
                }
                None
            }
            Kind::Part(of, k) => joint.get(of).and_then(|parts| parts.get(*k).copied().flatten()),
        })
    }

    /// A value for each place of the tape that some `of` needs, from those before it; nodes are named after the
    /// forward node and `what`.
    pub(super) fn walk(
        &self,
        what: &str,
        mut value: impl FnMut(&[Option<Val<'g>>], usize, &TanNode<'g>) -> Option<Val<'g>>,
    ) -> Vec<Option<Val<'g>>> {
        let b = self.tape.builder;
        let scope = b.current_scope();
        let needed = self.needed();
        let mut values: Vec<Option<Val<'g>>> = vec![None; self.tape.len()];
        for id in (0..self.tape.len()).filter(|&id| needed[id]) {
            let node = self.tape.node(id);
            b.scope(&format!("{}.{what}", node.scope));
            values[id] = value(&values, id, &node);
        }
        b.scope(&scope);
        values
    }

    /// The sum at place `id` of the values at two places.
    pub(super) fn sum(
        &self,
        values: &[Option<Val<'g>>],
        (x, y): (usize, usize),
        id: usize,
        lead: Option<&Dim>,
    ) -> Option<Val<'g>> {
        let shape = |at: usize| self.tape.node(at).shape.clone();
        match (values[x], values[y]) {
            (Some(v), Some(w)) => {
                let rank = shape(id).len();
                let align = |v: Val<'g>, at: usize| crate::linear::align(v, shape(at).len(), rank, lead);
                Some(align(v, x) + align(w, y))
            }
            (v, None) => v.map(|v| self.grown(v, x, id, lead)),
            (None, w) => w.map(|w| self.grown(w, y, id, lead)),
        }
    }

    /// The shape at a place of the tape.
    pub(super) fn shape(&self, id: usize) -> Vec<Dim> {
        self.tape.node(id).shape.clone()
    }

    /// A summand whose partner is zero still has the sum's shape.
    fn grown(&self, v: Val<'g>, from: usize, to: usize, lead: Option<&Dim>) -> Val<'g> {
        let (small, big) = (self.shape(from), self.shape(to));
        if small == big {
            return v;
        }
        let aligned = crate::linear::align(v, small.len(), big.len(), lead);
        aligned.expand(&crate::linear::with_lead(&big, lead))
    }

    /// Pulls cotangents back: `cotangents[k]` belongs to the `k`-th `of`, `None` is zero. One result for each `wrt`,
    /// `None` where it is structurally zero.
    pub fn vjp(&self, cotangents: &[Option<Cotangent<'g>>], lead: Option<&Dim>) -> Vec<Option<Cotangent<'g>>> {
        let b = self.tape.builder;
        let scope = b.current_scope();
        let mut pulled: Vec<Option<Cotangent<'g>>> = vec![None; self.tape.len()];
        let mut joint: HashMap<usize, Vec<Option<Cotangent<'g>>>> = HashMap::default();
        let mut result: Vec<Option<Cotangent<'g>>> = vec![None; self.sources];
        for (t, ct) in self.of.iter().zip(cotangents) {
            if let (Some(id), Some(ct)) = (t.id(), ct) {
                accumulate(&mut pulled[id], ct.clone().of_whole_rank());
            }
        }
        for id in (0..self.tape.len()).rev() {
            let node = self.tape.node(id);
            b.scope(&format!("{}.cotangent", node.scope));
            if let (Kind::Joint(map, inputs), Some(cotangents)) = (&node.kind, joint.remove(&id)) {
                for (input, ct) in inputs.iter().zip(map.transpose(&cotangents, lead)) {
                    if let (Some(input), Some(ct)) = (input, ct) {
                        accumulate(&mut pulled[*input], ct);
                    }
                }
            }
            let Some(ct) = pulled[id].take() else { continue };
            match &node.kind {
                Kind::Source(k) => accumulate(&mut result[*k], ct),
                Kind::Sum(x, y) => {
                    for part in [*x, *y] {
                        let shape = &self.tape.node(part).shape;
                        accumulate(&mut pulled[part], ct.clone().unbroadcast(shape, lead));
                    }
                }
                Kind::Apply(map, x) => {
                    let shape = &self.tape.node(*x).shape;
                    accumulate(&mut pulled[*x], map.transpose(ct, shape, lead));
                }
                Kind::Joint(..) => {}
                Kind::Part(of, k) => {
                    let parts = joint.entry(*of).or_default();
                    parts.resize(parts.len().max(k + 1), None);
                    accumulate(&mut parts[*k], ct);
                }
            }
        }
        b.scope(&scope);
        result
    }

    /// Which tape nodes some `of` needs.
    pub fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.tape.len()];
        for t in &self.of {
            if let Some(id) = t.id() {
                needed[id] = true;
            }
        }
        for id in (0..self.tape.len()).rev() {
            if !needed[id] {
                continue;
            }
            match &self.tape.node(id).kind {
                Kind::Source(_) => {}
                &Kind::Sum(x, y) => {
                    needed[x] = true;
                    needed[y] = true;
                }
                &Kind::Apply(_, x) | &Kind::Part(x, _) => needed[x] = true,
                Kind::Joint(_, inputs) => inputs.iter().copied().flatten().for_each(|x| needed[x] = true),
            }
        }
        needed
    }

    /// Where the tangent of a value stands on the tape; `None` if it has none.
    pub fn place_of(&self, value: ValueId) -> Option<usize> {
        self.places.get(&value).copied()
    }

    /// The whole tape, in order.
    pub fn tape_nodes(&self) -> Vec<Rc<TanNode<'g>>> {
        (0..self.tape.len()).map(|id| self.tape.node(id)).collect()
    }

    /// The linear maps on the way, with the names of the nodes they come from: for looking at a derivative's structure.
    pub fn maps(&self) -> Vec<Rc<TanNode<'g>>> {
        let needed = self.needed();
        (0..self.tape.len()).filter(|&id| needed[id]).map(|id| self.tape.node(id)).collect()
    }
}

fn accumulate<'g>(slot: &mut Option<Cotangent<'g>>, ct: Cotangent<'g>) {
    let sum = match slot.take() {
        None => ct,
        Some(sum) => Cotangent { value: sum.value + ct.value, shape: sum.shape },
    };
    // Which axes are delayed has to be known; a size that may or may not be 1 is settled now.
    let known = same_or_one(&sum.value.shape(), &sum.shape);
    *slot = Some(if known { sum } else { Cotangent { value: sum.materialise(), shape: sum.shape } });
}
