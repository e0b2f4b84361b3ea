//! The derivative of Loop and Scan: Scans over what the forward node hands out of each round.

use super::Repeat;
use super::cut::{self, Cut};
use crate::ad::{Linearised, Tan, Tape, linearise};
use crate::error::{Error, Result};
use crate::ir::{Attrs, Builder, Dim, Fact, Graph, NodeId, Val, ValueId};
use crate::linear::{Cotangent, with_lead};
use crate::lower;
use crate::ops::{Cx, Fault};
use std::sync::Arc;

/// The derivative of one node. Its inputs are the states, the sequences, and what the body captures, in this order; its
/// outputs are the states and the stacks.
#[derive(Clone)]
pub struct RoundMap<'g> {
    b: &'g Builder,
    node: NodeId,
    /// Which inputs have tangents; states that get one on the way have it too.
    active: Active,
}

#[derive(Clone)]
struct Active {
    states: Vec<bool>,
    slices: Vec<bool>,
    captures: Vec<bool>,
    stacks: Vec<bool>,
}

/// A body in a builder of its own, with what is differentiated.
struct Inner {
    repeat: Repeat,
    of: Vec<ValueId>,
    wrt: Vec<ValueId>,
}

/// What a new Scan is made of, by the values of the graph that its body is cut from.
#[derive(Default)]
struct Parts<'g> {
    /// Input, output, and what it starts with.
    states: Vec<(ValueId, ValueId, Val<'g>)>,
    /// Input, and the sequence.
    slices: Vec<(ValueId, Sequence<'g>)>,
    /// What is stacked, the axis, and whether it grows from its end.
    stacks: Vec<(ValueId, usize, bool)>,
}

/// The tangents of all outputs of a Loop or Scan.
pub(crate) fn tangents<'g>(c: &Cx<'g>) -> Vec<Tan<'g>> {
    let none = || vec![c.zero(); c.outputs()];
    let Some(node) = c.node() else { return none() };
    let repeat = match Repeat::of(c.op(), c.attrs(), c.arity()) {
        Ok(repeat) => repeat,
        Err(fault) => {
            c.fault(fault);
            return none();
        }
    };
    let (states, slices) = (repeat.states, repeat.slices);
    let tangents: Vec<Tan> = (0..states + slices)
        .map(|k| c.dx(repeat.before + k))
        .chain((0..c.captures().len()).map(|k| c.d_captured(k)))
        .collect();
    let flag = |range: std::ops::Range<usize>| -> Vec<bool> { tangents[range].iter().map(|t| !t.is_zero()).collect() };
    let mut active = Active {
        states: flag(0..states),
        slices: flag(states..states + slices),
        captures: flag(states + slices..tangents.len()),
        stacks: Vec::new(),
    };
    active.spread(&repeat, &c.captured_names());
    if let Some(reason) = active.changing_shape(c, &repeat) {
        c.blocked(&reason);
        return none();
    }
    let map = RoundMap { b: c.b, node, active };
    let zero = match map.inner(&repeat).and_then(|inner| inner.zeros()) {
        Ok(zero) => zero,
        Err(Error::NotDifferentiable { nodes }) => {
            nodes.into_iter().for_each(|node| c.block(node));
            return none();
        }
        Err(error) => {
            c.b.fault(error);
            return none();
        }
    };
    let active_outputs: Vec<bool> = map.active.states.iter().chain(&map.active.stacks).copied().collect();
    let mut zero = zero.into_iter();
    let outputs: Vec<Option<Val>> = active_outputs
        .iter()
        .enumerate()
        .map(|(k, &active)| {
            let is_zero = active && zero.next().unwrap_or(true);
            // A state goes round: what is zero after one round need not be at the end.
            let there = active && (k < states || !is_zero);
            there.then(|| c.maybe_out(k)).flatten()
        })
        .collect();
    c.joint(super::Joint::Rounds(map), &tangents, &outputs)
}

impl Active {
    /// Adds the states and stacks that tangents reach.
    fn spread(&mut self, repeat: &Repeat, captured: &[String]) {
        let body = &repeat.body;
        let float = |id: ValueId| body.value(id).fact.dtype.is_float();
        loop {
            let reached = body.descendants(&self.sources(repeat, captured));
            let grown: Vec<bool> = (0..repeat.states)
                .map(|k| self.states[k] || (reached.contains(&repeat.next(k)) && float(repeat.state(k))))
                .collect();
            if grown == self.states {
                let stack = |k: usize| reached.contains(&repeat.stacked(k)) && float(repeat.stacked(k));
                self.stacks = (0..repeat.stacks()).map(stack).collect();
                return;
            }
            self.states = grown;
        }
    }

    /// The body's values that have tangents to begin with: states, slices, what is captured.
    fn sources(&self, repeat: &Repeat, captured: &[String]) -> Vec<ValueId> {
        let chosen = |flags: &[bool]| flags.iter().enumerate().filter(|f| *f.1).map(|f| f.0).collect::<Vec<usize>>();
        let states = chosen(&self.states).into_iter().map(|k| repeat.state(k));
        let slices = chosen(&self.slices).into_iter().map(|k| repeat.slice(k));
        let open = repeat.body.captured();
        let name = |name: &String| open.iter().copied().find(|&id| repeat.body.name_of(id) == *name);
        let captures = chosen(&self.captures).into_iter().filter_map(|k| name(captured.get(k)?));
        states.chain(slices).chain(captures).collect()
    }

    /// Why there is no derivative, if a state with a tangent does not keep its shape.
    fn changing_shape(&self, c: &Cx, repeat: &Repeat) -> Option<String> {
        let body = &repeat.body;
        let changes = |k: &usize| {
            let shape = |id: ValueId| body.value(id).fact.shape.clone();
            let initial = c.x(repeat.before + k).fact().shape;
            let (before, after) = (shape(repeat.state(*k)), shape(repeat.next(*k)));
            !repeat.is_loop() && initial.is_none()
                || repeat.is_loop() && !(same_shape(&before, &after) && same_shape(&before, &initial))
        };
        let k = (0..repeat.states).filter(|&k| self.states[k]).find(changes)?;
        let name = body.name_of(repeat.state(k));
        Some(format!("its loop-carried value {name:?} is not known to keep its shape from one round to the next"))
    }
}

impl Inner {
    /// Which of the values differentiated have no tangent after one round.
    fn zeros(&self) -> Result<Vec<bool>> {
        let inner = Builder::of((*self.repeat.body).clone());
        let tape = Tape::new(&inner);
        let lin = self.linearise(&tape)?;
        Ok(lin.of.iter().map(|t| t.is_zero()).collect())
    }

    fn linearise<'i>(&self, tape: &'i Tape<'i>) -> Result<Linearised<'i>> {
        let vals = |ids: &[ValueId]| -> Vec<Val<'i>> { ids.iter().map(|&id| tape.builder.val(id)).collect() };
        linearise(tape, &vals(&self.of), &vals(&self.wrt))
    }
}

impl<'g> RoundMap<'g> {
    fn captured_names(&self) -> Vec<String> {
        self.b.read(|g| g.node(self.node).captures.iter().map(|&id| g.name_of(id).to_string()).collect())
    }

    fn repeat(&self) -> Result<Repeat, Fault> {
        let (op, attrs, arity) = self.b.read(|g| {
            let node = g.node(self.node);
            (node.op.clone(), node.attrs.clone(), node.inputs.len())
        });
        Repeat::of(&op, &attrs, arity)
    }

    /// The body with composites lowered, and what is differentiated in it.
    fn inner(&self, repeat: &Repeat) -> Result<Inner> {
        let names = self.captured_names();
        let of = |repeat: &Repeat| -> Vec<ValueId> {
            let states = (0..repeat.states).filter(|&k| self.active.states[k]).map(|k| repeat.next(k));
            let stacks = self.active.stacks.iter().enumerate().filter(|s| *s.1).map(|(k, _)| repeat.stacked(k));
            states.chain(stacks).collect()
        };
        let wrt = |repeat: &Repeat| self.active.sources(repeat, &names);
        let body = lower::on_path(&repeat.body, &of(repeat), &wrt(repeat))?;
        let repeat = Repeat { body: Arc::new(body), ..repeat.clone() };
        Ok(Inner { of: of(&repeat), wrt: wrt(&repeat), repeat })
    }

    /// The inner values of the inputs that have tangents, and which input of the node each is.
    fn places(&self) -> Vec<usize> {
        let Active { states, slices, captures, .. } = &self.active;
        let all = states.iter().chain(slices).chain(captures).enumerate();
        all.filter(|(_, active)| **active).map(|(place, _)| place).collect()
    }

    /// Values outside that the map's inputs are the tangents of.
    fn outer_inputs(&self, repeat: &Repeat) -> Vec<Val<'g>> {
        self.b
            .read(|g| {
                let node = g.node(self.node);
                let own = node.inputs.iter().skip(repeat.before).flatten();
                own.chain(&node.captures).copied().collect::<Vec<_>>()
            })
            .into_iter()
            .map(|id| self.b.val(id))
            .collect()
    }

    /// Runs `f` on the node's body and gives zeros where it failed.
    fn with_inner<T>(&self, outputs: usize, f: impl FnOnce(Inner) -> Result<Vec<Option<T>>>) -> Vec<Option<T>> {
        let repeat = self.repeat().map_err(|fault| {
            let (node, op) = self.b.read(|g| (g.node(self.node).name.clone(), g.node(self.node).op.clone()));
            Error::Operator { node, op, inputs: Vec::new(), fault }
        });
        repeat.and_then(|repeat| self.inner(&repeat)).and_then(f).unwrap_or_else(|error| {
            self.b.fault(error);
            (0..outputs).map(|_| None).collect()
        })
    }

    pub(super) fn emit(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        let outputs = self.active.states.len() + self.active.stacks.len();
        self.with_inner(outputs, |inner| self.push(&inner, tangents, lead))
    }

    /// `dc' = A dc + B dx + C dw`, `dy = D dc + E dx + F dw` in each round.
    fn push(&self, inner: &Inner, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Result<Vec<Option<Val<'g>>>> {
        let repeat = &inner.repeat;
        let skip = usize::from(lead.is_some());
        let made = Builder::of((*repeat.body).clone());
        let original = made.read(|g| g.values.len()) as u32;
        made.scope(&self.b.current_scope());
        let tape = Tape::new(&made);
        let lin = inner.linearise(&tape)?;
        let outer = self.outer_inputs(repeat);
        let mut parts = Parts::default();
        let mut given: Vec<Option<Val>> = Vec::new();
        for (&place, &id) in self.places().iter().zip(&inner.wrt) {
            let value = made.val(id);
            let whole = outer[place].shape();
            let tangent = tangents.get(place).copied().flatten().map(|t| t.expand(&with_lead(&whole, lead)));
            let fact = Fact::new(value.dtype(), with_lead(&value.shape(), lead));
            let name = format!("{}.tangent", value.name());
            given.push(if place < repeat.states {
                let start = tangent.unwrap_or_else(|| self.b.zeros(value.dtype(), &with_lead(&whole, lead)));
                let input = made.input(&name, fact, None);
                parts.states.push((input.id(), input.id(), start));
                Some(input)
            } else if let Some(t) = tangent {
                Some(if place < repeat.states + repeat.slices {
                    let k = place - repeat.states;
                    let input = made.input(&name, fact, None);
                    let axis = repeat.slice_axis(k, whole.len()).unwrap_or(0);
                    let reversed = repeat.slice_reversed(k);
                    parts.slices.push((input.id(), Sequence { value: t, axis: axis + skip, reversed }));
                    input
                } else {
                    made.captured(&t.name(), fact)
                })
            } else {
                None
            });
        }
        let pushed = lin.jvp(&given, lead);
        let mut pushed = inner.of.iter().zip(pushed).map(|(&id, t)| {
            let value = made.val(id);
            let shape = with_lead(&value.shape(), lead);
            (value, t.map(|t| t.expand(&shape)), shape)
        });
        for (state, (value, t, shape)) in parts.states.iter_mut().zip(pushed.by_ref()) {
            state.1 = t.unwrap_or_else(|| made.zeros(value.dtype(), &shape)).id();
        }
        let stacks: Vec<usize> = chosen(&self.active.stacks);
        let mut there = Vec::new();
        for (&k, (value, t, _)) in stacks.iter().zip(pushed) {
            if let Some(t) = t {
                let axis = repeat.stack_axis(k, value.rank() + 1).unwrap_or(0);
                parts.stacks.push((t.id(), axis + skip, repeat.stack_reversed(k)));
                there.push(k);
            }
        }
        let outputs = self.scan(repeat, &made.finish()?, original, parts, false);
        let mut result = vec![None; self.active.states.len() + self.active.stacks.len()];
        let states = chosen(&self.active.states).into_iter();
        let places = states.chain(there.into_iter().map(|k| self.active.states.len() + k));
        places.zip(outputs).for_each(|(place, val)| result[place] = Some(val));
        Ok(result)
    }

    pub(super) fn transpose(
        &self,
        cotangents: &[Option<Cotangent<'g>>],
        lead: Option<&Dim>,
    ) -> Vec<Option<Cotangent<'g>>> {
        let Active { states, slices, captures, .. } = &self.active;
        self.with_inner(states.len() + slices.len() + captures.len(), |inner| self.pull(&inner, cotangents, lead))
    }

    /// `c̄ = Aᵀ c̄' + Dᵀ ȳ`, `x̄ = Bᵀ c̄' + Eᵀ ȳ`, `w̄ += Cᵀ c̄' + Fᵀ ȳ` in each round, from the last to the first.
    fn pull(
        &self,
        inner: &Inner,
        cotangents: &[Option<Cotangent<'g>>],
        lead: Option<&Dim>,
    ) -> Result<Vec<Option<Cotangent<'g>>>> {
        let repeat = &inner.repeat;
        let skip = usize::from(lead.is_some());
        let made = Builder::of((*repeat.body).clone());
        let original = made.read(|g| g.values.len()) as u32;
        made.scope(&self.b.current_scope());
        let tape = Tape::new(&made);
        let lin = inner.linearise(&tape)?;
        let outer = self.outer_inputs(repeat);
        let mut parts = Parts::default();
        let mut given: Vec<Option<Cotangent>> = Vec::new();
        let (states, stacks) = (chosen(&self.active.states), chosen(&self.active.stacks));
        let cotangent = |place: usize| cotangents.get(place).cloned().flatten().map(|ct| ct.materialise());
        let input = |id: ValueId| {
            let value = made.val(id);
            let fact = Fact::new(value.dtype(), with_lead(&value.shape(), lead));
            made.input(&format!("{}.cotangent", value.name()), fact, None)
        };
        for (&k, &id) in states.iter().zip(&inner.of) {
            let whole = with_lead(&outer[k].shape(), lead);
            let start = cotangent(k).unwrap_or_else(|| self.b.zeros(outer[k].dtype(), &whole));
            let val = input(id);
            parts.states.push((val.id(), val.id(), start));
            given.push(Some(Cotangent::new(val)));
        }
        for (&k, &id) in stacks.iter().zip(&inner.of[states.len()..]) {
            given.push(cotangent(repeat.states + k).map(|ct| {
                let val = input(id);
                let axis = repeat.stack_axis(k, made.val(id).rank() + 1).unwrap_or(0);
                let reversed = !repeat.stack_reversed(k);
                parts.slices.push((val.id(), Sequence { value: ct, axis: axis + skip, reversed }));
                Cotangent::new(val)
            }));
        }
        let pulled = lin.vjp(&given, lead);
        let places = self.places();
        let mut slices = Vec::new();
        let mut sums = Vec::new();
        for ((&place, &id), ct) in places.iter().zip(&inner.wrt).zip(pulled) {
            let value = made.val(id);
            let shape = with_lead(&value.shape(), lead);
            let ct = ct.map(|ct| Cotangent { shape: shape.clone(), ..ct }.materialise());
            if place < repeat.states {
                let at = states.iter().position(|&k| k == place).unwrap_or(0);
                parts.states[at].1 = ct.unwrap_or_else(|| made.zeros(value.dtype(), &shape)).id();
            } else if let Some(ct) = ct.filter(|_| place < repeat.states + repeat.slices) {
                let k = place - repeat.states;
                let axis = repeat.slice_axis(k, value.rank() + 1).unwrap_or(0);
                parts.stacks.push((ct.id(), axis + skip, !repeat.slice_reversed(k)));
                slices.push(place);
            } else if let Some(ct) = ct {
                let sum = made.input(&format!("{}.sum", value.name()), Fact::new(value.dtype(), shape), None);
                let zeros = self.b.zeros(value.dtype(), &with_lead(&outer[place].shape(), lead));
                parts.states.push((sum.id(), (sum + ct).id(), zeros));
                sums.push(place);
            }
        }
        let outputs = self.scan(repeat, &made.finish()?, original, parts, true);
        let mut result = vec![None; outer.len()];
        let order = states.into_iter().chain(sums).chain(slices);
        order.zip(outputs).for_each(|(place, val)| result[place] = Some(Cotangent::new(val)));
        Ok(result)
    }

    /// The Scan of these parts, cut out of `graph`; its states, then its stacks.
    fn scan(&self, repeat: &Repeat, graph: &Graph, original: u32, parts: Parts<'g>, backwards: bool) -> Vec<Val<'g>> {
        let b = self.b;
        let states = parts.states.iter().map(|s| s.0);
        let inputs: Vec<ValueId> = states.chain(parts.slices.iter().map(|s| s.0)).collect();
        let outputs: Vec<ValueId> = parts.states.iter().map(|s| s.1).chain(parts.stacks.iter().map(|s| s.0)).collect();
        let mut cut = Cut::new(b, graph, original, &inputs);
        let mut rounds = cut.settle(&outputs);
        if parts.slices.is_empty() && rounds.is_empty() {
            // Something has to come in for as many rounds as there were.
            rounds.push(if repeat.is_loop() { repeat.body.inputs[0] } else { repeat.slice(0) });
        }
        let body = cut.body(&rounds, &outputs);
        let sequence = |id: &ValueId| (0..repeat.slices).find(|&k| repeat.slice(k) == *id);
        let handed: Vec<ValueId> = rounds.iter().copied().filter(|id| sequence(id).is_none()).collect();
        let mut handed = cut::stacks(b, self.node, repeat, &handed).into_iter();
        let outer = self.outer_inputs(repeat);
        let mut sequences: Vec<Sequence> = parts.slices.iter().map(|s| s.1).collect();
        for id in &rounds {
            match sequence(id) {
                Some(k) => {
                    let value = outer[repeat.states + k];
                    let axis = repeat.slice_axis(k, value.rank()).unwrap_or(0);
                    sequences.push(Sequence { value, axis, reversed: repeat.slice_reversed(k) != backwards });
                }
                None => sequences.extend(handed.next().map(|value| Sequence { value, axis: 0, reversed: backwards })),
            }
        }
        let stacks: Vec<(usize, bool)> = parts.stacks.iter().map(|s| (s.1, s.2)).collect();
        let starts: Vec<Val> = parts.states.iter().map(|s| s.2).collect();
        scan(b, body, &starts, &sequences, &stacks)
    }
}

/// A sequence of which a slice comes in each round.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'g> {
    pub value: Val<'g>,
    /// The axis along which it is cut.
    pub axis: usize,
    /// Whether from its end.
    pub reversed: bool,
}

/// The Scan with that body. `stacks`: along which axis each grows, and whether from its end.
pub(crate) fn scan<'g>(
    b: &'g Builder,
    body: Graph,
    starts: &[Val<'g>],
    sequences: &[Sequence<'g>],
    stacks: &[(usize, bool)],
) -> Vec<Val<'g>> {
    let mut attrs = Attrs::new().with("num_scan_inputs", sequences.len() as i64).with("body", body);
    let mut list = |name: &str, values: Vec<i64>| {
        if values.iter().any(|&v| v != 0) {
            attrs.insert(name, values.into());
        }
    };
    list("scan_input_axes", sequences.iter().map(|s| s.axis as i64).collect());
    list("scan_input_directions", sequences.iter().map(|s| i64::from(s.reversed)).collect());
    list("scan_output_axes", stacks.iter().map(|s| s.0 as i64).collect());
    list("scan_output_directions", stacks.iter().map(|s| i64::from(s.1)).collect());
    let inputs: Vec<Option<Val>> = starts.iter().copied().chain(sequences.iter().map(|s| s.value)).map(Some).collect();
    b.node("Scan", &inputs, attrs, starts.len() + stacks.len())
}

/// The places of what is set.
fn chosen(flags: &[bool]) -> Vec<usize> {
    flags.iter().enumerate().filter(|f| *f.1).map(|f| f.0).collect()
}

/// Whether two shapes are known and agree. A size may be known on one side only, where the other gives it a name.
fn same_shape(a: &Option<Vec<Dim>>, b: &Option<Vec<Dim>>) -> bool {
    let named = |d: &Dim| d.as_symbol().is_some_and(|s| !s.starts_with('?'));
    let same = |(a, b): (&Dim, &Dim)| a == b || (a.fixed().is_some() && named(b)) || (named(a) && b.fixed().is_some());
    matches!((a, b), (Some(a), Some(b)) if a.len() == b.len() && a.iter().zip(b).all(same))
}
