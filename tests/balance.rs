//! `--lambda auto:RATIO` against the float64 oracle, and what it says and records.

mod common;

use common::npz;
use common::place::Place;
use common::step::{Oracle, differs, norm};
use expect_test::expect;

fn place() -> (Place, Oracle) {
    // A runtime that is fetched is told of once, before what is pinned here.
    common::runtime();
    let place = Place::new(&["mlp"]);
    let oracle = Oracle::read("mlp", "oracle.npz");
    let (x, labels) = (oracle.tensor("x"), oracle.tensor("labels"));
    let x = npz::npy("<f4", false, x.shape(), x.data());
    let classes = npz::npy("<i8", false, labels.shape(), labels.data());
    npz::write(&place.path().join("data.npz"), &[("x", x.clone()), ("labels", classes)], true);
    npz::write(&place.path().join("values.npz"), &[("x", x), ("labels", npz::f32s(&[6, 5], &[0.5; 30]))], true);
    (place, oracle)
}

fn recorded(place: &Place) -> serde_json::Value {
    let text = std::fs::read_to_string(place.path().join("mlp.fam/manifest.json")).expect("a manifest");
    serde_json::from_str(&text).expect("JSON")
}

/// Norm of a gradient of the oracle, and of that of κ of a layer (the oracle's λ is 0.1).
fn norms(oracle: &Oracle, layer: &str) -> (f64, f64) {
    let plain = oracle.below("grad_plain");
    let both = oracle.below(&format!("grad/{layer}"));
    let difference =
        |name: &String| plain[name].iter().zip(&both[name]).map(|(l, b)| (b - l) / 0.1).collect::<Vec<f64>>();
    let kappa: Vec<f64> = plain.keys().flat_map(difference).collect();
    (norm(&plain.values().flatten().copied().collect::<Vec<f64>>()), norm(&kappa))
}

#[test]
fn lambda_has_the_ratio_of_the_oracle() {
    let (place, oracle) = place();
    let line = "inject mlp.onnx --layer fc2 --layer fc:auto:0.5 --layer fc1:0.25 --estimator exact --lambda auto:0.1";
    let (code, _, stderr) = place.run(&format!("{line} --data data.npz"));
    assert_eq!(code, 0, "{stderr}");
    let manifest = recorded(&place);
    let mut faults = Vec::new();
    for (k, (layer, ratio)) in [("fc2", 0.1), ("fc", 0.5)].into_iter().enumerate() {
        let (loss, kappa) = norms(&oracle, layer);
        let record = &manifest["options"]["lambda_auto"][k];
        assert_eq!((record["layer"].as_str(), record["ratio"].as_f64()), (Some(layer), Some(ratio)));
        let number = |value: &serde_json::Value| value.as_f64().expect("a number");
        faults.extend(differs("‖∇L‖", number(&record["loss_gradient_norm"]), loss, 1e-5));
        faults.extend(differs("‖∇κ‖", number(&record["kappa_gradient_norm"]), kappa, 1e-4));
        faults.extend(differs("λ", number(&manifest["layers"][k]["lambda"]), ratio * loss / kappa, 1e-4));
        assert_eq!(record["lambda"], manifest["layers"][k]["lambda"]);
    }
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(manifest["layers"][2]["lambda"], 0.25);
    assert_eq!(place.files(), ["data.npz", "mlp.fam", "mlp.onnx", "values.npz"]);
}

#[test]
fn what_it_says() {
    let (place, _) = place();
    let inject = "inject mlp.onnx --layer fc --dry-run";
    let (code, _, stderr) =
        place.run(&format!("{inject} --estimator exact --lambda auto:0.1 --data data.npz --batch-size 2"));
    assert_eq!(code, 0);
    expect![[r#"
        fc: λ = 0.06998: 0.1 of ‖∇L‖ = 1.164, with ‖∇κ‖ = 1.664 (medians over 3 batches of 2)
    "#]]
    .assert_eq(&stderr);
    place.shows(
        &format!("{inject} --lambda auto:0.1"),
        expect![[r#"
        error: --lambda auto:RATIO needs --data, whose first batches it is decided on
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --lambda 0.1 --data data.npz"),
        expect![[r#"
        error: --data goes with --lambda auto:RATIO, and every λ is a number
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --lambda auto:0 --data data.npz"),
        expect![[r#"
        error: the ratio of auto:RATIO is 0, expected a finite number above 0
        [exit 2]
    "#]],
    );
    place.shows(
        &format!("{inject} --lambda auto --data data.npz"),
        expect![[r#"
        error: --lambda is "auto", expected a number or auto:RATIO
        [exit 2]
    "#]],
    );
    place.shows(&format!("{inject} --lambda auto:0.1 --data values.npz --loss mae"), expect![[r#"
        error: λ of layer "fc" cannot be chosen: on the first batches the median of ‖∇κ‖ is 0.000e0, that of ‖∇L‖ 5.774e-1; give λ as a number
        [exit 1]
    "#]]);
    place.shows(
        &format!("{inject} --lambda auto:0.1 --data values.npz"),
        expect![[r#"
        error: values.npz: the data do not fit the model:
          array `labels`: samples of shape [5]; expected []
          array `labels`: float32 values; expected int64; convert it, for instance with .astype(numpy.int64)
        [exit 1]
    "#]],
    );
}
