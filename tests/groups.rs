//! Convolutions with groups along one and three axes as layers: κ and gradients against their definitions in float64.

mod common;

use common::rng::Rng;
use common::step::{exact, plan};
use fam_onnx::artifact::{self, Options};
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor};
use fam_onnx::onnx;
use fam_onnx::verify::{self, Verdict, What};

struct Case {
    op: &'static str,
    /// Of a sample: channels, then positions.
    input: &'static [i64],
    weight: &'static [usize],
    /// Elements of what the convolution makes of a sample.
    made: usize,
    attrs: &'static [(&'static str, &'static [i64])],
}

const GROUPS: i64 = 2;

const CASES: &[Case] = &[
    Case { op: "Conv", input: &[4, 7], weight: &[6, 2, 3], made: 30, attrs: &[] },
    Case { op: "Conv", input: &[4, 7], weight: &[6, 2, 3], made: 24, attrs: &[("strides", &[2]), ("pads", &[1, 1])] },
    Case { op: "Conv", input: &[4, 3, 3, 2], weight: &[4, 2, 2, 2, 1], made: 32, attrs: &[] },
    Case { op: "Conv", input: &[4, 3, 3, 2], weight: &[4, 2, 2, 1, 2], made: 12, attrs: &[("dilations", &[2, 1, 1])] },
    Case { op: "ConvTranspose", input: &[4, 4], weight: &[4, 3, 3], made: 36, attrs: &[] },
    Case {
        op: "ConvTranspose",
        input: &[4, 4],
        weight: &[4, 3, 3],
        made: 60,
        attrs: &[("strides", &[2]), ("output_padding", &[1])],
    },
    Case { op: "ConvTranspose", input: &[4, 2, 2, 1], weight: &[4, 2, 2, 1, 2], made: 48, attrs: &[] },
    Case {
        op: "ConvTranspose",
        input: &[4, 2, 2, 1],
        weight: &[4, 2, 2, 1, 2],
        made: 64,
        attrs: &[("strides", &[2, 1, 1])],
    },
];

/// The convolution, `act`, a linear layer to three logits.
fn model(case: &Case, act: &str) -> Model {
    let b = Builder::new();
    let mut rng = Rng(11);
    let mut stored = |name: &str, shape: &[usize]| {
        let count = shape.iter().product();
        let data: Vec<f64> = (0..count).map(|_| 1.5 * rng.uniform()).collect();
        b.initializer(name, Tensor::from_f64(DType::F32, shape, data))
    };
    let (weight, fc) = (stored("conv.weight", case.weight), stored("fc.weight", &[case.made, 3]));
    let shape: Vec<Dim> =
        std::iter::once(Dim::symbol("batch")).chain(case.input.iter().map(|&n| Dim::Fixed(n))).collect();
    let x = b.input("x", Fact::new(DType::F32, shape), None);
    let attrs =
        case.attrs.iter().fold(Attrs::new().with("group", GROUPS), |attrs, (name, value)| attrs.with(name, *value));
    let z = b.op(act, &[b.op(case.op, &[x, weight], attrs)], Attrs::new());
    let logits = z.reshape(&[Dim::symbol("batch"), Dim::Fixed(case.made as i64)]).matmul(fc);
    b.output(logits, "logits");
    Model { graph: b.finish().expect("a graph"), opset: 17, ir_version: 8, ..Model::default() }
}

/// What `verify` finds that does not agree; κ has to be among what it compares.
fn faults(model: &Model, options: &Options, at: &str) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, path) = (directory.path().join("model.onnx"), directory.path().join("model.fam"));
    onnx::write(model, &source).expect("a file");
    let plan = plan(&onnx::read(&source).expect("a model"), options);
    let names: Vec<String> = plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
    let inference = onnx::without_weights(&source, &names).expect("a model without weights");
    artifact::write(&plan, &inference, &path, false).expect("an artifact");
    let how = verify::Options { data: None, batch: 3, directions: 2, definition: 64, probes: 400, seed: 5 };
    let report = verify::verify(&path, &common::runtime(), &how).expect("a report");
    let compared = report.checks.iter().any(|check| check.what == What::Kappa && check.verdict == Verdict::Agrees);
    let wrong = report.checks.iter().filter(|check| check.verdict == Verdict::Disagrees);
    let mut faults: Vec<String> =
        wrong.map(|c| format!("{at}: {:?} of {}: off by {:.1e}, limit {:.1e}", c.what, c.of, c.off, c.limit)).collect();
    if !compared {
        faults.push(format!("{at}: κ agrees with nothing"));
    }
    faults
}

#[test]
fn kappa_of_grouped_convolutions_is_that_of_the_definition() {
    let mut all = Vec::new();
    for case in CASES {
        for act in ["Relu", "Tanh"] {
            let model = model(case, act);
            for (measure, estimator) in [
                (Measure::Neuronwise, Estimator::Exact),
                (Measure::Layerwise, Estimator::Exact),
                (Measure::Neuronwise, Estimator::Hutchinson),
            ] {
                let options = Options { measure, estimator: Some(estimator), ..exact(&[("conv", 0.2)]) };
                let at = format!("{} {:?} {:?} {act} {measure:?} {estimator:?}", case.op, case.weight, case.attrs);
                all.extend(faults(&model, &options, &at));
            }
        }
    }
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
}
