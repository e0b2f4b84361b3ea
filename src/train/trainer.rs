//! The training loop.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    Config, Error,
    checkpoint::{self, Checkpoint, Position, Progress},
    config::{DEFAULT_EPOCHS, Validation},
    data::{Batch, Prefetch, Spec},
    engine::{self, Engine},
    evaluate::Evaluator,
    event::{End, Event, Outcome, Plan},
    fingerprint::fingerprint,
    init::initial,
    journal::Journal,
    judge,
    metrics::{Figures, StepRecord},
    report,
    run::Run,
    samples::{self, Cut, LastBatch, Part},
    schedule::lambda_factor,
    scores::Task,
    unmoved::Unmoved,
};
use crate::{
    artifact::manifest::{Manifest, PARAMETERS},
    runtime::{Device, Options, Runtime},
};

/// What a resumed run takes for granted about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// They are those that the run began with; others are an error.
    SameData,
    /// They may be others, on purpose.
    AnyData,
}

/// Sessions, data and parameters of a run before its first step: all that can be wrong has been looked at.
#[derive(Debug)]
pub struct Trainer {
    config: Config,
    manifest: Manifest,
    engine: Engine,
    evaluator: Evaluator,
    training: Part,
    validation: Option<Part>,
    metric: Option<String>,
    unmoved: Unmoved,
    progress: Progress,
    cut: Cut,
    total: u64,
    /// Of the directory, where the run was begun before.
    lock: Option<File>,
}

impl Trainer {
    /// Prepares a run from the beginning, with the artifact's parameters.
    ///
    /// # Errors
    /// Everything that is wrong with options, artifact, runtime or data.
    pub fn new(runtime: &Runtime, config: &Config) -> Result<Trainer, Error> {
        let manifest = Manifest::read(&config.artifact)?;
        let mut files = engine::graph_files(&manifest, config);
        files.extend([manifest.graphs.evaluate.path.as_str(), PARAMETERS]);
        manifest.verify_files(&config.artifact, &files)?;
        let tensors = crate::tensor::read_safetensors(&config.artifact.join(PARAMETERS))?;
        let tensors = initial(config.init, config.seed, &manifest, &config.artifact, tensors)?;
        let progress = Progress { seed: config.seed, ..Progress::default() };
        let start = Checkpoint { progress, tensors, average: None };
        Trainer::prepare(runtime, config, manifest, &config.artifact, start, Resume::AnyData)
    }

    /// Prepares the rest of a run, from its latest checkpoint that is whole (or its beginning, where it has none yet) and
    /// with the graphs in its directory. `report` is told of damaged checkpoints.
    ///
    /// # Errors
    /// As [`Trainer::new`]; [`Error::AllDamaged`]; [`Error::DataChanged`]; [`Error::RunBusy`] if another process trains in
    /// the directory.
    pub fn resume(
        runtime: &Runtime,
        run: &Run,
        config: &Config,
        data: Resume,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Trainer, Error> {
        let manifest = Manifest::read(&run.directory)?;
        let mut files = engine::graph_files(&manifest, config);
        files.push(&manifest.graphs.evaluate.path);
        manifest.verify_files(&run.directory, &files)?;
        let lock = run.lock()?;
        let mut start = run.last_state(config.seed, report)?;
        if start.progress.position.step == 0 {
            start.tensors = initial(config.init, config.seed, &manifest, &run.directory, start.tensors)?;
        }
        let trainer = Trainer::prepare(runtime, config, manifest, &run.directory, start, data)?;
        Ok(Trainer { lock: Some(lock), ..trainer })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn prepare(
        runtime: &Runtime,
        config: &Config,
        manifest: Manifest,
        graphs: &Path,
        start: Checkpoint,
        resume: Resume,
    ) -> Result<Trainer, Error> {
        config.check()?;
        // Evaluation alternates with training: its idle threads must not take the cores of the other session.
        let quiet = Options { device: config.device, threads: config.threads, spin: false };
        let evaluator = Evaluator::open(runtime, &manifest, graphs, &quiet, config.seed, config.lambda)?;
        if let Some(expected) = evaluator.spec().batch.filter(|&expected| expected != config.batch_size) {
            return Err(Error::FixedBatch { found: config.batch_size, expected });
        }
        let (training, validation) = samples::load(config, evaluator.spec())?;
        let cut = Cut::new(config, training.indices.len());
        check_last_batch(config, &manifest, evaluator.spec(), training.indices.len())?;
        let metric = judge::choose_metric(config, &manifest, evaluator.spec(), validation.is_some())?;
        let Checkpoint { progress, tensors, average } = start;
        let mut progress = with_data(progress, config, resume)?;
        let engine = Engine::open(runtime, &manifest, graphs, config, &tensors, average.as_ref())?;
        let per_epoch = cut.steps_per_epoch();
        // With another batch size or other data than before, the epoch may have fewer steps than are done of it.
        if progress.position.batch >= per_epoch {
            progress.position = Position { batch: 0, epoch: progress.position.epoch + 1, ..progress.position };
        }
        let total = config.steps.unwrap_or(config.epochs.unwrap_or(DEFAULT_EPOCHS) * per_epoch);
        let (config, unmoved) = (config.clone(), Unmoved::new(&manifest, &tensors));
        Ok(Trainer {
            config,
            manifest,
            engine,
            evaluator,
            training,
            validation,
            metric,
            unmoved,
            progress,
            cut,
            total,
            lock: None,
        })
    }

    pub fn plan(&self) -> Plan {
        Plan {
            done: self.progress.position.step,
            total: self.total,
            steps_per_epoch: self.cut.steps_per_epoch(),
            batch: self.cut.step,
            training_samples: self.training.indices.len(),
            validation_samples: self.validation.as_ref().map_or(0, |part| part.indices.len()),
        }
    }

    /// Runs to the end, or until `stop` is set; either way the last state is saved.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or what is to be saved is not finite; the checkpoints before it stay.
    /// [`Error::RunBusy`] if another process trains in the directory.
    pub fn run(mut self, run: &Run, stop: &AtomicBool, report: &mut dyn FnMut(&Event)) -> Result<Outcome, Error> {
        let _lock = self.lock.take().map_or_else(|| run.lock(), Ok)?;
        let plan = self.plan();
        report(&Event::Start { plan, device: self.engine.device() });
        if let Some(names) = &self.training.data.classes {
            report(&Event::Classes { names: names.clone() });
        }
        let mut journal = Journal::open(&run.directory, plan.done, self.columns())?;
        let mut clock = Clock::new();
        let mut batches = self.batches()?;
        let (mut last, mut figures, mut saved) = (None, None, None);
        let mut end = self.exhausted().then_some(End::NoImprovement);

        while end.is_none() && self.progress.position.step < plan.total {
            let samples = next(&mut batches)?;
            let step = self.progress.position.step + 1;
            let finished = step == plan.total;
            let logged = step.is_multiple_of(self.config.log_every) || step == 1 || finished;
            let mut record = self.one_step(&samples, logged, run)?;
            clock.count(samples.samples);
            batches.give_back(samples);
            let position = self.advance(plan.steps_per_epoch);
            if logged {
                record.examples_per_second = clock.lap();
                journal.step(&record)?;
            }
            report(&Event::Step { record: record.clone(), logged });
            let epoch = record.epoch;
            last = Some(record);

            let epoch_end = position.batch == 0;
            if epoch_end || finished {
                let paused = Instant::now();
                figures = self.validate(run, epoch, &mut journal, report)?.or(figures);
                clock.pause(paused);
            }
            if (epoch_end || finished) && self.unmoved.is_open() {
                let parameters = self.unmoved.close(&self.engine.read()?);
                if !parameters.is_empty() {
                    report(&Event::Unmoved { parameters });
                }
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
                clock.pause(paused);
            }
        }
        if figures.is_none() {
            figures = self.measure()?;
        }
        let checkpoint = match saved.or_else(|| run.latest()) {
            Some(path) => path,
            None => self.save(run, report)?,
        };
        let position = self.progress.position;
        let outcome = Outcome {
            end: end.unwrap_or(End::Finished),
            step: position.step,
            epoch: position.epoch,
            last,
            validation: figures,
            best: self.progress.best,
            unmoved: self.unmoved.found(),
            checkpoint,
        };
        report::write(run, &self.config, &self.manifest, &outcome)?;
        Ok(outcome)
    }

    /// The figures that the table of metrics has.
    fn columns(&self) -> Vec<String> {
        let graphs = &self.manifest.graphs;
        let mut columns = vec!["loss".to_owned()];
        columns.extend(graphs.train.kappa.iter().cloned());
        columns.extend(graphs.evaluate.kappa.iter().filter(|name| !graphs.train.kappa.contains(name)).cloned());
        columns.extend(["objective", "kappa_share", "gradient_norm", "lr", "examples_per_second"].map(str::to_owned));
        let spec = self.evaluator.spec();
        let scores = Task::of_artifact(&self.manifest, spec).map(|task| task.figures(spec)).unwrap_or_default();
        columns.extend(scores.into_iter().map(str::to_owned));
        columns
    }

    /// How long each of `count` steps takes on the next batches, feeding them included. Position and parameters stay as they are
    /// (the learning rate is 0); the optimiser's state moves.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn time_steps(&mut self, count: usize) -> Result<Vec<Duration>, Error> {
        let mut batches = self.batches()?;
        let timed = |_| {
            let start = Instant::now();
            let samples = next(&mut batches)?;
            self.engine.step(self.progress.position.step, &samples, 0.0, 1.0)?;
            self.engine.figures()?;
            batches.give_back(samples);
            Ok(start.elapsed())
        };
        (0..count).map(timed).collect()
    }

    /// The samples of every step from the next one on.
    fn batches(&self) -> Result<Prefetch, Error> {
        let position = self.progress.position;
        self.training.batches(self.config.augment, self.config.seed, self.cut, (position.epoch, position.batch))
    }

    /// Takes one step. On a GPU its figures come back only where they are logged.
    fn one_step(&mut self, samples: &Batch, logged: bool, run: &Run) -> Result<StepRecord, Error> {
        let position = self.progress.position;
        let lr = self.config.schedule.learning_rate(self.config.lr, position.step, self.total, self.config.warmup);
        let lambda = lambda_factor(position.step, self.config.lambda_warmup);
        self.engine.step(position.step, samples, lr, lambda)?;
        let names = &self.manifest.graphs.train.kappa;
        let read = logged || self.engine.device() == Device::Cpu;
        let values = if read { self.engine.figures()? } else { vec![f64::NAN; 2 + names.len()] };
        let (loss, objective) = (values[0], values[1]);
        let kappa: Vec<(String, f64)> = names.iter().cloned().zip(values[2..].iter().copied()).collect();
        let named = [("loss", loss), ("objective", objective)];
        if let Some((what, value)) = named.into_iter().find(|(_, value)| read && !value.is_finite()) {
            let (step, last) = (position.step + 1, run.latest());
            return Err(Error::NonFinite { step, what: what.to_owned(), value, last });
        }
        let (step, epoch) = (position.step + 1, position.epoch + 1);
        let gradient_norm = values.get(2 + names.len()).copied();
        Ok(StepRecord { step, epoch, loss, kappa, objective, gradient_norm, lr, examples_per_second: 0.0 })
    }

    fn advance(&mut self, steps_per_epoch: u64) -> Position {
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
        journal: &mut Journal,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Option<Figures>, Error> {
        let Some(figures) = self.measure()? else {
            return Ok(None);
        };
        let step = self.progress.position.step;
        journal.validation(step, epoch, &figures)?;
        let improved = self.metric.as_ref().is_some_and(|metric| judge::judge(&mut self.progress, metric, &figures));
        report(&Event::Validation { step, epoch, figures: figures.clone(), improved });
        if improved {
            checkpoint::save(&run.best(), &self.state(run)?)?;
        }
        Ok(Some(figures))
    }

    /// Figures of the validation data, where there are any.
    fn measure(&mut self) -> Result<Option<Figures>, Error> {
        let Some(part) = &self.validation else {
            return Ok(None);
        };
        self.evaluator.share(&self.engine.judged())?;
        Ok(Some(self.evaluator.evaluate(&part.data, &part.indices, self.config.batch_size)?))
    }

    fn exhausted(&self) -> bool {
        self.config.patience.is_some_and(|patience| self.progress.stale >= patience)
    }

    /// What a checkpoint holds now. Numbers that are not finite are never saved: a loss shows them one step too late.
    fn state(&self, run: &Run) -> Result<Checkpoint, Error> {
        let tensors = self.engine.read()?;
        for (name, tensor) in &tensors {
            if let Some(value) = tensor.first_non_finite() {
                let (step, last) = (self.progress.position.step, run.latest());
                return Err(Error::NonFinite { step, what: format!("value of `{name}`"), value, last });
            }
        }
        Ok(Checkpoint { progress: self.progress.clone(), tensors, average: self.engine.read_average()? })
    }

    fn save(&self, run: &Run, report: &mut dyn FnMut(&Event)) -> Result<PathBuf, Error> {
        let directory = run.checkpoints();
        let path = directory.join(format!("step-{}", self.progress.position.step));
        checkpoint::save(&path, &self.state(run)?)?;
        checkpoint::prune(&directory, self.config.keep)?;
        report(&Event::Checkpoint { path: path.clone() });
        Ok(path)
    }
}

fn next(batches: &mut Prefetch) -> Result<Batch, Error> {
    let ended = || Error::Reader { source: io::Error::other("it ended before the run") };
    Ok(batches.next().ok_or_else(ended)??)
}

/// Speed between logged steps; pauses for evaluation and checkpoints do not count.
struct Clock {
    since: Instant,
    samples: usize,
}

impl Clock {
    fn new() -> Clock {
        Clock { since: Instant::now(), samples: 0 }
    }

    fn count(&mut self, samples: usize) {
        self.samples += samples;
    }

    fn pause(&mut self, began: Instant) {
        self.since += began.elapsed();
    }

    /// Samples a second since the last lap.
    fn lap(&mut self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let samples = self.samples as f64;
        *self = Clock::new();
        samples / seconds
    }
}

/// The progress of a run on the data of this configuration, if they are those that it began with.
fn with_data(progress: Progress, config: &Config, resume: Resume) -> Result<Progress, Error> {
    let digest = |path: &Path| fingerprint(path).map_err(|source| Error::Io { path: path.to_owned(), source });
    let same = |before: &Option<String>, path: &Path, now: &String| match before {
        Some(before) if resume == Resume::SameData && before != now => {
            Err(Error::DataChanged { path: path.to_owned() })
        }
        _ => Ok(()),
    };
    let data = digest(&config.data)?;
    same(&progress.data, &config.data, &data)?;
    let validation = match &config.val {
        Some(Validation::File(path)) => {
            let validation = digest(path)?;
            same(&progress.validation, path, &validation)?;
            Some(validation)
        }
        _ => None,
    };
    Ok(Progress { data: Some(data), validation, ..progress })
}

/// A smaller last batch must be one that the graphs can take.
fn check_last_batch(config: &Config, manifest: &Manifest, spec: &Spec, samples: usize) -> Result<(), Error> {
    let left = samples % config.batch_size;
    if config.last_batch == LastBatch::Drop || left == 0 {
        return Ok(());
    }
    let normalises = manifest.options.get("batch_norm").is_some_and(|mode| mode == "train");
    let (found, expected) = match spec.batch {
        Some(batch) => (
            format!("keep, which leaves {left} samples for the last batch, while the graph is made for {batch}"),
            "drop, or as many samples as fill every batch",
        ),
        None if normalises && left == 1 => (
            "keep, which leaves one sample for the last batch".to_owned(),
            "drop or another batch size: batch norm cannot train on one sample",
        ),
        None => return Ok(()),
    };
    Err(Error::Option { name: "last-batch", found, expected })
}
