//! Linear maps of several tangents to several, which one node computes together.

use super::branches::BranchMap;
use super::rounds::RoundMap;
use crate::ir::{Dim, Val};
use crate::linear::Cotangent;

#[derive(Clone)]
pub enum Joint<'g> {
    /// The derivative of a body that runs again and again: the bodies' derivatives one after the other.
    Rounds(RoundMap<'g>),
    /// The derivative of the body that was taken.
    Branches(BranchMap<'g>),
}

impl<'g> Joint<'g> {
    /// The map applied to tangents, `None` where they are zero; every tangent may have a further first axis `lead`.
    pub fn emit(&self, tangents: &[Option<Val<'g>>], lead: Option<&Dim>) -> Vec<Option<Val<'g>>> {
        match self {
            Joint::Rounds(map) => map.emit(tangents, lead),
            Joint::Branches(map) => map.emit(tangents, lead),
        }
    }

    /// The transposed map applied to cotangents.
    pub fn transpose(&self, cotangents: &[Option<Cotangent<'g>>], lead: Option<&Dim>) -> Vec<Option<Cotangent<'g>>> {
        match self {
            Joint::Rounds(map) => map.transpose(cotangents, lead),
            Joint::Branches(map) => map.transpose(cotangents, lead),
        }
    }
}
