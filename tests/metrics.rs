//! What a run writes of its figures, read by those who are to read it: TensorBoard itself, an XML parser, a table's reader.

mod common;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::Command,
};

use common::{fam_onnx, fixture, npz, run, tensorboard_python, text, toy_artifact, toy_npz};
use expect_test::expect;
use serde_json::Value;

/// Scalars by their tags: step and value.
type Scalars = BTreeMap<String, Vec<(u64, f32)>>;

const READ_EVENTS: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
print(json.dumps({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
";

/// The order of the elements that matter and every text, of a document that must be well-formed.
const READ_SVG: &str = "
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag.endswith('svg'), root.tag
name = lambda element: element.tag.split('}')[1]
print([name(e) for e in root.iter()].count('polyline') > 3, float(root.get('width')), float(root.get('height')))
print(*[e.text.strip() for e in root.iter() if name(e) == 'text' and e.text.strip()[:1].isalpha()], sep='\\n')
";

fn python(script: &str, path: &Path) -> String {
    let output = run(Command::new(tensorboard_python()).args(["-c", script]).arg(path));
    String::from_utf8(output.stdout).expect("text")
}

fn lines(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("metrics.jsonl")).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// What the events should hold, by the lines of `metrics.jsonl`.
fn expected(lines: &[Value]) -> Scalars {
    let mut scalars = Scalars::new();
    for line in lines {
        let step = line["step"].as_u64().expect("a step");
        let (group, figures) = match line["validation"].as_object() {
            Some(figures) => ("validation", figures),
            None => ("train", line.as_object().expect("an object")),
        };
        for (name, value) in figures.iter().filter(|(name, _)| !["step", "epoch", "samples"].contains(&name.as_str())) {
            let value = value.as_f64().expect("a number");
            scalars.entry(format!("{group}/{name}")).or_default().push((step, value as f32));
        }
    }
    scalars
}

fn train(arguments: &[&str], paths: &[&Path]) {
    run(fam_onnx(&["train", "-q"]).args(arguments).args(paths));
}

#[test]
fn a_crash_leaves_no_step_twice_in_any_file() {
    let root = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(root.path(), false);
    let data = toy_npz(root.path(), 100);
    let directory = root.path().join("run");
    let options =
        ["--steps", "13", "--batch-size", "16", "--val", "0.2", "--log-every", "2", "--checkpoint-every", "5"];
    train(&[&options[..], &["--lambda", "0.3", "-o"]].concat(), &[&directory, Path::new("--data"), &data, &artifact]);
    let before = lines(&directory);
    // As if killed after step 12, in the middle of writing, with the checkpoint of step 10 the latest.
    fs::remove_dir_all(directory.join("checkpoints/step-13")).expect("a checkpoint");
    for (name, torn) in [
        ("metrics.jsonl", &b"{\"step\":12,\"epo"[..]),
        ("metrics.csv", b"12,3,tra"),
        ("events.out.tfevents.0.fam-onnx", b"\x20\0\0\0\0\0\0\0\x11\x22"),
    ] {
        let mut file = OpenOptions::new().append(true).open(directory.join(name)).expect("a file");
        file.write_all(torn).expect("a torn end");
    }
    train(&["--resume"], &[&directory]);

    let lines = lines(&directory);
    let without_speed = |lines: &[Value]| {
        let mut lines = lines.to_vec();
        lines.iter_mut().filter_map(Value::as_object_mut).for_each(|line| drop(line.remove("examples_per_second")));
        lines
    };
    assert_eq!(without_speed(&lines), without_speed(&before));
    let scalars: Scalars = serde_json::from_str(&python(READ_EVENTS, &directory)).expect("scalars");
    assert_eq!(scalars, expected(&lines));
    let table = fs::read_to_string(directory.join("metrics.csv")).expect("a file");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + lines.len());
    for (row, line) in rows[1..].iter().zip(&lines) {
        let figures = line.get("validation").unwrap_or(line);
        for (name, cell) in rows[0].iter().zip(row).filter(|(name, _)| **name != "set") {
            let found = if ["step", "epoch"].contains(name) { &line[*name] } else { &figures[*name] };
            // To single precision: this reader of JSON does not round as one reads back what was written.
            assert_eq!(cell.parse::<f32>().ok(), found.as_f64().map(|v| v as f32), "{name} in {line}");
        }
    }
    expect!["step,epoch,set,loss,kappa,objective,kappa_share,gradient_norm,lr,examples_per_second,accuracy"]
        .assert_eq(&rows[0].join(","));
}

#[test]
fn micro_batches_have_the_gradient_norm_of_the_large_batch() {
    let root = tempfile::tempdir().expect("a directory");
    let (artifact, data) = (root.path().join("mlp.fam"), root.path().join("data.npz"));
    let inject = ["inject", "--layer", "fc2", "--lambda", "0.1", "--estimator", "exact", "-q", "-o"];
    run(fam_onnx(&inject).args([&artifact, &fixture("mlp/model.onnx")]));
    let x: Vec<f32> = (0..32 * 20).map(|i| (i as f32 * 0.37).sin()).collect();
    let labels: Vec<i64> = (0..32).map(|i| i % 5).collect();
    npz::write(&data, &[("x", npz::f32s(&[32, 20], &x)), ("labels", npz::i64s(&[32], &labels))], false);
    let norms = |name: &str, batches: [&str; 4]| -> Vec<f64> {
        let directory = root.path().join(name);
        let options = ["--steps", "3", "--log-every", "1"];
        train(&[&options[..], &batches, &["-o"]].concat(), &[&directory, Path::new("--data"), &data, &artifact]);
        lines(&directory).iter().filter_map(|line| line["gradient_norm"].as_f64()).collect()
    };
    let large = norms("large", ["--batch-size", "32", "--accumulate", "1"]);
    let small = norms("small", ["--batch-size", "8", "--accumulate", "4"]);
    assert_eq!((large.len(), small.len()), (3, 3));
    for (large, small) in large.iter().zip(&small) {
        assert!((large - small).abs() <= 1e-4 * large && *large > 0.0, "{small} for {large}");
    }
}

#[test]
fn curves_and_summary_of_a_run() {
    let root = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(root.path(), false);
    let data = toy_npz(root.path(), 100);
    let directory = root.path().join("run");
    let options = ["--epochs", "3", "--batch-size", "16", "--val", "0.2", "--log-every", "1", "--lr", "0.1", "-o"];
    train(&options, &[&directory, Path::new("--data"), &data, &artifact]);
    expect![[r#"
        True 760.0 780.0
        training
        validation
        loss
        training
        validation
        κ
        validation
        accuracy
        step
    "#]]
    .assert_eq(&python(READ_SVG, &directory.join("report.svg")));
    let svg = fs::read_to_string(directory.join("report.svg")).expect("a file");
    assert!(svg.contains("prefers-color-scheme: dark"));
    let summary = fs::read_to_string(directory.join("summary.md")).expect("a file");
    let kept: String = summary.lines().filter(|line| !line.contains("second")).flat_map(|line| [line, "\n"]).collect();
    expect![[r#"
        # run

        toy.onnx trained on `DIR/toy.npz` to the end: 15 steps, 3 epochs, batches of 16, seed 0.

        | | last step | last validation |
        |---|---:|---:|
        | `loss` | 0.5258 | 0.6279 |
        | `kappa` | 2.3750 | 2.8900 |
        | `objective` | 0.7633 | 0.9169 |
        | `kappa_share` | 0.3112 |  |
        | `lr` | 0.1000 |  |
        | `accuracy` |  | 0.7000 |

        Best `accuracy`: 0.7500, after step 5.

        | layer | λ | W | κ |
        |---|---:|---|---|
        | fc | 0.1 | 3 × 4 | neuronwise, exact |

        ![Curves of the run](report.svg)
    "#]]
    .assert_eq(&text(kept.as_bytes(), root.path()));
}

#[test]
fn an_estimate_is_called_one() {
    let root = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(root.path(), true);
    let data = toy_npz(root.path(), 100);
    let evaluate = |options: &[&str]| {
        let output = run(fam_onnx(&["evaluate", "-q", "--data"]).arg(&data).arg(&artifact).args(options));
        String::from_utf8(output.stdout).expect("text")
    };
    let shown = evaluate(&[]);
    let names: Vec<(&str, bool)> = shown
        .lines()
        .map(|line| (line.split(' ').next().unwrap_or_default(), line.ends_with("  (estimate, random probes)")))
        .collect();
    let expected = [("loss", false), ("kappa", true), ("objective", false), ("accuracy", false), ("samples", false)];
    assert_eq!(names, expected, "{shown}");
    let document: Value = serde_json::from_str(&evaluate(&["--json"])).expect("a document");
    assert_eq!(document["figures"]["estimated"], serde_json::json!(["kappa"]));
}
