//! Whether an artifact computes what it says: its gradients against central differences of its objective, κ against its
//! definition, float32 against float64.

mod difference;
mod double;
mod gradient;
mod kappa;
mod kernels;
mod sample;
mod straight;

use crate::artifact::manifest::Manifest;
use crate::error::{Error, Result};
use crate::ir::Model;
use crate::onnx;
use crate::runtime::{self, Device, Runtime, Session};
use crate::tensor::{DType, Tensor, Tensors};
use crate::train::data::{self, Dataset, Spec};
use crate::train::run::{self, Weights};
use double::widened;
use sample::Random;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: random numbers that fit the inputs.
    pub data: Option<(PathBuf, data::Options)>,
    /// Samples in the batch.
    pub batch: usize,
    /// Random directions a parameter.
    pub directions: usize,
    /// κ of a layer with at most so many weights is compared with its definition.
    pub definition: usize,
    /// Probes that an estimate of κ is averaged over.
    pub probes: usize,
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Agrees,
    Disagrees,
    /// With the reason.
    NotCompared(String),
}

/// Two values of one quantity.
#[derive(Clone, Debug)]
pub struct Check {
    pub what: What,
    /// The parameter or the layer; empty for the whole.
    pub of: String,
    /// The artifact's value: a norm, where the quantity is a gradient.
    pub found: f64,
    /// Relative distance from what it should be.
    pub off: f64,
    /// What `off` may be.
    pub limit: f64,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The gradient in float64 against central differences.
    Gradient,
    /// The gradient in float32 against that in float64.
    GradientInFloat32,
    /// κ in float64 against its definition.
    Kappa,
    /// Loss, κ or objective in float32 against float64.
    InFloat32,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub checks: Vec<Check>,
    /// What computes in float64.
    pub engine: &'static str,
    pub samples: usize,
}

impl Report {
    pub fn disagreements(&self) -> usize {
        self.checks.iter().filter(|check| check.verdict == Verdict::Disagrees).count()
    }
}

impl Check {
    /// Agrees if `off` is within `limit`; NaN does not.
    fn new(what: What, of: &str, found: f64, off: f64, limit: f64) -> Check {
        let verdict = if off <= limit { Verdict::Agrees } else { Verdict::Disagrees };
        Check { what, of: of.to_string(), found, off, limit, verdict }
    }

    fn not_compared(what: What, of: &str, found: f64, reason: String) -> Check {
        let verdict = Verdict::NotCompared(reason);
        Check { what, of: of.to_string(), found, off: f64::NAN, limit: f64::NAN, verdict }
    }
}

/// An artifact with its parameters and one batch.
struct Case {
    weights: Weights,
    /// Samples, parameters, λ and probes, as the graphs take them.
    fed: Tensors,
    /// The same in float64.
    wide: Tensors,
    gradient: Model,
    evaluate: Model,
    samples: usize,
}

/// Compares what the artifact, run or checkpoint at `path` computes with what it should.
///
/// # Errors
/// What [`run::weights`] says of `path`, files that differ from their digests, data that do not fit, and what ONNX Runtime
/// reports. A disagreement is none: it stands in the report.
pub fn verify(path: &Path, runtime: &Runtime, options: &Options) -> Result<Report> {
    let case = Case::open(path, runtime, options)?;
    let mut random = Random::new(options.seed.wrapping_add(1));
    let (mut checks, engine) = gradient::checks(&case, runtime, options, &mut random)?;
    checks.extend(kappa::checks(&case, path, runtime, options, &mut random)?);
    Ok(Report { checks, engine, samples: case.samples })
}

impl Case {
    fn open(path: &Path, runtime: &Runtime, options: &Options) -> Result<Case> {
        let weights = run::weights(path).map_err(Error::Train)?;
        let graphs = &weights.manifest.graphs;
        weights.manifest.verify_files(&weights.graphs, &[&graphs.gradient.path, &graphs.evaluate.path])?;
        let read = |file: &str| onnx::read(&weights.graphs.join(file));
        let (gradient, evaluate) = (read(&graphs.gradient.path)?, read(&graphs.evaluate.path)?);
        let mut random = Random::new(options.seed);
        let samples = match &options.data {
            Some((path, how)) => read_samples(path, how, &weights, runtime, options.batch)?,
            None => random.samples(&weights.manifest, &evaluate, options.batch)?,
        };
        let batch =
            weights.manifest.inputs.first().and_then(|n| samples.get(n)).and_then(|t| t.shape().first().copied());
        let batch = batch.unwrap_or(options.batch);
        let mut fed: Tensors = weights.tensors.clone();
        fed.extend(samples);
        fed.extend(lambdas(&weights.manifest));
        let probes = random.draws(weights.manifest.probes(), batch)?;
        let mut wide: Tensors = fed.iter().map(|(n, t)| Ok((n.clone(), widened(t)?))).collect::<Result<_>>()?;
        for (name, probe) in probes {
            let dtype =
                [&gradient, &evaluate].iter().find_map(|m| Some(m.graph.value(m.graph.find(&name)?).fact.dtype));
            let narrow = crate::ir::Tensor::from_f64(dtype.unwrap_or(DType::F32), probe.shape(), probe.iter_f64());
            fed.insert(name.clone(), Tensor::new(narrow.dtype, probe.shape().to_vec(), narrow.bytes.to_vec())?);
            wide.insert(name, probe);
        }
        Ok(Case { weights, fed, wide, gradient, evaluate, samples: batch })
    }

    fn manifest(&self) -> &Manifest {
        &self.weights.manifest
    }
}

/// λ of each layer, as float32 holds it.
fn lambdas(manifest: &Manifest) -> Tensors {
    let inputs =
        manifest.layers.iter().filter_map(|l| Some((l.lambda_input.clone()?, Tensor::scalar(l.lambda as f32))));
    inputs.collect()
}

fn read_samples(
    data: &Path,
    how: &data::Options,
    weights: &Weights,
    runtime: &Runtime,
    batch: usize,
) -> Result<Tensors> {
    let path = weights.graphs.join(&weights.manifest.graphs.evaluate.path);
    let session = Session::from_file(runtime, &path, &on_cpu())?;
    let spec = Spec::of(&weights.manifest, &session)?;
    let mut source = data::read(data, how).map_err(crate::train::Error::from)?;
    let dataset = Dataset::new(&mut source, &spec).map_err(crate::train::Error::from)?;
    sample::first_of(&dataset, spec.batch.unwrap_or(batch))
}

fn on_cpu() -> runtime::Options {
    runtime::Options { device: Device::Cpu, threads: None, spin: false }
}
