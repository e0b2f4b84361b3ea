//! `train --lambda-sweep`: a grid of runs, one table.

mod common;

use std::{fs, path::Path, process::Stdio};

use common::{fam_onnx, run, text, toy_artifact, toy_npz};
use expect_test::expect;
use serde_json::Value;

const GRID: [&str; 12] = [
    "--lambda-sweep",
    "0,0.1,1",
    "--seeds",
    "2",
    "--init",
    "random",
    "--val",
    "0.2",
    "--batch-size",
    "16",
    "--threads",
    "1",
];

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

#[test]
fn a_grid_ends_with_a_table_and_a_plot() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let train = |name: &str, steps: &str, more: &[&str]| {
        let mut command = fam_onnx(&["train", "--steps", steps]);
        command.arg(&artifact).arg("--data").arg(&data).args(more).arg("-o").arg(path(name));
        command
    };
    let output = run(train("whole", "30", &GRID).arg("-q"));
    let table = text(&output.stdout, directory.path());
    let head: Vec<&str> = table.lines().take(2).collect();
    assert_eq!(head[0].split_whitespace().collect::<Vec<_>>(), ["λ", "accuracy,", "%", "loss", "κ"], "{table}");
    let document = json(&path("whole/sweep.json"));
    let runs = document["runs"].as_array().expect("a list");
    let grid: Vec<(f64, u64)> =
        runs.iter().map(|r| (r["lambda"].as_f64().expect("λ"), r["seed"].as_u64().expect("a seed"))).collect();
    assert_eq!(grid, [(0.0, 0), (0.0, 1), (0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)]);
    let kappa = |row: usize| document["rows"][row]["kappa"]["mean"].as_f64().expect("κ");
    assert!(kappa(0) > kappa(1) && kappa(1) > kappa(2), "more λ, less κ: {table}");
    let mean = |row: usize, name: &str| {
        let of = |run: usize| runs[2 * row + run][name].as_f64().expect("a number");
        (of(0) + of(1)) / 2.0
    };
    assert!((kappa(1) - mean(1, "kappa")).abs() < 1e-9);
    assert_ne!(runs[0]["loss"], runs[1]["loss"], "another seed is another run");
    let svg = fs::read_to_string(path("whole/sweep.svg")).expect("a plot");
    assert!(
        svg.starts_with("<svg") && svg.contains("accuracy") && svg.contains("κ") && svg.matches("<circle").count() == 6
    );
    let markdown = fs::read_to_string(path("whole/sweep.md")).expect("a table");
    assert_eq!(markdown.lines().count(), 2 + 3, "{markdown}");

    // A cell is the run that its λ and seed give alone.
    let alone =
        ["--lambda", "0.1", "--seed", "1", "--init", "random", "--val", "0.2", "--batch-size", "16", "--threads", "1"];
    run(train("alone", "30", &alone).arg("-q"));
    let weights = |run: &Path| fs::read(run.join("checkpoints/step-30/parameters.safetensors")).expect("a file");
    assert!(weights(&path("alone")) == weights(&path("whole/lambda-0.1/seed-1")));

    let (stopped, whole) = (path("stopped"), path("whole"));
    let mut process = train("stopped", "30", &GRID).arg("-q").stdout(Stdio::null()).spawn().expect("a process");
    while !stopped.join("lambda-0/seed-1/config.toml").exists() {
        assert!(process.try_wait().expect("a process").is_none(), "it ended before the second run");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    process.kill().expect("a kill");
    process.wait().expect("an end");
    assert!(stopped.join("lambda-0/seed-0/result.json").exists() && !stopped.join("sweep.json").exists());
    run(fam_onnx(&["train", "-q", "--resume"]).arg(&stopped));
    assert_eq!(json(&stopped.join("sweep.json"))["runs"], document["runs"]);
    assert_eq!(
        fs::read(stopped.join("sweep.svg")).expect("a plot"),
        fs::read(whole.join("sweep.svg")).expect("a plot")
    );
}

#[test]
fn a_grid_without_validation_is_wrong_usage() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let output = fam_onnx(&["train", "-q", "--lambda-sweep", "0,1", "--data"])
        .args([&data, &artifact])
        .output()
        .expect("a process");
    expect![[r#"
        error: the option lambda-sweep is given without validation data; expected val beside it, a file or a fraction of the data
    "#]]
    .assert_eq(&text(&output.stderr, directory.path()));
    assert_eq!(output.status.code(), Some(2));
}
