//! Optimisers as graphs, run by ONNX Runtime, against PyTorch's own over 500 steps (`fixtures/optimisers`).

mod common;

use std::collections::BTreeMap;

use common::step::{Oracle, exceeds, run, session};
use fam_onnx::ir::{Builder, DType, Dim, Fact, Model};
use fam_onnx::optim::{Adam, Optimizer, Sgd, clip_by_norm};
use fam_onnx::tensor::{Tensor, Tensors};

const SHAPES: [(&str, &[usize]); 2] = [("a", &[3, 4]), ("b", &[5])];
const STEPS: usize = 500;
/// Steps between two that the oracle keeps.
const EVERY: usize = 10;

/// The graph of a step, and the input and output name of everything that it carries.
fn step(optimizer: Optimizer, clip: Option<f64>, dtype: DType) -> (Model, BTreeMap<String, String>) {
    let b = Builder::new();
    let rate = b.input("learning_rate", Fact::new(DType::F32, Vec::<Dim>::new()), None);
    let input = |name: &str, shape: &[usize]| {
        let dims: Vec<Dim> = shape.iter().map(|&n| Dim::Fixed(n as i64)).collect();
        b.input(name, Fact::new(dtype, dims), None)
    };
    let pairs = SHAPES.map(|(name, shape)| (input(name, shape), input(&format!("{name}.grad"), shape)));
    let (parameters, gradients): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let gradients = clip.map_or(gradients.clone(), |limit| clip_by_norm(&b, &gradients, limit));
    let pairs: Vec<_> = parameters.into_iter().zip(gradients).collect();
    let step = optimizer.step(&b, &pairs, rate);
    let mut carried = BTreeMap::new();
    for (parameter, next) in step.parameters {
        carried.insert(parameter.name(), b.output(next, &format!("{}.next", parameter.name())));
    }
    for state in step.state {
        carried.insert(state.name.clone(), b.output(state.next, &format!("{}.next", state.name)));
    }
    (Model { graph: b.finish().expect("a sound graph"), opset: 17, ..Model::default() }, carried)
}

fn floats(dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
    let bytes = match dtype {
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
    };
    Tensor::new(dtype, shape.to_vec(), bytes).expect("as many values as the shape has")
}

/// The largest distance from PyTorch's parameters, in units of `max(1, |w|)`.
fn distance(case: &str, optimizer: Optimizer, clip: Option<f64>, dtype: DType, oracle: &Oracle) -> f64 {
    let (model, carried) = step(optimizer, clip, dtype);
    let mut session = session(case, &model);
    let mut tensors: Tensors = BTreeMap::new();
    for name in carried.keys() {
        let port = session.input(name).expect("an input");
        let shape: Vec<usize> = port.shape.iter().map(|d| d.expect("a fixed shape")).collect();
        tensors.insert(name.clone(), Tensor::zeros(port.dtype.expect("a number"), shape));
    }
    for (name, shape) in SHAPES {
        tensors.insert(name.to_string(), floats(dtype, shape, &oracle.values(&format!("initial/{name}"))));
    }
    let rates = oracle.values("lr");
    let gradients = SHAPES.map(|(name, _)| oracle.values(&format!("gradient/{name}")));
    let expected = SHAPES.map(|(name, _)| oracle.values(&format!("{case}/{name}")));
    let mut worst: f64 = 0.0;
    for k in 0..STEPS {
        tensors.insert("learning_rate".to_string(), Tensor::scalar(rates[k] as f32));
        for ((name, shape), gradient) in SHAPES.iter().zip(&gradients) {
            let size = shape.iter().product::<usize>();
            tensors.insert(format!("{name}.grad"), floats(dtype, shape, &gradient[k * size..(k + 1) * size]));
        }
        let outputs = run(&mut session, &tensors);
        for (name, next) in &carried {
            tensors.insert(name.clone(), outputs[next].clone());
        }
        if (k + 1) % EVERY == 0 {
            for ((name, shape), expected) in SHAPES.iter().zip(&expected) {
                let size = shape.iter().product::<usize>();
                let expected = &expected[k / EVERY * size..(k / EVERY + 1) * size];
                let off = |(a, b): (f64, &f64)| (a - b).abs() / b.abs().max(1.0);
                let far = tensors[*name].iter_f64().zip(expected).map(off);
                worst = far.fold(worst, |worst, off| if exceeds(off, worst) { off } else { worst });
            }
        }
    }
    worst
}

#[test]
fn every_optimiser_is_pytorchs() {
    let oracle = Oracle::read("optimisers", "oracle.npz");
    let sgd = |nesterov| Optimizer::Sgd(Sgd { momentum: 0.9, nesterov, weight_decay: 0.01 });
    let adam = |betas, eps, weight_decay, decoupled| Optimizer::Adam(Adam { betas, eps, weight_decay, decoupled });
    let cases = [
        ("sgd", sgd(false), None),
        ("sgd-nesterov", sgd(true), None),
        ("adam", adam([0.9, 0.999], 1e-8, 0.0, false), None),
        ("adam-decay", adam([0.8, 0.99], 1e-6, 0.1, false), None),
        ("adamw", adam([0.9, 0.999], 1e-8, 0.01, true), None),
        ("adamw-clip", adam([0.0, 0.9], 1e-8, 0.05, true), Some(0.5)),
    ];
    // 500 steps of PyTorch in float32 end 1.4e-6 from its own float64: that is the rounding, not the formula.
    for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 2e-6)] {
        let off = cases.map(|(name, optimizer, clip)| (name, distance(name, optimizer, clip, dtype, &oracle)));
        assert!(off.iter().all(|(_, off)| !exceeds(*off, tolerance)), "{dtype} {off:?}");
    }
}
