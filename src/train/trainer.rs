//! The training loop.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    Config, Error,
    checkpoint::{self, Best, Progress},
    config::{DEFAULT_EPOCHS, Validation},
    data::{self, Dataset},
    evaluate::{Evaluator, lambdas},
    metrics::{Figures, MetricsFile, StepRecord, validation_line},
    probes::Probes,
    run::Run,
    sampler,
    schedule::lambda_factor,
};
use crate::{
    artifact::manifest::{Manifest, PARAMETERS},
    runtime::{Carried, Device, Options, Runtime, Session, Step},
    tensor::{DType, Tensors},
};

/// What happens during a run, for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Before the first step.
    Start {
        plan: Plan,
        device: Device,
    },
    /// After a step; `logged` steps also stand in `metrics.jsonl`. The speed is measured at logged steps only.
    Step {
        record: StepRecord,
        logged: bool,
    },
    Validation {
        step: u64,
        epoch: u64,
        figures: Figures,
        improved: bool,
    },
    Checkpoint {
        path: PathBuf,
    },
}

/// How far a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Steps done already.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    pub steps_per_epoch: u64,
    pub batch: usize,
    pub training_samples: usize,
    pub validation_samples: usize,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Finished,
    /// `patience` evaluations brought no improvement.
    NoImprovement,
    Interrupted,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub end: End,
    pub step: u64,
    pub epoch: u64,
    pub last: Option<StepRecord>,
    /// The last evaluation.
    pub validation: Option<Figures>,
    pub best: Option<Best>,
    /// The final checkpoint.
    pub checkpoint: PathBuf,
}

/// Sessions, data and parameters of a run before its first step: all that can be wrong has been looked at.
#[derive(Debug)]
pub struct Trainer {
    config: Config,
    manifest: Manifest,
    step: Step,
    evaluator: Evaluator,
    probes: Probes,
    lambda: Vec<(String, f64)>,
    training: Part,
    validation: Option<Part>,
    metric: Option<String>,
    progress: Progress,
    total: u64,
}

/// Some samples of a dataset.
#[derive(Debug)]
struct Part {
    data: std::rc::Rc<Dataset>,
    indices: Vec<usize>,
}

impl Part {
    fn whole(data: Dataset) -> Part {
        let indices = (0..data.samples()).collect();
        Part { data: data.into(), indices }
    }
}

impl Trainer {
    /// Prepares a run from the beginning, with the artifact's parameters.
    ///
    /// # Errors
    /// Everything that is wrong with options, artifact, runtime or data.
    pub fn new(runtime: &Runtime, config: &Config) -> Result<Trainer, Error> {
        let manifest = Manifest::read(&config.artifact)?;
        let graphs = &manifest.graphs;
        manifest.verify_files(&config.artifact, &[&graphs.train.path, &graphs.evaluate.path, PARAMETERS])?;
        let initial = crate::tensor::read_safetensors(&config.artifact.join(PARAMETERS))?;
        let progress = Progress { seed: config.seed, ..Progress::default() };
        Trainer::prepare(runtime, config, manifest, &config.artifact, progress, &initial)
    }

    /// Prepares the rest of a run, from its latest checkpoint and with the graphs in its directory.
    ///
    /// # Errors
    /// As [`Trainer::new`]; [`Error::NoCheckpoint`] if there is none.
    pub fn resume(runtime: &Runtime, run: &Run, config: &Config) -> Result<Trainer, Error> {
        let latest = run.latest().ok_or_else(|| Error::NoCheckpoint { path: run.directory.clone() })?;
        let (progress, tensors) = checkpoint::load(&latest)?;
        let manifest = Manifest::read(&run.directory)?;
        let graphs = &manifest.graphs;
        manifest.verify_files(&run.directory, &[&graphs.train.path, &graphs.evaluate.path])?;
        Trainer::prepare(runtime, config, manifest, &run.directory, progress, &tensors)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn prepare(
        runtime: &Runtime,
        config: &Config,
        manifest: Manifest,
        graphs: &Path,
        progress: Progress,
        initial: &Tensors,
    ) -> Result<Trainer, Error> {
        config.check()?;
        let options = Options { device: config.device, threads: config.threads, spin: true };
        // Evaluation alternates with training: its idle threads must not take the cores of the other session.
        let quiet = Options { spin: false, ..options };
        let evaluator = Evaluator::open(runtime, &manifest, graphs, &quiet, config.seed, config.lambda)?;
        if let Some(expected) = evaluator.spec().batch.filter(|&expected| expected != config.batch_size) {
            return Err(Error::FixedBatch { found: config.batch_size, expected });
        }
        let (training, validation) = load_data(config, evaluator.spec())?;
        let metric = choose_metric(config, &manifest, evaluator.spec(), validation.is_some())?;

        let session = Session::from_file(runtime, &graphs.join(&manifest.graphs.train.path), &options)?;
        let probes = Probes::for_training(&manifest, &session, config.seed)?;
        let lambda = lambdas(&manifest, &session, config.lambda);
        if let Some(wanted) = config.lambda
            && lambda.is_empty()
        {
            return Err(Error::NoLambda { artifact: config.artifact.clone(), lambda: wanted });
        }
        let step = bind(&manifest, session, initial)?;
        let per_epoch = (training.indices.len() / config.batch_size) as u64;
        let mut progress = progress;
        // With another batch size or other data than before, the epoch may have fewer batches than are done of it.
        if progress.position.batch >= per_epoch {
            progress.position =
                checkpoint::Position { batch: 0, epoch: progress.position.epoch + 1, ..progress.position };
        }
        let total = config.steps.unwrap_or(config.epochs.unwrap_or(DEFAULT_EPOCHS) * per_epoch);
        Ok(Trainer {
            config: config.clone(),
            manifest,
            step,
            evaluator,
            probes,
            lambda,
            training,
            validation,
            metric,
            progress,
            total,
        })
    }

    pub fn plan(&self) -> Plan {
        Plan {
            done: self.progress.position.step,
            total: self.total,
            steps_per_epoch: (self.training.indices.len() / self.config.batch_size) as u64,
            batch: self.config.batch_size,
            training_samples: self.training.indices.len(),
            validation_samples: self.validation.as_ref().map_or(0, |part| part.indices.len()),
        }
    }

    /// Runs to the end, or until `stop` is set; either way the last state is saved.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or what is to be saved is not finite; the checkpoints before it stay.
    pub fn run(mut self, run: &Run, stop: &AtomicBool, report: &mut dyn FnMut(&Event)) -> Result<Outcome, Error> {
        let plan = self.plan();
        report(&Event::Start { plan, device: self.step.session().device() });
        let mut metrics = MetricsFile::open(&run.metrics(), plan.done)?;
        let mut clock = Clock { since: Instant::now(), step: plan.done };
        let mut order: Option<(u64, Vec<usize>)> = None;
        let (mut last, mut figures, mut saved) = (None, None, None);
        let mut end = self.exhausted().then_some(End::NoImprovement);

        while end.is_none() && self.progress.position.step < plan.total {
            let epoch = self.progress.position.epoch;
            if order.as_ref().is_none_or(|(of, _)| *of != epoch) {
                order = Some((epoch, sampler::epoch_order(self.config.seed, epoch, self.training.indices.len())));
            }
            let mut record = self.one_step(order.as_ref().map_or(&[], |(_, order)| order), run)?;
            let position = self.advance(plan.steps_per_epoch);
            let finished = position.step == plan.total;
            let logged = position.step.is_multiple_of(self.config.log_every) || position.step == 1 || finished;
            if logged {
                record.examples_per_second = clock.lap(position.step, plan.batch);
                metrics.write(&record.to_json())?;
            }
            report(&Event::Step { record: record.clone(), logged });
            let epoch = record.epoch;
            last = Some(record);

            let epoch_end = position.batch == 0;
            if epoch_end || finished {
                let paused = Instant::now();
                figures = self.validate(run, epoch, &mut metrics, report)?.or(figures);
                clock.since += paused.elapsed();
            }
            if self.exhausted() {
                end = Some(End::NoImprovement);
            } else if stop.load(Ordering::Relaxed) && !finished {
                end = Some(End::Interrupted);
            }
            let due = self.config.checkpoint_every.map_or(epoch_end, |every| position.step.is_multiple_of(every));
            if due || finished || end.is_some() {
                let paused = Instant::now();
                saved = Some(self.save(run, report)?);
                clock.since += paused.elapsed();
            }
        }
        let checkpoint = match saved.or_else(|| run.latest()) {
            Some(path) => path,
            None => self.save(run, report)?,
        };
        let position = self.progress.position;
        Ok(Outcome {
            end: end.unwrap_or(End::Finished),
            step: position.step,
            epoch: position.epoch,
            last,
            validation: figures,
            best: self.progress.best,
            checkpoint,
        })
    }

    /// How long each of `count` steps takes on the next batch, feeding it included. Position and parameters stay as they are
    /// (the learning rate is 0); the optimiser's state moves.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn time_steps(&mut self, count: usize) -> Result<Vec<Duration>, Error> {
        let epoch = self.progress.position.epoch;
        let order = sampler::epoch_order(self.config.seed, epoch, self.training.indices.len());
        let timed = |_| {
            let start = Instant::now();
            self.feed(&order, 0.0)?;
            self.step.run()?;
            Ok(start.elapsed())
        };
        (0..count).map(timed).collect()
    }

    /// Feeds the next batch and runs one step.
    fn one_step(&mut self, order: &[usize], run: &Run) -> Result<StepRecord, Error> {
        let position = self.progress.position;
        let lr = self.config.schedule.learning_rate(self.config.lr, position.step, self.total, self.config.warmup);
        self.feed(order, lr)?;
        let values = self.step.run()?;
        let (loss, objective) = (values[0], values[1]);
        let kappa: Vec<(String, f64)> =
            self.manifest.graphs.train.kappa.iter().cloned().zip(values[2..].iter().copied()).collect();
        let named = [("loss", loss), ("objective", objective)];
        if let Some((what, value)) = named.into_iter().find(|(_, value)| !value.is_finite()) {
            let (step, last) = (position.step + 1, run.latest());
            return Err(Error::NonFinite { step, what: what.to_owned(), value, last });
        }
        Ok(StepRecord {
            step: position.step + 1,
            epoch: position.epoch + 1,
            loss,
            kappa,
            objective,
            lr,
            examples_per_second: 0.0,
        })
    }

    /// Gives the graph the batch at the position, the learning rate, λ and the probes.
    fn feed(&mut self, order: &[usize], lr: f64) -> Result<(), Error> {
        let position = self.progress.position;
        let batch = self.config.batch_size;
        let first = position.batch as usize * batch;
        let indices: Vec<usize> = order[first..first + batch].iter().map(|&i| self.training.indices[i]).collect();
        for column in self.training.data.columns() {
            if self.step.session().has_input(&column.name) {
                let shape = column.batch_shape(batch);
                self.step.feed(&column.name, column.tensor.dtype(), &shape, |bytes| column.gather(&indices, bytes))?;
            }
        }
        feed_scalar(&mut self.step, &self.manifest.graphs.train.learning_rate, lr as f32)?;
        let factor = lambda_factor(position.step, self.config.lambda_warmup);
        for (name, lambda) in &self.lambda {
            feed_scalar(&mut self.step, name, (lambda * factor) as f32)?;
        }
        Ok(self.probes.feed_step(&mut self.step, position.step, batch)?)
    }

    fn advance(&mut self, steps_per_epoch: u64) -> checkpoint::Position {
        let position = &mut self.progress.position;
        position.step += 1;
        position.batch += 1;
        if position.batch == steps_per_epoch {
            position.batch = 0;
            position.epoch += 1;
        }
        *position
    }

    fn validate(
        &mut self,
        run: &Run,
        epoch: u64,
        metrics: &mut MetricsFile,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Option<Figures>, Error> {
        let Some(part) = &self.validation else {
            return Ok(None);
        };
        self.evaluator.share(&self.step)?;
        let figures = self.evaluator.evaluate(&part.data, &part.indices, self.config.batch_size)?;
        let step = self.progress.position.step;
        metrics.write(&validation_line(step, epoch, &figures))?;
        let improved = self.judge(&figures);
        report(&Event::Validation { step, epoch, figures: figures.clone(), improved });
        if improved {
            checkpoint::save(&run.best(), &self.progress, &self.tensors(run)?)?;
        }
        Ok(Some(figures))
    }

    /// Compares an evaluation with the best one so far.
    fn judge(&mut self, figures: &Figures) -> bool {
        let Some(metric) = &self.metric else {
            return false;
        };
        let named = figures.named();
        let Some((_, value)) = named.iter().find(|(name, _)| name == metric) else {
            return false;
        };
        let higher_is_better = metric == "accuracy";
        let improved = value.is_finite()
            && self
                .progress
                .best
                .as_ref()
                .is_none_or(|best| if higher_is_better { *value > best.value } else { *value < best.value });
        if improved {
            let step = self.progress.position.step;
            self.progress.best = Some(Best { step, metric: metric.clone(), value: *value });
            self.progress.stale = 0;
        } else {
            self.progress.stale += 1;
        }
        improved
    }

    fn exhausted(&self) -> bool {
        self.config.patience.is_some_and(|patience| self.progress.stale >= patience)
    }

    /// What the step carries now. Numbers that are not finite are never saved: a loss shows them one step too late.
    fn tensors(&self, run: &Run) -> Result<Tensors, Error> {
        let tensors = self.step.read()?;
        for (name, tensor) in &tensors {
            if let Some(value) = tensor.first_non_finite() {
                let (step, last) = (self.progress.position.step, run.latest());
                return Err(Error::NonFinite { step, what: format!("value of `{name}`"), value, last });
            }
        }
        Ok(tensors)
    }

    fn save(&self, run: &Run, report: &mut dyn FnMut(&Event)) -> Result<PathBuf, Error> {
        let directory = run.checkpoints();
        let path = directory.join(format!("step-{}", self.progress.position.step));
        checkpoint::save(&path, &self.progress, &self.tensors(run)?)?;
        checkpoint::prune(&directory, self.config.keep)?;
        report(&Event::Checkpoint { path: path.clone() });
        Ok(path)
    }
}

/// Speed between logged steps; pauses for evaluation and checkpoints do not count.
struct Clock {
    since: Instant,
    step: u64,
}

impl Clock {
    fn lap(&mut self, step: u64, batch: usize) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let examples = (step - self.step) as f64 * batch as f64;
        *self = Clock { since: Instant::now(), step };
        examples / seconds
    }
}

fn feed_scalar(step: &mut Step, name: &str, value: f32) -> Result<(), Error> {
    Ok(step.feed(name, DType::F32, &[], |bytes| bytes.copy_from_slice(&value.to_le_bytes()))?)
}

/// The training graph with everything that it carries.
fn bind(manifest: &Manifest, session: Session, initial: &Tensors) -> Result<Step, Error> {
    let graph = &manifest.graphs.train;
    let carried: Vec<Carried> = manifest
        .carried()
        .map(|name| Carried { input: name.to_owned(), output: graph.updates.get(name).cloned() })
        .collect();
    let mut scalars = vec![graph.loss.as_str(), graph.objective.as_str()];
    scalars.extend(graph.kappa.iter().map(String::as_str));
    Ok(Step::new(session, &carried, initial, &scalars)?)
}

fn load_data(config: &Config, spec: &data::Spec) -> Result<(Part, Option<Part>), Error> {
    let mut source = data::read(&config.data)?;
    let dataset = Dataset::new(&mut source, spec)?;
    let (training, validation) = match &config.val {
        Some(Validation::File(path)) => {
            let mut other = data::read(path)?;
            (Part::whole(dataset), Some(Part::whole(Dataset::new(&mut other, spec)?)))
        }
        Some(Validation::Fraction(fraction)) => {
            let samples = dataset.samples();
            let held_out = (samples as f64 * fraction).round() as usize;
            if held_out == 0 || held_out == samples {
                return Err(Error::Fraction { data: config.data.clone(), samples, fraction: *fraction });
            }
            let (rest, apart) = sampler::split(config.seed, samples, held_out);
            let data = std::rc::Rc::new(dataset);
            (Part { data: data.clone(), indices: rest }, Some(Part { data, indices: apart }))
        }
        None => {
            let held_out = Dataset::held_out(&mut source, spec)?;
            (Part::whole(dataset), held_out.map(Part::whole))
        }
    };
    if training.indices.len() < config.batch_size {
        let (data, samples, batch) = (config.data.clone(), training.indices.len(), config.batch_size);
        return Err(Error::TooFewSamples { data, samples, batch });
    }
    Ok((training, validation))
}

/// What the best checkpoint goes by; `None` without validation data.
fn choose_metric(
    config: &Config,
    manifest: &Manifest,
    spec: &data::Spec,
    validated: bool,
) -> Result<Option<String>, Error> {
    if !validated {
        let given = [("patience", config.patience.is_some()), ("metric", config.metric.is_some())];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::Option {
                name,
                found: "given without validation data".to_owned(),
                expected: "val beside it, a file or a fraction of the data",
            }),
            None => Ok(None),
        };
    }
    let mut known = vec!["loss".to_owned(), "objective".to_owned()];
    known.extend(manifest.graphs.evaluate.kappa.iter().cloned());
    known.extend(spec.classes.map(|_| "accuracy".to_owned()));
    match &config.metric {
        Some(metric) if !known.contains(metric) => Err(Error::Metric { found: metric.clone(), expected: known }),
        Some(metric) => Ok(Some(metric.clone())),
        None if spec.classes.is_some() => Ok(Some("accuracy".to_owned())),
        None => Ok(Some("loss".to_owned())),
    }
}
