//! What computes a step: `train.onnx`, or for several micro-batches a step `gradient.onnx` and `optimizer.onnx`; and the
//! moving average of the weights.

use std::{ops::Range, path::Path};

use super::{Config, Error, data::Batch, evaluate::lambdas, probes::Probes};
use crate::{
    artifact::manifest::Manifest,
    onnx,
    optim::blend,
    runtime::{Accumulation, Blend, Carried, Device, Feed, Held, Options, Parts, Runtime, Session, Step},
    tensor::{DType, Tensors},
};

#[derive(Debug)]
pub(super) struct Engine {
    graphs: Graphs,
    average: Option<Average>,
    probes: Probes,
    /// λ inputs and their values.
    pub lambda: Vec<(String, f64)>,
    learning_rate: String,
    /// Samples of a micro-batch.
    batch: usize,
    /// Micro-batches of a step.
    accumulate: usize,
}

#[derive(Debug)]
enum Graphs {
    Fused(Box<Step>),
    Accumulated(Box<Accumulation>),
}

/// `w̄ ← decay·w̄ + (1 − decay)·w` after every step; `w̄ = w` after the first, as PyTorch's `AveragedModel` does.
#[derive(Debug)]
struct Average {
    blend: Blend,
    decay: f64,
    begun: bool,
}

/// The graphs of the artifact that a run with this configuration steps with.
pub(super) fn graph_files<'a>(manifest: &'a Manifest, config: &Config) -> Vec<&'a str> {
    let graphs = &manifest.graphs;
    match config.accumulate {
        1 => vec![&graphs.train.path],
        _ => vec![&graphs.gradient.path, &graphs.optimizer.path],
    }
}

impl Engine {
    /// Opens the graphs in `directory` with parameters and state of `initial`; the weights' average begins with `average`.
    ///
    /// # Errors
    /// [`Error::Runtime`] for graphs that are not as the manifest says; [`Error::NoLambda`] if there is no λ to replace.
    pub fn open(
        runtime: &Runtime,
        manifest: &Manifest,
        directory: &Path,
        config: &Config,
        initial: &Tensors,
        average: Option<&Tensors>,
    ) -> Result<Engine, Error> {
        let options = Options { device: config.device, threads: config.threads, spin: true };
        let open = |path: &str| Session::from_file(runtime, &directory.join(path), &options);
        let graphs = match config.accumulate {
            1 => Graphs::Fused(Box::new(fused(manifest, open(&manifest.graphs.train.path)?, initial)?)),
            _ => {
                let gradient = open(&manifest.graphs.gradient.path)?;
                let optimizer = open(&manifest.graphs.optimizer.path)?;
                Graphs::Accumulated(Box::new(accumulated(runtime, manifest, gradient, optimizer, &options, initial)?))
            }
        };
        let (session, learning_rate) = match &graphs {
            Graphs::Fused(step) => (step.session(), &manifest.graphs.train.learning_rate),
            Graphs::Accumulated(sums) => (sums.session(), &manifest.graphs.optimizer.learning_rate),
        };
        let probes = Probes::for_training(manifest, session, config.seed)?;
        let lambda = lambdas(manifest, session, config.lambda);
        if let Some(wanted) = config.lambda
            && lambda.is_empty()
        {
            return Err(Error::NoLambda { artifact: config.artifact.clone(), lambda: wanted });
        }
        Ok(Engine {
            probes,
            lambda,
            learning_rate: learning_rate.clone(),
            batch: config.batch_size,
            accumulate: config.accumulate,
            average: config.ema.map(|decay| averaged(runtime, manifest, &options, decay, average)).transpose()?,
            graphs,
        })
    }

    /// Takes the step that `done` steps precede, on these samples.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn step(&mut self, done: u64, samples: &Batch, lr: f64, lambda: f64) -> Result<(), Error> {
        let Engine { graphs, probes, learning_rate, batch, accumulate, .. } = self;
        let scalars: Vec<(&str, f64)> = self
            .lambda
            .iter()
            .map(|(name, value)| (name.as_str(), value * lambda))
            .chain([(learning_rate.as_str(), lr)])
            .collect();
        match graphs {
            Graphs::Fused(step) => {
                feed(&mut **step, samples, 0..samples.samples, &scalars)?;
                probes.feed(&mut **step, done, samples.samples)?;
                step.advance()?;
            }
            Graphs::Accumulated(sums) => {
                let all = samples.samples;
                for (first, position) in (0..all).step_by(*batch).zip(done * *accumulate as u64..) {
                    let part = first..(first + *batch).min(all);
                    let count = part.len();
                    feed(&mut **sums, samples, part, &scalars)?;
                    probes.feed(&mut **sums, position, count)?;
                    sums.add(count as f32 / all as f32)?;
                }
                sums.update()?;
            }
        }
        self.track()
    }

    fn track(&mut self) -> Result<(), Error> {
        let Engine { graphs, average: Some(Average { blend, decay, begun }), .. } = self else { return Ok(()) };
        let keep = if *begun { *decay } else { 0.0 };
        blend.add(&graphs.held(), keep as f32, (1.0 - keep) as f32)?;
        *begun = true;
        Ok(())
    }

    /// Loss, objective, κ of each layer and, of one batch a step, the norm of the gradient; of the last step.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn figures(&self) -> Result<Vec<f64>, Error> {
        Ok(match &self.graphs {
            Graphs::Fused(step) => step.scalars()?,
            Graphs::Accumulated(sums) => sums.scalars()?,
        })
    }

    /// The weights that the run is judged by: their average, where there is one.
    pub fn judged(&self) -> Held<'_> {
        match &self.average {
            Some(average) if average.begun => average.blend.held().over(self.graphs.held()),
            _ => self.graphs.held(),
        }
    }

    /// Parameters and state.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn read(&self) -> Result<Tensors, Error> {
        Ok(self.graphs.held().read()?)
    }

    /// The average of the weights that train, where there is one.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn read_average(&self) -> Result<Option<Tensors>, Error> {
        let begun = self.average.as_ref().filter(|average| average.begun);
        Ok(begun.map(|average| average.blend.held().read()).transpose()?)
    }

    pub fn device(&self) -> Device {
        match &self.graphs {
            Graphs::Fused(step) => step.session().device(),
            Graphs::Accumulated(sums) => sums.session().device(),
        }
    }
}

impl Graphs {
    fn held(&self) -> Held<'_> {
        match self {
            Graphs::Fused(step) => step.held(),
            Graphs::Accumulated(sums) => sums.held(),
        }
    }
}

/// Gives the graph a part of these samples, and scalars.
fn feed(graph: &mut impl Feed, samples: &Batch, part: Range<usize>, scalars: &[(&str, f64)]) -> Result<(), Error> {
    for input in &samples.inputs {
        if graph.has_input(&input.name) {
            let (shape, rows) = input.part(part.clone());
            graph.feed(&input.name, input.dtype, &shape, |bytes| bytes.copy_from_slice(rows))?;
        }
    }
    for (name, value) in scalars {
        let value = (*value as f32).to_le_bytes();
        graph.feed(name, DType::F32, &[], |bytes| bytes.copy_from_slice(&value))?;
    }
    Ok(())
}

/// The training graph with everything that it carries.
fn fused(manifest: &Manifest, session: Session, initial: &Tensors) -> Result<Step, Error> {
    let graph = &manifest.graphs.train;
    let carried: Vec<Carried> = manifest
        .carried()
        .map(|name| Carried { input: name.to_owned(), output: graph.updates.get(name).cloned() })
        .collect();
    let mut scalars = vec![graph.loss.as_str(), graph.objective.as_str()];
    scalars.extend(graph.kappa.iter().map(String::as_str));
    scalars.extend(graph.gradient_norm.as_deref());
    Ok(Step::new(session, &carried, initial, &scalars)?)
}

fn accumulated(
    runtime: &Runtime,
    manifest: &Manifest,
    gradient: Session,
    optimizer: Session,
    options: &Options,
    initial: &Tensors,
) -> Result<Accumulation, Error> {
    let graphs = &manifest.graphs;
    let (mut statistics, mut stepped) = (Vec::new(), Vec::new());
    for name in manifest.carried() {
        let input = name.to_owned();
        match graphs.optimizer.updates.get(name) {
            Some(output) => stepped.push(Carried { input, output: Some(output.clone()) }),
            None => statistics.push(Carried { input, output: graphs.gradient.updates.get(name).cloned() }),
        }
    }
    let taken = |(parameter, output): (&String, &String)| {
        graphs.optimizer.gradients.get(parameter).map(|input| (output.clone(), input.clone()))
    };
    let gradients: Vec<(String, String)> = graphs.gradient.gradients.iter().filter_map(taken).collect();
    let scalars: Vec<String> = [&graphs.gradient.loss, &graphs.gradient.objective]
        .into_iter()
        .chain(&graphs.gradient.kappa)
        .cloned()
        .collect();
    let outputs: Vec<&String> = gradients.iter().map(|(output, _)| output).chain(&scalars).collect();
    let types = outputs.iter().map(|name| port_type(&gradient, name)).collect::<Result<Vec<_>, Error>>()?;
    let sums = sums_of(runtime, &types, options)?;
    let figures = graphs.optimizer.gradient_norm.iter().cloned().collect();
    Ok(Accumulation::new(
        Parts { gradient, optimizer, sums, statistics, stepped, gradients, scalars, figures },
        initial,
    )?)
}

fn port_type(session: &Session, output: &str) -> Result<(DType, Vec<usize>), Error> {
    let port = session.output(output)?;
    Ok((port.dtype.unwrap_or(DType::F32), port.shape.iter().map(|d| d.unwrap_or(1)).collect()))
}

fn averaged(
    runtime: &Runtime,
    manifest: &Manifest,
    options: &Options,
    decay: f64,
    initial: Option<&Tensors>,
) -> Result<Average, Error> {
    let trained = manifest.parameters.iter().filter(|p| p.trainable);
    let (names, types): (Vec<String>, Vec<_>) = trained.map(|p| (p.name.clone(), (p.dtype, p.shape.clone()))).unzip();
    let session = sums_of(runtime, &types, options)?;
    let blend = Blend::new(session, &names, initial.unwrap_or(&Tensors::new()))?;
    Ok(Average { blend, decay, begun: initial.is_some() })
}

fn sums_of(runtime: &Runtime, types: &[(DType, Vec<usize>)], options: &Options) -> Result<Session, Error> {
    let model = blend::model(types).map_err(|error| Error::Graph { why: error.to_string() })?;
    Ok(Session::from_bytes(runtime, "running sums", &onnx::to_bytes(&model), options)?)
}
