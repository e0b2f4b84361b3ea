//! Dropout that trains: one mask for the loss, κ and the gradient, drawn by whoever drives the graph.

mod common;

use std::path::Path;

use common::{fam_onnx, npz, step, toy_data};
use expect_test::expect;
use fam_onnx::artifact::Options;
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor};
use fam_onnx::onnx;
use fam_onnx::tensor::Tensors;

const RATIO: f64 = 0.25;
/// The mask of a sample's hidden units; the same for all, so that it can be folded into the next layer's weight.
const MASK: [f64; 6] = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0];

fn weight(k: usize, rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|i| (((i + 3 * k) * 7919 % 101) as f64 / 50.0 - 1.0) * 0.8).collect()
}

/// `x[N, 4] → fc1 → ReLU → dropout → fc2 → logits[N, 3]`. Without dropout, `mask/(1 − ratio)` is part of fc2's weight.
fn model(dropout: bool) -> Model {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::Fixed(4)]), None);
    let matrix = |name: &str, rows: usize, columns: usize, values: Vec<f64>| {
        b.initializer(name, Tensor::from_f64(DType::F32, &[rows, columns], values))
    };
    let mut second = weight(2, 6, 3);
    if !dropout {
        second.iter_mut().enumerate().for_each(|(i, w)| *w *= MASK[i / 3] / (1.0 - RATIO));
    }
    let (first, second) = (matrix("fc1.weight", 4, 6, weight(1, 4, 6)), matrix("fc2.weight", 6, 3, second));
    b.scope("/fc1/MatMul");
    let z = b.op("MatMul", &[x, first], Attrs::new());
    b.scope("/Relu");
    let mut hidden = b.op("Relu", &[z], Attrs::new());
    if dropout {
        b.scope("/drop/Dropout");
        let (ratio, training) = (b.scalar(DType::F32, RATIO), b.constant(Tensor::from_f64(DType::Bool, &[], [1.0])));
        hidden = b.op("Dropout", &[hidden, ratio, training], Attrs::new());
    }
    b.scope("/fc2/MatMul");
    b.output(b.op("MatMul", &[hidden, second], Attrs::new()), "logits");
    Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() }
}

fn outputs(model: &Model, options: &Options, mask: bool) -> (Tensors, Tensors) {
    let plan = step::plan(model, options);
    let (x, labels) = toy_data(8);
    let mut feeds = step::initial(&plan);
    feeds.insert("x".to_owned(), step::f32s(&[8, 4], &x.iter().map(|&v| v.into()).collect::<Vec<_>>()));
    let labels = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    feeds.insert("labels".to_owned(), fam_onnx::tensor::Tensor::new(DType::I64, vec![8], labels).expect("labels"));
    if mask {
        let [name] = plan.manifest.masks.as_slice() else { panic!("{:?}", plan.manifest.masks) };
        feeds.insert(name.name.clone(), step::f32s(&[8, 6], &MASK.repeat(8)));
    }
    let run = |file: &str| step::run(&mut step::session(file, step::graph(&plan, file)), &feeds);
    (run("gradient.onnx"), run("evaluate.onnx"))
}

#[test]
fn one_mask_reaches_loss_kappa_and_gradient() {
    for layer in ["fc1", "fc2"] {
        let plain = Options { estimator: Some(Estimator::Exact), ..step::exact(&[(layer, 0.3)]) };
        let trained = Options { train_dropout: true, ..plain.clone() };
        let (dropped, evaluated) = outputs(&model(true), &trained, true);
        let (folded, _) = outputs(&model(false), &plain, false);
        let same = |name: &str, scale: &dyn Fn(usize) -> f64| {
            let (found, expected) = (step::values(&dropped[name]), step::values(&folded[name]));
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let expected = expected * scale(i);
                assert!(
                    (found - expected).abs() <= 1e-5 * expected.abs().max(1e-2),
                    "{layer} {name}: {found} {expected}"
                );
            }
        };
        same("loss", &|_| 1.0);
        if layer == "fc1" {
            // κ of fc2 is that of another weight where the mask is folded into it.
            same("kappa", &|_| 1.0);
            same("objective", &|_| 1.0);
            same("fc1.weight.grad", &|_| 1.0);
            same("fc2.weight.grad", &|i| MASK[i / 3] / (1.0 - RATIO));
        }
        // An evaluation drops nothing: it is that of the model without dropout.
        let (_, off) = outputs(&model(true), &plain, false);
        for name in ["loss", "kappa"] {
            assert_eq!(evaluated[name], off[name], "{layer} {name}");
        }
        assert_ne!(evaluated["loss"], dropped["loss"]);
    }
}

fn run(directory: &Path, line: &str) -> (i32, String) {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let output = fam_onnx(&arguments).current_dir(directory).output().expect("the program");
    (output.status.code().expect("an exit code"), common::text(&output.stderr, directory))
}

#[test]
fn a_run_with_dropout_is_reproducible() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    onnx::write(&model(true), &path.join("model.onnx")).expect("a written model");
    let (x, labels) = toy_data(60);
    npz::write(&path.join("data.npz"), &[("x", npz::f32s(&[60, 4], &x)), ("labels", npz::i64s(&[60], &labels))], true);
    let good = |line: &str| {
        let (code, stderr) = run(path, line);
        assert_eq!(code, 0, "{line}: {stderr}");
    };
    good("inject model.onnx --layer fc1 --lambda 0.1 --dropout train --optimizer adam");
    let text = std::fs::read_to_string(path.join("model.fam/manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    expect![[r#"[{"name":"mask.drop.Dropout","shape":["batch",6],"distribution":"bernoulli","probability":0.75}]"#]]
        .assert_eq(&manifest["masks"].to_string());
    let train = "train model.fam --data data.npz --batch-size 16 --threads 1 --accumulate 2 --ema 0.9 -q";
    good(&format!("{train} --steps 12 -o whole"));
    good(&format!("{train} --steps 12 -o again"));
    good(&format!("{train} --steps 12 --seed 1 -o other"));
    good(&format!("{train} --steps 5 -o cut"));
    good("train --resume cut --steps 12 -q");
    let weights = |name: &str| {
        let file = |file: &str| std::fs::read(path.join(name).join("checkpoints/step-12").join(file)).expect("a file");
        (file("parameters.safetensors"), file("average.safetensors"))
    };
    assert!(weights("whole") == weights("again") && weights("whole") == weights("cut"));
    assert!(weights("whole") != weights("other"));
    good("export whole -o trained.onnx");
    let trained = onnx::read(&path.join("trained.onnx")).expect("a model");
    assert!(trained.graph.nodes.iter().any(|node| node.op == "Dropout"), "the model stays as it is");
}

#[test]
fn masks_without_a_fixed_size_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::symbol("length"), Dim::Fixed(4)]), None);
    let w = b.initializer("fc.weight", Tensor::from_f64(DType::F32, &[4, 3], weight(1, 4, 3)));
    b.scope("/drop/Dropout");
    let dropped = b.op("Dropout", &[x], Attrs::new());
    b.scope("/fc/MatMul");
    let z = b.op("MatMul", &[dropped, w], Attrs::new());
    b.output(z.mean(&[1]), "logits");
    let model = Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() };
    onnx::write(&model, &directory.path().join("model.onnx")).expect("a written model");
    let (code, stderr) = run(directory.path(), "inject model.onnx --layer fc --lambda 0.1 --dropout train");
    expect![[r#"
        error: dropout cannot train where the mask is not one of samples times fixed sizes, or the ratio no constant from 0 to below 1:
          /drop/Dropout on float[batch,length,4], ratio 0.5
        export with fixed sizes, or leave dropout off
    "#]]
    .assert_eq(&stderr);
    assert_eq!(code, 1);
}
