//! Second derivatives along directions: forward over forward on one tape.
//!
//! A tape is `t_out = M(c) t_in` map by map, with coefficients `c` that are values of the graph. Its derivative is
//! `s_out = M(c) s_in + M(ċ) t_in`, where `ċ` moves with the second direction. Directions may have a leading axis: then
//! all of them go through together.

use super::{Kind, Linearised, Tape, linearise};
use crate::error::Result;
use crate::ir::{Builder, Dim, Val, ValueId};
use foldhash::{HashMap, HashSet};

/// `(v, w) ↦ D²of[v, w]` in one variable.
pub struct Second<'g> {
    builder: &'g Builder,
    wrt: Val<'g>,
    first: Linearised<'g>,
    /// The coefficients of the tape that move with `wrt`, and their derivative.
    coefficients: Vec<ValueId>,
    slopes: Linearised<'g>,
    /// Some map has a body of nodes in place of a coefficient: control flow.
    has_bodies: bool,
}

impl<'g> Second<'g> {
    /// The second derivative of `of` in `wrt`; the tapes hold its parts.
    ///
    /// # Errors
    /// As [`linearise`].
    pub fn new(tape: &'g Tape<'g>, slopes: &'g Tape<'g>, of: Val<'g>, wrt: Val<'g>) -> Result<Second<'g>> {
        let builder = tape.builder;
        let first = linearise(tape, &[of], &[wrt])?;
        let below = builder.read(|g| g.descendants(&[wrt.id()]));
        let maps = first.maps();
        let mut seen = HashSet::default();
        let mut coefficients: Vec<Val<'g>> = Vec::new();
        for node in &maps {
            let Kind::Apply(map, _) = &node.kind else { continue };
            let moving = map.coefficient().filter(|c| c.dtype().is_float() && below.contains(&c.id()));
            coefficients.extend(moving.filter(|c| seen.insert(c.id())));
        }
        let slopes = linearise(slopes, &coefficients, &[wrt])?;
        let has_bodies = maps.iter().any(|node| matches!(node.kind, Kind::Joint(..)));
        let coefficients = coefficients.iter().map(|c| c.id()).collect();
        Ok(Second { builder, wrt, first, coefficients, slopes, has_bodies })
    }

    /// `D²of[v, w]`, with `lead` summed over the further first axis that the directions then have, of fixed size; rank 0,
    /// `None` where it is zero. What goes wrong is a fault of the builder.
    pub fn along(&self, v: Val<'g>, w: Val<'g>, lead: Option<&Dim>) -> Option<Val<'g>> {
        match lead.map(Dim::fixed) {
            _ if !self.has_bodies => self.on_tape(v, w, lead).map(Val::sum_all),
            None => self.again(v, w),
            Some(count) => {
                let one = |d: Val<'g>, k: i64| d.slice(0, k, k + 1).squeeze(&[0]);
                let parts = (0..count.unwrap_or(0)).filter_map(|k| self.again(one(v, k), one(w, k)));
                parts.reduce(|sum, part| sum + part)
            }
        }
    }

    fn on_tape(&self, v: Val<'g>, w: Val<'g>, lead: Option<&Dim>) -> Option<Val<'g>> {
        let moved = self.slopes.jvp(&[Some(w)], lead);
        let moved: HashMap<ValueId, Val<'g>> =
            self.coefficients.iter().zip(moved).filter_map(|(&id, dc)| Some((id, dc?))).collect();
        let first = self.first.push(&[Some(v)], lead);
        let second = self.first.walk("second", |second, id, node| match &node.kind {
            Kind::Source(_) | Kind::Joint(..) | Kind::Part(..) => None,
            Kind::Sum(x, y) => self.first.sum(second, (*x, *y), id, lead),
            Kind::Apply(map, x) => {
                let from = self.first.shape(*x);
                let straight = second[*x].map(|s| map.emit(s, &from, &node.shape, lead));
                let dc = map.coefficient().and_then(|c| moved.get(&c.id()));
                let bent =
                    first[*x].zip(dc.copied()).and_then(|(t, dc)| map.differential(t, dc, &from, &node.shape, lead));
                match (straight, bent) {
                    (Some(straight), Some(bent)) => Some(straight + bent),
                    (one, None) | (None, one) => one,
                }
            }
        });
        self.first.of.first().and_then(|t| t.id()).and_then(|id| second[id])
    }

    /// The first derivative along `v`, derived again along `w`, with `v` held.
    fn again(&self, v: Val<'g>, w: Val<'g>) -> Option<Val<'g>> {
        let b = self.builder;
        let first = self.first.jvp(&[Some(v)], None).pop().flatten()?;
        let tape = Tape::new(b);
        match linearise(&tape, &[first], &[self.wrt, v]) {
            Ok(linear) => linear.jvp(&[Some(w), None], None).pop().flatten().map(|v| b.val(v.id())),
            Err(error) => {
                b.fault(error);
                None
            }
        }
    }
}
