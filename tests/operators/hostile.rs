//! No input makes an operator panic: it computes or says what is wrong.

use crate::panic_text;
use crate::problem::{Dims, Problem};
use fam_onnx::ad::{Tape, linearise};
use fam_onnx::ir::{Builder, DType, Tensor, Val};
use fam_onnx::linear::Cotangent;
use fam_onnx::ops::{Case, Input, OPS, Op, Tangent, lowered};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Everything that can be done with a case; what comes out does not matter.
fn exercise(op: &'static Op, case: &Case) {
    let b = Builder::new();
    let (tape, lowering) = (Tape::new(&b), Tape::new(&b));
    let Ok(p) = Problem::new(&b, op, case, 1, Dims::Static) else { return };
    if p.eval(&p.outs).is_err() {
        return;
    }
    let outs = match op.tangent {
        Tangent::Lower(_) => p.outs.first().and_then(|&out| lowered(&lowering, out)).unwrap_or_default(),
        _ => p.outs.clone(),
    };
    let Ok(lin) = linearise(&tape, &outs, &p.wrt) else { return };
    let tangents = p.directions(&p.wrt, None).expect("inputs are given");
    let tangents: Vec<Option<Val>> = tangents.into_iter().map(Some).collect();
    let pushed: Vec<Val> = lin.jvp(&tangents, None).into_iter().flatten().collect();
    let given: Vec<Option<Cotangent>> = outs.iter().map(|&out| Some(Cotangent::new(out))).collect();
    let pulled: Vec<Val> = lin.vjp(&given, None).into_iter().flatten().map(|ct| ct.materialise()).collect();
    let _ = p.eval(&pushed);
    let _ = p.eval(&pulled);
}

/// The case with some dimension of its real inputs changed, inputs left out or of another kind.
fn variants(case: &Case) -> Vec<Case> {
    let resized = |f: &dyn Fn(&[usize]) -> Vec<usize>| {
        let mut case = case.clone();
        for input in &mut case.inputs {
            match input {
                Input::Real { shape, .. } | Input::Distinct { shape } => *shape = f(shape),
                _ => {}
            }
        }
        case
    };
    let first_zero = |s: &[usize]| s.iter().enumerate().map(|(i, &n)| if i == 0 { 0 } else { n }).collect();
    let last_zero = |s: &[usize]| s.iter().enumerate().map(|(i, &n)| if i + 1 == s.len() { 0 } else { n }).collect();
    let mut all = vec![
        resized(&first_zero),
        resized(&last_zero),
        resized(&|_| Vec::new()),
        resized(&|s| s.iter().skip(1).copied().collect()),
        resized(&|s| s.iter().copied().chain([2]).collect()),
    ];
    for i in 0..case.inputs.len() {
        let mut without = case.clone();
        without.inputs[i] = Input::None;
        let mut integer = case.clone();
        integer.inputs[i] = Input::Data(Tensor::ints(&[2], &[7, -9]));
        let mut constant = case.clone();
        constant.inputs[i] = Input::Constant(Tensor::ints(&[1], &[-100]));
        let mut boolean = case.clone();
        boolean.inputs[i] = Input::Data(Tensor::from_f64(DType::Bool, &[1, 0, 2], []));
        let mut shorter = case.clone();
        shorter.inputs.truncate(i);
        all.extend([without, integer, constant, boolean, shorter]);
    }
    for name in case.attrs.names() {
        let mut bare = case.clone();
        bare.attrs.remove(name);
        all.extend([bare, case.clone().attr(name, 99), case.clone().attr(name, -99), case.clone().attr(name, [0, -1])]);
    }
    all
}

#[test]
fn no_input_makes_an_operator_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut panics = Vec::new();
    let only = std::env::var("ONLY_OPERATOR").ok();
    for op in OPS.iter().filter(|op| only.as_ref().is_none_or(|name| name == op.name)) {
        for (k, case) in (op.cases)().iter().enumerate() {
            for variant in variants(case) {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| exercise(op, &variant))) {
                    let text = panic_text(&*panic);
                    panics.push(format!("{} case {k}: {text}\n    {:?} {:?}", op.name, variant.inputs, variant.attrs));
                }
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(panics.is_empty(), "{} panics:\n{}", panics.len(), panics.join("\n"));
}
