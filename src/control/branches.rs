//! The derivative of If: an If again. Its branches compute the forward pass of theirs anew, as far as they need it.

use super::Branches;
use crate::ad::{Linearised, Tan, Tape, linearise};
use crate::error::{Error, Result};
use crate::ir::{Attrs, Builder, Dim, Fact, Graph, NodeId, Val, ValueId};
use crate::linear::{Cotangent, with_lead};
use crate::lower;
use crate::ops::Cx;
use crate::simplify::dead_code;

/// The derivative of one node. Its inputs are what the branches capture, its outputs the node's.
#[derive(Clone)]
pub struct BranchMap<'g> {
    b: &'g Builder,
    node: NodeId,
    /// Which captures have tangents.
    captures: Vec<bool>,
    /// Which outputs tangents reach in some branch.
    outputs: Vec<bool>,
}

/// The tangents of all outputs of an If.
pub(crate) fn tangents<'g>(c: &Cx<'g>) -> Vec<Tan<'g>> {
    let none = || vec![c.zero(); c.outputs()];
    let Some(node) = c.node() else { return none() };
    let tangents: Vec<Tan> = (0..c.captures().len()).map(|k| c.d_captured(k)).collect();
    let captures: Vec<bool> = tangents.iter().map(|t| !t.is_zero()).collect();
    let mut map = BranchMap { b: c.b, node, captures, outputs: vec![true; c.outputs()] };
    let reached = map.branches().and_then(|branches| map.reached(&branches));
    match reached {
        Ok(reached) => map.outputs = reached,
        Err(Error::NotDifferentiable { nodes }) => {
            nodes.into_iter().for_each(|node| c.block(node));
            return none();
        }
        Err(error) => {
            c.b.fault(error);
            return none();
        }
    }
    let outputs: Vec<Option<Val>> =
        map.outputs.iter().enumerate().map(|(k, &active)| active.then(|| c.maybe_out(k)).flatten()).collect();
    c.joint(super::Joint::Branches(map), &tangents, &outputs)
}

/// One branch, its composites lowered, and what is differentiated in it.
struct Branch {
    body: Graph,
    /// Float outputs, by their places.
    of: Vec<(usize, ValueId)>,
    /// What it captures that has a tangent, by its place among the node's captures.
    wrt: Vec<(usize, ValueId)>,
}

impl Branch {
    fn linearise<'i>(&self, tape: &'i Tape<'i>) -> Result<Linearised<'i>> {
        let vals = |ids: &[(usize, ValueId)]| -> Vec<Val<'i>> { ids.iter().map(|s| tape.builder.val(s.1)).collect() };
        linearise(tape, &vals(&self.of), &vals(&self.wrt))
    }
}

impl<'g> BranchMap<'g> {
    fn branches(&self) -> Result<[Branch; 2]> {
        let (attrs, name, op) = self.b.read(|g| {
            let node = g.node(self.node);
            (node.attrs.clone(), node.name.clone(), node.op.clone())
        });
        let both = Branches::of(&attrs);
        let Branches { yes, no } = both.map_err(|fault| Error::Operator { node: name, op, inputs: vec![], fault })?;
        Ok([self.branch(&yes)?, self.branch(&no)?])
    }

    fn branch(&self, body: &Graph) -> Result<Branch> {
        let names: Vec<String> =
            self.b.read(|g| g.node(self.node).captures.iter().map(|&id| g.name_of(id).to_string()).collect());
        let wrt = |body: &Graph| -> Vec<(usize, ValueId)> {
            let captured = body.captured();
            let of = |k: usize| captured.iter().copied().find(|&id| body.name_of(id) == names[k]).map(|id| (k, id));
            (0..names.len()).filter(|&k| self.captures[k]).filter_map(of).collect()
        };
        let of = |body: &Graph| -> Vec<(usize, ValueId)> {
            let float = |s: &(usize, ValueId)| body.value(s.1).fact.dtype.is_float();
            let outputs = body.outputs.iter().copied().enumerate().filter(float);
            outputs.filter(|(k, _)| self.outputs.get(*k) == Some(&true)).collect()
        };
        let ids = |all: &[(usize, ValueId)]| -> Vec<ValueId> { all.iter().map(|s| s.1).collect() };
        let lowered = lower::on_path(body, &ids(&of(body)), &ids(&wrt(body)))?;
        Ok(Branch { of: of(&lowered), wrt: wrt(&lowered), body: lowered })
    }

    fn reached(&self, branches: &[Branch; 2]) -> Result<Vec<bool>> {
        let mut reached = vec![false; self.outputs.len()];
        for branch in branches {
            let inner = Builder::of(branch.body.clone());
            let tape = Tape::new(&inner);
            let lin = branch.linearise(&tape)?;
            branch.of.iter().zip(&lin.of).filter(|(_, t)| !t.is_zero()).for_each(|((k, _), _)| reached[*k] = true);
        }
        Ok(reached)
    }

    fn captured(&self) -> Vec<Val<'g>> {
        let ids = self.b.read(|g| g.node(self.node).captures.clone());
        ids.into_iter().map(|id| self.b.val(id)).collect()
    }

    fn outer_outputs(&self) -> Vec<Option<Val<'g>>> {
        let ids = self.b.read(|g| g.node(self.node).outputs.clone());
        ids.into_iter().map(|id| id.map(|id| self.b.val(id))).collect()
    }

    pub(super) fn emit(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        let given: Vec<Option<Val>> = self
            .captured()
            .iter()
            .zip(tangents)
            .map(|(x, t)| t.map(|t| t.expand(&with_lead(&x.shape(), lead))))
            .collect();
        self.branch_off(&given, &self.outer_outputs(), lead, |branch, made, given| {
            let tape = Tape::new(made);
            let lin = branch.linearise(&tape)?;
            let tangents: Vec<Option<Val>> =
                branch.wrt.iter().map(|&(k, id)| given[k].map(|t| captured(made, t, made.val(id), lead))).collect();
            let pushed = branch.of.iter().zip(lin.jvp(&tangents, lead));
            let whole =
                pushed.filter_map(|(&(k, id), t)| Some((k, t?.expand(&with_lead(&made.val(id).shape(), lead)).id())));
            Ok(whole.collect())
        })
    }

    pub(super) fn transpose(
        &self,
        cotangents: &[Option<Cotangent<'g>>],
        lead: Option<&Dim>,
    ) -> Vec<Option<Cotangent<'g>>> {
        let cotangent = |k: usize| cotangents.get(k)?.as_ref().map(|ct| ct.materialise());
        let given: Vec<Option<Val>> = (0..self.outputs.len()).map(cotangent).collect();
        let captures: Vec<Option<Val>> = self.captured().into_iter().map(Some).collect();
        let pulled = self.branch_off(&given, &captures, lead, |branch, made, given| {
            let tape = Tape::new(made);
            let lin = branch.linearise(&tape)?;
            let cotangents: Vec<Option<Cotangent>> = branch
                .of
                .iter()
                .map(|&(k, id)| given[k].map(|ct| Cotangent::new(captured(made, ct, made.val(id), lead))))
                .collect();
            let pulled = branch.wrt.iter().zip(lin.vjp(&cotangents, lead));
            let whole = pulled.filter_map(|(&(k, id), ct)| {
                let shape = with_lead(&made.val(id).shape(), lead);
                Some((k, Cotangent { shape, ..ct? }.materialise().id()))
            });
            Ok(whole.collect())
        });
        pulled.into_iter().map(|val| val.map(Cotangent::new)).collect()
    }

    /// An If whose branches give what `f` makes of the forward ones, by places, each shaped like `like`; zeros where only
    /// the other branch gives something.
    fn branch_off(
        &self,
        given: &[Option<Val<'g>>],
        like: &[Option<Val<'g>>],
        lead: Option<&Dim>,
        f: impl for<'i> Fn(&Branch, &'i Builder, &[Option<Val<'g>>]) -> Result<Vec<(usize, ValueId)>>,
    ) -> Vec<Option<Val<'g>>> {
        let made = self.branches().and_then(|branches| {
            let mut made = Vec::new();
            for branch in branches {
                let inner = Builder::of(branch.body.clone());
                let names: Vec<String> = given.iter().chain(like).flatten().map(|v| v.name()).collect();
                inner.reserve(names.iter().map(String::as_str));
                made.push((f(&branch, &inner, given)?, inner));
            }
            Ok(made)
        });
        let made = made.unwrap_or_else(|error| {
            self.b.fault(error);
            Vec::new()
        });
        let there = |k: &usize| made.iter().any(|(outputs, _)| outputs.iter().any(|o| o.0 == *k));
        let places: Vec<usize> = (0..like.len()).filter(there).collect();
        let mut result = vec![None; like.len()];
        let mut attrs = Attrs::new();
        for ((outputs, inner), name) in made.into_iter().zip(["then_branch", "else_branch"]) {
            attrs = attrs.with(name, self.close(inner, &outputs, &places, like, lead));
        }
        if places.is_empty() {
            return result;
        }
        let condition = self.b.read(|g| g.node(self.node).input(0)).map(|id| self.b.val(id));
        let outputs = self.b.node("If", &[condition], attrs, places.len());
        for (&k, val) in places.iter().zip(outputs) {
            if let Some(like) = like[k] {
                self.b.refine_fact(val, &Fact::new(like.dtype(), with_lead(&like.shape(), lead)));
            }
            result[k] = Some(val);
        }
        result
    }

    /// The branch's graph with these outputs alone.
    fn close(
        &self,
        inner: Builder,
        outputs: &[(usize, ValueId)],
        places: &[usize],
        like: &[Option<Val<'g>>],
        lead: Option<&Dim>,
    ) -> Graph {
        let forward = inner.read(|g| g.outputs.len());
        for place in places {
            let own = outputs.iter().find(|o| o.0 == *place).map(|o| inner.val(o.1));
            let zero = || {
                let like = like[*place]?;
                Some(inner.capture(self.b.zeros(like.dtype(), &with_lead(&like.shape(), lead))))
            };
            if let Some(val) = own.or_else(zero) {
                inner.output(val, &format!("{}.out", val.name()));
            }
        }
        let mut graph = inner.finish().unwrap_or_else(|error| {
            self.b.fault(error);
            Graph::default()
        });
        graph.outputs.drain(..forward.min(graph.outputs.len()));
        dead_code(&graph)
    }
}

/// A value outside as one that the branch captures, shaped like the branch's own value.
fn captured<'i>(made: &'i Builder, outer: Val<'_>, like: Val<'i>, lead: Option<&Dim>) -> Val<'i> {
    made.captured(&outer.name(), Fact::new(like.dtype(), with_lead(&like.shape(), lead)))
}
