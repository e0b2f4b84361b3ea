//! The stretches of a tape between layers and the loss, many layers at once: which places each layer's output reaches, and
//! which coefficients depend on it. A sweep over tape and graph serves [`Lanes::MOST`] layers, so that all layers of a model
//! take little more than one.

use super::head::Trail;
use super::lanes::Lanes;
use super::sharing::{self, Varies};
use crate::ad::{Kind, Linearised, TanNode};
use crate::ir::{Builder, Graph, Node, ValueId};
use crate::ops::{self, Tangent};
use foldhash::HashMap;
use std::cell::RefCell;
use std::rc::Rc;

/// A linearisation of the loss and of what it reads, in this order, with its tape.
pub struct Tapes<'a, 'g> {
    pub nodes: &'a [Rc<TanNode<'g>>],
    pub linear: &'a Linearised<'g>,
    /// The places of the loss and of what it reads; `None` where no tangent gets there.
    pub loss: Option<usize>,
    pub prediction: Option<usize>,
    /// Places that the loss needs, and those that what it reads needs.
    pub to_loss: Vec<bool>,
    pub to_prediction: Vec<bool>,
    /// Of places in front of what the loss reads, the part of its elements that a cotangent from there holds.
    shares: Vec<Option<Varies>>,
    slopes: Slopes,
}

impl<'a, 'g> Tapes<'a, 'g> {
    pub fn new(b: &Builder, nodes: &'a [Rc<TanNode<'g>>], linear: &'a Linearised<'g>) -> Self {
        let at = |k: usize| linear.of.get(k).and_then(|t| t.id());
        let (loss, prediction) = (at(0), at(1));
        let to_prediction = above(nodes, prediction);
        let shares = prediction.map(|end| sharing::cotangents(nodes, &to_prediction, end)).unwrap_or_default();
        let slopes = b.read(|graph| Slopes::of(graph, nodes));
        Tapes { nodes, linear, loss, prediction, to_loss: above(nodes, loss), to_prediction, shares, slopes }
    }

    /// The part of the elements of a place that a cotangent from what the loss reads holds.
    pub fn share(&self, id: usize) -> f64 {
        match self.shares.get(id) {
            Some(Some(varies)) => sharing::share(varies, &self.nodes[id].shape),
            _ => 1.0,
        }
    }

    /// The value that the map at a place multiplies by, if one does.
    pub fn coefficient(&self, id: usize) -> Option<ValueId> {
        coefficient(&self.nodes[id])
    }
}

fn coefficient(node: &TanNode<'_>) -> Option<ValueId> {
    match &node.kind {
        Kind::Apply(map, _) => map.coefficient().map(|c| c.id()),
        _ => None,
    }
}

/// The places that a place is computed from.
fn operands(node: &TanNode<'_>) -> impl Iterator<Item = usize> {
    let (pair, joint): ([Option<usize>; 2], &[Option<usize>]) = match &node.kind {
        Kind::Source(_) => ([None; 2], &[]),
        Kind::Sum(x, y) => ([Some(*x), Some(*y)], &[]),
        Kind::Apply(_, x) | Kind::Part(x, _) => ([Some(*x), None], &[]),
        Kind::Joint(_, inputs) => ([None; 2], inputs),
    };
    pair.into_iter().chain(joint.iter().copied()).flatten()
}

/// Places that `of` needs.
fn above(nodes: &[Rc<TanNode<'_>>], of: Option<usize>) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    let Some(of) = of else { return needed };
    needed[of] = true;
    for id in (0..=of).rev() {
        if needed[id] {
            operands(&nodes[id]).for_each(|x| needed[x] = true);
        }
    }
    needed
}

/// Where a layer's stretch begins.
#[derive(Clone, Copy)]
pub struct Source {
    pub place: usize,
    /// The layer's output or its weight, whose tangent stands there.
    pub variable: ValueId,
}

/// The stretches from some sources, at most [`Lanes::MOST`], each with its number as lane.
pub struct Stretches<'a, 'g> {
    pub tapes: &'a Tapes<'a, 'g>,
    /// Lanes that reach each place; those that begin there are among them.
    reached: Vec<Lanes>,
    begins: HashMap<usize, Lanes>,
    /// The first place where a lane begins.
    pub first: usize,
    depends: Dependence,
    /// Where axes are followed.
    pub trail: RefCell<Trail>,
}

impl<'a, 'g> Stretches<'a, 'g> {
    /// Of no source yet.
    pub fn new(tapes: &'a Tapes<'a, 'g>) -> Self {
        let (places, values) = (tapes.nodes.len(), tapes.slopes.values);
        let depends = Dependence { at_all: vec![Lanes::NONE; values], smoothly: vec![Lanes::NONE; values] };
        Stretches {
            tapes,
            reached: vec![Lanes::NONE; places],
            begins: HashMap::default(),
            first: places,
            depends,
            trail: RefCell::default(),
        }
    }

    /// The stretches from these sources take the place of those there were, in the same memory.
    pub fn begin(&mut self, b: &Builder, sources: &[Source]) {
        let Stretches { tapes, reached, begins, .. } = self;
        begins.clear();
        for (lane, source) in sources.iter().enumerate() {
            *begins.entry(source.place).or_default() |= Lanes::one(lane);
        }
        self.first = sources.iter().map(|s| s.place).min().unwrap_or(tapes.nodes.len());
        reached.fill(Lanes::NONE);
        for (id, node) in tapes.nodes.iter().enumerate().skip(self.first) {
            let own = begins.get(&id).copied().unwrap_or_default();
            reached[id] = operands(node).map(|x| reached[x]).fold(own, |all, lanes| all | lanes);
        }
        b.read(|graph| self.depends.on(graph, &tapes.slopes, sources));
    }

    /// Lanes that reach a place or begin there.
    pub fn reached(&self, id: usize) -> Lanes {
        self.reached[id]
    }

    pub fn begins(&self, id: usize) -> Lanes {
        self.begins.get(&id).copied().unwrap_or_default()
    }

    /// Lanes that reach a place and begin before it.
    pub fn passes(&self, id: usize) -> Lanes {
        self.reached[id] & !self.begins(id)
    }

    /// Lanes on which the coefficient of the map at a place depends.
    pub fn at_all(&self, id: usize) -> Lanes {
        self.tapes.coefficient(id).map_or(Lanes::NONE, |c| of(&self.depends.at_all, c))
    }

    /// The same, through operators that are not constant almost everywhere.
    pub fn smoothly(&self, id: usize) -> Lanes {
        self.tapes.coefficient(id).map_or(Lanes::NONE, |c| of(&self.depends.smoothly, c))
    }
}

/// Of each value, the lanes whose variable it depends on.
struct Dependence {
    at_all: Vec<Lanes>,
    /// Through operators that are not constant almost everywhere.
    smoothly: Vec<Lanes>,
}

fn of(lanes: &[Lanes], value: ValueId) -> Lanes {
    lanes.get(value.0 as usize).copied().unwrap_or_default()
}

impl Dependence {
    /// Becomes that on these sources, in a graph with these slopes.
    fn on(&mut self, graph: &Graph, slopes: &Slopes, sources: &[Source]) {
        let Dependence { at_all, smoothly } = self;
        at_all.fill(Lanes::NONE);
        smoothly.fill(Lanes::NONE);
        let mark = |set: &mut [Lanes], value: ValueId, lanes: Lanes| {
            if let Some(found) = set.get_mut(value.0 as usize) {
                *found |= lanes;
            }
        };
        for (lane, source) in sources.iter().enumerate() {
            mark(at_all, source.variable, Lanes::one(lane));
            mark(smoothly, source.variable, Lanes::one(lane));
        }
        // What stands in front of all of them depends on none.
        let behind = |source: &Source| graph.value(source.variable).producer.map_or(0, |node| node.0 as usize + 1);
        let behind = sources.iter().map(behind).min().unwrap_or(0);
        for (node, constant) in graph.nodes.iter().zip(&slopes.constant).skip(behind) {
            let reads = |set: &[Lanes]| node.reads().fold(Lanes::NONE, |all, id| all | of(set, id));
            let any = reads(at_all);
            if any.is_empty() {
                continue;
            }
            let smooth = if *constant { Lanes::NONE } else { reads(smoothly) };
            for &id in node.outputs.iter().flatten() {
                mark(at_all, id, any);
                if graph.value(id).fact.dtype.is_float() {
                    mark(smoothly, id, smooth);
                }
            }
        }
    }
}

/// Which nodes of a graph are constant almost everywhere, as far as the coefficients of a tape are computed by them.
struct Slopes {
    constant: Vec<bool>,
    /// All coefficients have smaller ids.
    values: usize,
}

impl Slopes {
    fn of(graph: &Graph, nodes: &[Rc<TanNode<'_>>]) -> Slopes {
        let coefficients = || nodes.iter().filter_map(|node| coefficient(node));
        let made = |id: ValueId| graph.value(id).producer.map_or(0, |node| node.0 as usize + 1);
        let constant = |node: &Node| {
            let known = ops::lookup(&node.op).filter(|_| node.domain.is_empty());
            known.is_some_and(|op| matches!(op.tangent.of(&node.attrs), Tangent::Zero))
        };
        let last = coefficients().map(made).max().unwrap_or(0);
        let outputs = graph.nodes[..last].iter().flat_map(|node| node.outputs.iter().flatten());
        let ids = coefficients().chain(outputs.copied()).map(|id| id.0 as usize + 1);
        Slopes { values: ids.max().unwrap_or(0), constant: graph.nodes[..last].iter().map(constant).collect() }
    }
}
