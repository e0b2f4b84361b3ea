//! If.

use super::{Case, Op, Tangent};
use crate::ir::{Builder, DType, Graph};
use crate::control::{Branches, branch_tangents};

fn constant(value: f64) -> Graph {
    let b = Builder::new();
    b.output(b.scalar(DType::F64, value), "out");
    b.finish().unwrap_or_default()
}

/// Branches that depend on real numbers capture them; they stand in the cases of Scan.
fn cases() -> Vec<Case> {
    let both = || Case::new().attr("then_branch", constant(1.5)).attr("else_branch", constant(-0.5));
    vec![both().bools(&[], &[true]), both().bools(&[], &[false])]
}

pub static IF: Op =
    Op { name: "If", facts: Branches::facts, tangent: Tangent::Joint(branch_tangents), eval: Branches::eval, cases };
