//! What computes a step: `train.onnx`, or for several micro-batches or processes a step `gradient.onnx` and `optimizer.onnx`;
//! and the moving average of the weights.

use std::{ops::Range, path::Path};

use super::{Config, Error, Group, data::Batch, evaluate::lambdas, probes::Probes};
use crate::{
    artifact::manifest::Manifest,
    onnx,
    optim::blend,
    runtime::{Accumulation, Blend, Carried, Device, Feed, Held, Options, Parts, Row, Runtime, Session, Step},
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
    /// Micro-batches of a step, in each process.
    accumulate: usize,
    group: Group,
    /// What the processes exchange, of this length and two flags behind it.
    row: Row,
    shared: usize,
}

/// A step before it is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upcoming {
    /// Steps before it.
    pub done: u64,
    pub lr: f64,
    /// Part of its value that λ has.
    pub lambda: f64,
    /// Samples of all processes.
    pub samples: usize,
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
pub(super) fn graph_files<'a>(manifest: &'a Manifest, config: &Config, group: &Group) -> Vec<&'a str> {
    let graphs = &manifest.graphs;
    match is_fused(config, group) {
        true => vec![&graphs.train.path],
        false => vec![&graphs.gradient.path, &graphs.optimizer.path],
    }
}

fn is_fused(config: &Config, group: &Group) -> bool {
    config.accumulate == 1 && group.is_alone()
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
        group: &Group,
    ) -> Result<Engine, Error> {
        let options = Options { device: config.device, threads: config.threads, spin: true };
        let open = |path: &str| Session::from_file(runtime, &directory.join(path), &options);
        let graphs = match is_fused(config, group) {
            true => Graphs::Fused(Box::new(fused(manifest, open(&manifest.graphs.train.path)?, initial)?)),
            false => {
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
        let (row, shared) = match &graphs {
            Graphs::Accumulated(sums) if !group.is_alone() => sums.row(),
            _ => (Row::F32(Vec::new()), 0),
        };
        Ok(Engine {
            group: group.clone(),
            row,
            shared,
            probes,
            lambda,
            learning_rate: learning_rate.clone(),
            batch: config.batch_size,
            accumulate: config.accumulate,
            average: config.ema.map(|decay| averaged(runtime, manifest, &options, decay, average)).transpose()?,
            graphs,
        })
    }

    /// Takes a step. Of several processes each has its own samples, or the error that kept it from having some, and whether
    /// it is asked to stop; whether any is, is the result.
    ///
    /// # Errors
    /// [`Error::Runtime`]; [`Error::Peer`].
    pub fn step(&mut self, upcoming: Upcoming, samples: Result<&Batch, Error>, stop: bool) -> Result<bool, Error> {
        let own = samples.and_then(|samples| self.compute(upcoming, samples).map(|()| samples.samples));
        let stop = if self.group.is_alone() { own.map(|_| stop)? } else { self.exchange(upcoming, own, stop)? };
        if let Graphs::Accumulated(sums) = &mut self.graphs {
            sums.update()?;
        }
        self.track()?;
        Ok(stop)
    }

    /// The step itself where one graph does it all, else the gradients of these samples.
    fn compute(&mut self, upcoming: Upcoming, samples: &Batch) -> Result<(), Error> {
        let Engine { graphs, probes, learning_rate, batch, accumulate, group, .. } = self;
        let scalars: Vec<(&str, f64)> = self
            .lambda
            .iter()
            .map(|(name, value)| (name.as_str(), value * upcoming.lambda))
            .chain([(learning_rate.as_str(), upcoming.lr)])
            .collect();
        match graphs {
            Graphs::Fused(step) => {
                feed_scalars(&mut **step, &scalars)?;
                feed(&mut **step, samples, 0..samples.samples)?;
                probes.feed(&mut **step, upcoming.done, samples.samples)?;
                step.advance()?;
            }
            Graphs::Accumulated(sums) => {
                feed_scalars(&mut **sums, &scalars)?;
                let all = samples.samples;
                // Each process draws probes and masks of its own.
                let position = upcoming.done.wrapping_mul(group.size() as u64).wrapping_add(group.rank() as u64);
                let position = position.wrapping_mul(*accumulate as u64);
                for (first, k) in (0..all).step_by(*batch).zip(0..) {
                    let part = first..first.saturating_add(*batch).min(all);
                    let count = part.len();
                    feed(&mut **sums, samples, part)?;
                    probes.feed(&mut **sums, position.wrapping_add(k), count)?;
                    sums.add(count as f32 / all as f32)?;
                }
            }
        }
        Ok(())
    }

    /// Averages over the processes, each by its samples (`own`: how many it has computed).
    fn exchange(&mut self, upcoming: Upcoming, own: Result<usize, Error>, stop: bool) -> Result<bool, Error> {
        let Engine { graphs: Graphs::Accumulated(sums), row, shared, group, .. } = self else { return Ok(stop) };
        let [failures, stops] = [*shared, *shared + 1];
        row.reset(*shared + 2);
        let own = own.and_then(|count| match count {
            0 => Ok(()),
            _ => Ok(sums.put_into(row, count as f64 / upcoming.samples as f64)?),
        });
        if own.is_err() {
            row.reset(*shared + 2);
        }
        row.set(failures, f64::from(own.is_err()));
        row.set(stops, f64::from(stop));
        group.sum_row(row);
        if row.get(failures) > 0.0 {
            group.agree(own)?;
        }
        sums.take_from(row)?;
        Ok(row.get(stops) > 0.0)
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
        self.session().device()
    }

    /// Why that is not CUDA, where it was tried.
    pub fn refused(&self) -> Option<String> {
        self.session().refused().map(ToString::to_string)
    }

    fn session(&self) -> &Session {
        match &self.graphs {
            Graphs::Fused(step) => step.session(),
            Graphs::Accumulated(sums) => sums.session(),
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

/// Gives the graph a part of these samples.
fn feed(graph: &mut impl Feed, samples: &Batch, part: Range<usize>) -> Result<(), Error> {
    for input in &samples.inputs {
        if graph.has_input(&input.name) {
            let (shape, rows) = input.part(part.clone());
            graph.feed(&input.name, input.dtype, &shape, |bytes| bytes.copy_from_slice(rows))?;
        }
    }
    Ok(())
}

fn feed_scalars(graph: &mut impl Feed, scalars: &[(&str, f64)]) -> Result<(), Error> {
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
