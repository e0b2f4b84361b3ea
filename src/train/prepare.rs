//! What comes before the first step of a run: everything that can be wrong is looked at, on all processes.

use std::path::Path;

use super::{
    Config, Error, Group,
    checkpoint::{Checkpoint, Position, Progress},
    config::{DEFAULT_EPOCHS, Validation},
    data::Spec,
    engine::{self, Engine},
    evaluate::Evaluator,
    event::Event,
    fingerprint::fingerprint,
    init::initial,
    judge,
    run::Run,
    samples::{self, Cut},
    trainer::Trainer,
    unmoved::Unmoved,
};
use crate::{
    artifact::manifest::{Manifest, PARAMETERS, sha256},
    runtime::{Options, Runtime},
};

/// What a resumed run takes for granted about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// They are those that the run began with; others are an error.
    SameData,
    /// They may be others, on purpose.
    AnyData,
}

impl Trainer {
    /// Prepares a run from the beginning, with the artifact's parameters.
    ///
    /// # Errors
    /// Everything that is wrong with options, artifact, runtime or data.
    pub fn new(runtime: &Runtime, config: &Config) -> Result<Trainer, Error> {
        Trainer::new_in(&Group::alone(), runtime, config)
    }

    /// [`Trainer::new`] in each process of a group.
    ///
    /// # Errors
    /// As there; [`Error::Peer`], [`Error::Unlike`].
    pub fn new_in(group: &Group, runtime: &Runtime, config: &Config) -> Result<Trainer, Error> {
        let trainer = group.agree(Trainer::begin(group, runtime, config))?;
        trainer.check_alike()?;
        Ok(trainer)
    }

    fn begin(group: &Group, runtime: &Runtime, config: &Config) -> Result<Trainer, Error> {
        let manifest = Manifest::read(&config.artifact)?;
        let mut files = engine::graph_files(&manifest, config, group);
        files.extend([manifest.graphs.evaluate.path.as_str(), PARAMETERS]);
        manifest.verify_files(&config.artifact, &files)?;
        let parameters = config.artifact.join(PARAMETERS);
        let tensors = crate::tensor::read_safetensors(&parameters)?;
        manifest.verify_tensors(&parameters, &tensors, true)?;
        let tensors = initial(config.init, config.seed, &manifest, &config.artifact, tensors)?;
        let progress = Progress { seed: config.seed, ..Progress::default() };
        let start = Checkpoint { progress, tensors, average: None };
        Trainer::prepare(group, runtime, config, manifest, &config.artifact, start, Resume::AnyData)
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
        Trainer::resume_in(&Group::alone(), runtime, run, config, data, report)
    }

    /// [`Trainer::resume`] in each process of a group, which need not be as many as before.
    ///
    /// # Errors
    /// As there; [`Error::Peer`], [`Error::Unlike`].
    pub fn resume_in(
        group: &Group,
        runtime: &Runtime,
        run: &Run,
        config: &Config,
        data: Resume,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Trainer, Error> {
        // The first process sets aside what is damaged before the others look.
        let first = group.first_does(|| {
            verified(group, run, config)?;
            Ok::<_, Error>((run.lock()?, run.last_state(config.seed, report)?))
        })?;
        let (lock, start) = first.unzip();
        let trainer = group.agree(Trainer::go_on(group, runtime, run, config, start, data))?;
        trainer.check_alike()?;
        Ok(Trainer { lock, ..trainer })
    }

    fn go_on(
        group: &Group,
        runtime: &Runtime,
        run: &Run,
        config: &Config,
        start: Option<Checkpoint>,
        data: Resume,
    ) -> Result<Trainer, Error> {
        let manifest = verified(group, run, config)?;
        let mut start = start.map_or_else(|| run.last_state(config.seed, &mut |_| {}), Ok)?;
        manifest.verify_tensors(
            &run.latest().unwrap_or_else(|| run.directory.clone()).join(PARAMETERS),
            &start.tensors,
            true,
        )?;
        if start.progress.position.step == 0 {
            start.tensors = initial(config.init, config.seed, &manifest, &run.directory, start.tensors)?;
        }
        Trainer::prepare(group, runtime, config, manifest, &run.directory, start, data)
    }

    /// All processes are at the same place, with the same data.
    fn check_alike(&self) -> Result<(), Error> {
        let progress = &self.progress;
        let digest = |text: &str| u64::from_str_radix(&sha256(text.as_bytes())[..16], 16).unwrap_or_default();
        let parts = [
            ("the data", format!("{:?} {:?} {:?}", progress.data, progress.validation, self.plan())),
            ("the artifact", format!("{:?}", self.manifest)),
            ("the checkpoint", format!("{progress:?}")),
        ];
        match parts.into_iter().find(|(_, text)| !self.group.same(digest(text))) {
            Some((what, _)) => Err(Error::Unlike { what }),
            None => Ok(()),
        }
    }

    fn prepare(
        group: &Group,
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
        let (training, validation) = samples::load(config, evaluator.spec(), group)?;
        let cut = Cut::new(config, training.indices.len(), group);
        check_last_batch(cut, config, &manifest, evaluator.spec())?;
        let metric = judge::choose_metric(config, &manifest, evaluator.spec(), validation.is_some())?;
        let Checkpoint { progress, tensors, average } = start;
        let mut progress = with_data(progress, config, resume)?;
        let engine = Engine::open(runtime, &manifest, graphs, config, &tensors, average.as_ref(), group)?;
        let per_epoch = cut.steps_per_epoch();
        // With another batch size or other data than before, the epoch may have fewer steps than are done of it.
        if progress.position.batch >= per_epoch {
            progress.position = Position { batch: 0, epoch: progress.position.epoch + 1, ..progress.position };
        }
        let total = config.steps.unwrap_or(config.epochs.unwrap_or(DEFAULT_EPOCHS).saturating_mul(per_epoch));
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
            group: group.clone(),
            lock: None,
        })
    }
}

/// The manifest in a run's directory, whose graphs are those that it lists.
fn verified(group: &Group, run: &Run, config: &Config) -> Result<Manifest, Error> {
    let manifest = Manifest::read(&run.directory)?;
    let mut files = engine::graph_files(&manifest, config, group);
    files.push(&manifest.graphs.evaluate.path);
    manifest.verify_files(&run.directory, &files)?;
    Ok(manifest)
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
fn check_last_batch(cut: Cut, config: &Config, manifest: &Manifest, spec: &Spec) -> Result<(), Error> {
    let Some(left) = cut.odd_batches(config.batch_size).into_iter().min() else { return Ok(()) };
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
