//! `verify`: artifacts that are right agree, one whose graph is wrong does not.

mod common;

use std::path::Path;

use common::place::Place;
use expect_test::expect;
use fam_onnx::artifact::manifest;
use fam_onnx::ir::{Attrs, Model, Node, Value};
use fam_onnx::onnx;

/// Fixtures in a directory, each with an artifact `NAME.fam` of these options.
fn artifact(fixture: &str, options: &str) -> Place {
    let place = Place::new(&[fixture]);
    let (code, _, stderr) = place.run(&format!("inject {fixture}.onnx {options} -q"));
    assert_eq!(code, 0, "{stderr}");
    place
}

/// The table without its rounding: each row as `check of: verdict`, with the value's first three digits.
fn table(stdout: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(stdout).expect("JSON");
    let row = |check: &serde_json::Value| {
        let value = check["value"].as_f64().expect("a value");
        let reason = check["reason"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
        let (what, of) = (check["what"].as_str().expect("text"), check["of"].as_str().expect("text"));
        format!("{what} {of} {value:.2e}: {}{reason}\n", check["verdict"].as_str().expect("text"))
    };
    json["checks"].as_array().expect("checks").iter().map(row).collect()
}

/// What people read, without the distances, which are rounding, and without what room the columns take.
fn unrounded(stdout: &str) -> String {
    let rounding = |word: &&str| word.contains('e') && word.parse::<f64>().is_ok_and(|off| off < 1e-6);
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().map(|word| if rounding(&word) { "~" } else { word }).collect();
        format!("{}\n", words.join(" "))
    };
    stdout.lines().filter(|line| !line.starts_with('─')).map(line).collect()
}

/// Exit code, rows, and what went to stderr.
fn verify(place: &Place, line: &str) -> (i32, String, String) {
    let (code, stdout, stderr) = place.run(&format!("verify {line} --json"));
    (code, table(&stdout), stderr)
}

/// Rows whose verdict is not `agrees`.
fn others(rows: &str) -> String {
    rows.lines().filter(|row| !row.ends_with(": agrees")).map(|row| format!("{row}\n")).collect()
}

/// Changes a graph of the artifact, and its digest with it.
fn corrupt(artifact: &Path, file: &str, change: impl Fn(&mut Model)) {
    let path = artifact.join(file);
    let mut model = onnx::read(&path).expect("a model");
    change(&mut model);
    std::fs::remove_file(&path).expect("the old file is gone");
    onnx::write(&model, &path).expect("a file");
    let manifest = artifact.join(manifest::FILE);
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["files"][file]["sha256"] = manifest::sha256_file(&path).expect("a digest").into();
    std::fs::write(manifest, json.to_string()).expect("a manifest");
}

/// Puts a factor behind an output.
fn scale(model: &mut Model, output: &str, factor: f64) {
    let graph = &mut model.graph;
    let id = graph.find(output).expect("an output");
    let fact = graph.value(id).fact.clone();
    let constant = fam_onnx::ir::Tensor::scalar(fact.dtype, factor);
    let scalar = fam_onnx::ir::Fact::new(fact.dtype, Vec::new());
    let by = graph.add_value(Value { name: "factor".into(), fact: scalar, data: Some(constant), producer: None });
    graph.value_mut(id).name = format!("{output}.unscaled");
    let node = Some(fam_onnx::ir::NodeId(graph.nodes.len() as u32));
    let scaled = graph.add_value(Value { name: output.into(), fact, data: None, producer: node });
    graph.nodes.push(Node {
        name: "scaled".into(),
        op: "Mul".into(),
        inputs: vec![Some(id), Some(by)],
        outputs: vec![Some(scaled)],
        attrs: Attrs::new(),
        ..Node::default()
    });
    graph.outputs.iter_mut().filter(|out| **out == id).for_each(|out| *out = scaled);
}

#[test]
fn an_artifact_that_is_right() {
    let place = artifact("mlp", "--layer fc2 --layer fc --lambda 0.1 --estimator exact");
    let (code, rows, stderr) = verify(&place, "mlp.fam");
    assert_eq!((code, stderr.as_str()), (0, "4 samples of random numbers; float64 by ONNX Runtime\n"));
    expect![[r#"
        gradient fc.bias 4.77e-1: agrees
        gradient fc.weight 3.13e-1: agrees
        gradient fc1.bias 1.02e-1: agrees
        gradient fc1.weight 4.25e-1: agrees
        gradient fc2.bias 1.77e-1: agrees
        gradient fc2.weight 3.38e-1: agrees
        gradient all parameters 8.14e-1: agrees
        gradient-float32 fc.bias 4.77e-1: agrees
        gradient-float32 fc.weight 3.13e-1: agrees
        gradient-float32 fc1.bias 1.02e-1: agrees
        gradient-float32 fc1.weight 4.25e-1: agrees
        gradient-float32 fc2.bias 1.77e-1: agrees
        gradient-float32 fc2.weight 3.38e-1: agrees
        float32 loss 1.50e0: agrees
        float32 kappa.fc2 1.03e-1: agrees
        float32 kappa.fc 1.41e-1: agrees
        float32 objective 1.53e0: agrees
        kappa fc2 1.03e-1: agrees
        kappa fc 1.41e-1: agrees
    "#]]
    .assert_eq(&rows);
    let (code, stdout, _) = place.run("verify mlp.fam");
    assert_eq!(code, 0);
    expect![[r#"
        check of value off limit verdict
        gradient against central differences fc.bias 0.4767 ~ 1e-5 agrees
        gradient against central differences fc.weight 0.3130 ~ 1e-5 agrees
        gradient against central differences fc1.bias 0.1023 ~ 1e-5 agrees
        gradient against central differences fc1.weight 0.4251 ~ 1e-5 agrees
        gradient against central differences fc2.bias 0.1772 ~ 1e-5 agrees
        gradient against central differences fc2.weight 0.3383 ~ 1e-5 agrees
        gradient against central differences all parameters 0.8138 ~ 1e-5 agrees
        gradient, float32 against float64 fc.bias 0.4767 ~ 1e-4 agrees
        gradient, float32 against float64 fc.weight 0.3130 ~ 1e-4 agrees
        gradient, float32 against float64 fc1.bias 0.1023 ~ 1e-4 agrees
        gradient, float32 against float64 fc1.weight 0.4251 ~ 1e-4 agrees
        gradient, float32 against float64 fc2.bias 0.1772 ~ 1e-4 agrees
        gradient, float32 against float64 fc2.weight 0.3383 ~ 1e-4 agrees
        float32 against float64 loss 1.501 ~ 1e-4 agrees
        float32 against float64 kappa.fc2 0.1034 ~ 1e-4 agrees
        float32 against float64 kappa.fc 0.1411 ~ 1e-4 agrees
        float32 against float64 objective 1.526 ~ 1e-4 agrees
        κ against its definition fc2 0.1034 ~ 1e-5 agrees
        κ against its definition fc 0.1411 ~ 1e-5 agrees
    "#]]
    .assert_eq(&unrounded(&stdout));
    assert_eq!(place.files(), ["mlp.fam", "mlp.onnx"]);
}

#[test]
fn artifacts_of_every_kind_agree() {
    let cases = [
        ("mlp", "--layer fc2 --lambda 0.1 --estimator hutchinson"),
        ("mlp", "--layer fc2 --lambda 0.1 --estimator exact --measure layerwise"),
        ("mlp", "--layer fc2 --lambda 0.1 --estimator exact --normalize fan-in"),
        ("mlp", "--layer fc2:0.1 --layer fc:2 --estimator exact --detach-trace"),
        ("mlp", "--layer fc2 --lambda 0"),
        ("mlp", "--layer fc --lambda 0.1 --loss huber --freeze fc1.*"),
        ("mlp", "--layer fc --lambda 0.1 --label-smoothing 0.1 --ignore-index 2"),
        ("tokens", "--layer head.fc --lambda 0.1 --estimator exact"),
        ("convnet1d", "--layer fc --lambda 0.1 --estimator exact"),
        ("lenet", "--layer fc3 --lambda 0.01"),
    ];
    for (fixture, options) in cases {
        let place = artifact(fixture, options);
        let (code, rows, _) = verify(&place, &format!("{fixture}.fam --definition 192"));
        let unsure = others(&rows);
        let large = unsure.lines().all(|row| row.contains("the definition is computed for at most"));
        assert!(code == 0 && large, "{fixture} {options}:\n{unsure}");
    }
}

#[test]
fn a_wrong_gradient_is_seen() {
    let place = artifact("mlp", "--layer fc2 --lambda 0.1 --estimator exact");
    corrupt(&place.path().join("mlp.fam"), "gradient.onnx", |model| scale(model, "fc1.bias.grad", 1.001));
    let (code, rows, stderr) = verify(&place, "mlp.fam");
    assert_eq!(code, 1);
    expect![[r#"
        gradient fc1.bias 1.03e-1: disagrees
        gradient all parameters 8.08e-1: disagrees
    "#]]
    .assert_eq(&others(&rows));
    expect![[r#"
        4 samples of random numbers; float64 by ONNX Runtime
        error: mlp.fam: 2 of 17 checks disagree
    "#]]
    .assert_eq(&stderr);
}

#[test]
fn a_wrong_kappa_is_seen() {
    let place = artifact("mlp", "--layer fc2 --lambda 0 --estimator exact");
    corrupt(&place.path().join("mlp.fam"), "evaluate.onnx", |model| scale(model, "kappa", 0.999));
    let (code, rows, _) = verify(&place, "mlp.fam");
    assert_eq!(code, 1);
    expect![[r#"
        kappa fc2 1.03e-1: disagrees
    "#]]
    .assert_eq(&others(&rows));
}

#[test]
fn what_cannot_be_verified() {
    let place = artifact("mlp", "--layer fc2 --lambda 0.1");
    place.shows(
        "verify none.fam",
        expect![[r#"
        error: none.fam: not a run, a checkpoint or an artifact: it has no manifest.json
        hint: fam-onnx inject makes an artifact of a model, fam-onnx train a run of an artifact
        [exit 1]
    "#]],
    );
    place.shows(
        "verify mlp.fam --data none.npz",
        expect![[r#"
        error: none.npz: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    place.shows(
        "verify mlp.fam --batch-size 0",
        expect![[r#"
            error: invalid value '0' for '--batch-size <N>': expected a number from 1 to 65536

            For more information, try '--help'.
            [exit 2]
        "#]],
    );
    let graph = place.path().join("mlp.fam/gradient.onnx");
    let mut bytes = std::fs::read(&graph).expect("a graph");
    bytes.push(0);
    std::fs::write(&graph, bytes).expect("a graph");
    let (code, _, stderr) = place.run("verify mlp.fam");
    assert_eq!(code, 1);
    assert!(stderr.contains("its SHA-256 is") && stderr.contains("inject anew"), "{stderr}");
}
