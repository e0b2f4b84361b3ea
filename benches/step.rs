//! A step with FAM against a plain step, on the fixtures: medians of interleaved runs, one after the other in turn.
//!
//! `cargo bench --bench step [-- THREADS]`

use fam_onnx::artifact::{self, Options, Target, manifest::Source};
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::Model;
use fam_onnx::loss::Loss;
use fam_onnx::optim::{Optimizer, Sgd};
use fam_onnx::runtime::{Carried, Feed, Fetch, Runtime, Session, Step};
use fam_onnx::tensor::{DType, Tensor, Tensors};
use fam_onnx::{Result, onnx, runtime};
use std::path::Path;
use std::time::{Duration, Instant};

const BATCH: usize = 64;
/// Steps timed of each kind, after as many that are not.
const ROUNDS: usize = 60;

/// Fixture, layer, estimator.
const WORKLOADS: [(&str, &str, Estimator); 6] = [
    ("lenet", "fc3", Estimator::Exact),
    ("lenet", "fc2", Estimator::Exact),
    ("lenet", "fc2", Estimator::Hutchinson),
    ("resnet", "fc", Estimator::Exact),
    ("resnet", "neck", Estimator::Exact),
    ("resnet-dynamo", "neck", Estimator::Exact),
];

fn main() -> Result<()> {
    let threads = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let runtime = Runtime::open(None, Fetch::Allowed, &mut |text| eprintln!("{text}"))?;
    let options = runtime::Options { threads, spin: false, ..runtime::Options::default() };
    println!("ONNX Runtime {}, batch {BATCH}, threads {threads:?}; milliseconds a step", runtime.library().version);
    println!("{:<16}{:<8}{:<12}{:>8}{:>8}{:>8}", "model", "layer", "estimator", "plain", "FAM", "ratio");
    for (name, layer, estimator) in WORKLOADS {
        let model = onnx::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).join("model.onnx"))?;
        let step = |lambda: f64| step(&runtime, &options, &model, layer, lambda, estimator);
        let mut steps = [step(0.0)?, step(0.01)?];
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            for (step, times) in steps.iter_mut().zip(&mut times) {
                let start = Instant::now();
                step.run()?;
                if round >= ROUNDS {
                    times.push(start.elapsed());
                }
            }
        }
        let [plain, fam] = times.map(median);
        let ratio = fam / plain;
        println!("{name:<16}{layer:<8}{:<12}{plain:>8.3}{fam:>8.3}{ratio:>8.3}", estimator.name());
    }
    Ok(())
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    1e3 * times[times.len() / 2].as_secs_f64()
}

/// `train.onnx` of one layer, bound and fed once; κ is left out where `lambda` is 0.
fn step(
    runtime: &Runtime,
    options: &runtime::Options,
    model: &Model,
    layer: &str,
    lambda: f64,
    estimator: Estimator,
) -> Result<Step> {
    let inject = Options {
        layers: vec![(layer.to_string(), lambda)],
        target: Target::Loss(Loss::SoftmaxCrossEntropy.into()),
        output_name: None,
        measure: Measure::Neuronwise,
        per_fan_in: false,
        estimator: Some(estimator),
        probes: None,
        samples: 1,
        detach_trace: false,
        optimizer: Optimizer::Sgd(Sgd { momentum: 0.9, nesterov: false, weight_decay: 5e-4 }),
        clip_norm: None,
        freeze: Vec::new(),
        train_batch_norm: false,
        train_dropout: false,
        train_quantized: false,
    };
    let source = Source { name: String::new(), sha256: String::new() };
    let plan = artifact::plan(model, &inject, source)?;
    let (_, train) = plan.graphs.iter().find(|(file, _)| *file == "train.onnx").expect("every plan has it");
    let session = Session::from_bytes(runtime, "train.onnx", &onnx::to_bytes(train), options)?;
    let updates = &plan.manifest.graphs.train.updates;
    let carried: Vec<Carried> = plan
        .manifest
        .carried()
        .map(|name| Carried { input: name.to_string(), output: updates.get(name).cloned() })
        .collect();
    let initial: Tensors = plan
        .tensors
        .iter()
        .map(|(name, t)| Ok((name.clone(), Tensor::new(DType::F32, t.shape.clone(), t.bytes.to_vec())?)))
        .collect::<Result<_>>()?;
    let fed: Vec<(String, Vec<usize>, DType)> = train
        .graph
        .inputs
        .iter()
        .map(|&id| train.graph.value(id))
        .filter(|v| v.data.is_none() && !initial.contains_key(&v.name))
        .map(|v| {
            let shape = v.fact.shape.iter().flatten().map(|d| d.evaluate(&|_| BATCH as i64) as usize).collect();
            (v.name.clone(), shape, v.fact.dtype)
        })
        .collect();
    let mut step = Step::new(session, &carried, &initial, &["loss"])?;
    for (name, shape, dtype) in &fed {
        step.feed(name, *dtype, shape, |bytes| fill(name, *dtype, bytes))?;
    }
    Ok(step)
}

/// Data of the right kind; what it is does not change what a step costs.
fn fill(name: &str, dtype: DType, bytes: &mut [u8]) {
    let signed = |i: usize| if (i * i / 7).is_multiple_of(2) { 1.0f32 } else { -1.0 };
    match (dtype, name) {
        (DType::I64, _) => bytes.as_chunks_mut::<8>().0.iter_mut().enumerate().for_each(|(i, c)| {
            *c = (i as i64 % 10).to_le_bytes();
        }),
        (_, "learning_rate") => bytes.copy_from_slice(&1e-3f32.to_le_bytes()),
        _ => bytes.as_chunks_mut::<4>().0.iter_mut().enumerate().for_each(|(i, c)| {
            *c = (signed(i) * (0.2 + (i % 13) as f32 / 13.0)).to_le_bytes();
        }),
    }
}
