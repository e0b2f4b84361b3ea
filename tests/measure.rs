//! `measure` against the float64 oracles, and what it prints, whole.

mod common;

use common::npz;
use common::place::Place;
use common::step::Oracle;
use expect_test::expect;
use fam_onnx::artifact::{self, Options, Target};
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor, Val};
use fam_onnx::loss::Loss;
use serde_json::Value;

/// A fixture and its oracle's batch as data.
fn place(fixture: &str) -> (Place, Oracle) {
    let place = Place::new(&[fixture]);
    let oracle = Oracle::read(fixture, "oracle.npz");
    let (x, labels) = (oracle.tensor("x"), oracle.tensor("labels"));
    let arrays = [
        ("x", npz::npy("<f4", false, x.shape(), x.data())),
        ("labels", npz::npy("<i8", false, labels.shape(), labels.data())),
    ];
    npz::write(&place.path().join("data.npz"), &arrays, true);
    (place, oracle)
}

fn json(place: &Place, line: &str) -> Value {
    let (code, stdout, stderr) = place.run(&format!("{line} --json"));
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// Every number with four significant digits: float32 rounds the others by processor.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => {
            format!("{:.3e}", n.as_f64().unwrap_or(f64::NAN)).parse::<f64>().expect("a number").into()
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, v)| (name, rounded(v))).collect(),
        other => other,
    }
}

fn mean(layer: &Value, figure: &str) -> f64 {
    layer[figure]["mean"].as_f64().expect("a number")
}

#[test]
fn figures_equal_the_oracle_in_batches_of_any_size() {
    let (place, oracle) = place("mlp");
    for batch in [6, 4, 3, 1] {
        let document = json(&place, &format!("measure mlp.onnx --layer fc* --data data.npz --batch-size {batch}"));
        let layers = document["layers"].as_array().expect("layers");
        assert_eq!(layers.len(), 3);
        let mut faults = Vec::new();
        faults.extend(common::step::differs("loss", mean(&document, "mean_loss"), oracle.scalar("loss"), 1e-6));
        for layer in layers {
            let name = layer["name"].as_str().expect("a name");
            for (figure, key) in [("kappa", "kappa"), ("kappa_hat", "kappa_hat")] {
                let expected = oracle.scalar(&format!("{key}/{name}"));
                faults.extend(common::step::differs(&format!("{key} of {name}"), mean(layer, figure), expected, 1e-5));
            }
            let product = mean(layer, "trace") * layer["squared_norm"].as_f64().expect("a number");
            faults.extend(common::step::differs("‖W‖² Tr H", product, mean(layer, "kappa_hat"), 1e-12));
        }
        assert_eq!(faults, Vec::<String>::new(), "in batches of {batch}");
    }
}

#[test]
fn estimates_agree_with_exact_figures() {
    let (place, oracle) = place("mlp");
    let line = "measure mlp.onnx --layer fc2 --data data.npz --batch-size 1 --estimator hutchinson --samples 256";
    let document = json(&place, line);
    let layer = &document["layers"][0];
    assert_eq!(layer["estimator"], "hutchinson");
    for figure in ["kappa", "kappa_hat"] {
        // Six samples, one a batch: the error of the mean of 1,536 probes is far below that over the samples.
        let (found, expected) = (mean(layer, figure), oracle.scalar(&format!("{figure}/fc2")));
        assert!((found - expected).abs() < 0.05 * expected, "{figure}: {found}, expected {expected}");
    }
    let other = json(&place, &format!("{line} --seed 1"));
    assert_ne!(mean(&other["layers"][0], "kappa"), mean(layer, "kappa"));
}

#[test]
fn what_it_prints() {
    let (place, _) = place("mlp");
    place.shows(
        "measure mlp.onnx --layer * --data data.npz --batch-size 4",
        expect![[r#"
            layer      W  head              estimator                  κ              κ̂              Tr H    ‖W‖²
            ─────  ─────  ────────────────  ─────────  ─────────────────  ──────────────  ────────────────  ──────
            fc1    16×20  piecewise-affine  exact        0.24843 ± 0.070    3.5635 ± 1.1    0.70871 ± 0.21  5.0282
            fc2    12×16  piecewise-affine  exact      0.16936 ± 0.00069  2.3192 ± 0.034  0.52331 ± 0.0076  4.4317
            fc      5×12  logits            exact        0.27039 ± 0.021  1.1950 ± 0.094   0.58746 ± 0.046  2.0342

            loss 1.7386 ± 0.018 over 6 samples in 2 batches
            [exit 0]
        "#]],
    );
    place.shows(
        "measure mlp.onnx --layer fc2 --data data.npz --limit 3",
        expect![[r#"
        layer      W  head              estimator        κ      κ̂     Tr H    ‖W‖²
        ─────  ─────  ────────────────  ─────────  ───────  ──────  ───────  ──────
        fc2    12×16  piecewise-affine  exact      0.14911  2.0572  0.46420  4.4317

        loss 1.7867 over 3 samples in 1 batch
        [exit 0]
    "#]],
    );
    place.shows(
        "measure mlp.onnx --layer fc2 --data data.npz --batch-size 3 --loss mse",
        expect![[r#"
        error: data.npz: the data do not fit the model:
          array `labels`: samples of shape []; expected [5]
        [exit 1]
    "#]],
    );
    place.shows(
        "measure mlp.onnx --layer fc9* --data data.npz",
        expect![[r#"
        error: layer "fc9*" is not in the model; the nearest names are "fc1", "fc2", "fc"
        hint: fam-onnx inspect MODEL lists the layers and their names
        [exit 1]
    "#]],
    );
    place.shows("measure mlp.onnx --layer [z-a] --data data.npz", expect![[r#"
        error: "[z-a]" is not a pattern of names: invalid range; 'z' > 'a'; expected one as for file names, with * ? [a-z] {a,b}
        [exit 1]
    "#]]);
    place.shows(
        "measure mlp.onnx --layer fc2 --data none.npz",
        expect![[r#"
        error: none.npz: No such file or directory (os error 2)
        [exit 1]
    "#]],
    );
    place.shows(
        "measure mlp.onnx --layer fc2 --data data.npz --batch-size 0",
        expect![[r#"
        error: invalid value '0' for '--batch-size <N>': expected a number above 0

        For more information, try '--help'.
        [exit 2]
    "#]],
    );
    let document = rounded(json(&place, "measure mlp.onnx --layer fc --data data.npz --limit 2"));
    expect![[r#"
        {
          "version": 1,
          "command": "measure",
          "model": "mlp.onnx",
          "loss": "softmax-cross-entropy",
          "samples": 2,
          "batches": 1,
          "mean_loss": {
            "mean": 1.766,
            "standard_error": null
          },
          "layers": [
            {
              "name": "fc",
              "weight": "fc.weight",
              "d": 5,
              "m": 12,
              "head": "logits",
              "decided_by": null,
              "estimator": "exact",
              "why": "closed form",
              "kappa": {
                "mean": 0.1864,
                "standard_error": null
              },
              "kappa_hat": {
                "mean": 0.8188,
                "standard_error": null
              },
              "trace": {
                "mean": 0.4025,
                "standard_error": null
              },
              "squared_norm": 2.034
            }
          ],
          "skipped": []
        }"#]]
    .assert_eq(&format!("{document:#}"));
    assert_eq!(place.files(), ["data.npz", "mlp.onnx"]);
}

/// A smooth net on 64 samples of size `before`: so many products with one square weight, then a layer `[width, width]`
/// and a layer of 10 outputs.
fn smooth(before: i64, products: usize, width: i64) -> Model {
    let b = Builder::new();
    let stored = |name: &str, shape: [i64; 2]| {
        let sizes = shape.map(|n| n as usize);
        b.initializer(name, Tensor::from_f64(DType::F32, &sizes, std::iter::repeat_n(0.01, sizes[0] * sizes[1])))
    };
    let tanh = |z: Val<'_>| b.op("Tanh", &[b.val(z.id())], Attrs::new()).id();
    let x = b.input("x", Fact::new(DType::F32, [64, before].map(Dim::Fixed)), None);
    let square = stored("before.weight", [before, before]);
    let y = (0..products).fold(x, |y, _| b.val(tanh(y.matmul(square))));
    let z = b.val(tanh(y.matmul(stored("in.weight", [before, width]))));
    let logits = b.val(tanh(z.matmul(stored("fc.weight", [width, width])))).matmul(stored("out.weight", [width, 10]));
    b.output(logits, "logits");
    Model { graph: b.finish().expect("a graph"), opset: 17, ..Model::default() }
}

/// Where no estimator is named, κ is exact where a batch is predicted to take at most a second, or a hundred plain steps.
#[test]
fn what_would_take_more_than_a_second_and_a_hundred_steps_is_estimated() {
    let options = Options::of(Target::Loss(Loss::SoftmaxCrossEntropy.into()));
    // (seconds of exact κ at most 1, plain steps of it at most 100): what is chosen.
    let cases = [
        (smooth(1024, 1, 512), (true, true), "exact"),
        (smooth(16, 1, 1024), (true, false), "exact"),
        (smooth(1024, 60, 2048), (false, true), "exact"),
        (smooth(16, 1, 2048), (false, false), "hutchinson"),
    ];
    for (model, sides, expected) in cases {
        let found = artifact::survey(&model, &options).expect("a survey");
        let (.., finding) = found.layers.iter().find(|(layer, ..)| layer.name == "fc").expect("a layer");
        let offers = &finding.as_ref().expect("a finding").offers;
        let exact =
            offers.iter().find(|o| o.estimator == Estimator::Exact).and_then(|o| o.cost).expect("a cost").time();
        let steps = 1.0 + exact / found.plain.expect("a plain step").time();
        let measured = artifact::measurement(&model, &["fc".to_string()], &options).expect("a measurement");
        let at = format!("{exact:.2} s, {steps:.0} plain steps");
        assert_eq!((exact <= 1.0, steps <= 100.0), sides, "{at}");
        assert_eq!(measured.layers[0].estimator, expected, "{at}: {}", measured.layers[0].why);
    }
}
