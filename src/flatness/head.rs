//! The head: everything between a layer's output and the loss, classified from its linearisation.
//!
//! The derivative of the head is a tape of linear maps whose coefficients are values of the graph. If no coefficient
//! depends on the layer's output the head is affine; if they depend on it only through operators that are constant
//! almost everywhere (comparisons, signs, indices) it is piecewise affine; else it is smooth.
//!
//! Samples and positions are proved independent by following their axes along the tape to the loss: an axis ends in a
//! sum, behind which nothing may bend. Whatever lets two entries of an axis meet is an edge of the tape.

use super::sharing::{self, Varies};
use crate::ad::{Kind, TanNode};
use crate::ir::{Dim, Graph, Node, Val, ValueId};
use crate::linear::Linear;
use crate::ops::{self, Tangent};

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

/// What becomes of an axis of the layer's output on the way to the loss.
#[derive(Clone, Debug, PartialEq)]
pub enum Axis {
    /// Its entries are independent; the axis it is in what the loss reads, where there is one.
    Independent(Option<usize>),
    /// Its entries meet in that node.
    Meets(String),
}

impl Axis {
    pub fn is_independent(&self) -> bool {
        matches!(self, Axis::Independent(_))
    }
}

/// A head as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub class: Class,
    /// The head has no second derivative of its own, whether or not samples meet in it.
    pub flat: bool,
    /// Of each axis of the layer's output.
    pub axes: Vec<Axis>,
}

/// The part of a tape between one of its places, where the layer's output stands, and the loss.
pub struct Stretch<'a, 'g> {
    nodes: &'a [TanNode<'g>],
    source: usize,
    loss: usize,
    /// The place of what the loss reads.
    prediction: Option<usize>,
    /// Places that the source reaches.
    reached: Vec<bool>,
    /// Of these, the ones that the loss needs.
    to_loss: Vec<bool>,
    to_prediction: Vec<bool>,
}

impl<'a, 'g> Stretch<'a, 'g> {
    /// The stretch from `source`; `None` if the loss does not depend on it.
    pub fn new(nodes: &'a [TanNode<'g>], source: usize, loss: usize, prediction: Option<usize>) -> Option<Self> {
        let mut reached = vec![false; nodes.len()];
        reached[source] = true;
        for (id, node) in nodes.iter().enumerate().skip(source + 1) {
            reached[id] = match node.kind {
                Kind::Source(_) => false,
                Kind::Sum(x, y) => reached[x] || reached[y],
                Kind::Apply(_, x) | Kind::Part(x, _) => reached[x],
                Kind::Joint(_, ref inputs) => inputs.iter().flatten().any(|&x| reached[x]),
            };
        }
        let to_loss = above(nodes, loss, &reached);
        let prediction = prediction.filter(|&id| reached[id]);
        let to_prediction = prediction.map_or_else(|| vec![false; nodes.len()], |id| above(nodes, id, &reached));
        reached[loss].then_some(Stretch { nodes, source, loss, prediction, reached, to_loss, to_prediction })
    }

    /// The maps on the way, with their places.
    pub fn maps(&self) -> impl Iterator<Item = (usize, &'a TanNode<'g>)> + '_ {
        let nodes = self.nodes;
        nodes.iter().enumerate().skip(self.source + 1).filter(|(id, _)| self.to_loss[*id])
    }

    /// Whether the maps at that place stand before what the loss reads.
    pub fn before_prediction(&self, id: usize) -> bool {
        self.to_prediction[id]
    }

    pub fn nodes(&self) -> &'a [TanNode<'g>] {
        self.nodes
    }

    pub fn source(&self) -> usize {
        self.source
    }

    /// Whether the layer's output reaches that place.
    pub fn reaches(&self, id: usize) -> bool {
        self.reached[id]
    }

    /// Along which axes the cotangent of each place in front of what the loss reads varies.
    pub fn cotangents(&self) -> Vec<Option<Varies>> {
        let end = self.prediction.unwrap_or(self.source);
        sharing::cotangents(self.nodes, &self.to_prediction, self.source, end)
    }

    /// The head's class and what becomes of the axes of `z`; `feature` is the one that counts neurons, and where there is
    /// none, `z` is a weight and has no samples.
    pub fn classify(&self, depends: &Dependence, z: Val<'g>, logits: Option<ValueId>, feature: Option<usize>) -> Head {
        let shape = z.shape();
        let axes: Vec<Axis> = (0..feature.map_or(0, |_| shape.len()))
            .map(|axis| match (Some(axis) == feature, self.follow(axis, &shape[axis], depends)) {
                (false, Axis::Meets(_)) if axis > 0 && shape[axis].is_one() => Axis::Independent(None),
                (_, found) => found,
            })
            .collect();
        let at = self.prediction.map_or(self.loss, |id| id);
        let way = if self.prediction.is_some() { &self.to_prediction } else { &self.to_loss };
        let found = |set: &[bool]| {
            let slope = |node: &TanNode<'g>| match &node.kind {
                Kind::Apply(map, _) => map.coefficient().is_some_and(|c| set[c.id().0 as usize]),
                // How bodies bend is not looked into.
                Kind::Joint(..) => true,
                _ => false,
            };
            (self.source..=at).find(|&id| way[id] && slope(&self.nodes[id])).map(|id| self.nodes[id].scope.clone())
        };
        let (smooth, any) = (found(&depends.smoothly), found(&depends.at_all));
        let flat = smooth.is_none();
        let class = match (axes.first(), smooth, any) {
            _ if logits == Some(z.id()) => Class::Logits,
            (Some(Axis::Meets(at)), ..) if feature != Some(0) => Class::Mixing { decided_by: at.clone() },
            (_, Some(decided_by), _) => Class::Smooth { decided_by },
            (_, None, Some(decided_by)) => Class::PiecewiseAffine { decided_by },
            (_, None, None) => Class::Affine,
        };
        Head { class, flat, axes }
    }

    /// Follows an axis of the source, of size `size`, to the loss.
    fn follow(&self, axis: usize, size: &Dim, depends: &Dependence) -> Axis {
        let mut at: Vec<Option<Place>> = vec![None; self.nodes.len()];
        at[self.source] = Some(Place::Axis(axis));
        for id in self.source + 1..=self.loss {
            let node = &self.nodes[id];
            if !self.reached[id] || !(self.to_loss[id] || self.to_prediction[id]) {
                continue;
            }
            let next = match &node.kind {
                // What bodies do with the samples is not followed.
                Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => None,
                Kind::Sum(x, y) => match (self.grown(&at, *x, id), self.grown(&at, *y, id)) {
                    (Some(a), Some(b)) if a == b => Some(a),
                    (Some(a), None) if !self.reached[*y] => Some(a),
                    (None, Some(b)) if !self.reached[*x] => Some(b),
                    _ => None,
                },
                Kind::Apply(map, x) => at[*x].and_then(|place| {
                    let bends = || map.coefficient().is_some_and(|c| depends.smoothly[c.id().0 as usize]);
                    place.through(map, &self.nodes[*x].shape, &node.shape, size, bends)
                }),
            };
            let kept = next.filter(|place| match place {
                // An axis of size 1 that grows is one sample that many rows read.
                Place::Axis(at) => node.shape.get(*at) == Some(size),
                Place::Summed => true,
            });
            if kept.is_none() {
                return Axis::Meets(node.scope.clone());
            }
            at[id] = kept;
        }
        match (at[self.loss], self.prediction.map(|id| at[id])) {
            (Some(Place::Summed), Some(Some(Place::Axis(image)))) => Axis::Independent(Some(image)),
            (Some(Place::Summed), _) => Axis::Independent(None),
            _ => Axis::Meets(self.nodes[self.loss].scope.clone()),
        }
    }

    /// Where the axis of place `x` stands in a sum: broadcasting aligns axes at the end.
    fn grown(&self, at: &[Option<Place>], x: usize, sum: usize) -> Option<Place> {
        at[x].map(|place| match place {
            Place::Axis(axis) => Place::Axis(axis + self.nodes[sum].shape.len() - self.nodes[x].shape.len()),
            Place::Summed => Place::Summed,
        })
    }
}

/// Places that `of` needs, among those that are reached.
fn above(nodes: &[TanNode<'_>], of: usize, reached: &[bool]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    needed[of] = reached[of];
    for id in (0..=of).rev().filter(|&id| reached[id]) {
        if !needed[id] {
            continue;
        }
        match &nodes[id].kind {
            Kind::Source(_) => {}
            Kind::Sum(x, y) => [*x, *y].into_iter().for_each(|x| needed[x] |= reached[x]),
            Kind::Apply(_, x) | Kind::Part(x, _) => needed[*x] |= reached[*x],
            Kind::Joint(_, inputs) => inputs.iter().flatten().for_each(|&x| needed[x] |= reached[x]),
        }
    }
    needed
}

/// Which values depend on one.
pub struct Dependence {
    pub at_all: Vec<bool>,
    /// Through operators that are not constant almost everywhere.
    pub smoothly: Vec<bool>,
}

impl Dependence {
    /// On `z`, in a graph with these slopes.
    pub fn on(graph: &Graph, slopes: &Slopes, z: ValueId) -> Dependence {
        let mut at_all = vec![false; graph.values.len()];
        at_all[z.0 as usize] = true;
        let mut smoothly = at_all.clone();
        // What stands in front of it does not depend on it.
        let behind = graph.value(z).producer.map_or(0, |node| node.0 as usize + 1);
        for (node, constant) in graph.nodes.iter().zip(&slopes.constant).skip(behind) {
            if !node.reads().any(|id| at_all[id.0 as usize]) {
                continue;
            }
            let smooth = !constant && node.reads().any(|id| smoothly[id.0 as usize]);
            for id in node.outputs.iter().flatten() {
                at_all[id.0 as usize] = true;
                smoothly[id.0 as usize] = smooth && graph.value(*id).fact.dtype.is_float();
            }
        }
        Dependence { at_all, smoothly }
    }
}

/// Which nodes of a graph are constant almost everywhere.
pub struct Slopes {
    constant: Vec<bool>,
}

impl Slopes {
    pub fn of(graph: &Graph) -> Slopes {
        let constant = |node: &Node| {
            let known = ops::lookup(&node.op).filter(|_| node.domain.is_empty());
            known.is_some_and(|op| matches!(op.tangent.of(&node.attrs), Tangent::Zero))
        };
        Slopes { constant: graph.nodes.iter().map(constant).collect() }
    }
}

/// Where an axis is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Axis(usize),
    /// Its entries are summed.
    Summed,
}

impl Place {
    /// Behind a map from shape `from` to shape `to`; `None` if entries meet or the axis is lost.
    fn through(
        self,
        map: &Linear<'_>,
        from: &[Dim],
        to: &[Dim],
        size: &Dim,
        bends: impl Fn() -> bool,
    ) -> Option<Place> {
        match (self, map) {
            (Place::Summed, _) => (!bends()).then_some(Place::Summed),
            (Place::Axis(axis), Linear::Sum { axes, .. }) if axes.contains(&(axis as i64)) => Some(Place::Summed),
            (Place::Axis(axis), _) => follow_axis(map, axis, from, to, size).map(Place::Axis),
        }
    }
}

/// Where the axis `axis` of the tangent goes; `None` if its entries meet or it is lost.
fn follow_axis(map: &Linear<'_>, axis: usize, from: &[Dim], to: &[Dim], size: &Dim) -> Option<usize> {
    let same_from_end = || (axis + to.len()).checked_sub(from.len());
    match map {
        Linear::Neg | Linear::Cast { .. } => Some(axis),
        Linear::Scale(_) | Linear::Quotient(_) | Linear::Mask { .. } | Linear::Expand(_) => same_from_end(),
        Linear::MatMulRight(_) => (axis + 1 < from.len()).then(same_from_end).flatten(),
        Linear::MatMulLeft(_) => (axis + 2 != from.len()).then(same_from_end).flatten(),
        Linear::Sum { axes, keep } => {
            let gone = axes.iter().filter(|&&a| (a as usize) < axis).count();
            Some(if *keep { axis } else { axis - gone })
        }
        Linear::Reshape(_) => {
            // The axis stays itself where as many elements stand before it, and it keeps its size.
            let before = crate::ir::count(&from[..axis]);
            let at = (0..to.len()).find(|&i| to[i] == *size && crate::ir::count(&to[..i]) == before)?;
            (from[axis] == *size).then_some(at)
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
        Linear::Conv { w, g } | Linear::ConvTranspose { w, g } => match axis {
            0 => Some(0),
            // A filter of one tap maps every position to itself.
            axis => (axis >= 2 && g.is_pointwise() && w.rank() == from.len()).then_some(axis),
        },
        Linear::AveragePool(_) | Linear::PoolPick { .. } => (axis == 0).then_some(0),
        Linear::CumSum { axis: at, .. }
        | Linear::GatherElements { axis: at, .. }
        | Linear::ScatterElements { axis: at, .. } => (axis != *at).then_some(axis),
        // The parts of a complex number meet too.
        Linear::Dft { axis: at, .. } => (axis != *at && axis + 1 != from.len()).then_some(axis),
        Linear::SumAt { .. }
        | Linear::GatherNd { .. }
        | Linear::ScatterNd { .. }
        | Linear::ConvFilter { .. }
        | Linear::ConvTransposeFilter { .. } => None,
    }
}
