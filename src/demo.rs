//! The whole way on data that ships with the program: inject, train, evaluate and export a LeNet on 1,000 handwritten digits,
//! plain and with FAM, from the same initial weights and with the same batches.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use crate::{
    artifact::{self, Plan, Target, manifest},
    error::{Error, Result},
    files,
    flatness::{Estimator, Measure},
    loss::Loss,
    onnx,
    optim::{Optimizer, Sgd},
    runtime::{self, Runtime},
    train::{
        self, Config, End, Evaluator, Figures, Schedule, StepRecord, Trainer,
        data::{self, Dataset},
        random_weights,
        run::{self, Run},
    },
};

/// The layer whose κ is regularised.
pub const LAYER: &str = "fc2";
/// Samples a step.
pub const BATCH: usize = 64;
/// The model within the demo's directory.
pub const MODEL: &str = "lenet.onnx";
/// The artifact with FAM within the demo's directory.
pub const ARTIFACT: &str = "lenet.fam";
/// The digits within the demo's directory.
pub const DATA: &str = "mnist";

const MODEL_BYTES: &[u8] = include_bytes!("../fixtures/lenet/model.onnx");
const TRAINING_FILES: [(&str, &[u8]); 2] = [
    ("train-images-idx3-ubyte.gz", include_bytes!("../fixtures/mnist/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../fixtures/mnist/train-labels-idx1-ubyte.gz")),
];
const TEST_FILES: [(&str, &[u8]); 2] = [
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../fixtures/mnist/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../fixtures/mnist/t10k-labels-idx1-ubyte.gz")),
];
/// Where the digits come from and under which licence they are.
const SOURCE: (&str, &[u8]) = ("SOURCE.md", include_bytes!("../fixtures/mnist/SOURCE.md"));

/// Checkpoints would only cost time here; the last one is always written.
const NO_CHECKPOINT_BEFORE_THE_END: u64 = 1 << 40;
/// Blocks of steps that are timed, plain and FAM in turn.
const TIMED_BLOCKS: usize = 10;
/// Steps of a block, the first of which only warm up.
const BLOCK: usize = 20;
const BLOCK_WARMUP: usize = 2;
/// Pause before a block: idle threads of the session before it go on spinning for some 60 ms, on cores that the block needs.
const PAUSE: Duration = Duration::from_millis(100);

/// What may be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Runs of each kind: seeds 0, 1, …
    pub seeds: u64,
    pub epochs: u64,
    /// λ of the runs with FAM.
    pub lambda: f64,
    pub runtime: runtime::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Fam,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Plain, Kind::Fam];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Fam => "FAM",
        }
    }

    /// The exported model within the demo's directory.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Plain => "plain.onnx",
            Kind::Fam => "fam.onnx",
        }
    }
}

/// What happens, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Before the first step.
    Start {
        steps: u64,
        training_samples: usize,
        device: runtime::Device,
    },
    Step {
        kind: Kind,
        seed: u64,
        record: &'a StepRecord,
    },
    /// A run has ended, and its weights were evaluated.
    Trained {
        kind: Kind,
        seed: u64,
        outcome: &'a Outcome,
    },
    /// All runs have ended; steps of both kinds are timed.
    Timing,
}

/// What the weights of one run are worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// κ belongs to the loss that is minimised, so it is told of these digits.
    pub training: Figures,
    pub test: Figures,
}

/// The runs of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Runs {
    pub kind: Kind,
    /// One a seed.
    pub outcomes: Vec<Outcome>,
    /// The median step.
    pub step: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub plain: Runs,
    pub fam: Runs,
}

impl Report {
    pub fn runs(&self) -> [&Runs; 2] {
        [&self.plain, &self.fam]
    }

    /// Time of a step with FAM over that of a plain one.
    pub fn step_ratio(&self) -> f64 {
        self.fam.step.as_secs_f64() / self.plain.step.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs the demo and leaves the model, the digits, the artifact and the exported models of seed 0 in `directory`, which
/// appears whole or not at all. `None`: `stop` was set before the end.
///
/// # Errors
/// [`Error::Exists`] if there is something and `force` is not set; whatever stops a run.
pub fn run(
    runtime: &Runtime,
    options: &Options,
    directory: &Path,
    force: bool,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Event),
) -> Result<Option<Report>> {
    let draft = artifact::Draft::new(directory, force)?;
    let scratch = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    write(&draft.path().join(MODEL), MODEL_BYTES)?;
    for (name, bytes) in TRAINING_FILES.into_iter().chain(TEST_FILES).chain([SOURCE]) {
        write(&draft.path().join(DATA).join(name), bytes)?;
    }
    // Without the test digits: a run must not choose its best checkpoint by them.
    let training = scratch.path().join("training");
    for (name, bytes) in TRAINING_FILES {
        write(&training.join(name), bytes)?;
    }
    let bench = Bench {
        runtime,
        options,
        model: draft.path().join(MODEL),
        digits: draft.path().join(DATA),
        training,
        scratch: scratch.path(),
    };
    let Some(measured) = bench.run(draft.path(), stop, report)? else {
        return Ok(None);
    };
    draft.finish()?;
    Ok(Some(measured))
}

struct Digits {
    training: Dataset,
    test: Dataset,
}

impl Digits {
    fn read(directory: &Path, spec: &data::Spec) -> Result<Digits, train::Error> {
        let mut source = data::read(directory, &data::Options::default())?;
        let training = Dataset::new(&mut source, spec)?;
        let test = Dataset::held_out(&mut source, spec)?;
        let test = test.ok_or_else(|| train::Error::Data(data::Error::UnknownFormat { path: directory.to_owned() }))?;
        Ok(Digits { training, test })
    }
}

/// Everything that the runs share.
struct Bench<'a> {
    runtime: &'a Runtime,
    options: &'a Options,
    model: PathBuf,
    /// All digits.
    digits: PathBuf,
    /// Those to train on.
    training: PathBuf,
    scratch: &'a Path,
}

impl Bench<'_> {
    fn run(&self, results: &Path, stop: &AtomicBool, report: &mut dyn FnMut(Event)) -> Result<Option<Report>> {
        let model = onnx::read(&self.model)?;
        let plans = [self.plan(&model, 0.0)?, self.plan(&model, self.options.lambda)?];
        let names: Vec<String> = plans[0].manifest.parameters.iter().map(|p| p.name.clone()).collect();
        let inference = onnx::without_weights(&self.model, &names)?;
        let mut outcomes = [Vec::new(), Vec::new()];
        let mut digits = None;
        for seed in 0..self.options.seeds {
            let weights = random_weights(&model.graph, seed);
            for (k, kind) in Kind::ALL.into_iter().enumerate() {
                let artifact = self.artifact(kind, seed);
                let mut plan = plans[k].clone();
                plan.tensors.extend(weights.clone());
                artifact::write(&plan, &inference, &artifact, false)?;
                if seed == 0 && kind == Kind::Fam {
                    artifact::write(&plan, &inference, &results.join(ARTIFACT), false)?;
                }
                let Some(run) = self.train(kind, seed, stop, report)? else {
                    return Ok(None);
                };
                let outcome = self.evaluate(&run, &mut digits)?;
                report(Event::Trained { kind, seed, outcome: &outcome });
                outcomes[k].push(outcome);
                if seed == 0 {
                    artifact::export(&run, None, false)?.save(&results.join(kind.file()))?;
                }
            }
        }
        report(Event::Timing);
        let [plain, fam] = self.time_steps()?;
        let [plain_outcomes, fam_outcomes] = outcomes;
        Ok(Some(Report {
            plain: Runs { kind: Kind::Plain, outcomes: plain_outcomes, step: plain },
            fam: Runs { kind: Kind::Fam, outcomes: fam_outcomes, step: fam },
        }))
    }

    /// The artifact of the model with κ of [`LAYER`] weighted by `lambda`.
    fn plan(&self, model: &crate::ir::Model, lambda: f64) -> Result<Plan> {
        let options = artifact::Options {
            layers: vec![(LAYER.to_owned(), lambda)],
            target: Target::Loss(Loss::SoftmaxCrossEntropy.into()),
            output_name: None,
            measure: Measure::Neuronwise,
            per_fan_in: false,
            estimator: Some(Estimator::Exact),
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
        let source = manifest::Source { name: MODEL.to_owned(), sha256: manifest::sha256(MODEL_BYTES) };
        artifact::plan(model, &options, source)
    }

    fn artifact(&self, kind: Kind, seed: u64) -> PathBuf {
        self.scratch.join(format!("{}-{seed}.fam", kind.name()))
    }

    fn config(&self, kind: Kind, seed: u64) -> Config {
        Config {
            artifact: self.artifact(kind, seed),
            data: self.training.clone(),
            epochs: Some(self.options.epochs),
            batch_size: BATCH,
            lr: 0.02,
            schedule: Schedule::Cosine,
            seed,
            checkpoint_every: Some(NO_CHECKPOINT_BEFORE_THE_END),
            device: self.options.runtime.device,
            threads: self.options.runtime.threads,
            ..Config::default()
        }
    }

    /// Directory of the run; `None` if it was stopped.
    fn train(
        &self,
        kind: Kind,
        seed: u64,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<PathBuf>> {
        let config = self.config(kind, seed);
        let trainer = Trainer::new(self.runtime, &config)?;
        let run =
            Run::create(&self.scratch.join(format!("{}-{seed}.run", kind.name())), &config, trainer.manifest(), false)?;
        let outcome = trainer.run(&run, stop, &mut |event| match event {
            train::Event::Start { plan, device, .. } if seed == 0 && kind == Kind::Plain => report(Event::Start {
                steps: plan.total * self.options.seeds * Kind::ALL.len() as u64,
                training_samples: plan.training_samples,
                device: *device,
            }),
            train::Event::Step { record, .. } => report(Event::Step { kind, seed, record }),
            _ => {}
        })?;
        Ok((outcome.end != End::Interrupted).then_some(run.directory))
    }

    /// What a run's weights are worth; `digits` are read the first time.
    fn evaluate(&self, run: &Path, digits: &mut Option<Digits>) -> Result<Outcome> {
        let weights = run::weights(run)?;
        let quiet = runtime::Options { spin: false, ..self.options.runtime };
        let mut evaluator = Evaluator::open(self.runtime, &weights.manifest, &weights.graphs, &quiet, 0, None)?;
        evaluator.hold(&weights.tensors)?;
        let digits = match digits {
            Some(digits) => digits,
            None => digits.insert(Digits::read(&self.digits, evaluator.spec())?),
        };
        let mut over = |data: &Dataset| {
            let all: Vec<usize> = (0..data.samples()).collect();
            evaluator.evaluate(data, &all, BATCH)
        };
        Ok(Outcome { training: over(&digits.training)?, test: over(&digits.test)? })
    }

    /// The median step of each kind, measured in turn so that both see the same machine.
    fn time_steps(&self) -> Result<[Duration; 2]> {
        let trainer = |kind| Trainer::new(self.runtime, &self.config(kind, 0));
        let mut trainers = [trainer(Kind::Plain)?, trainer(Kind::Fam)?];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..TIMED_BLOCKS {
            for (trainer, times) in trainers.iter_mut().zip(&mut times) {
                std::thread::sleep(PAUSE);
                times.extend(trainer.time_steps(BLOCK)?.split_off(BLOCK_WARMUP));
            }
        }
        Ok(times.map(|mut times| {
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        }))
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(at(directory))?;
    }
    files::write(path, bytes).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flatness, train::sweep::mean_and_deviation};

    #[test]
    fn the_seed_makes_every_parameter() -> Result<()> {
        let model = onnx::read_bytes(MODEL_BYTES, None)?;
        let parameters = flatness::parameters(&model.graph);
        let names: Vec<&str> = parameters.iter().map(|p| model.graph.name_of(p.value)).collect();
        let weights = random_weights(&model.graph, 0);
        assert_eq!(names.len(), 10);
        assert!(names.iter().all(|name| weights.contains_key(*name)), "{names:?}");

        let fc2 = weights["fc2.weight"].to_f64();
        let bound = 1.0 / 120f64.sqrt();
        assert!(fc2.iter().all(|w| w.abs() <= bound + 1e-9));
        let variance = fc2.iter().map(|w| w * w).sum::<f64>() / fc2.len() as f64;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.05, "{variance}");
        assert_eq!(random_weights(&model.graph, 0), weights);
        assert_ne!(random_weights(&model.graph, 1), weights);
        Ok(())
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, Some(2f64.sqrt())));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, None));
    }
}
