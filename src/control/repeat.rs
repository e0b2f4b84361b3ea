//! A body that runs again and again.

use super::outward::Outward;
use crate::ir::{Attrs, Dim, Fact, Graph, ValueId};
use crate::ops::{Array, EvalCx, FactCx, Fault};
use ndarray::{ArrayD, Axis};
use std::sync::Arc;

/// The interpreter gives up a Loop after so many rounds.
const ROUNDS_LIMIT: usize = 1 << 10;

/// `Loop` and `Scan` alike: states that go round, sequences of which a slice comes in each round, and what a round gives
/// besides, stacked.
#[derive(Clone)]
pub(crate) struct Repeat {
    pub body: Arc<Graph>,
    pub states: usize,
    /// None of a Loop.
    pub slices: usize,
    /// Inputs of node and body before the first state: a Loop's limit or counter, and its condition.
    pub before: usize,
    pub(super) attrs: Attrs,
}

impl Repeat {
    pub fn of(op: &str, attrs: &Attrs, arity: usize) -> Result<Repeat, Fault> {
        let missing = || Fault::Attribute { name: "body", found: "missing".into(), expected: "a graph".into() };
        let body = attrs.graph("body").cloned().ok_or_else(missing)?;
        let (before, slices) = match op {
            "Loop" => (2, 0),
            _ => (0, attrs.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0)),
        };
        let states = arity.saturating_sub(before).saturating_sub(slices);
        let repeat = Repeat { body, states, slices, before, attrs: attrs.clone() };
        let (inputs, outputs) = (before + states + slices, repeat.after() + states);
        if repeat.body.inputs.len() != inputs || repeat.body.outputs.len() < outputs {
            return Err(Fault::Shape {
                what: "inputs and outputs of the body",
                found: format!("{} and {}", repeat.body.inputs.len(), repeat.body.outputs.len()),
                expected: format!("{inputs} and at least {outputs}"),
            });
        }
        Ok(repeat)
    }

    pub fn is_loop(&self) -> bool {
        self.before > 0
    }

    /// Outputs of the body before the first state: a Loop's condition.
    fn after(&self) -> usize {
        self.before / 2
    }

    /// The body's input for state `k`.
    pub fn state(&self, k: usize) -> ValueId {
        self.body.inputs[self.before + k]
    }

    /// The body's input for the slice of sequence `k`.
    pub fn slice(&self, k: usize) -> ValueId {
        self.body.inputs[self.before + self.states + k]
    }

    /// What state `k` is in the next round.
    pub fn next(&self, k: usize) -> ValueId {
        self.body.outputs[self.after() + k]
    }

    pub fn stacks(&self) -> usize {
        self.body.outputs.len() - self.after() - self.states
    }

    /// What a round adds to stack `k`.
    pub fn stacked(&self, k: usize) -> ValueId {
        self.body.outputs[self.after() + self.states + k]
    }

    fn listed(&self, name: &str, k: usize) -> i64 {
        self.attrs.ints(name).and_then(|all| all.get(k).copied()).unwrap_or(0)
    }

    /// The axis of sequence `k`, of the given rank, along which it is cut.
    pub fn slice_axis(&self, k: usize, rank: usize) -> Result<usize, Fault> {
        crate::ops::from_front(self.listed("scan_input_axes", k), rank)
    }

    /// Whether sequence `k` is cut from its end.
    pub fn slice_reversed(&self, k: usize) -> bool {
        self.listed("scan_input_directions", k) != 0
    }

    /// The axis of stack `k`, of the given rank, along which it grows.
    pub fn stack_axis(&self, k: usize, rank: usize) -> Result<usize, Fault> {
        crate::ops::from_front(self.listed("scan_output_axes", k), rank)
    }

    /// Whether stack `k` grows from its end.
    pub fn stack_reversed(&self, k: usize) -> bool {
        self.listed("scan_output_directions", k) != 0
    }

    pub fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
        let repeat = Repeat::of(c.op, c.attrs, c.arity())?;
        let outward = Outward::of(c, &[&repeat.body]);
        let rounds = repeat.rounds(c)?;
        let mut facts = Vec::new();
        for k in 0..repeat.states {
            let initial = Fact { ints: None, ..c.input(repeat.before + k)?.clone() };
            let next = outward.fact(&repeat.body, repeat.next(k), k);
            facts.push(match &initial.shape {
                // The states of a Scan keep their shapes.
                Some(_) if !repeat.is_loop() => initial,
                None if !repeat.is_loop() => next,
                _ => outward.either(&initial, &next, k),
            });
        }
        for k in 0..repeat.stacks() {
            let mut fact = outward.fact(&repeat.body, repeat.stacked(k), repeat.states + k);
            if let Some(shape) = &mut fact.shape {
                shape.insert(repeat.stack_axis(k, shape.len() + 1)?, rounds.clone());
            }
            facts.push(fact);
        }
        Ok(facts)
    }

    /// How often the body runs.
    fn rounds(&self, c: &FactCx) -> Result<Dim, Fault> {
        for k in 0..self.slices {
            if let Some(shape) = &c.input(self.before + self.states + k)?.shape {
                return Ok(shape[self.slice_axis(k, shape.len())?].clone());
            }
        }
        let unending = || {
            let next = self.body.outputs[0];
            let passed =
                Some(&next) == self.body.inputs.get(1) || self.copies(next) == self.body.inputs.get(1).copied();
            let holds = |fact: &Fact| fact.ints.as_deref() == Some(&[Dim::Fixed(1)]);
            c.get(1).is_none_or(holds) && (passed || holds(&self.body.value(next).fact))
        };
        match c.fixed_ints(0).filter(|_| self.is_loop()).as_deref() {
            Some(&[n]) if unending() => Ok(Dim::Fixed(n.max(0))),
            _ => Ok(c.made_up("rounds")),
        }
    }

    /// The value that `id` is a copy of.
    fn copies(&self, id: ValueId) -> Option<ValueId> {
        let node = self.body.node(self.body.value(id).producer?);
        if node.op == "Identity" { node.input(0) } else { None }
    }

    pub fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
        let repeat = Repeat::of(c.op, c.attrs, c.inputs.len())?;
        let mut states: Vec<Array> =
            (0..repeat.states).map(|k| c.input(repeat.before + k).cloned()).collect::<Result<_, _>>()?;
        let mut stacks: Vec<Vec<Array>> = vec![Vec::new(); repeat.stacks()];
        let truth = |a: &Array| a.data.first().is_some_and(|&v| v != 0.0);
        let mut goes_on = !repeat.is_loop() || c.get(1).is_none_or(truth);
        let rounds = repeat.rounds_of(c)?;
        let mut round = 0;
        while goes_on && rounds.is_none_or(|n| round < n) {
            let mut inputs = Vec::new();
            if repeat.is_loop() {
                inputs.push(Array::from_vec(crate::ir::DType::I64, &[], vec![round as f64])?);
                inputs.push(Array::from_vec(crate::ir::DType::Bool, &[], vec![1.0])?);
            }
            inputs.append(&mut states);
            for k in 0..repeat.slices {
                inputs.push(repeat.cut(c, k, round)?);
            }
            let mut outputs = c.run(&repeat.body, &inputs)?.into_iter();
            if repeat.is_loop() {
                goes_on = outputs.next().as_ref().is_none_or(truth);
            }
            states = outputs.by_ref().take(repeat.states).collect();
            stacks.iter_mut().zip(outputs).for_each(|(stack, slice)| stack.push(slice));
            round += 1;
            if repeat.is_loop() && round > ROUNDS_LIMIT {
                return Err(Fault::Unsupported { what: format!("it runs more than {ROUNDS_LIMIT} rounds") });
            }
        }
        for (k, slices) in stacks.into_iter().enumerate() {
            states.push(repeat.stack(k, slices)?);
        }
        Ok(states)
    }

    /// How many rounds the inputs allow; `None`: as many as the condition does.
    fn rounds_of(&self, c: &EvalCx) -> Result<Option<usize>, Fault> {
        if self.is_loop() {
            let limit = c.ints(0).and_then(|v| v.first().copied());
            return Ok(limit.map(|n| usize::try_from(n).unwrap_or(0)));
        }
        let of = |k: usize| {
            let x = c.input(self.states + k)?;
            Ok(x.shape()[self.slice_axis(k, x.shape().len())?])
        };
        let sizes: Vec<usize> = (0..self.slices).map(of).collect::<Result<_, Fault>>()?;
        if sizes.iter().all(|n| n == &sizes[0]) {
            return Ok(sizes.first().copied());
        }
        let expected = "one size".to_string();
        Err(Fault::Shape { what: "lengths of the scanned inputs", found: format!("{sizes:?}"), expected })
    }

    fn cut(&self, c: &EvalCx, k: usize, round: usize) -> Result<Array, Fault> {
        let x = c.input(self.before + self.states + k)?;
        let axis = self.slice_axis(k, x.shape().len())?;
        let at = if self.slice_reversed(k) { x.shape()[axis] - 1 - round } else { round };
        Ok(Array::new(x.dtype, x.data.index_axis(Axis(axis), at).to_owned()))
    }

    fn stack(&self, k: usize, mut slices: Vec<Array>) -> Result<Array, Fault> {
        let fact = &self.body.value(self.stacked(k)).fact;
        let Some(first) = slices.first() else {
            let unknown = || Fault::Unsupported { what: "the shape of a stack without slices is not known".into() };
            let dims = fact.shape.as_deref().and_then(crate::ir::fixed).ok_or_else(unknown)?;
            let mut shape: Vec<usize> = dims.iter().map(|&n| n as usize).collect();
            shape.insert(self.stack_axis(k, shape.len() + 1)?, 0);
            return Array::from_vec(fact.dtype, &shape, Vec::new());
        };
        let (dtype, axis) = (first.dtype, self.stack_axis(k, first.shape().len() + 1)?);
        if self.stack_reversed(k) {
            slices.reverse();
        }
        let views: Vec<_> = slices.iter().map(|s| s.data.view()).collect();
        let stacked: Result<ArrayD<f64>, _> = ndarray::stack(Axis(axis), &views);
        let data = stacked.map_err(|e| Fault::Unsupported { what: format!("slices of one stack differ: {e}") })?;
        Ok(Array::new(dtype, data.as_standard_layout().to_owned()))
    }
}
