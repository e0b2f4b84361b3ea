//! The training loop.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    Config, Error, Group,
    checkpoint::{self, Checkpoint, Position, Progress},
    data::{Batch, Prefetch},
    engine::{Engine, Upcoming},
    evaluate::Evaluator,
    event::{End, Event, Outcome, Plan},
    journal::Journal,
    judge,
    metrics::{Figures, StepRecord},
    report,
    run::Run,
    samples::{Cut, Part},
    schedule::lambda_factor,
    scores::Task,
    unmoved::Unmoved,
};
use crate::{artifact::manifest::Manifest, runtime::Device};

/// Sessions, data and parameters of a run before its first step: all that can be wrong has been looked at.
#[derive(Debug)]
pub struct Trainer {
    pub(super) config: Config,
    pub(super) manifest: Manifest,
    pub(super) engine: Engine,
    pub(super) evaluator: Evaluator,
    pub(super) training: Part,
    pub(super) validation: Option<Part>,
    pub(super) metric: Option<String>,
    pub(super) unmoved: Unmoved,
    pub(super) progress: Progress,
    pub(super) cut: Cut,
    pub(super) total: u64,
    pub(super) group: Group,
    /// Of the directory, where the run was begun before.
    pub(super) lock: Option<File>,
}

impl Trainer {
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn plan(&self) -> Plan {
        Plan {
            done: self.progress.position.step,
            total: self.total,
            steps_per_epoch: self.cut.steps_per_epoch(),
            batch: self.cut.step,
            processes: self.group.size(),
            training_samples: self.training.indices.len(),
            validation_samples: self.validation.as_ref().map_or(0, |part| part.indices.len()),
        }
    }

    /// Runs to the end, or until `stop` is set; either way the last state is saved. Of several processes the first one does all
    /// that is written and reported; all end together.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or what is to be saved is not finite; the checkpoints before it stay.
    /// [`Error::RunBusy`] if another process trains in the directory. [`Error::Peer`].
    pub fn run(mut self, run: &Run, stop: &AtomicBool, report: &mut dyn FnMut(&Event)) -> Result<Outcome, Error> {
        let group = self.group.clone();
        let lock = self.lock.take();
        let _lock = group.first_does(|| lock.map_or_else(|| run.lock(), Ok))?;
        let mut nobody = |_: &Event| {};
        let report: &mut dyn FnMut(&Event) = if group.leads() { report } else { &mut nobody };
        let plan = self.plan();
        report(&Event::Start { plan, device: self.engine.device(), refused: self.engine.refused() });
        if let Some(names) = &self.training.data.classes {
            report(&Event::Classes { names: names.clone() });
        }
        let mut journal = group.first_does(|| Journal::open(&run.directory, plan.done, self.columns()))?;
        let mut clock = Clock::new();
        let mut batches = group.agree(self.batches())?;
        let (mut last, mut figures, mut saved) = (None, None, None);
        let mut end = self.exhausted().then_some(End::NoImprovement);

        while end.is_none() && self.progress.position.step < plan.total {
            let step = self.progress.position.step + 1;
            let finished = step == plan.total;
            let logged = step.is_multiple_of(self.config.log_every) || step == 1 || finished;
            let samples = self.cut.places(self.progress.position.batch).len();
            let upcoming = self.upcoming(samples);
            let stopped = self.one_step(upcoming, &mut batches, stop)?;
            clock.count(samples);
            let speed = if logged { clock.lap() } else { 0.0 };
            let record = group.agree(self.record(upcoming, logged, speed, run, journal.as_mut()))?;
            let position = self.advance(plan.steps_per_epoch);
            report(&Event::Step { record: record.clone(), logged });
            let epoch = record.epoch;
            last = Some(record);

            let epoch_end = position.batch == 0;
            if epoch_end || finished {
                let paused = Instant::now();
                figures = group.agree(self.validate(run, epoch, journal.as_mut(), report))?.or(figures);
                clock.pause(paused);
            }
            if (epoch_end || finished) && self.unmoved.is_open() {
                let parameters = self.unmoved.close(&group.agree(self.engine.read())?);
                if !parameters.is_empty() {
                    report(&Event::Unmoved { parameters });
                }
            }
            if self.exhausted() {
                end = Some(End::NoImprovement);
            } else if (stopped || group.is_alone() && stop.load(Ordering::Relaxed)) && !finished {
                end = Some(End::Interrupted);
            }
            let due = self.config.checkpoint_every.map_or(epoch_end, |every| position.step.is_multiple_of(every));
            if due || finished || end.is_some() {
                let paused = Instant::now();
                saved = Some(group.agree(self.save(run, report))?);
                clock.pause(paused);
            }
        }
        if figures.is_none() {
            figures = group.agree(self.measure())?;
        }
        let checkpoint = match saved {
            Some(path) => path,
            None => {
                let latest = group.first_does(|| run.latest().map_or_else(|| self.save(run, report), Ok))?;
                latest.unwrap_or_default()
            }
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
        group.first_does(|| report::write(run, &self.config, &self.manifest, &outcome))?;
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
            let upcoming = Upcoming { lr: 0.0, lambda: 1.0, ..self.upcoming(samples.samples) };
            self.engine.step(upcoming, Ok(&samples), false)?;
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

    /// The next step, of as many samples.
    fn upcoming(&self, samples: usize) -> Upcoming {
        let done = self.progress.position.step;
        let lr = self.config.schedule.learning_rate(self.config.lr, done, self.total, self.config.warmup);
        Upcoming { done, lr, lambda: lambda_factor(done, self.config.lambda_warmup), samples }
    }

    /// Takes one step; true if a process was asked to stop before it.
    fn one_step(&mut self, upcoming: Upcoming, batches: &mut Prefetch, stop: &AtomicBool) -> Result<bool, Error> {
        let asked = !self.group.is_alone() && stop.load(Ordering::Relaxed);
        match next(batches) {
            Ok(samples) => {
                let stopped = self.engine.step(upcoming, Ok(&samples), asked);
                batches.give_back(samples);
                stopped
            }
            Err(error) => self.engine.step(upcoming, Err(error), asked),
        }
    }

    /// The figures of the step just taken. On a GPU they come back only where they are logged.
    fn record(
        &self,
        Upcoming { lr, .. }: Upcoming,
        logged: bool,
        examples_per_second: f64,
        run: &Run,
        journal: Option<&mut Journal>,
    ) -> Result<StepRecord, Error> {
        let position = self.progress.position;
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
        let record = StepRecord { step, epoch, loss, kappa, objective, gradient_norm, lr, examples_per_second };
        if let Some(journal) = journal.filter(|_| logged) {
            journal.step(&record)?;
        }
        Ok(record)
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
        journal: Option<&mut Journal>,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Option<Figures>, Error> {
        let Some(figures) = self.measure()? else {
            return Ok(None);
        };
        let step = self.progress.position.step;
        if let Some(journal) = journal {
            journal.validation(step, epoch, &figures)?;
        }
        let improved = self.metric.as_ref().is_some_and(|metric| judge::judge(&mut self.progress, metric, &figures));
        report(&Event::Validation { step, epoch, figures: figures.clone(), improved });
        if improved && self.group.leads() {
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
        let batch = self.config.batch_size;
        Ok(Some(self.evaluator.evaluate_with(&self.group, &part.data, &part.indices, batch)?))
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
        if !self.group.leads() {
            return Ok(path);
        }
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
