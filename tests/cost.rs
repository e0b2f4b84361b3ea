//! What κ is predicted to cost, against the nodes that `inject` adds.

use std::path::Path;

use fam_onnx::artifact::{self, Options, Target, manifest};
use fam_onnx::flatness::Estimator;
use fam_onnx::loss::Loss;
use fam_onnx::onnx;

#[test]
fn predicted_operations_are_within_half_of_counted() {
    let cases = [
        ("lenet", ["conv2", "fc1", "fc2", "fc3"].as_slice()),
        ("resnet", &["neck", "fc"]),
        ("tokens", &["encoder.proj", "encoder.out", "head.fc"]),
    ];
    let mut far = Vec::new();
    for (name, layers) in cases {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).join("model.onnx");
        let model = onnx::read(&file).unwrap();
        let options = Options::of(Target::Loss(Loss::SoftmaxCrossEntropy.into()));
        let found = artifact::survey(&model, &options).unwrap();
        for layer in layers {
            let finding = found.layers.iter().find(|(l, ..)| l.name == *layer).unwrap().2.as_ref().unwrap();
            for offer in finding.offers.iter().filter(|o| o.estimator != Estimator::GaussNewton) {
                let options = Options {
                    layers: vec![(layer.to_string(), 0.1)],
                    estimator: Some(offer.estimator),
                    ..options.clone()
                };
                let source = manifest::Source { name: String::new(), sha256: String::new() };
                let counted = artifact::plan(&model, &options, source).unwrap().report.fam.flops;
                let ratio = offer.cost.unwrap().flops / counted;
                if !(1.0 / 1.5..1.5).contains(&ratio) {
                    far.push(format!("{name} {layer} {}: {ratio:.2}", offer.estimator.name()));
                }
            }
        }
    }
    assert!(far.is_empty(), "{far:#?}");
}
