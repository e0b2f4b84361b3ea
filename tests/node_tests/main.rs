//! ONNX's own node tests judge every rule. For each case with a real input and a real output: the model is read, the
//! interpreter reproduces the expected outputs, `grad` and `jvp` agree with the interpreter's differences (`judge` states step
//! and tolerances), first and second order, their models pass the ONNX checker, and ONNX Runtime computes the same with them.
//!
//! `NODE_TESTS=all` runs all cases; without it those with large tensors are left out, which take as long as all others.
//! `NODE_TESTS=NAME` runs the cases whose name or operator contains NAME, and prints what each shows.

mod case;
#[path = "../common/mod.rs"]
mod common;
mod exceptions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Case, Remark};
use exceptions::EXCEPTIONS;

/// Bytes of data of the cases that are always run.
const ALWAYS: u64 = 8 << 10;

fn collect(directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_tests/collect.py");
    common::run(std::process::Command::new(common::python()).arg(script).arg(directory));
}

/// What every case shows, in the order of the cases; two at a time.
fn judge(cases: &[Case], emitted: &Path) -> Vec<Vec<Remark>> {
    common::runtime();
    let next = AtomicUsize::new(0);
    let found: Mutex<BTreeMap<usize, Vec<Remark>>> = Mutex::default();
    let work = || {
        while let k = next.fetch_add(1, Ordering::Relaxed)
            && let Some(case) = cases.get(k)
        {
            let remarks = case.judge(emitted);
            found.lock().expect("no panic").insert(k, remarks);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    found.into_inner().expect("no panic").into_values().collect()
}

#[test]
fn derivatives_of_every_node_test() {
    let directory = tempfile::tempdir().expect("a directory");
    let emitted = tempfile::tempdir().expect("a directory");
    collect(directory.path());
    let all = Case::all(directory.path());
    let wanted = std::env::var("NODE_TESTS").unwrap_or_default();
    let is_run = |case: &&Case| match wanted.as_str() {
        "" => case.size() <= ALWAYS,
        "all" => true,
        name => case.name.contains(name) || case.operator.contains(name),
    };
    let total = all.len();
    let cases: Vec<Case> = all.into_iter().filter(|case| is_run(&case)).collect();
    let found = judge(&cases, emitted.path());
    let mut faults = Vec::new();
    for (Case { name, operator, .. }, remarks) in cases.iter().zip(&found) {
        for remark in remarks {
            let line = format!("{operator} {name}: {:?}: {}", remark.kind, remark.detail);
            if !EXCEPTIONS.iter().any(|exception| exception.covers(operator, name, remark)) {
                faults.push(line);
            } else if !wanted.is_empty() {
                eprintln!("{line}");
            }
        }
    }
    for exception in EXCEPTIONS {
        let mut of =
            cases.iter().zip(&found).filter(|(case, _)| exception.is_of(&case.operator, &case.name)).peekable();
        let is_stale = of.peek().is_some()
            && !of.any(|(case, found)| found.iter().any(|r| exception.covers(&case.operator, &case.name, r)));
        if is_stale || (cases.len() == total && exception_is_of_none(exception, &cases)) {
            let exceptions::Exception { operator, cases, kind, reason, .. } = exception;
            faults.push(format!("{operator} {cases}: no case shows {kind:?} any more ({reason})"));
        }
    }
    eprintln!("{} of {total} cases", cases.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    common::script("check_models.py", &[emitted.path()]);
}

fn exception_is_of_none(exception: &exceptions::Exception, cases: &[Case]) -> bool {
    !cases.iter().any(|case| exception.is_of(&case.operator, &case.name))
}
