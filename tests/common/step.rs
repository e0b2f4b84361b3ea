//! One training step of a fixture: its artifact made by the library and run by ONNX Runtime, and its oracle.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use fam_onnx::artifact::{self, Options, Plan, Target, manifest::Source};
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::Model;
use fam_onnx::loss::Loss;
use fam_onnx::onnx;
use fam_onnx::optim::{Optimizer, Sgd};
use fam_onnx::runtime::{self, Device, Session};
use fam_onnx::tensor::{DType, Tensor, Tensors};
use fam_onnx::train::data::{self, Content};

use super::{fixture, runtime};

/// Fixtures that have a model, in the order of their names.
pub fn fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("")).expect("a directory").map(|e| e.expect("an entry").path());
    let mut names: Vec<String> = entries
        .filter(|path| path.join("model.onnx").exists())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn model_path(fixture_name: &str) -> PathBuf {
    fixture(fixture_name).join("model.onnx")
}

pub fn model(fixture_name: &str) -> Model {
    onnx::read(&model_path(fixture_name)).expect("a model")
}

/// The arrays of an oracle file.
pub struct Oracle(BTreeMap<String, Tensor>);

impl Oracle {
    pub fn read(fixture_name: &str, file: &str) -> Oracle {
        let source = data::read(&fixture(fixture_name).join(file), &data::Options::default()).expect("an oracle");
        let arrays = source.arrays.into_iter().map(|array| match array.content {
            Content::Numbers(stored) => (array.name, stored.tensor().expect("whole data")),
            other => panic!("{} is {other:?}", array.name),
        });
        Oracle(arrays.collect())
    }

    /// Layers that it has κ of.
    pub fn layers(&self) -> Vec<String> {
        self.0.keys().filter_map(|key| key.strip_prefix("kappa/")).map(str::to_string).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn tensor(&self, key: &str) -> &Tensor {
        self.0.get(key).unwrap_or_else(|| panic!("the oracle has no {key}"))
    }

    pub fn values(&self, key: &str) -> Vec<f64> {
        self.tensor(key).iter_f64().collect()
    }

    pub fn scalar(&self, key: &str) -> f64 {
        self.values(key)[0]
    }

    /// Arrays below `prefix/`, by the rest of their keys.
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Vec<f64>> {
        let prefix = format!("{prefix}/");
        let keys = self.0.keys().filter_map(|key| Some((key.clone(), key.strip_prefix(&prefix)?.to_string())));
        keys.map(|(key, rest)| (rest, self.values(&key))).collect()
    }
}

/// Exact κ of these layers, plain gradient descent.
pub fn exact(layers: &[(&str, f64)]) -> Options {
    Options {
        layers: layers.iter().map(|(name, lambda)| (name.to_string(), *lambda)).collect(),
        target: Target::Loss(Loss::SoftmaxCrossEntropy.into()),
        output_name: None,
        measure: Measure::Neuronwise,
        per_fan_in: false,
        estimator: Some(Estimator::Exact),
        probes: None,
        samples: 1,
        detach_trace: false,
        optimizer: Optimizer::Sgd(Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
        clip_norm: None,
        freeze: Vec::new(),
        train_batch_norm: false,
        train_dropout: false,
        train_quantized: false,
    }
}

pub fn plan(model: &Model, options: &Options) -> Plan {
    let source = Source { name: "model.onnx".to_string(), sha256: String::new() };
    artifact::plan(model, options, source).expect("a plan")
}

/// A graph of the plan by its file name.
pub fn graph<'a>(plan: &'a Plan, file: &str) -> &'a Model {
    &plan.graphs.iter().find(|(name, _)| *name == file).expect("a graph of that name").1
}

pub fn session(name: &str, model: &Model) -> Session {
    open(name, model).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn open(name: &str, model: &Model) -> Result<Session, runtime::Error> {
    let options = runtime::Options { device: Device::Cpu, threads: Some(1), spin: false };
    Session::from_bytes(&runtime(), name, &onnx::to_bytes(model), &options)
}

/// Parameters and state at the beginning.
pub fn initial(plan: &Plan) -> Tensors {
    let convert =
        |t: &fam_onnx::ir::Tensor| Tensor::new(t.dtype, t.shape.clone(), t.bytes.to_vec()).expect("a whole tensor");
    plan.tensors.iter().map(|(name, t)| (name.clone(), convert(t))).collect()
}

/// Runs a session on those of `values` that it takes; every output by name.
pub fn run(session: &mut Session, values: &Tensors) -> Tensors {
    let feeds: Vec<(&str, &Tensor)> =
        values.iter().filter(|(name, _)| session.has_input(name)).map(|(name, t)| (name.as_str(), t)).collect();
    let names: Vec<String> = session.outputs().iter().map(|port| port.name.clone()).collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let results = session.run(&feeds, &wanted).unwrap_or_else(|error| panic!("{error}"));
    names.iter().cloned().zip(results).collect()
}

pub fn f32s(shape: &[usize], values: &[f64]) -> Tensor {
    let bytes = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
    Tensor::new(DType::F32, shape.to_vec(), bytes).expect("as many values as the shape has")
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.iter_f64().collect()
}

pub fn scalar(tensors: &Tensors, name: &str) -> f64 {
    assert!(tensors[name].shape().is_empty(), "{name} has rank 0");
    values(&tensors[name])[0]
}

pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// NaN is no agreement.
pub fn exceeds(off: f64, limit: f64) -> bool {
    off.is_nan() || off > limit
}

/// The fault of a number that is further than `tolerance` (relative) from what is expected.
pub fn differs(what: &str, found: f64, expected: f64, tolerance: f64) -> Option<String> {
    let off = (found - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
    exceeds(off, tolerance).then(|| format!("{what}: {found:e}, expected {expected:e}, off by {off:.1e}"))
}

/// The faults of gradients: each tensor within `tolerance` in norm, floored at a hundredth of it times the whole's norm.
pub fn gradients_differ(
    found: &HashMap<String, Vec<f64>>,
    expected: &BTreeMap<String, Vec<f64>>,
    tolerance: f64,
) -> Vec<String> {
    gradients_beyond(found, expected, tolerance, 1e-2 * tolerance)
}

/// The faults of gradients: each tensor within `tolerance` in norm, or within `floor` of the whole's norm.
pub fn gradients_beyond(
    found: &HashMap<String, Vec<f64>>,
    expected: &BTreeMap<String, Vec<f64>>,
    tolerance: f64,
    floor: f64,
) -> Vec<String> {
    let whole = norm(&expected.values().map(|g| norm(g)).collect::<Vec<f64>>());
    let mut faults: Vec<String> = found
        .keys()
        .filter(|name| !expected.contains_key(*name))
        .map(|name| format!("{name} is not expected"))
        .collect();
    for (name, expected) in expected {
        let Some(found) = found.get(name).filter(|f| f.len() == expected.len()) else {
            faults.push(format!("no gradient of {name} in its shape"));
            continue;
        };
        let difference: Vec<f64> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
        let (off, size) = (norm(&difference), norm(expected));
        let limit = (tolerance * size).max(floor * whole);
        if exceeds(off, limit) {
            faults.push(format!(
                "gradient of {name}: off by {:.1e} of its norm {size:.1e}, {:.1e} of the whole",
                off / size,
                off / whole
            ));
        }
    }
    faults.sort();
    faults
}
