//! `+ − × ÷` and negation.

use super::case::broadcasts;
use super::{Case, Cx, EvalCx, FactCx, Op, Tangent};
use crate::ad::Tan;
use crate::ir::Fact;

/// The broadcast shape; integers that are shape arithmetic keep their elements.
fn facts(c: &FactCx) -> Result<Vec<Fact>, super::Fault> {
    let mut facts = c.elementwise(c.dtype(0)?)?;
    if let (Some(a), Some(b)) = (c.ints(0), c.ints(1)) {
        let at = |v: &[crate::ir::Dim], i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
        if !a.is_empty() && !b.is_empty() && (a.len() == b.len() || a.len() == 1 || b.len() == 1) {
            let each = (0..a.len().max(b.len())).map(|i| match c.op {
                "Add" => Some(at(a, i) + at(b, i)),
                "Sub" => Some(at(a, i) - at(b, i)),
                "Mul" => Some(at(a, i) * at(b, i)),
                // Shapes are not negative, where truncation and floor agree.
                _ => at(b, i).fixed().filter(|&n| n > 0).map(|n| at(a, i).div_floor(n)),
            });
            let ints = each.collect::<Option<Vec<_>>>();
            facts = facts.into_iter().map(|f| f.with_ints(ints.clone())).collect();
        }
    }
    Ok(facts)
}

/// z = x + y            dz = dx + dy
fn add<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (_, [dx, dy]) = c.args();
    dx + dy
}

/// z = x − y            dz = dx − dy
fn sub<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (_, [dx, dy]) = c.args();
    dx - dy
}

/// z = x ⊙ y            dz = dx ⊙ y + dy ⊙ x
fn mul<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, y], [dx, dy]) = c.args();
    dx * y + dy * x
}

/// z = x / y            dz = (dx − dy ⊙ z) / y
fn div<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([_, y], [dx, dy]) = c.args();
    (dx - dy * c.out(0)) / y
}

/// y = −x               dy = −dx
fn neg<'g>(c: &Cx<'g>) -> Tan<'g> {
    -c.dx(0)
}

macro_rules! binary {
    ($const:ident $name:literal $rule:ident $f:expr, $low:literal) => {
        pub static $const: Op = Op {
            name: $name,
            facts,
            tangent: Tangent::Rule($rule),
            eval: |c: &EvalCx| {
                let integer = c.dtype(0).is_int();
                c.zip(c.dtype(0), move |x, y| {
                    let z: f64 = ($f)(x, y);
                    if integer { z.trunc() } else { z }
                })
            },
            cases: || broadcasts($low, 1.5),
        };
    };
}

binary!(ADD "Add" add |x, y| x + y, -1.5);
binary!(SUB "Sub" sub |x, y| x - y, -1.5);
binary!(MUL "Mul" mul |x, y| x * y, -1.5);
binary!(DIV "Div" div |x, y| x / y, 0.5);

pub static NEG: Op = Op {
    name: "Neg",
    facts: |c| {
        let ints = c.ints(0).map(|v| v.iter().map(|d| crate::ir::Dim::Fixed(0) - d.clone()).collect());
        Ok(c.elementwise(c.dtype(0)?)?.into_iter().map(|f| f.with_ints(ints.clone())).collect())
    },
    tangent: Tangent::Rule(neg),
    eval: |c| c.map(|x| -x),
    cases: || vec![Case::new().real(&[2, 3])],
};
