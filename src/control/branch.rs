//! Two bodies of which one runs.

use super::outward::Outward;
use crate::ir::{Attrs, Fact, Graph};
use crate::ops::{Array, EvalCx, FactCx, Fault};
use std::sync::Arc;

pub(crate) struct Branches {
    pub yes: Arc<Graph>,
    pub no: Arc<Graph>,
}

impl Branches {
    pub fn of(attrs: &Attrs) -> Result<Branches, Fault> {
        let body = |name: &'static str| {
            attrs.graph(name).cloned().ok_or_else(|| Fault::Attribute {
                name,
                found: "missing".into(),
                expected: "a graph".into(),
            })
        };
        let (yes, no) = (body("then_branch")?, body("else_branch")?);
        if yes.outputs.len() != no.outputs.len() {
            return Err(Fault::Shape {
                what: "outputs of the else_branch",
                found: no.outputs.len().to_string(),
                expected: yes.outputs.len().to_string(),
            });
        }
        Ok(Branches { yes, no })
    }

    pub fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
        let Branches { yes, no } = Branches::of(c.attrs)?;
        let outward = Outward::of(c, &[&yes, &no]);
        let each = yes.outputs.iter().zip(&no.outputs).enumerate();
        let facts = each.map(|(k, (&a, &b))| {
            let (a, b) = (outward.fact(&yes, a, k), outward.fact(&no, b, k));
            if a.dtype == b.dtype {
                return Ok(outward.either(&a, &b, k));
            }
            Err(Fault::Shape {
                what: "the element type of an output of the else_branch",
                found: b.dtype.to_string(),
                expected: a.dtype.to_string(),
            })
        });
        facts.collect()
    }

    pub fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
        let branches = Branches::of(c.attrs)?;
        let yes = c.data(0)?.first().is_some_and(|&v| v != 0.0);
        c.run(if yes { &branches.yes } else { &branches.no }, &[])
    }
}
