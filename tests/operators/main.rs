//! What holds of every operator in the table, checked on its own cases with fixed seeds.

mod check;
mod hostile;
mod problem;
mod table;
mod unknown_rank;
mod wrong_rules;

use check::{Order, adjoint, facts, lead, next_order, symmetry, tangent};
use fam_onnx::ad::{Tape, linearise};
use fam_onnx::ir::{Builder, Val};
use fam_onnx::ops::{Case, OPS, Op, Tangent, lookup, lowered};
use problem::{Dims, Problem};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Derivatives are checked up to this order.
const ORDERS: usize = 3;

/// All failures of one case.
fn failures_of(op: &'static Op, case: &Case, seed: u64, dims: Dims) -> Vec<String> {
    let b = Builder::new();
    let tapes: Vec<Tape> = (0..ORDERS).map(|_| Tape::new(&b)).collect();
    let lowering = Tape::new(&b);
    let p = match Problem::new(&b, op, case, seed, dims) {
        Ok(p) => p,
        Err(failure) => return vec![failure],
    };
    let mut failures: Vec<String> = facts(&p).err().into_iter().collect();
    let outs = match op.tangent.of(&case.attrs) {
        Tangent::Blocked(_) => return failures,
        Tangent::Lower(_) => match lower(&lowering, &p) {
            Ok(outs) => outs,
            Err(failure) => return failures.into_iter().chain([failure]).collect(),
        },
        Tangent::Rule(_) | Tangent::Joint(_) | Tangent::StraightThrough(_) | Tangent::Zero | Tangent::Select(_) => {
            p.outs.clone()
        }
    };
    let mut of: Vec<Option<Val>> = outs.into_iter().filter(|v| v.dtype().is_float()).map(Some).collect();
    for (order, tape) in tapes.iter().enumerate() {
        let values: Vec<Val> = of.iter().flatten().copied().collect();
        if values.is_empty() {
            break;
        }
        let lin = match linearise(tape, &values, &p.wrt) {
            Ok(lin) => lin,
            Err(error) => {
                failures.push(format!("order {}: {error}", order + 1));
                break;
            }
        };
        let at = Order { p: &p, of: &values, lin: &lin };
        let mut results = vec![tangent(&at), adjoint(&at, &lin)];
        if order < 2 {
            results.push(lead(&at, &lin));
        }
        if order == 1 {
            results.push(symmetry(&at, &of));
        }
        failures.extend(results.into_iter().filter_map(Result::err).map(|f| format!("order {}: {f}", order + 1)));
        of = next_order(&at);
        if let Err(error) = b.check() {
            failures.push(format!("order {}: {error}", order + 1));
            break;
        }
    }
    failures.extend(closure(&b).err());
    failures
}

/// The operator in terms of others, which must compute the same.
fn lower<'g>(tape: &'g Tape<'g>, p: &Problem<'g>) -> Result<Vec<Val<'g>>, String> {
    let outs = p.outs.first().and_then(|&out| lowered(tape, out)).ok_or("there is no node to lower")?;
    p.b.check().map_err(|e| e.to_string())?;
    let (own, other) = (p.eval(&p.outs)?, p.eval(&outs)?);
    for (k, (own, other)) in own.iter().zip(&other).enumerate() {
        check::close(&format!("lowered output {k}"), other, own, 1e-12)?;
    }
    Ok(outs)
}

/// Every node that is emitted can be differentiated again.
fn closure(b: &Builder) -> Result<(), String> {
    let unknown = b.read(|g| g.nodes.iter().find(|n| lookup(&n.op).is_none()).map(|n| n.op.clone()));
    unknown.map_or(Ok(()), |op| Err(format!("emits {op}, which is not in the table")))
}

/// What a panic says.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

fn every_case(dims: Dims) {
    let mut failures = Vec::new();
    let only = std::env::var("ONLY_OPERATOR").ok();
    for op in OPS.iter().filter(|op| only.as_ref().is_none_or(|name| name == op.name)) {
        for (k, case) in (op.cases)().iter().enumerate() {
            let seed = op.name.bytes().fold(k as u64 + 1, |h, c| h.wrapping_mul(31).wrapping_add(u64::from(c)));
            let found = catch_unwind(AssertUnwindSafe(|| failures_of(op, case, seed, dims)));
            let found = found.unwrap_or_else(|panic| vec![format!("panics: {}", panic_text(&*panic))]);
            failures.extend(found.into_iter().map(|f| format!("{} case {k}: {f}", op.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn operators_with_static_shapes() {
    every_case(Dims::Static);
}

#[test]
fn operators_with_a_symbolic_first_dimension() {
    every_case(Dims::Symbolic);
}
