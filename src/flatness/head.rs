//! The head: everything between a layer's output and the loss, classified from its linearisation.
//!
//! The derivative of the head is a tape of linear maps whose coefficients are values of the graph. If no coefficient
//! depends on the layer's output the head is affine; if they depend on it only through operators that are constant
//! almost everywhere (comparisons, signs, indices) it is piecewise affine; else it is smooth.

use crate::ad::{Kind, Linearised, TanNode};
use crate::ir::{Dim, Graph, Val, ValueId};
use crate::linear::Linear;
use crate::ops::{self, Tangent};
use std::collections::HashSet;

#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// The layer's output is what the loss reads.
    Logits,
    Affine,
    /// The node whose slope depends on the layer's output.
    PiecewiseAffine {
        decided_by: String,
    },
    Smooth {
        decided_by: String,
    },
    /// Samples meet in that node.
    Mixing {
        decided_by: String,
    },
}

impl Class {
    pub fn name(&self) -> &'static str {
        match self {
            Class::Logits => "logits",
            Class::Affine => "affine",
            Class::PiecewiseAffine { .. } => "piecewise-affine",
            Class::Smooth { .. } => "smooth",
            Class::Mixing { .. } => "mixing",
        }
    }

    /// The node that decides, where one does.
    pub fn decided_by(&self) -> Option<&str> {
        match self {
            Class::Logits | Class::Affine => None,
            Class::PiecewiseAffine { decided_by } | Class::Smooth { decided_by } | Class::Mixing { decided_by } => {
                Some(decided_by)
            }
        }
    }
}

/// The class of the head whose linearisation in `z` is `head`.
pub fn classify<'g>(head: &Linearised<'g>, z: Val<'g>, logits: Val<'g>) -> Class {
    if z.id() == logits.id() {
        return Class::Logits;
    }
    let maps = head.maps();
    if let Some(decided_by) = mixes_samples(head, &z.shape()) {
        return Class::Mixing { decided_by };
    }
    let b = z.builder();
    let (smooth, any) = b.read(|g| (depends_smoothly(g, z.id()), g.descendants(&[z.id()])));
    let coefficients = |node: &TanNode<'g>| match &node.kind {
        Kind::Apply(map, _) => map.coefficient().map(|v| v.id()),
        _ => None,
    };
    let decided = |set: &HashSet<ValueId>| {
        maps.iter().find(|node| coefficients(node).is_some_and(|id| set.contains(&id))).map(|node| node.scope.clone())
    };
    if let Some(decided_by) = decided(&smooth) {
        return Class::Smooth { decided_by };
    }
    match decided(&any) {
        Some(decided_by) => Class::PiecewiseAffine { decided_by },
        None => Class::Affine,
    }
}

/// Values that depend on `z` through operators that are not constant almost everywhere.
fn depends_smoothly(graph: &Graph, z: ValueId) -> HashSet<ValueId> {
    let mut smooth: HashSet<ValueId> = HashSet::from([z]);
    for node in &graph.nodes {
        let known = ops::lookup(&node.op).filter(|_| node.domain.is_empty());
        let constant = known.is_some_and(|op| matches!(op.tangent.of(&node.attrs), Tangent::Zero));
        if !constant && node.reads().any(|id| smooth.contains(&id)) {
            let real = node.outputs.iter().flatten().filter(|&&id| graph.value(id).fact.dtype.is_float());
            smooth.extend(real);
        }
    }
    smooth
}

/// The first map that lets samples meet, following the batch axis from the front of the layer's output.
fn mixes_samples(head: &Linearised<'_>, z: &[Dim]) -> Option<String> {
    let batch = z.first()?.clone();
    let mut axis: Vec<Option<usize>> = Vec::new();
    let all = head.tape_nodes();
    for node in &all {
        let next = match &node.kind {
            Kind::Source(_) => Some(0),
            Kind::Sum(x, y) => {
                // Broadcasting aligns axes at the end.
                let at = |i: usize| axis[i].map(|a| a + node.shape.len() - all[i].shape.len());
                match (at(*x), at(*y)) {
                    (Some(a), Some(b)) if a == b => Some(a),
                    _ => None,
                }
            }
            Kind::Apply(map, x) => axis[*x].and_then(|a| map.follow_axis(a, &all[*x].shape, &node.shape, &batch)),
            // What bodies do with the samples is not followed.
            Kind::Joint(..) | Kind::Part(..) => None,
        };
        // An axis of size 1 that grows is one sample that many rows read.
        axis.push(next.filter(|&at| node.shape.get(at) == Some(&batch)));
    }
    let needed = head.needed();
    let lost = (0..all.len()).find(|&id| needed[id] && axis[id].is_none());
    // What the loss reads has its samples in front too.
    let moved = || head.of.iter().filter_map(|t| t.id()).find(|&id| axis[id] != Some(0));
    lost.or_else(moved).map(|id| all[id].scope.clone())
}

impl<'g> Linear<'g> {
    /// The value the map's slope is made of, if it has one.
    pub fn coefficient(&self) -> Option<Val<'g>> {
        match self {
            Linear::Scale(v) | Linear::Quotient(v) | Linear::MatMulRight(v) | Linear::MatMulLeft(v) => Some(*v),
            Linear::Mask { cond, .. } => Some(*cond),
            Linear::Gather { indices, .. }
            | Linear::PoolPick { indices }
            | Linear::GatherElements { indices, .. }
            | Linear::ScatterElements { indices, .. }
            | Linear::GatherNd { indices }
            | Linear::ScatterNd { indices, .. } => Some(*indices),
            Linear::Conv { w, .. } | Linear::ConvTranspose { w, .. } => Some(*w),
            Linear::ConvFilter { x, .. } | Linear::ConvTransposeFilter { x, .. } => Some(*x),
            _ => None,
        }
    }

    /// Where the batch axis `axis` of the tangent goes; `None` if samples meet or the axis is lost.
    fn follow_axis(&self, axis: usize, from: &[Dim], to: &[Dim], batch: &Dim) -> Option<usize> {
        let same_from_end = || (axis + to.len()).checked_sub(from.len());
        match self {
            Linear::Neg | Linear::Cast { .. } => Some(axis),
            Linear::Scale(_) | Linear::Quotient(_) | Linear::Mask { .. } | Linear::Expand(_) => same_from_end(),
            Linear::MatMulRight(_) => (axis + 1 < from.len()).then(same_from_end).flatten(),
            Linear::MatMulLeft(_) => (axis + 2 != from.len()).then(same_from_end).flatten(),
            Linear::Sum { axes, keep } => {
                let gone = axes.iter().filter(|&&a| (a as usize) < axis).count();
                let kept = !axes.contains(&(axis as i64));
                kept.then_some(if *keep { axis } else { axis - gone })
            }
            Linear::Reshape(_) => {
                // The batch axis stays itself where as many elements stand before it, and it keeps its size.
                let before = crate::ir::count(&from[..axis]);
                let at = (0..to.len()).find(|&i| to[i] == *batch && crate::ir::count(&to[..i]) == before)?;
                (from[axis] == *batch).then_some(at)
            }
            Linear::Permute(perm) => perm.iter().position(|&p| p as usize == axis),
            Linear::Pad(pads) => {
                let (a, b) = pads.get(axis)?;
                (*a == Dim::Fixed(0) && *b == Dim::Fixed(0)).then_some(axis)
            }
            Linear::Gather { indices, axis: at } => match axis.cmp(at) {
                std::cmp::Ordering::Less => Some(axis),
                std::cmp::Ordering::Greater => Some(axis - 1 + indices.rank()),
                std::cmp::Ordering::Equal => None,
            },
            Linear::Conv { .. } | Linear::ConvTranspose { .. } | Linear::AveragePool(_) | Linear::PoolPick { .. } => {
                (axis == 0).then_some(0)
            }
            Linear::CumSum { axis: at, .. } => (axis != *at).then_some(axis),
            Linear::GatherElements { axis: at, .. } | Linear::ScatterElements { axis: at, .. } => {
                (axis != *at).then_some(axis)
            }
            Linear::SumAt { .. }
            | Linear::GatherNd { .. }
            | Linear::ScatterNd { .. }
            | Linear::ConvFilter { .. }
            | Linear::ConvTransposeFilter { .. } => None,
        }
    }
}
