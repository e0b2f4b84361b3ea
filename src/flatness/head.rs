//! The head: everything between a layer's output and the loss, classified from its linearisation.
//!
//! The derivative of the head is a tape of linear maps whose coefficients are values of the graph. If no coefficient
//! depends on the layer's output the head is affine; if they depend on it only through operators that are constant
//! almost everywhere (comparisons, signs, indices) it is piecewise affine; else it is smooth.
//!
//! Samples and positions are proved independent by following their axes along the tape to the loss: an axis ends in a
//! sum, behind which nothing may bend. Whatever lets two entries of an axis meet is an edge of the tape.

use super::lanes::Lanes;
use super::stretch::Stretches;
use crate::ad::Kind;
use crate::ir::Dim;
use crate::linear::Linear;
use std::ops::Range;

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

/// A layer whose head is looked at.
pub struct Seen {
    /// Of the layer's output, or of its weight where second derivatives are taken in that.
    pub shape: Vec<Dim>,
    /// The axis of the output that counts neurons; `None`: it is the weight and has no samples.
    pub feature: Option<usize>,
    /// The layer's output is what a loss with a known curvature reads.
    pub is_logits: bool,
}

/// The head of each layer, a lane each.
pub fn classify(stretches: &Stretches<'_, '_>, seen: &[Seen]) -> Vec<Head> {
    let (smooth, any) = (deciding(stretches, seen.len(), true), deciding(stretches, seen.len(), false));
    let rank = |seen: &Seen| seen.feature.map_or(0, |_| seen.shape.len());
    let axes = seen.iter().map(rank).max().unwrap_or(0);
    let followed: Vec<Vec<Option<Axis>>> = (0..axes)
        .map(|axis| {
            let size = |seen: &Seen| if axis < rank(seen) { seen.shape.get(axis).cloned() } else { None };
            follow(stretches, axis, &seen.iter().map(size).collect::<Vec<_>>())
        })
        .collect();
    let name = |id: usize| stretches.tapes.nodes[id].scope.clone();
    let head = |(lane, seen): (usize, &Seen)| {
        let axis = |(axis, found): (usize, &Vec<Option<Axis>>)| match (Some(axis) == seen.feature, found[lane].clone()?)
        {
            (false, Axis::Meets(_)) if axis > 0 && seen.shape[axis].is_one() => Some(Axis::Independent(None)),
            (_, found) => Some(found),
        };
        let axes: Vec<Axis> = followed.iter().enumerate().map_while(axis).collect();
        let class = match (axes.first(), smooth[lane], any[lane]) {
            _ if seen.is_logits => Class::Logits,
            (Some(Axis::Meets(at)), ..) if seen.feature != Some(0) => Class::Mixing { decided_by: at.clone() },
            (_, Some(at), _) => Class::Smooth { decided_by: name(at) },
            (_, None, Some(at)) => Class::PiecewiseAffine { decided_by: name(at) },
            (_, None, None) => Class::Affine,
        };
        Head { class, flat: smooth[lane].is_none(), axes }
    };
    seen.iter().enumerate().map(head).collect()
}

/// The first place on each lane's way to what the loss reads, or where it does not get there to the loss, whose slope
/// depends on the layer's output; with `smoothly` through operators that are not constant almost everywhere only.
fn deciding(stretches: &Stretches<'_, '_>, lanes: usize, smoothly: bool) -> Vec<Option<usize>> {
    let tapes = stretches.tapes;
    let mut found = vec![None; lanes];
    let mut open = Lanes::first(lanes);
    let predict = tapes.prediction.map_or(Lanes::NONE, |id| stretches.reached(id));
    for (id, node) in tapes.nodes.iter().enumerate().skip(stretches.first) {
        if open.is_empty() {
            break;
        }
        let sloping = match (&node.kind, smoothly) {
            // How bodies bend is not looked into.
            (Kind::Joint(..), _) => !Lanes::NONE,
            (_, true) => stretches.smoothly(id),
            (_, false) => stretches.at_all(id),
        };
        let way = |on_way: bool, lanes: Lanes| if on_way { lanes } else { Lanes::NONE };
        let on_way = way(tapes.to_prediction[id], predict) | way(tapes.to_loss[id], !predict);
        let decided = sloping & on_way & open & stretches.reached(id);
        decided.iter().for_each(|lane| found[lane] = Some(id));
        open = open & !decided;
    }
    found
}

/// Where an axis of that size of some lanes is, at one place of the tape.
#[derive(Clone, Copy)]
struct Followed {
    place: Place,
    /// The number of the axis' size.
    size: usize,
    lanes: Lanes,
}

fn add(all: &mut Vec<Followed>, new: Followed) {
    match all.iter_mut().find(|f| f.place == new.place && f.size == new.size) {
        Some(same) => same.lanes |= new.lanes,
        None if new.lanes.is_empty() => {}
        None => all.push(new),
    }
}

/// What is followed at each place of a tape so far.
#[derive(Default)]
pub struct Trail {
    all: Vec<Followed>,
    /// Where in `all` it stands.
    places: Vec<Range<usize>>,
}

impl Trail {
    fn at(&self, id: usize) -> &[Followed] {
        self.places.get(id).map_or(&[], |place| &self.all[place.clone()])
    }

    /// Forgets everything; nothing is followed before place `first`.
    fn begin(&mut self, first: usize) {
        self.all.clear();
        self.places.clear();
        self.places.resize(first, 0..0);
    }

    fn push(&mut self, here: &[Followed]) {
        let start = self.all.len();
        self.all.extend_from_slice(here);
        self.places.push(start..self.all.len());
    }
}

/// Follows an axis of each source, of these sizes, to the loss; `None` for sources that have no such axis.
fn follow(stretches: &Stretches<'_, '_>, axis: usize, sizes: &[Option<Dim>]) -> Vec<Option<Axis>> {
    let tapes = stretches.tapes;
    let Some(loss) = tapes.loss else { return vec![None; sizes.len()] };
    let mut distinct: Vec<&Dim> = Vec::new();
    let mut numbers: Vec<Option<usize>> = vec![None; sizes.len()];
    for (number, size) in numbers.iter_mut().zip(sizes).filter_map(|(number, size)| Some((number, size.as_ref()?))) {
        let at = distinct.iter().position(|known| *known == size).unwrap_or(distinct.len());
        if at == distinct.len() {
            distinct.push(size);
        }
        *number = Some(at);
    }
    let lanes = || numbers.iter().enumerate().filter_map(|(lane, size)| Some((lane, (*size)?)));
    // Lanes whose entries have not met so far.
    let mut alive = lanes().fold(Lanes::NONE, |all, (lane, _)| all | Lanes::one(lane));
    let mut met: Vec<Option<usize>> = vec![None; sizes.len()];
    let mut trail = stretches.trail.borrow_mut();
    trail.begin(stretches.first);
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for id in stretches.first..=loss {
        if alive.is_empty() {
            break;
        }
        let node = &tapes.nodes[id];
        let active = stretches.passes(id) & alive;
        here.clear();
        if !active.is_empty() && (tapes.to_loss[id] || tapes.to_prediction[id]) {
            there.clear();
            moved(stretches, &trail, id, &distinct, &mut there);
            for &found in &there {
                let lanes = found.lanes & active;
                // An axis of size 1 that grows is one sample that many rows read.
                let kept = match found.place {
                    Place::Axis(at) => node.shape.get(at) == distinct.get(found.size).copied(),
                    Place::Summed => true,
                };
                if kept {
                    add(&mut here, Followed { lanes, ..found });
                }
            }
            let kept = here.iter().fold(Lanes::NONE, |all, found| all | found.lanes);
            let failed = active & !kept;
            failed.iter().for_each(|lane| met[lane] = Some(id));
            alive = alive & !failed;
        }
        for lane in (stretches.begins(id) & alive).iter() {
            let place = Place::Axis(axis);
            numbers[lane]
                .into_iter()
                .for_each(|size| add(&mut here, Followed { place, size, lanes: Lanes::one(lane) }));
        }
        trail.push(&here);
    }
    let place = |id: Option<usize>, lane: usize| {
        let found = trail.at(id?).iter().find(|found| found.lanes.contains(lane))?;
        Some(found.place)
    };
    let name = |id: usize| Axis::Meets(tapes.nodes[id].scope.clone());
    let mut axes = vec![None; sizes.len()];
    for (lane, _) in lanes() {
        axes[lane] = Some(match (met[lane], place(Some(loss), lane), place(tapes.prediction, lane)) {
            (Some(id), ..) => name(id),
            (None, Some(Place::Summed), Some(Place::Axis(image))) => Axis::Independent(Some(image)),
            (None, Some(Place::Summed), _) => Axis::Independent(None),
            (None, ..) => name(loss),
        });
    }
    axes
}

/// Adds where the followed axes are behind the map at place `id`; lanes whose entries meet there are left out.
fn moved(stretches: &Stretches<'_, '_>, trail: &Trail, id: usize, sizes: &[&Dim], made: &mut Vec<Followed>) {
    let nodes = stretches.tapes.nodes;
    let to = &nodes[id].shape;
    match &nodes[id].kind {
        // What bodies do with the samples is not followed.
        Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => {}
        Kind::Sum(x, y) => {
            let grown = |x: usize| trail.at(x).iter().map(move |found| grown(found, &nodes[x].shape, to));
            let alike = |a: &Followed, b: &Followed| a.place == b.place && a.size == b.size;
            for found in grown(*x) {
                let same = grown(*y).find(|other| alike(&found, other)).map_or(Lanes::NONE, |other| other.lanes);
                let lanes = found.lanes & (!stretches.reached(*y) | same);
                add(made, Followed { lanes, ..found });
            }
            for found in grown(*y) {
                add(made, Followed { lanes: found.lanes & !stretches.reached(*x), ..found });
            }
        }
        Kind::Apply(map, x) => {
            let from = &nodes[*x].shape;
            for &Followed { place, size, lanes } in trail.at(*x) {
                let (place, lanes) = match place {
                    // Behind a sum nothing may bend.
                    Place::Summed => (Some(place), lanes & !stretches.smoothly(id)),
                    Place::Axis(axis) => (place_behind(map, axis, from, to, sizes[size]), lanes),
                };
                place.into_iter().for_each(|place| add(made, Followed { place, size, lanes }));
            }
        }
    }
}

/// Where an axis stands in a sum: broadcasting aligns axes at the end.
fn grown(found: &Followed, from: &[Dim], to: &[Dim]) -> Followed {
    let place = match found.place {
        Place::Axis(axis) => Place::Axis(axis + to.len() - from.len()),
        Place::Summed => Place::Summed,
    };
    Followed { place, ..*found }
}

/// Where an axis is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Axis(usize),
    /// Its entries are summed.
    Summed,
}

/// Behind a map from shape `from` to shape `to`; `None` if entries meet or the axis is lost.
fn place_behind(map: &Linear<'_>, axis: usize, from: &[Dim], to: &[Dim], size: &Dim) -> Option<Place> {
    match map {
        Linear::Sum { axes, .. } if axes.contains(&(axis as i64)) => Some(Place::Summed),
        _ => follow_axis(map, axis, from, to, size).map(Place::Axis),
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
