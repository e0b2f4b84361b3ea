//! Losses on the command line: options that do not fit together, files that are no losses, models that end in an activation,
//! labels that are no labels.

mod common;

use common::npz;
use common::place::Place;
use expect_test::expect;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor, Val};
use fam_onnx::onnx;

fn float(dims: &[&str]) -> Fact {
    let dim = |d: &&str| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::Fixed);
    Fact::new(DType::F32, dims.iter().map(dim).collect::<Vec<_>>())
}

fn save(place: &Place, name: &str, b: Builder) {
    let model = Model { graph: b.finish().expect("a graph"), opset: 17, ir_version: 8, ..Model::default() };
    onnx::write(&model, &place.path().join(name)).expect("a file");
}

/// `act(x · W)`, `W[4, outputs]`.
fn save_net(place: &Place, name: &str, outputs: usize, end: impl for<'g> Fn(Val<'g>) -> Val<'g>) {
    let b = Builder::new();
    let x = b.input("x", float(&["batch", "4"]), None);
    let weights = (0..4 * outputs).map(|i| (i as f64 - 3.0) / 8.0);
    let w = b.initializer("fc.weight", Tensor::from_f64(DType::F32, &[4, outputs], weights));
    let y = end(x.matmul(w));
    b.output(y, "y");
    save(place, name, b);
}

fn activation<'g>(op: &str, z: Val<'g>) -> Val<'g> {
    let attrs = if op == "Sigmoid" { Attrs::new() } else { Attrs::new().with("axis", -1) };
    z.builder().op(op, &[z], attrs)
}

#[test]
fn options_that_do_not_go_together() {
    let place = Place::new(&["mlp"]);
    let inject = "inject mlp.onnx --layer fc2 --lambda 0.1";
    place.shows(&format!("{inject} --loss mse --label-smoothing 0.1 --ignore-index 3 --soft-labels"), expect![[r#"
        error: mse is no loss on classes, as softmax-cross-entropy and nll are: it has no label smoothing, no ignored label, no soft labels
        [exit 2]
    "#]]);
    place.shows(
        &format!("{inject} --soft-labels --ignore-index -1"),
        expect![[r#"
        error: an ignored label is a class index, and the labels are probabilities
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --loss-output logits --ignore-index 0 --soft-labels"),
        expect![[r#"
        error: --ignore-index, --soft-labels do not go with --loss-output, which knows its labels itself
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --loss-output logits --output-name logits"),
        expect![[r#"
            error: the argument '--loss-output <NAME>' cannot be used with '--output-name <NAME>'

            Usage: fam-onnx inject --layer <LAYER[:λ]> --lambda <λ|auto:RATIO> --loss-output <NAME> <MODEL>

            For more information, try '--help'.
            [exit 2]
        "#]],
    );
    place.shows(
        &format!("{inject} --label-smoothing 2"),
        expect![[r#"
        error: --label-smoothing is 2, expected a number from 0 to 1
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --loss dice"),
        expect![[r#"
        error: dice reads "logits", which is float[batch,5]; expected masks [N, C, …] with an axis to sum over
        [exit 1]
    "#]],
    );
}

#[test]
fn class_weights_that_are_none() {
    let place = Place::new(&["mlp"]);
    let inject = "inject mlp.onnx --layer fc2 --lambda 0.1 --class-weights";
    place.shows(
        &format!("{inject} none.json"),
        expect![[r#"
        error: none.json: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    for (name, text) in [("text.json", "[1, \"two\"]"), ("few.json", "[1, 2, 3]"), ("below.json", "[1, -2, 3, 1, 1]")] {
        std::fs::write(place.path().join(name), text).expect("a file");
        place.shows(
            &format!("{inject} {name}"),
            match name {
                "text.json" => expect![[r#"
                    error: text.json: not class weights: not a JSON array of numbers: invalid type: string "two", expected f64 at line 1 column 9
                    [exit 1]
                "#]],
                "few.json" => expect![[r#"
                    error: 3 class weights; expected 5, as many as "logits" has classes along axis 1
                    [exit 1]
                "#]],
                _ => expect![[r#"
                    error: below.json: not class weights: class 1 has the weight -2; expected finite numbers of 0 or more
                    [exit 1]
                "#]],
            },
        );
    }
    std::fs::write(place.path().join("matrix.npy"), npz::f32s(&[1, 5], &[1.0; 5])).expect("a file");
    place.shows(
        &format!("{inject} matrix.npy"),
        expect![[r#"
        error: matrix.npy: not class weights: an array of shape [1, 5]; expected one axis
        [exit 1]
    "#]],
    );
    std::fs::write(place.path().join("zero.npy"), npz::f32s(&[5], &[0.0; 5])).expect("a file");
    place.shows(
        &format!("{inject} zero.npy"),
        expect![[r#"
        error: zero.npy: not class weights: no weight is above 0
        [exit 1]
    "#]],
    );
    std::fs::write(place.path().join("weights.npy"), npz::f32s(&[5], &[0.5, 1.0, 2.0, 1.0, 0.0])).expect("a file");
    let (code, ..) = place.run(&format!("{inject} weights.npy --ignore-index 2"));
    assert_eq!(code, 0);
    let manifest = std::fs::read_to_string(place.path().join("mlp.fam/manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    expect![[r#"
        {
          "dtype": "int64",
          "shape": [
            "batch"
          ],
          "classes": 5,
          "ignore_index": 2,
          "range": null
        }
        [
          0.5,
          1.0,
          2.0,
          1.0,
          0.0
        ]"#]]
    .assert_eq(&format!("{:#}\n{:#}", manifest["label_spec"], manifest["options"]["class_weights"]));
}

#[test]
fn models_that_end_in_an_activation() {
    let place = Place::new(&[]);
    for op in ["Softmax", "LogSoftmax", "Sigmoid"] {
        save_net(&place, &format!("{op}.onnx"), 3, |z| activation(op, z));
    }
    save_net(&place, "binary.onnx", 1, |z| {
        let p = activation("Sigmoid", z);
        z.builder().op("Concat", &[1.0 - p, p], Attrs::new().with("axis", -1))
    });
    let notes = |line: &str| {
        let (_, _, stderr) = place.run(&format!("inject {line} --layer fc --lambda 0.1 --dry-run"));
        stderr
    };
    let lines = [
        "Softmax.onnx",
        "LogSoftmax.onnx",
        "LogSoftmax.onnx --loss nll",
        "Softmax.onnx --loss nll",
        "Sigmoid.onnx --loss bce",
        "Sigmoid.onnx --loss bce-with-logits",
        "Sigmoid.onnx --loss mse",
        "binary.onnx",
    ];
    let said: String = lines.iter().map(|line| format!("{line}\n{}", notes(line))).collect();
    expect![[r#"
        Softmax.onnx
        note: the model ends in Softmax: softmax-cross-entropy reads its input "MatMul" instead of "y"
        LogSoftmax.onnx
        note: the model ends in LogSoftmax: softmax-cross-entropy reads its input "MatMul" instead of "y"
        LogSoftmax.onnx --loss nll
        note: the model ends in LogSoftmax: nll of "y" is taken as softmax-cross-entropy of its input "MatMul"
        Softmax.onnx --loss nll
        error: nll reads log-probabilities, but "y" is computed by Softmax; take softmax-cross-entropy, or let the model end in LogSoftmax
        Sigmoid.onnx --loss bce
        note: the model ends in Sigmoid: bce of "y" is taken as bce-with-logits of its input "MatMul"
        Sigmoid.onnx --loss bce-with-logits
        note: the model ends in Sigmoid: bce-with-logits reads its input "MatMul" instead of "y"
        Sigmoid.onnx --loss mse
        binary.onnx
        note: the model ends in 1 − p and p of a Sigmoid: softmax-cross-entropy reads 0 and its input "MatMul" instead of "y"
    "#]]
    .assert_eq(&said);
}

/// `mean(|p − t|^3)`, with a weight that is no parameter.
fn save_cubic(place: &Place) {
    let b = Builder::new();
    let p = b.input("prediction", float(&["N", "C"]), None);
    let t = b.input("target", float(&["N", "C"]), None);
    let scale = b.initializer("fc.weight", Tensor::scalar(DType::F32, 2.0));
    let e = (p - t).abs();
    b.output(((e * e * e).mean_all()) * scale, "loss");
    save(place, "cubic.onnx", b);
}

#[test]
fn loss_models() {
    let place = Place::new(&[]);
    save_net(&place, "net.onnx", 3, |z| z);
    save_cubic(&place);
    let (code, _, stderr) = place.run("inject net.onnx --layer fc --lambda 0 --loss cubic.onnx");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (_, graph, _) = place.run("print net.fam/gradient.onnx");
    expect![[r#"
        <
           ir_version: 8,
           opset_import: ["" : 17]
        >
        gradient (float[batch,4] x, float[batch,3] labels, float[4,3] "fc.weight") => (float loss, float objective, float[4,3] "fc.weight.grad")
        <
           float "loss/fc.weight" = {2.0},
           int64[1] "const/3" = {3},
           int64[1] "const/0" = {0},
           int64[2] "loss/const/0_1" = {0, 1}
        >
        {
           [MatMul] y = MatMul (x, "fc.weight")
           ["loss/Sub_1"] "loss/Sub" = Sub (y, labels)
           ["loss/Abs_1"] "loss/Abs" = Abs ("loss/Sub")
           ["loss/Mul_1"] "loss/Mul" = Mul ("loss/Abs", "loss/Abs")
           ["loss/Mul_1_2"] "loss/Mul_1_1" = Mul ("loss/Mul", "loss/Abs")
           ["loss/ReduceMean_1"] "loss/ReduceMean" = ReduceMean <axes = [0, 1], keepdims = 0> ("loss/Mul_1_1")
           ["loss/Mul_2"] loss = Mul ("loss/ReduceMean", "loss/fc.weight")
           "loss/Abs_1.linear" = Sign ("loss/Sub")
           "loss/ReduceMean_1.linear" = Shape <end = 1> (x)
           "loss/ReduceMean_1.linear/Mul" = Mul ("const/3", "loss/ReduceMean_1.linear")
           "loss/ReduceMean_1.linear/Squeeze" = Squeeze ("loss/ReduceMean_1.linear/Mul", "const/0")
           "loss/ReduceMean_1.linear/Cast" = Cast <to = 1> ("loss/ReduceMean_1.linear/Squeeze")
           "loss/ReduceMean_1.cotangent" = Div ("loss/fc.weight", "loss/ReduceMean_1.linear/Cast")
           "loss/ReduceMean_1.cotangent/Unsqueeze" = Unsqueeze ("loss/ReduceMean_1.cotangent", "loss/const/0_1")
           "loss/Mul_1_2.cotangent" = Mul ("loss/ReduceMean_1.cotangent/Unsqueeze", "loss/Mul")
           "loss/Mul_1_2.cotangent/Mul" = Mul ("loss/ReduceMean_1.cotangent/Unsqueeze", "loss/Abs")
           "loss/Mul_1.cotangent" = Mul ("loss/Mul_1_2.cotangent/Mul", "loss/Abs")
           "loss/Mul_1.cotangent/Add" = Add ("loss/Mul_1_2.cotangent", "loss/Mul_1.cotangent")
           "loss/Mul_1.cotangent/Add_1" = Add ("loss/Mul_1.cotangent/Add", "loss/Mul_1.cotangent")
           "loss/Abs_1.cotangent" = Mul ("loss/Mul_1.cotangent/Add_1", "loss/Abs_1.linear")
           ["MatMul.cotangent/Gemm"] "fc.weight.grad" = Gemm <alpha = 1.0, beta = 1.0, transA = 1, transB = 0> (x, "loss/Abs_1.cotangent")
           ["objective/Identity"] objective = Identity (loss)
        }
    "#]].assert_eq(&graph);
    let manifest = std::fs::read_to_string(place.path().join("net.fam/manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let said = ["loss", "labels", "label_spec"].map(|key| format!("{key}: {}\n", manifest[key]));
    expect![[r#"
        loss: "cubic.onnx"
        labels: "labels"
        label_spec: {"dtype":"float32","shape":["batch",3],"classes":null,"ignore_index":null,"range":null}
    "#]]
    .assert_eq(&said.concat());
}

#[test]
fn files_that_are_no_losses() {
    let place = Place::new(&[]);
    save_net(&place, "net.onnx", 3, |z| z);
    let inject = "inject net.onnx --layer fc --lambda 0.1 --loss";
    place.shows(
        &format!("{inject} net.onnx"),
        expect![[r#"
        error: net.onnx: not a loss of this model: its inputs are x; expected two, the prediction and the target
        [exit 1]
    "#]],
    );
    let two = |name: &str, prediction: &[&str], target: Fact, loss: fn(Val<'_>) -> Val<'_>| {
        let b = Builder::new();
        let p = b.input("prediction", float(prediction), None);
        let t = b.input("target", target, None);
        b.output(loss(p), "loss");
        b.output(t, "unused");
        let mut graph = b.finish().expect("a graph");
        graph.outputs.truncate(1);
        let model = Model { graph, opset: 17, ir_version: 8, ..Model::default() };
        onnx::write(&model, &place.path().join(name)).expect("a file");
    };
    two("vector.onnx", &["N", "3"], float(&["N"]), |p| p.mean(&[1]));
    place.shows(
        &format!("{inject} vector.onnx"),
        expect![[r#"
        error: vector.onnx: not a loss of this model: its output "loss" is float[batch]; expected a float of one element
        [exit 1]
    "#]],
    );
    two("wide.onnx", &["N", "4"], float(&["N"]), |p| p.mean_all());
    place.shows(&format!("{inject} wide.onnx"), expect![[r#"
        error: wide.onnx: not a loss of this model: its input "prediction" is float[N,4], but the prediction "y" is float[batch,3]
        [exit 1]
    "#]]);
    two("scalar.onnx", &["N", "3"], float(&[]), |p| p.mean_all());
    place.shows(
        &format!("{inject} scalar.onnx"),
        expect![[r#"
            error: scalar.onnx: not a loss of this model: its input "target" is float[]; expected a declared shape whose first axis counts the samples
            [exit 1]
        "#]],
    );
    place.shows(
        &format!("{inject} cubic.onnx"),
        expect![[r#"
        error: cubic.onnx: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    save_cubic(&place);
    place.shows(
        &format!("{inject} cubic.onnx --class-weights w.json"),
        expect![[r#"
        error: --class-weights does not go with a loss model, which knows its labels itself
        [exit 2]
    "#]],
    );
}

#[test]
fn labels_outside_their_bounds() {
    let place = Place::new(&[]);
    save_net(&place, "net.onnx", 3, |z| z);
    for loss in ["bce-with-logits", "softmax-cross-entropy --soft-labels"] {
        let (code, ..) =
            place.run(&format!("inject net.onnx --layer fc --lambda 0.1 --loss {loss} -o {}.fam", &loss[..3]));
        assert_eq!(code, 0);
    }
    let labels: Vec<f32> = (0..12).map(|i| if i == 7 { 255.0 } else { 0.5 }).collect();
    let arrays = [("x", npz::f32s(&[4, 4], &[1.0; 16])), ("labels", npz::f32s(&[4, 3], &labels))];
    npz::write(&place.path().join("data.npz"), &arrays, true);
    place.shows(
        "evaluate bce.fam --data data.npz --batch-size 4 -q",
        expect![[r#"
        error: data.npz: the data do not fit the model:
          array `labels`: label 255 at index [2, 1]; expected numbers from 0 to 1, as the loss takes them
        [exit 1]
    "#]],
    );
    place.shows(
        "evaluate sof.fam --data data.npz --batch-size 4 -q",
        expect![[r#"
        error: data.npz: the data do not fit the model:
          array `labels`: label 255 at index [2, 1]; expected numbers from 0 to 1, as the loss takes them
        [exit 1]
    "#]],
    );
}
