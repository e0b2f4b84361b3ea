//! The demo through its command, and the README's Python against the artifact that it leaves.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use common::{fam_onnx, run, runtime, text};
use fam_onnx::{
    runtime::{Device, Options, Session},
    tensor::{DType, Tensor},
    train::data::{self, Content},
};
use serde_json::Value;

/// A short demo, run once for all tests: the directory in which it ran, and its JSON document.
fn demo() -> &'static (PathBuf, Value) {
    static DEMO: OnceLock<(PathBuf, Value)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let output =
            run(fam_onnx(&["demo", "--epochs", "6", "--seeds", "1", "--device", "cpu", "--json"])
                .current_dir(&directory));
        let document = serde_json::from_slice(&output.stdout).expect("one JSON document");
        (directory, document)
    })
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn it_leaves_models_artifact_and_digits_and_nothing_else() {
    let (directory, document) = demo();
    assert_eq!(names(directory), ["fam-onnx-demo"]);
    let results = directory.join("fam-onnx-demo");
    assert_eq!(names(&results), ["fam.onnx", "lenet.fam", "lenet.onnx", "mnist", "plain.onnx"]);
    assert_eq!((&document["version"], &document["command"]), (&1.into(), &"demo".into()));
    for kind in ["plain", "fam"] {
        let runs = &document[kind];
        let [seed] = runs["seeds"].as_array().expect("a list").as_slice() else { panic!("{runs}") };
        assert_eq!((&seed["training"]["samples"], &seed["test"]["samples"]), (&1000.into(), &4000.into()));
        assert_eq!(
            runs["kappa"]["mean"].as_f64().map(|v| v as f32),
            seed["training"]["kappa"].as_f64().map(|v| v as f32)
        );
        assert_eq!(runs["loss"]["deviation"], Value::Null);
        assert!(runs["step_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{runs}");
    }
    assert!(document["overhead"].as_f64().is_some_and(f64::is_finite), "{document}");
}

#[test]
fn exported_models_give_the_accuracy_of_the_table() {
    let (directory, document) = demo();
    let digits = data::read(&directory.join("fam-onnx-demo/mnist"), &data::Options::default()).expect("digits");
    let mut held_out = digits.held_out.expect("test digits");
    let mut array = |name: &str| {
        let at = held_out.iter().position(|a| a.name == name).expect(name);
        match held_out.remove(at).content {
            Content::Numbers(stored) => stored.tensor().expect("a whole file"),
            other => panic!("{other:?}"),
        }
    };
    let pixels: Vec<u8> =
        array("x").data().iter().flat_map(|&p| ((f64::from(p) / 255.0) as f32).to_le_bytes()).collect();
    let labels = array("y");
    let x = Tensor::new(DType::F32, vec![4000, 1, 28, 28], pixels).expect("images");
    for (kind, file) in [("plain", "plain.onnx"), ("fam", "fam.onnx")] {
        let options = Options { device: Device::Cpu, ..Options::default() };
        let path = directory.join("fam-onnx-demo").join(file);
        let mut session = Session::from_file(&runtime(), &path, &options).expect("a session");
        let logits = session.run(&[("x", &x)], &["logits"]).expect("logits");
        let logits: Vec<f64> = logits[0].iter_f64().collect();
        let largest = |row: &[f64]| (0..10).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        let hits =
            logits.chunks(10).zip(labels.iter_i64()).filter(|(row, label)| largest(row) as i64 == *label).count();
        let accuracy = document[kind]["accuracy"]["mean"].as_f64().expect("a number");
        // A pair of nearly equal logits may fall the other way in another batch size.
        assert!((hits as f64 - 4000.0 * accuracy).abs() <= 2.0, "{kind}: {hits} of 4000, the table says {accuracy}");
        assert!(hits > 1000, "{kind}: {hits} of 4000 is no better than chance");
    }
}

#[test]
fn a_directory_that_exists_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let kept = directory.path().join("kept");
    fs::create_dir(&kept).expect("a directory");
    let output = fam_onnx(&["demo", "-o", "kept"]).current_dir(&directory).output().expect("the program");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr, directory.path()),
        "error: kept exists already and is nothing that this program wrote; it is never replaced\n\
         hint: choose another directory with -o\n"
    );
    assert_eq!(names(directory.path()), ["kept"]);
}

#[test]
fn options_out_of_range_are_wrong_usage() {
    for arguments in [["demo", "--seeds", "0"], ["demo", "--epochs", "0"], ["demo", "--lambda", "-1"]] {
        let output = fam_onnx(&arguments).output().expect("the program");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_python_of_the_readme_trains_the_artifact() {
    let (directory, _) = demo();
    let readme = include_str!("../README.md");
    let blocks = readme.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.filter(|block| block.contains("onnxruntime")).last().expect("a block with onnxruntime");
    let output = run(Command::new(common::python()).args(["-c", block]).current_dir(directory));
    let printed = text(&output.stdout, directory);
    let loss: f64 = printed.split_whitespace().next().and_then(|word| word.parse().ok()).expect("the loss comes first");
    assert!(loss < 1.0, "{printed}");
}
