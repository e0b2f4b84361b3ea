//! What the program says and returns, whole: wrong usage, broken input, what is left on disk; the way from a model to an
//! artifact and back.

mod common;

use std::path::Path;

use common::place::Place;
use expect_test::expect;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor};
use fam_onnx::onnx;

#[test]
fn layers_that_are_not_there() {
    let place = Place::new(&["mlp", "resnet", "convnet1d"]);
    place.shows(
        "inject mlp.onnx --layer fc3 --lambda 0.1",
        expect![[r#"
        error: layer "fc3" is not in the model; the nearest names are "fc", "fc1", "fc2", "/fc/Gemm", "/fc1/Gemm"
        hint: fam-onnx inspect MODEL lists the layers and their names
        [exit 1]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer encoder --lambda 0.1",
        expect![[r#"
        error: layer "encoder" is not in the model; the nearest names are "fc1", "fc2", "fc"
        hint: fam-onnx inspect MODEL lists the layers and their names
        [exit 1]
    "#]],
    );
    place.shows("inject resnet.onnx --layer conv2 --lambda 0.1", expect![[r#"
        error: layer "conv2" means several: layer1.0.conv2, layer1.1.conv2, layer2.0.conv2, layer2.1.conv2, layer3.0.conv2, layer3.1.conv2, layer4.0.conv2, layer4.1.conv2; give a whole name
        [exit 1]
    "#]]);
    place.shows(
        "inject mlp.onnx --layer fc2 --layer fc2.weight --lambda 0.1",
        expect![[r#"
        error: "fc2" and "fc2.weight" are the same layer; name it once
        [exit 1]
    "#]],
    );
    place.shows(
        "inject convnet1d.onnx --layer conv1 --lambda 0.1 --estimator hutchinson --probes per-sample",
        expect![[r#"
            error: per-sample probes are biased for layer "conv1"; unbiased there are low-rank, full
            hint: --probes auto chooses among them
            [exit 1]
        "#]],
    );
    place.shows(
        "inject convnet1d.onnx --layer conv2 --lambda 0.1 --loss dice-with-logits --estimator gauss-newton",
        expect![[r#"
            error: dice-with-logits reads "logits", which is float[batch,5]; expected masks [N, C, …] with an axis to sum over
            [exit 1]
        "#]],
    );
    assert_eq!(place.files(), ["convnet1d.onnx", "mlp.onnx", "resnet.onnx"]);
}

#[test]
fn lambdas_that_are_none() {
    let place = Place::new(&["mlp"]);
    place.shows(
        "inject mlp.onnx --layer fc2",
        expect![[r#"
        error: layer "fc2" has no λ: give --lambda, or --layer fc2:λ
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda NaN",
        expect![[r#"
        error: λ is NaN, expected a finite number ≥ 0
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda -1",
        expect![[r#"
        error: λ is -1, expected a finite number ≥ 0
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda inf",
        expect![[r#"
        error: λ is inf, expected a finite number ≥ 0
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda much",
        expect![[r#"
            error: --lambda is "much", expected a number or auto:RATIO
            [exit 2]
        "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc1:0.1 --layer fc2",
        expect![[r#"
        error: layer "fc2" has no λ: give --lambda, or --layer fc2:λ
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2:-0.5",
        expect![[r#"
        error: λ is -0.5, expected a finite number ≥ 0
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --lambda 1",
        expect![[r#"
            error: the following required arguments were not provided:
              --layer <LAYER[:λ]>

            Usage: fam-onnx inject --layer <LAYER[:λ]> --lambda <λ|auto:RATIO> <MODEL>

            For more information, try '--help'.
            [exit 2]
        "#]],
    );
    assert_eq!(place.files(), ["mlp.onnx"]);
}

#[test]
fn options_that_do_not_fit() {
    let place = Place::new(&["mlp"]);
    place.shows("inject mlp.onnx --layer fc2 --lambda 0.1 --loss entropy", expect![[r#"
        error: invalid value 'entropy' for '--loss <KIND>': expected one of softmax-cross-entropy, nll, bce-with-logits, bce, mse, mae, huber, dice, dice-with-logits, or an .onnx file

        For more information, try '--help'.
        [exit 2]
    "#]]);
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --freeze fc4*",
        expect![[r#"
        error: parameter "fc4*" is not in the model
        hint: fam-onnx inspect MODEL lists the parameters
        [exit 1]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --freeze fc[",
        expect![[r#"
            error: "fc[" is not a pattern of names: unclosed character class; missing ']'; expected one as for file names, with * ? [a-z] {a,b}
            [exit 1]
        "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --freeze *",
        expect![[r#"
            error: no parameter is left to train
            hint: --quantized train trains weights that are stored as integers
            [exit 1]
        "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --momentum 2",
        expect![[r#"
        error: --momentum is 2, expected a number from 0 to 1
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --loss mse --label-smoothing 0.1",
        expect![[r#"
            error: mse is no loss on classes, as softmax-cross-entropy and nll are: it has no label smoothing
            [exit 2]
        "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --loss-output logits",
        expect![[r#"
        error: output "logits" is float[batch,5]; a loss has one element
        [exit 1]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --output-name logit",
        expect![[r#"
        error: output "logit" is not in the model; the nearest names are "logits"
        hint: fam-onnx print MODEL shows every name
        [exit 1]
    "#]],
    );
    place.shows(
        "grad mlp.onnx --of logit --wrt x -o gradient.onnx",
        expect![[r#"
        error: output "logit" is not in the model; the nearest names are "logits", "/Relu_output_0"
        hint: fam-onnx print MODEL shows every name
        [exit 1]
    "#]],
    );
    place.shows("grad mlp.onnx --of logits --wrt fc1.wait -o gradient.onnx", expect![[r#"
        error: tensor "fc1.wait" is not in the model; the nearest names are "fc1.weight", "fc1.bias", "fc.weight", "fc2.weight", "fc.bias"
        hint: fam-onnx print MODEL shows every name
        [exit 1]
    "#]]);
    assert_eq!(place.files(), ["mlp.onnx"]);
}

#[test]
fn files_that_are_no_models() {
    let place = Place::new(&["mlp"]);
    let write = |name: &str, bytes: &[u8]| std::fs::write(place.path().join(name), bytes).expect("a written file");
    let whole = std::fs::read(place.path().join("mlp.onnx")).expect("a model");
    write("text.onnx", b"This is a letter, not a model.\n");
    write("empty.onnx", b"");
    write("half.onnx", &whole[..whole.len() / 2]);
    place.shows("inject text.onnx --layer fc2 --lambda 0.1", expect![[r#"
        error: text.onnx: this is not an ONNX model: its bytes are not a protobuf message of that kind (failed to decode Protobuf message: unexpected end group tag)
        [exit 1]
    "#]]);
    place.shows(
        "inject empty.onnx --layer fc2 --lambda 0.1",
        expect![[r#"
        error: empty.onnx: this is not an ONNX model: it is empty
        [exit 1]
    "#]],
    );
    place.shows("inject half.onnx --layer fc2 --lambda 0.1", expect![[r#"
        error: half.onnx: this is not an ONNX model: its bytes are not a protobuf message of that kind (failed to decode Protobuf message: ModelProto.graph: buffer underflow)
        [exit 1]
    "#]]);
    place.shows(
        "inject missing.onnx --layer fc2 --lambda 0.1",
        expect![[r#"
        error: missing.onnx: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    place.shows(
        "inspect missing.onnx",
        expect![[r#"
        error: missing.onnx: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    place.shows("grad half.onnx --of logits --wrt x -o gradient.onnx", expect![[r#"
        error: half.onnx: this is not an ONNX model: its bytes are not a protobuf message of that kind (failed to decode Protobuf message: ModelProto.graph: buffer underflow)
        [exit 1]
    "#]]);
    assert_eq!(place.files(), ["empty.onnx", "half.onnx", "mlp.onnx", "text.onnx"]);
}

/// `a = relu(x W)`, `b = a U`, both outputs.
fn two_outputs(path: &Path) {
    let b = Builder::new();
    let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("N"), Dim::Fixed(2)]), None);
    let weight = |name: &str| b.initializer(name, Tensor::from_f64(DType::F32, &[2, 2], [1.0, 2.0, -3.0, 4.0]));
    let (first, second) = (weight("first.weight"), weight("second.weight"));
    b.scope("/first/MatMul");
    let hidden = b.op("MatMul", &[x, first], Attrs::new());
    b.scope("/Relu");
    let hidden = b.op("Relu", &[hidden], Attrs::new());
    b.output(hidden, "features");
    b.scope("/second/MatMul");
    b.output(b.op("MatMul", &[hidden, second], Attrs::new()), "logits");
    let model = Model { graph: b.finish().expect("a sound graph"), opset: 17, ir_version: 8, ..Model::default() };
    onnx::write(&model, path).expect("a written model");
}

#[test]
fn a_model_with_several_outputs() {
    let place = Place::new(&[]);
    two_outputs(&place.path().join("two.onnx"));
    place.shows(
        "inject two.onnx --layer first --lambda 0.1",
        expect![[r#"
        error: the model has several outputs: features, logits; say which one the loss reads
        hint: --output-name NAME
        [exit 1]
    "#]],
    );
    place.shows(
        "inject two.onnx --layer second --lambda 0.1 --output-name features",
        expect![[r#"
        error: the loss does not depend on layer "second": "features" is computed without it
        [exit 1]
    "#]],
    );
    place.shows(
        "inject two.onnx --layer first --lambda 0.1 --output-name logits",
        expect![[r#"
            layer    W    λ  head                      estimator   why
            ─────  ───  ───  ────────────────────────  ──────────  ───────────────────────────────────────────────────────
            first  2×2  0.1  piecewise-affine (/Relu)  hutchinson  exact is predicted to cost 2.28 plain steps, above 1.10

            part            nodes   FLOPs  of a plain step
            ──────────────  ─────  ──────  ───────────────
            forward            14  2.18 k           47.3 %
            plain gradient     11  2.43 k           52.7 %
            FAM                52  6.86 k          148.8 %

            memory of a step beyond its inputs: 2.02 MB, 2.01 MB without κ (predicted)

            written to two.fam
            [exit 0]
            [left: two.fam]
        "#]],
    );
}

#[test]
fn what_inject_writes_and_what_it_leaves_alone() {
    let place = Place::new(&["mlp"]);
    place.shows("inject mlp.onnx --layer fc2 --lambda 0.1 --dry-run", expect![[r#"
        layer      W    λ  head                        estimator   why
        ─────  ─────  ───  ──────────────────────────  ──────────  ───────────────────────────────────────────────────────
        fc2    12×16  0.1  piecewise-affine (/Relu_1)  hutchinson  exact is predicted to cost 1.98 plain steps, above 1.10

        part            nodes     FLOPs  of a plain step
        ──────────────  ─────  ────────  ───────────────
        forward            16   77.57 k           40.8 %
        plain gradient     18  112.77 k           59.2 %
        FAM                61   90.17 k           47.4 %

        memory of a step beyond its inputs: 2.07 MB, 2.04 MB without κ (predicted)

        would be written to mlp.fam
        [exit 0]
    "#]]);
    place.shows("inject mlp.onnx --layer fc2 --lambda 0.1", expect![[r#"
        layer      W    λ  head                        estimator   why
        ─────  ─────  ───  ──────────────────────────  ──────────  ───────────────────────────────────────────────────────
        fc2    12×16  0.1  piecewise-affine (/Relu_1)  hutchinson  exact is predicted to cost 1.98 plain steps, above 1.10

        part            nodes     FLOPs  of a plain step
        ──────────────  ─────  ────────  ───────────────
        forward            16   77.57 k           40.8 %
        plain gradient     18  112.77 k           59.2 %
        FAM                61   90.17 k           47.4 %

        memory of a step beyond its inputs: 2.07 MB, 2.04 MB without κ (predicted)

        written to mlp.fam
        [exit 0]
        [left: mlp.fam]
    "#]]);
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(place.path().join("mlp.fam")).expect("an artifact");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let files = [
        "evaluate.onnx",
        "gradient.onnx",
        "manifest.json",
        "model.onnx",
        "optimizer.onnx",
        "parameters.safetensors",
        "train.onnx",
    ];
    assert_eq!(names(), files);
    let read = |name: &str| std::fs::read(place.path().join("mlp.fam").join(name)).expect("a file");
    let first: Vec<Vec<u8>> = files.iter().map(|name| read(name)).collect();
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1",
        expect![[r#"
        error: mlp.fam exists already
        hint: choose another directory with -o, or replace this one with --force
        [exit 1]
    "#]],
    );
    place.shows("inject mlp.onnx --layer fc2 --lambda 0.2 --dry-run", expect![[r#"
        layer      W    λ  head                        estimator   why
        ─────  ─────  ───  ──────────────────────────  ──────────  ───────────────────────────────────────────────────────
        fc2    12×16  0.2  piecewise-affine (/Relu_1)  hutchinson  exact is predicted to cost 1.98 plain steps, above 1.10

        part            nodes     FLOPs  of a plain step
        ──────────────  ─────  ────────  ───────────────
        forward            16   77.57 k           40.8 %
        plain gradient     18  112.77 k           59.2 %
        FAM                61   90.17 k           47.4 %

        memory of a step beyond its inputs: 2.07 MB, 2.04 MB without κ (predicted)

        would be written to mlp.fam
        [exit 0]
    "#]]);
    assert_eq!(files.iter().map(|name| read(name)).collect::<Vec<_>>(), first, "a refused command changes nothing");
    std::fs::write(place.path().join("mlp.fam/stray"), "").expect("a written file");
    let (code, _, _) = place.run("inject mlp.onnx --layer fc2 --lambda 0.1 --force");
    assert_eq!(code, 0);
    assert_eq!(names(), files);
    assert!(files.iter().map(|name| read(name)).eq(first), "the same bytes again");
    assert_eq!(place.files(), ["mlp.fam", "mlp.onnx"]);
}

#[test]
fn what_others_wrote_is_never_replaced() {
    let place = Place::new(&["mlp"]);
    std::fs::create_dir(place.path().join("thesis")).expect("a directory");
    std::fs::write(place.path().join("thesis/chapter.txt"), "one").expect("a written file");
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 -o thesis --force",
        expect![[r#"
        error: thesis exists already and is nothing that this program wrote; it is never replaced
        hint: choose another directory with -o
        [exit 1]
    "#]],
    );
    let before = std::fs::read(place.path().join("mlp.onnx")).expect("a model");
    place.shows(
        "grad mlp.onnx --of logits --wrt x -o mlp.onnx",
        expect![[r#"
        error: mlp.onnx is read and would be written: choose another name for the output
        [exit 1]
    "#]],
    );
    assert_eq!(std::fs::read(place.path().join("mlp.onnx")).expect("a model"), before);
    assert_eq!(std::fs::read(place.path().join("thesis/chapter.txt")).expect("the file"), b"one");
    assert_eq!(place.files(), ["mlp.onnx", "thesis"]);
}

#[test]
fn inspect_of_an_mlp() {
    let place = Place::new(&["mlp", "convnet1d"]);
    place.shows("inspect mlp.onnx", expect![[r#"
        opset 17, 5 nodes, 75.01 kFLOP a forward pass at a batch of 64, 2.04 MB of memory a training step, made by pytorch 2.15.0

        Inputs
        name  type
        ────  ───────────────
        x     float[batch,20]

        Outputs
        name    type
        ──────  ──────────────
        logits  float[batch,5]

        Parameters
        name        type          trains
        ──────────  ────────────  ──────
        fc1.weight  float[16,20]  yes
        fc1.bias    float[16]     yes
        fc2.weight  float[12,16]  yes
        fc2.bias    float[12]     yes
        fc.weight   float[5,12]   yes
        fc.bias     float[5]      yes

        Layers
        name      W  head                        estimator   weight      why
        ────  ─────  ──────────────────────────  ──────────  ──────────  ───────────────────────────────────────────────────────
        fc1   16×20  piecewise-affine (/Relu)    hutchinson  fc1.weight  exact is predicted to cost 2.32 plain steps, above 1.10
        fc2   12×16  piecewise-affine (/Relu_1)  hutchinson  fc2.weight  exact is predicted to cost 1.98 plain steps, above 1.10
        fc     5×12  logits                      exact       fc.weight   closed form

        Cost of κ and its gradient
        layer  estimator        FLOPs   memory  plain steps  how
        ─────  ────────────  ────────  ───────  ───────────  ─────────────────────────────────────────
        fc1    exact           1.07 M  2.37 MB         2.32  closed form, 5 reverse passes of the head
        fc1    gauss-newton    1.07 M  2.37 MB         2.32  closed form, 5 reverse passes of the head
        fc1    hutchinson    196.86 k  2.08 MB         1.82  per-sample probes
        fc2    exact         416.26 k  2.20 MB         1.98  closed form, 5 reverse passes of the head
        fc2    gauss-newton  416.26 k  2.20 MB         1.98  closed form, 5 reverse passes of the head
        fc2    hutchinson     86.02 k  2.06 MB         1.72  per-sample probes
        fc     exact          20.21 k  2.05 MB         1.65  closed form
        fc     gauss-newton   20.21 k  2.05 MB         1.65  closed form
        fc     hutchinson     24.77 k  2.05 MB         1.63  per-sample probes

        Operators
        operator  nodes  derivative
        ────────  ─────  ──────────
        Gemm          3  rule
        Relu          2  rule
        [exit 0]
    "#]]);
    place.shows(
        "inspect convnet1d.onnx",
        expect![[r#"
            opset 17, 6 nodes, 238.08 kFLOP a forward pass at a batch of 64, 2.43 MB of memory a training step, made by pytorch 2.15.0

            Inputs
            name  type
            ────  ─────────────────
            x     float[batch,4,20]

            Outputs
            name    type
            ──────  ──────────────
            logits  float[batch,5]

            Parameters
            name          type          trains
            ────────────  ────────────  ──────
            conv1.weight  float[6,2,3]  yes
            conv1.bias    float[6]      yes
            conv2.weight  float[8,3,4]  yes
            conv2.bias    float[8]      yes
            fc.weight     float[5,8]    yes
            fc.bias       float[5]      yes

            Layers
            name      W  head            estimator   weight        why
            ─────  ────  ──────────────  ──────────  ────────────  ───────────────────────────────────────────────────────────────────────────────────────────
            conv1   6×6  smooth (/Tanh)  hutchinson  conv1.weight  exact is predicted to cost 27.30 plain steps, above 1.10; positions meet at /conv2/Conv
            conv2  8×12  smooth (/Tanh)  hutchinson  conv2.weight  exact is predicted to cost 34.26 plain steps, above 1.10; positions meet at loss/LogSoftmax
            fc      5×8  logits          exact       fc.weight     closed form

            Cost of κ and its gradient
            layer  estimator        FLOPs    memory  plain steps  how
            ─────  ────────────  ────────  ────────  ───────────  ─────────────────────────────────────────
            conv1  exact          42.28 M  34.01 MB        27.30  by definition, 36 second derivatives
            conv1  gauss-newton    4.71 M   4.55 MB         4.82  closed form, 5 reverse passes of the head
            conv1  hutchinson      1.18 M   2.82 MB         2.42  full probes
            conv2  exact          47.85 M  53.64 MB        34.26  by definition, 96 second derivatives
            conv2  gauss-newton    4.30 M   4.08 MB         4.01  closed form, 5 reverse passes of the head
            conv2  hutchinson    506.83 k   2.67 MB         1.99  full probes
            fc     exact          18.27 k   2.44 MB         1.30  closed form
            fc     gauss-newton   18.27 k   2.44 MB         1.30  closed form
            fc     hutchinson     18.11 k   2.44 MB         1.29  per-sample probes

            Operators
            operator    nodes  derivative
            ──────────  ─────  ──────────
            Conv            2  rule
            Gemm            1  rule
            ReduceMean      1  rule
            Relu            1  rule
            Tanh            1  rule
            [exit 0]
        "#]],
    );
}

#[test]
fn grad_says_what_the_model_gained() {
    let place = Place::new(&["mlp"]);
    place.shows(
        "grad mlp.onnx --of logits --wrt x,fc.bias -o gradient.onnx",
        expect![[r#"
        input  logits.cotangent
        output x.grad
        output fc.bias.grad
        13 nodes, 5 of them the model's; written to gradient.onnx
        [exit 0]
        [left: gradient.onnx]
    "#]],
    );
    place.shows(
        "grad gradient.onnx --of x.grad --wrt x,logits.cotangent -o second.onnx",
        expect![[r#"
        input  x.grad.cotangent
        output x.grad_1
        output logits.cotangent.grad
        20 nodes, 13 of them the model's; written to second.onnx
        [exit 0]
        [left: second.onnx]
    "#]],
    );
    place.shows(
        "jvp mlp.onnx --of logits --wrt inputs -o tangent.onnx",
        expect![[r#"
        input  x.tangent
        output logits.tangent
        12 nodes, 5 of them the model's; written to tangent.onnx
        [exit 0]
        [left: tangent.onnx]
    "#]],
    );
}

/// The weights of an artifact that is not trained are the model's, and so is everything else.
#[test]
fn export_gives_the_model_back() {
    for name in common::step::fixtures() {
        let place = Place::new(&[&name]);
        let layer = if name.contains("conv") { "conv1" } else { "penultimate" };
        let (code, _, stderr) = place.run(&format!("inject {name}.onnx --layer {layer} --lambda 0.1 -o artifact.fam"));
        assert_eq!(code, 0, "{name}: {stderr}");
        let (code, _, stderr) = place.run("export artifact.fam -o back.onnx");
        assert_eq!(code, 0, "{name}: {stderr}");
        let read = |file: &str| onnx::read(&place.path().join(file)).expect("a model");
        let (before, after) = (read(&format!("{name}.onnx")), read("back.onnx"));
        assert_eq!((before.opset, before.ir_version), (after.opset, after.ir_version), "{name}");
        let ports = |model: &Model| -> Vec<(String, String)> {
            let graph = &model.graph;
            let ids = graph.inputs.iter().chain(&graph.outputs);
            ids.map(|&id| (graph.name_of(id).to_string(), graph.value(id).fact.to_string())).collect()
        };
        assert_eq!(ports(&before), ports(&after), "{name}");
        let weights = |model: &Model| -> std::collections::BTreeMap<String, Tensor> {
            let named = model.graph.initializers().map(|id| model.graph.value(id));
            named.filter_map(|v| Some((v.name.clone(), v.data.clone()?))).collect()
        };
        assert_eq!(weights(&before), weights(&after), "{name}");
        assert_eq!(onnx::compact(&before.graph), onnx::compact(&after.graph), "{name}");
    }
}

#[test]
fn optimisers_and_their_options() {
    let place = Place::new(&["mlp"]);
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --optimizer adam --momentum 0.9",
        expect![[r#"
        error: --momentum is an option of --optimizer sgd; for adam there are --betas
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --betas 0.9,0.99",
        expect![[r#"
        error: --betas is an option of --optimizer adam and adamw
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --optimizer adamw --betas 0.9",
        expect![[r#"
        error: --betas has 1 numbers, expected two such as 0.9,0.999
        [exit 2]
    "#]],
    );
    place.shows(
        "inject mlp.onnx --layer fc2 --lambda 0.1 --optimizer adamw --betas 0.9,1",
        expect![[r#"
        error: --betas has 1, expected numbers from 0 to below 1
        [exit 2]
    "#]],
    );
    let (code, _, stderr) = place.run("inject mlp.onnx --layer fc2 --lambda 0.1 --optimizer adamw");
    assert_eq!(code, 0, "{stderr}");
    let text = std::fs::read_to_string(place.path().join("mlp.fam/manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    expect![[r#"{"name":"adamw","betas":[0.9,0.999],"eps":1e-8,"weight_decay":0.01}"#]]
        .assert_eq(&manifest["options"]["optimizer"].to_string());
    let state: Vec<&str> =
        manifest["state"].as_array().expect("a list").iter().filter_map(|s| s["name"].as_str()).collect();
    expect!["fc1.weight.moment1 fc1.weight.moment2 fc1.bias.moment1 fc1.bias.moment2 fc2.weight.moment1 fc2.weight.moment2 fc2.bias.moment1 fc2.bias.moment2 fc.weight.moment1 fc.weight.moment2 fc.bias.moment1 fc.bias.moment2 optimizer.step"].assert_eq(&state.join(" "));
}

/// What stood beside the model stands beside it again, and everything around the graph is as it was.
#[test]
fn export_keeps_external_data_and_metadata() {
    let place = Place::new(&["lenet"]);
    let mut model = onnx::read(&place.path().join("lenet.onnx")).expect("a model");
    model.metadata = vec![("author".to_owned(), "somebody".to_owned())];
    model.doc = "reads digits".to_owned();
    onnx::write_with(&model, &place.path().join("external.onnx"), onnx::External::Always).expect("a written model");
    for line in [
        "inject external.onnx --layer fc2 --lambda 0.1 -o artifact.fam",
        "export artifact.fam -o back.onnx",
        "export artifact.fam --format safetensors -o back.safetensors",
    ] {
        let (code, _, stderr) = place.run(line);
        assert_eq!(code, 0, "{stderr}");
    }
    let read = |file: &str| std::fs::read(place.path().join(file)).expect("a file");
    assert!(read("back.onnx.data") == read("external.onnx.data"), "the weights, bit for bit");
    let back = onnx::read(&place.path().join("back.onnx")).expect("a model");
    assert_eq!((&back.metadata, &back.doc, &back.producer), (&model.metadata, &model.doc, &model.producer));
    assert_eq!(onnx::compact(&back.graph), onnx::compact(&model.graph));
    assert!(read("back.onnx").len() < 20_000);
    let tensors = fam_onnx::tensor::read_safetensors(&place.path().join("back.safetensors")).expect("tensors");
    assert_eq!(tensors.len(), 10);
    for (name, tensor) in tensors {
        let id = model.graph.find(&name).expect("an initialiser");
        assert_eq!(tensor.data(), &*model.graph.value(id).data.as_ref().expect("data").bytes, "{name}");
    }
    place.shows(
        "export artifact.fam --ema -o averaged.onnx",
        expect![[r#"
            error: artifact.fam/parameters.safetensors: the run keeps no moving average of the weights; train with an averaging decay to have one
            hint: fam-onnx train --ema 0.999 keeps one
            [exit 1]
        "#]],
    );
}
