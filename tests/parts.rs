//! A weight that is split before it is used: κ of the whole, as where its product is split instead.

mod common;

use std::collections::HashMap;

use common::rng::Rng;
use common::step::*;
use fam_onnx::artifact::Options;
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor as Constant, Val};
use fam_onnx::tensor::Tensors;

/// What is taken apart, and by what.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parts {
    /// The product of the whole weight, by `Slice`.
    Product,
    /// The weight, by three `Slice`.
    Slices,
    /// The weight, by one `Split`.
    Split,
}

/// Attention of one head by a fused weight `[4, 12]`, whose parts make q, k and v, or whose product has them as parts.
fn attention(parts: Parts) -> Model {
    let b = Builder::new();
    let mut rng = Rng(3);
    let mut stored = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let signs = values(&rng.signs(&[count]));
        let data = signs.iter().enumerate().map(|(k, s)| s * (0.2 + 0.05 * (k % 9) as f64));
        b.initializer(name, Constant::from_f64(DType::F32, shape, data))
    };
    let (qkv, fc) = (stored("qkv.weight", &[4, 12]), stored("fc.weight", &[4, 3]));
    let x = b.input("x", Fact::new(DType::F32, [Dim::Fixed(3), Dim::Fixed(3), Dim::Fixed(4)]), None);
    let slices = |v: Val<'_>, axis: i64| [0, 1, 2].map(|k| v.slice(axis, 4 * k, 4 * k + 4).id());
    let [q, k, v] = match parts {
        Parts::Product => slices(x.matmul(qkv), 2).map(|id| b.val(id)),
        Parts::Slices => slices(qkv, 1).map(|id| x.matmul(b.val(id))),
        Parts::Split => {
            let split = b.node("Split", &[Some(qkv), Some(b.ints(&[4, 4, 4]))], Attrs::new().with("axis", 1), 3);
            [0, 1, 2].map(|k| x.matmul(split[k]))
        }
    };
    let scores = q.matmul(k.transpose()) * 0.5;
    let mixed = scores.exp() / scores.exp().sum_keep(&[2]);
    let logits = mixed.matmul(v).mean_keep(&[1]).reshape(&[Dim::Fixed(3), Dim::Fixed(4)]).matmul(fc);
    b.output(logits, "logits");
    Model { graph: b.finish().expect("a graph"), opset: 17, ..Model::default() }
}

fn step(parts: Parts, options: &Options) -> (f64, HashMap<String, Vec<f64>>) {
    let plan = plan(&attention(parts), options);
    let mut feeds: Tensors = initial(&plan);
    let mut rng = Rng(8);
    let x: Vec<f64> =
        values(&rng.signs(&[36])).iter().enumerate().map(|(k, s)| s * (0.3 + 0.1 * (k % 5) as f64)).collect();
    feeds.insert("x".to_string(), f32s(&[3, 3, 4], &x));
    let labels = [0i64, 2, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    feeds.insert("labels".to_string(), fam_onnx::tensor::Tensor::new(DType::I64, vec![3], labels).expect("labels"));
    for probe in plan.manifest.probes() {
        let size = |dim: &fam_onnx::artifact::manifest::Dim| match dim {
            fam_onnx::artifact::manifest::Dim::Fixed(n) => *n,
            _ => 3,
        };
        let shape: Vec<usize> = probe.shape.iter().map(size).collect();
        feeds.insert(probe.name.clone(), rng.signs(&shape));
    }
    let outputs = run(&mut session("parts", graph(&plan, "gradient.onnx")), &feeds);
    let names = &plan.manifest.graphs.gradient;
    let gradients = names.gradients.iter().map(|(p, output)| (p.clone(), values(&outputs[output]))).collect();
    (scalar(&outputs, &names.kappa[0]), gradients)
}

#[test]
fn kappa_of_a_split_weight_is_that_of_a_split_product() {
    for measure in [Measure::Neuronwise, Measure::Layerwise] {
        for estimator in [Estimator::Exact, Estimator::GaussNewton, Estimator::Hutchinson] {
            let options = |layer| Options { measure, estimator: Some(estimator), ..exact(&[(layer, 0.2)]) };
            let (whole, expected) = step(Parts::Product, &options("qkv.weight"));
            let expected = expected.into_iter().collect();
            for parts in [Parts::Slices, Parts::Split] {
                let (found, gradients) = step(parts, &options("qkv.weight"));
                let at = format!("{parts:?} {measure:?} {estimator:?}");
                assert!(differs("κ", found, whole, 1e-5).is_none(), "{at}: {found} is not {whole}");
                let faults = gradients_differ(&gradients, &expected, 1e-4);
                assert!(faults.is_empty(), "{at}: {}", faults.join("\n"));
            }
        }
    }
}
