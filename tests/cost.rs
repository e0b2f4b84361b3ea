//! What κ is predicted to cost, against the nodes that `inject` adds.

mod common;

use common::step::plan;
use fam_onnx::artifact::{self, Options, Target};
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor, Val};
use fam_onnx::loss::Loss;

/// Predicted operations over counted ones, exact and estimated, where they are further than a factor of 1.5 apart.
fn far(name: &str, model: &Model, layers: &[&str]) -> Vec<String> {
    let options = Options::of(Target::Loss(Loss::SoftmaxCrossEntropy.into()));
    let found = artifact::survey(model, &options).expect("a survey");
    let mut far = Vec::new();
    for layer in layers {
        let (.., finding) = found.layers.iter().find(|(l, ..)| l.name == *layer).expect("a layer");
        let offers = &finding.as_ref().expect("a finding").offers;
        let mut compared = 0;
        for offer in offers.iter().filter(|o| o.estimator != Estimator::GaussNewton) {
            let Some(cost) = offer.cost else { continue };
            let options =
                Options { layers: vec![(layer.to_string(), 0.1)], estimator: Some(offer.estimator), ..options.clone() };
            let ratio = cost.flops / plan(model, &options).report.fam.flops;
            compared += 1;
            if !(1.0 / 1.5..1.5).contains(&ratio) {
                far.push(format!("{name} {layer} {}: {ratio:.2}", offer.estimator.name()));
            }
        }
        assert!(compared > 0, "{name} {layer}");
    }
    far
}

#[test]
fn predicted_operations_of_fixtures_are_within_half_of_counted() {
    let cases = [
        ("lenet", ["conv2", "fc1", "fc2", "fc3"].as_slice()),
        ("mlp", &["fc1", "fc2"]),
        ("resnet", &["neck", "fc"]),
        ("tokens", &["encoder.proj", "encoder.out", "head.fc"]),
    ];
    let far: Vec<String> =
        cases.iter().flat_map(|(name, layers)| far(name, &common::step::model(name), layers)).collect();
    assert!(far.is_empty(), "{far:#?}");
}

fn weight<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> Val<'g> {
    let count: usize = shape.iter().product();
    b.initializer(name, Tensor::from_f64(DType::F32, shape, (0..count).map(|k| (k % 17) as f64 / 16.0 - 0.5)))
}

fn model(b: Builder, logits: impl for<'g> Fn(&'g Builder) -> Val<'g>) -> Model {
    let y = logits(&b).id();
    b.output(b.val(y), "logits");
    Model { graph: b.finish().expect("a graph"), opset: 17, ..Model::default() }
}

fn relu(x: Val<'_>) -> Val<'_> {
    x.builder().op("Relu", &[x], Attrs::new())
}

fn input<'g>(b: &'g Builder, shape: &[i64]) -> Val<'g> {
    b.input("x", Fact::new(DType::F32, shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>()), None)
}

/// A block with a bypass at each position, a mean over positions, a linear layer.
fn positions() -> Model {
    model(Builder::new(), |b| {
        let x = input(b, &[16, 24, 64]);
        let y = relu(x.matmul(weight(b, "up.weight", &[64, 256]))).matmul(weight(b, "down.weight", &[256, 64]));
        (x + y).mean_keep(&[1]).squeeze(&[1]).matmul(weight(b, "fc.weight", &[64, 10]))
    })
}

/// Convolutions in front of a mean over pixels, a linear layer.
fn pixels() -> Model {
    model(Builder::new(), |b| {
        let x = input(b, &[16, 8, 12, 12]);
        let y = relu(b.op("Conv", &[x, weight(b, "first.weight", &[32, 8, 3, 3])], Attrs::new()));
        let z = b.op("Conv", &[y, weight(b, "second.weight", &[48, 32, 1, 1])], Attrs::new());
        b.op("GlobalAveragePool", &[z], Attrs::new()).squeeze(&[2, 3]).matmul(weight(b, "fc.weight", &[48, 10]))
    })
}

/// In front of a mean, cotangents are the same at every position.
#[test]
fn predicted_operations_in_front_of_a_mean_are_within_half_of_counted() {
    let mut far = far("positions", &positions(), &["up", "down", "fc"]);
    far.extend(self::far("pixels", &pixels(), &["first", "second", "fc"]));
    assert!(far.is_empty(), "{far:#?}");
}
