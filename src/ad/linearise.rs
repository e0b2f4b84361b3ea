//! From nodes to linear maps, and the two ways through them.

use super::{Kind, Tan, Tape};
use crate::error::{Error, Result, Unsupported};
use crate::ir::{Dim, Val, ValueId, same_or_one};
use crate::linear::Cotangent;
use crate::ops::{self, Cx, Tangent};
use std::collections::{HashMap, HashSet};

/// The derivative of some values in others, as linear maps on a tape.
pub struct Linearised<'g> {
    tape: &'g Tape<'g>,
    /// The tangents of what is differentiated.
    pub of: Vec<Tan<'g>>,
    sources: usize,
}

/// Linearises the nodes on a path from `wrt` to `of`, each operator by its own rule.
pub fn linearise<'g>(tape: &'g Tape<'g>, of: &[Val<'g>], wrt: &[Val<'g>]) -> Result<Linearised<'g>> {
    let b = tape.builder;
    let of_ids: Vec<ValueId> = of.iter().map(|v| v.id()).collect();
    let wrt_ids: Vec<ValueId> = wrt.iter().map(|v| v.id()).collect();
    let variables: HashSet<ValueId> = wrt_ids.iter().copied().collect();
    let path: Vec<_> = b.read(|g| {
        let (above, below) = (g.ancestors(&of_ids), g.descendants(&wrt_ids));
        g.nodes
            .iter()
            .filter(|n| n.outputs.iter().flatten().any(|o| above.contains(o) && below.contains(o)))
            .cloned()
            .collect()
    });
    let mut tangents: HashMap<ValueId, Tan<'g>> = HashMap::new();
    for (k, &value) in wrt.iter().enumerate() {
        if value.dtype().is_float() {
            tangents.insert(value.id(), tape.source(k, value));
        }
    }
    let scope = b.current_scope();
    let mut unsupported: Vec<Unsupported> = Vec::new();
    for node in path {
        let dx: Vec<Tan<'g>> =
            node.inputs.iter().map(|id| id.and_then(|id| tangents.get(&id).copied()).unwrap_or(tape.zero())).collect();
        let active = dx.iter().any(|t| !t.is_zero()) || node.captures.iter().any(|id| tangents.contains_key(id));
        if !active {
            continue;
        }
        let mut blocked = |reason: &str| {
            unsupported.push(Unsupported { node: node.name.clone(), op: node.op.clone(), reason: reason.to_string() })
        };
        let known = if node.domain.is_empty() { ops::lookup(&node.op) } else { None };
        let rule = match known.map(|op| op.tangent.of(&node.attrs)) {
            Some(Tangent::Rule(rule)) => rule,
            Some(Tangent::Zero) => continue,
            Some(Tangent::Blocked(reason)) => {
                blocked(reason);
                continue;
            }
            Some(Tangent::Lower(_)) => {
                blocked("it has to be lowered first");
                continue;
            }
            Some(Tangent::Select(_)) | None => {
                blocked("there is no rule for this operator");
                continue;
            }
        };
        for (k, out) in node.outputs.iter().enumerate() {
            let Some(out) = out.map(|id| b.val(id)).filter(|v| v.dtype().is_float()) else { continue };
            // A value differentiated with respect to is a variable of its own.
            if variables.contains(&out.id()) {
                continue;
            }
            tape.set_scope(&node.name);
            b.scope(&format!("{}.linear", node.name));
            let t = rule(&Cx::new(b, tape, node.clone(), dx.clone(), k));
            if !t.is_zero() {
                tangents.insert(out.id(), t.expand(&out.shape()));
            }
        }
    }
    b.scope(&scope);
    unsupported.extend(tape.take_blocked());
    if !unsupported.is_empty() {
        return Err(Error::NotDifferentiable { nodes: unsupported });
    }
    b.check()?;
    let of = of.iter().map(|v| tangents.get(&v.id()).copied().unwrap_or(tape.zero())).collect();
    Ok(Linearised { tape, of, sources: wrt.len() })
}

impl<'g> Linearised<'g> {
    /// Pushes tangents forward: `tangents[k]` belongs to the `k`-th `wrt`, `None` is zero. With `lead`, every tangent
    /// has that further first axis, and so has the result.
    pub fn jvp(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        let b = self.tape.builder;
        let scope = b.current_scope();
        let needed = self.needed();
        let mut pushed: Vec<Option<Val<'g>>> = vec![None; self.tape.len()];
        for id in 0..self.tape.len() {
            if !needed[id] {
                continue;
            }
            let node = self.tape.node(id);
            b.scope(&format!("{}.tangent", node.scope));
            pushed[id] = match &node.kind {
                Kind::Source(k) => tangents.get(*k).copied().flatten(),
                Kind::Sum(x, y) => match (pushed[*x], pushed[*y]) {
                    (Some(x_val), Some(y_val)) => {
                        let rank = node.shape.len();
                        let align =
                            |v: Val<'g>, at: usize| crate::linear::align(v, self.tape.node(at).shape.len(), rank, lead);
                        Some(align(x_val, *x) + align(y_val, *y))
                    }
                    (x_val, None) => x_val.map(|v| self.grown(v, *x, id, lead)),
                    (None, y_val) => y_val.map(|v| self.grown(v, *y, id, lead)),
                },
                Kind::Apply(map, x) => pushed[*x].map(|v| map.emit(v, &self.tape.node(*x).shape, &node.shape, lead)),
            };
        }
        b.scope(&scope);
        self.of.iter().map(|t| t.id().and_then(|id| pushed[id])).collect()
    }

    /// A summand whose partner is zero still has the sum's shape.
    fn grown(&self, v: Val<'g>, from: usize, to: usize, lead: Option<&Dim>) -> Val<'g> {
        let (small, big) = (self.tape.node(from).shape, self.tape.node(to).shape);
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
        let mut result: Vec<Option<Cotangent<'g>>> = vec![None; self.sources];
        for (t, ct) in self.of.iter().zip(cotangents) {
            if let (Some(id), Some(ct)) = (t.id(), ct) {
                accumulate(&mut pulled[id], ct.clone().of_whole_rank());
            }
        }
        for id in (0..self.tape.len()).rev() {
            let Some(ct) = pulled[id].take() else { continue };
            let node = self.tape.node(id);
            b.scope(&format!("{}.cotangent", node.scope));
            match &node.kind {
                Kind::Source(k) => accumulate(&mut result[*k], ct),
                Kind::Sum(x, y) => {
                    for part in [*x, *y] {
                        let shape = self.tape.node(part).shape;
                        accumulate(&mut pulled[part], ct.clone().unbroadcast(&shape, lead));
                    }
                }
                Kind::Apply(map, x) => {
                    let shape = self.tape.node(*x).shape;
                    accumulate(&mut pulled[*x], map.transpose(ct, &shape, lead));
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
            match self.tape.node(id).kind {
                Kind::Source(_) => {}
                Kind::Sum(x, y) => {
                    needed[x] = true;
                    needed[y] = true;
                }
                Kind::Apply(_, x) => needed[x] = true,
            }
        }
        needed
    }

    /// The whole tape, in order.
    pub fn tape_nodes(&self) -> Vec<super::TanNode<'g>> {
        (0..self.tape.len()).map(|id| self.tape.node(id)).collect()
    }

    /// The linear maps on the way, with the names of the nodes they come from: for looking at a derivative's structure.
    pub fn maps(&self) -> Vec<super::TanNode<'g>> {
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
