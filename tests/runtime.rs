//! Finding ONNX Runtime, and what is said when it cannot be used.

mod common;

use std::{fs, path::Path};

use common::{fam_onnx, runtime, script, text, toy_artifact, toy_data};
use expect_test::expect;
use fam_onnx::{
    runtime::{Bound, Carried, Device, Feed, Options, Session, Step},
    tensor::{DType, Tensor, Tensors, read_safetensors},
};

#[test]
fn a_library_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let broken = dir.join("libonnxruntime.so");
    fs::write(&broken, "not a library").expect("a file");
    let stderr = |configure: &dyn Fn(&mut std::process::Command)| {
        let mut command = fam_onnx(&["runtime"]);
        command.env_remove("ORT_DYLIB_PATH");
        configure(&mut command);
        let output = command.output().expect("a process");
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr, dir)
    };
    let named = stderr(&|command| {
        command.arg("--ort").arg(&broken);
    });
    assert!(named.starts_with("error: --ort: DIR/libonnxruntime.so: it cannot be loaded: "), "{named}");
    let from_environment = stderr(&|command| {
        command.env("ORT_DYLIB_PATH", &broken);
    });
    assert!(from_environment.starts_with("error: ORT_DYLIB_PATH: DIR/libonnxruntime.so: "), "{from_environment}");

    // Neither a cache nor a Python: what was tried, and what to do.
    expect![[r#"
        error: no ONNX Runtime 1.18 or newer was found
          the user's cache: nothing in DIR/fam-onnx
          the Python on the PATH: there is no Python
          pip download: not asked for
        Point at a library (libonnxruntime.so, .dylib or onnxruntime.dll) with ORT_DYLIB_PATH, or install one for the Python on the PATH: python3 -m pip install onnxruntime
        hint: --ort PATH names a library; fam-onnx runtime install fetches one
    "#]].assert_eq(&stderr(&|command| {
        command.env("XDG_CACHE_HOME", dir).env("PATH", dir);
    }));
}

#[test]
fn the_package_of_the_python_on_the_path_is_found() {
    let python = common::python();
    let directory = tempfile::tempdir().expect("a directory");
    let output = fam_onnx(&["runtime", "--json"])
        .env_remove("ORT_DYLIB_PATH")
        .env("XDG_CACHE_HOME", directory.path())
        .env("PATH", python.parent().expect("a directory"))
        .output()
        .expect("a process");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["origin"], "the Python on the PATH");
    assert_eq!(document["devices"][0], "cpu");
}

#[test]
fn devices_are_named_as_in_other_programs() {
    for (given, device) in
        [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
    {
        assert_eq!(given.parse::<Device>().expect("a device"), device);
        assert_eq!(device.to_string().parse::<Device>().expect("a device"), device);
    }
    let error = "cuda:-1".parse::<Device>().expect_err("no device");
    expect!["`cuda:-1` is not a device; expected auto, cpu, cuda or cuda:INDEX"].assert_eq(&error.to_string());
}

fn open(artifact: &Path, graph: &str) -> Session {
    let options = Options { device: Device::Cpu, threads: Some(1), spin: false };
    Session::from_file(&runtime(), &artifact.join(graph), &options).expect("a graph")
}

fn carried(updated: bool) -> Vec<Carried> {
    ["fc.bias", "fc.bias.momentum", "fc.weight", "fc.weight.momentum"]
        .map(|name| Carried { input: name.to_owned(), output: updated.then(|| format!("{name}.next")) })
        .to_vec()
}

/// x, labels, learning rate for the first samples of the toy data.
fn feeds(samples: usize) -> Vec<(&'static str, Tensor)> {
    let (x, labels) = toy_data(samples);
    let x = Tensor::new(DType::F32, vec![samples, 4], x.iter().flat_map(|v| v.to_le_bytes()).collect());
    let labels = Tensor::new(DType::I64, vec![samples], labels.iter().flat_map(|v| v.to_le_bytes()).collect());
    vec![("x", x.expect("a tensor")), ("labels", labels.expect("a tensor")), ("learning_rate", Tensor::scalar(0.1))]
}

#[test]
fn bound_steps_are_steps_with_everything_copied() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let mut tensors = read_safetensors(&artifact.join("parameters.safetensors")).expect("parameters");
    let mut plain = open(&artifact, "train.onnx");
    let mut step =
        Step::new(open(&artifact, "train.onnx"), &carried(true), &tensors, &["loss", "kappa"]).expect("a step");
    let evaluate = open(&artifact, "evaluate.onnx");
    let mut evaluate = Bound::new(evaluate, &["loss"]).expect("a graph");

    for round in 0..7 {
        let samples = 8 + round % 2;
        let inputs = feeds(samples);
        for (name, tensor) in &inputs {
            let fill = |bytes: &mut [u8]| bytes.copy_from_slice(tensor.data());
            step.feed(name, tensor.dtype(), tensor.shape(), fill).expect("an input");
            if *name != "learning_rate" {
                evaluate.feed(name, tensor.dtype(), tensor.shape(), fill).expect("an input");
            }
        }
        evaluate.share(&step.held()).expect("parameters");
        let before = evaluate.run().expect("a loss")[0].clone();

        let names: Vec<String> = tensors.keys().map(|name| format!("{name}.next")).collect();
        let mut outputs = vec!["loss", "kappa"];
        outputs.extend(names.iter().map(String::as_str));
        let mut all: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        all.extend(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let mut results = plain.run(&all, &outputs).expect("a step").into_iter();
        let figures: Vec<f64> = results.by_ref().take(2).flat_map(|t| t.iter_f64().collect::<Vec<_>>()).collect();
        tensors = tensors.keys().cloned().zip(results).collect::<Tensors>();

        let bound = step.run().expect("a step").to_vec();
        assert_eq!(bound, figures, "round {round}");
        assert_eq!(before.iter_f64().next(), Some(bound[0]), "evaluation sees the parameters before the step");
        assert_eq!(step.read().expect("tensors"), tensors, "round {round}");
    }
}

#[test]
fn what_does_not_fit_a_graph_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let artifact = toy_artifact(dir, false);
    let tensors = read_safetensors(&artifact.join("parameters.safetensors")).expect("parameters");
    let text = |error: fam_onnx::runtime::Error| text(error.to_string().as_bytes(), dir);
    let step = |tensors: &Tensors, scalars: &[&str]| {
        text(Step::new(open(&artifact, "train.onnx"), &carried(true), tensors, scalars).expect_err("a fault"))
    };
    let mut changed = tensors.clone();
    changed.insert("fc.bias".to_owned(), Tensor::zeros(DType::F32, vec![5]));
    expect!["DIR/toy.fam/train.onnx: the tensor for `fc.bias` is [5] of float32; expected [3] of float32"]
        .assert_eq(&step(&changed, &[]));
    changed.remove("fc.bias");
    expect!["DIR/toy.fam/train.onnx: no value was given for the input `fc.bias`"].assert_eq(&step(&changed, &[]));
    expect!["DIR/toy.fam/train.onnx: there is no output named `accuracy`; it has loss, kappa, objective, fc.bias.next, fc.weight.next, fc.bias.momentum.next, fc.weight.momentum.next"].assert_eq(&step(&tensors, &["accuracy"]));
    expect!["DIR/toy.fam/train.onnx: the output `fc.bias.next` is float32 [3]; expected a scalar"]
        .assert_eq(&step(&tensors, &["fc.bias.next"]));

    let mut session = open(&artifact, "model.onnx");
    let (name, x) = &feeds(3)[0];
    let mut run = |feeds: &[(&str, &Tensor)]| text(session.run(feeds, &["output"]).expect_err("a fault"));
    expect!["DIR/toy.fam/model.onnx: no value was given for the input `fc.bias`"].assert_eq(&run(&[(name, x)]));
    let parameters: Vec<(&str, &Tensor)> = ["fc.weight", "fc.bias"].map(|name| (name, &tensors[name])).to_vec();
    let wrong = Tensor::zeros(DType::F32, vec![3, 7]);
    let all: Vec<_> = parameters.iter().copied().chain([("x", &wrong)]).collect();
    assert!(run(&all).starts_with("DIR/toy.fam/model.onnx: ONNX Runtime stopped while running it: "));

    let options = Options::default();
    let error = Session::from_bytes(&runtime(), "nonsense.onnx", b"nonsense", &options).expect_err("no graph");
    assert!(error.to_string().starts_with("nonsense.onnx: ONNX Runtime does not load it: "), "{error}");
    let cuda = Options { device: Device::Cuda(0), ..options };
    if !runtime().devices().contains(&Device::Cuda(0)) {
        let error = Session::from_file(&runtime(), &artifact.join("model.onnx"), &cuda).expect_err("no device");
        let library = runtime().library().path.display().to_string();
        expect!["the device cuda:0 needs a build of ONNX Runtime with CUDA; LIBRARY is one without"]
            .assert_eq(&error.to_string().replace(&library, "LIBRARY"));
    }
}

#[test]
fn cuda_without_a_build_for_it_is_refused_before_anything_is_written() {
    if runtime().devices().contains(&Device::Cuda(0)) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (artifact, data) = (toy_artifact(directory.path(), false), common::toy_npz(directory.path(), 100));
    let output = fam_onnx(&["train", "--device", "cuda:7", "--steps", "1", "--ort"])
        .arg(common::ort())
        .arg("--data")
        .arg(data)
        .arg(artifact)
        .output()
        .expect("a process");
    let library = common::ort().display().to_string();
    expect![[r#"
        error: the device cuda:7 needs a build of ONNX Runtime with CUDA; LIBRARY is one without
        hint: fam-onnx runtime install --cuda fetches one with CUDA; --device cpu does without
    "#]]
    .assert_eq(&text(&output.stderr, directory.path()).replace(&library, "LIBRARY"));
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.path().join("toy.run").exists());
}

#[test]
fn the_artifact_of_the_tests_is_reproducible() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = toy_artifact(directory.path(), false);
    let second = directory.path().join("again.fam");
    script("make_toy_artifact.py", &[&second]);
    for entry in fs::read_dir(&first).expect("files") {
        let name = entry.expect("an entry").file_name();
        assert_eq!(fs::read(first.join(&name)).expect("bytes"), fs::read(second.join(&name)).expect("bytes"));
    }
}
