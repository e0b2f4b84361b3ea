//! The table is complete and every operator in it is tested.

use fam_onnx::ops::{OPS, Tangent};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn names_are_unique() {
    let names: BTreeSet<&str> = OPS.iter().map(|op| op.name).collect();
    assert_eq!(names.len(), OPS.len());
}

#[test]
fn every_operator_has_cases() {
    let without: Vec<&str> = OPS
        .iter()
        .filter(|op| !matches!(op.tangent, Tangent::Zero) && (op.cases)().is_empty())
        .map(|op| op.name)
        .collect();
    assert!(without.is_empty(), "no cases: {without:?}");
}

#[test]
fn every_file_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let table = std::fs::read_to_string(folder.join("mod.rs")).expect("src/ops/mod.rs");
    let named = |file: &str| {
        table
            .lines()
            .map(str::trim)
            .any(|line| line == format!("mod {file};") || line.starts_with(&format!("{file} {{")))
    };
    let entries = std::fs::read_dir(&folder).expect("src/ops").filter_map(Result::ok);
    let files = entries.filter_map(|e| e.path().file_stem().map(|s| s.to_string_lossy().into_owned()));
    let forgotten: Vec<String> = files.filter(|file| file != "mod" && !named(file)).collect();
    assert!(forgotten.is_empty(), "not in src/ops/mod.rs: {forgotten:?}");
}
