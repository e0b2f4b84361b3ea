use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Error, Output, Result, RuntimeArgs, data::DataArgs, error::settle, interrupt, progress};
use crate::train::{
    Config, End, Event, Group, Init, LastBatch, Outcome, Resume, Schedule, Trainer, Validation,
    data::Augment,
    run::{self, Run},
    sweep::Sweep,
};

/// Train an artifact with ONNX Runtime
///
/// Makes a run: a directory with metrics, checkpoints and all that repeats it. It can be interrupted (Ctrl-C saves the state)
/// and resumed, and then gives the same weights as without the interruption.
///
/// Data are arrays named as the model's inputs and the labels (or x and y), whose first axis counts the samples: an .npz or
/// .safetensors file, or a directory of .npy files. Or they are a directory of IDX files (MNIST's format), a directory with a
/// directory of images for each class, or a .csv file with a header. What does not fit into memory is read as it is needed.
///
/// Built with the feature `mpi` and started by `mpirun -n P`, P processes share the samples of each step, which then has P
/// batches of --batch-size; the first one writes the run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx train resnet.fam --data cifar.npz --val 0.1 --epochs 30 --lr 0.1 --schedule cosine --warmup 200
  fam-onnx train mlp.fam --data mnist/ --lambda 0.05 --lambda-warmup 500 -o run-0.05
  fam-onnx train resnet.fam --data photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --augment flip,crop:4,cutout:8
  fam-onnx train mlp.fam --data mnist/ --lambda-sweep 0,1e-3,1e-2,1e-1 --seeds 3 --init random
  mpirun -n 4 fam-onnx train resnet.fam --data cifar.npz --batch-size 32 --threads 2
  fam-onnx train --resume resnet.fam.run
  fam-onnx train --resume resnet.fam.run --epochs 60
  fam-onnx train --config resnet.fam.run/config.toml --seed 1 -o run-seed-1")]
pub(super) struct Train {
    /// The artifact, a directory that `fam-onnx inject` wrote
    #[arg(required_unless_present_any = ["resume", "config"], conflicts_with = "resume")]
    artifact: Option<PathBuf>,
    /// What to train on
    #[arg(long, value_name = "FILE", required_unless_present_any = ["resume", "config"])]
    data: Option<PathBuf>,
    /// Directory of the run [default: the artifact's name and .run]
    #[arg(short, long, value_name = "RUN", conflicts_with = "resume")]
    output: Option<PathBuf>,
    /// Replace a run that exists
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Go on with a run that was interrupted, or further with one that was not
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Take options from a file, such as the config.toml of a run; those on the command line win
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,

    /// Passes over the data [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    epochs: Option<u64>,
    /// Steps in all, instead of --epochs
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Samples of a batch [default: 64]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// What becomes of the samples that do not fill a step at the end of an epoch [default: drop]
    ///
    /// The order is another in each epoch, so none is left out for good, and every step is alike.
    #[arg(long)]
    last_batch: Option<LastBatch>,
    /// Batches of a step: their gradients are averaged, with the memory of one batch [default: 1]
    #[arg(long, value_name = "K")]
    accumulate: Option<usize>,
    /// Learning rate [default: 0.01]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// How the learning rate moves [default: constant]
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Steps over which the learning rate rises from 0 [default: 0]
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u64>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Replace the artifact's λ
    #[arg(long, value_name = "λ", value_parser = super::lambda)]
    lambda: Option<f64>,
    /// Runs for each of several λ, such as 0,1e-3,1e-2,1e-1, and a table and a plot of what they came to
    ///
    /// One artifact serves them all. The runs stand in a directory [default: the artifact's name and .sweep]; --resume goes
    /// on with a sweep that was interrupted.
    #[arg(long, value_name = "λ,λ,…", value_delimiter = ',', value_parser = super::lambda, conflicts_with = "lambda")]
    lambda_sweep: Option<Vec<f64>>,
    /// Runs of the sweep for each λ, with the seeds from --seed on [default: 1]
    #[arg(long, value_name = "K")]
    seeds: Option<u64>,
    /// What a run begins with [default: artifact]
    #[arg(long)]
    init: Option<Init>,
    /// Steps over which λ rises from 0 [default: 0]
    #[arg(long, value_name = "STEPS")]
    lambda_warmup: Option<u64>,

    /// Keep a moving average of the weights, such as 0.999; validation is of it, and `export --ema` takes it
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    ema: Option<f64>,

    /// Validation data: a file, a directory, or the fraction of --data to set apart
    #[arg(long, value_name = "FILE|FRACTION")]
    val: Option<Validation>,
    /// End the run after N evaluations without improvement; one takes place each epoch
    #[arg(long, value_name = "N")]
    patience: Option<u64>,
    /// What the best checkpoint goes by: accuracy, loss, objective, kappa [default: accuracy, or loss without classes]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Steps between two lines of metrics.jsonl [default: 50]
    #[arg(long, value_name = "N")]
    log_every: Option<u64>,
    /// Steps between two checkpoints [default: one each epoch]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Checkpoints to keep [default: 3]
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// Change training images at random: mirror, shift by up to PIXELS, blank out a square of that side
    #[arg(long, value_name = "flip,crop:PIXELS,cutout:PIXELS", help_heading = "Data")]
    augment: Option<Augment>,
    #[command(flatten)]
    data_args: DataArgs,

    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl Train {
    pub fn run(self, output: &Output) -> Result<()> {
        let group = Group::join()?;
        let output = if group.leads() { *output } else { Output { quiet: true, verbose: false, ..*output } };
        settle(&group, self.run_in(&group, &output))
    }

    fn run_in(&self, group: &Group, output: &Output) -> Result<()> {
        let (config, resumed, directory) = group.agree(self.plan(group, output))?;
        let first = group.first_does(|| self.runtime.open(output))?;
        let runtime = group.agree(first.map_or_else(|| self.runtime.open(output), Ok))?;
        if config.lambda_sweep.is_some() {
            let sweep = match resumed {
                Some(run) => Sweep { directory: run.directory, config },
                None => Sweep::create(&runtime, &directory, &config, self.force)?,
            };
            return super::sweep::run(&runtime, &sweep, output);
        }
        let mut progress = progress::Progress::new(output);
        let (trainer, run) = match resumed {
            Some(run) => {
                let given = self.data.is_some() || self.val.is_some();
                let data = if given { Resume::AnyData } else { Resume::SameData };
                let mut show = |event: &Event| progress.show(event);
                let trainer = Trainer::resume_in(group, &runtime, &run, &config, data, &mut show)?;
                group.first_does(|| if config == run.config()? { Ok(()) } else { run.write_config(&config) })?;
                (trainer, run)
            }
            None => {
                let trainer = Trainer::new_in(group, &runtime, &config)?;
                let run = group.first_does(|| Run::create(&directory, &config, trainer.manifest(), self.force))?;
                (trainer, run.unwrap_or(Run { directory }))
            }
        };
        let stop = interrupt::catch(output);
        let outcome = trainer.run(&run, stop, &mut |event| progress.show(event));
        progress.finish();
        finish(&run, &outcome?, group, output)
    }

    /// The configuration, the run that it is of where that was begun before, and its directory.
    fn plan(&self, group: &Group, output: &Output) -> Result<(Config, Option<Run>, PathBuf)> {
        let (config, resumed) = match &self.resume {
            Some(directory) => {
                let run = Run::open(directory)?;
                (self.merge(run.config()?), Some(run))
            }
            None => (self.new_config()?, None),
        };
        let mut config = with_absolute_paths(config)?;
        if config.processes != group.size() {
            if self.resume.is_some() || self.config.is_some() {
                output.say(&format!("processes: {}, where it was {}", group.size(), config.processes));
            }
            config.processes = group.size();
        }
        config.check()?;
        if config.lambda_sweep.is_some() && !group.is_alone() {
            return Err(Error::Usage {
                message: "--lambda-sweep is of one process: start it without mpirun".to_owned(),
            });
        }
        let directory = match &resumed {
            Some(run) => run.directory.clone(),
            None => self.output.clone().unwrap_or_else(|| default_output(&config)),
        };
        // Before anything that takes long.
        if resumed.is_none() && group.leads() {
            run::check_free(&directory, self.force)?;
        }
        Ok((config, resumed, directory))
    }

    fn new_config(&self) -> Result<Config> {
        let base = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let config = self.merge(base);
        for (name, path) in [("ARTIFACT", &config.artifact), ("--data", &config.data)] {
            if path.as_os_str().is_empty() {
                return Err(Error::Usage { message: format!("{name} is given neither here nor in the configuration") });
            }
        }
        Ok(config)
    }

    /// The options of `base`, replaced where the command line gives one.
    fn merge(&self, base: Config) -> Config {
        let mut config = base;
        fn set<T: Clone>(target: &mut T, given: &Option<T>) {
            if let Some(value) = given {
                *target = value.clone();
            }
        }
        fn set_optional<T: Clone>(target: &mut Option<T>, given: &Option<T>) {
            if given.is_some() {
                target.clone_from(given);
            }
        }
        // Either of the two replaces both.
        if self.epochs.is_some() || self.steps.is_some() {
            (config.epochs, config.steps) = (self.epochs, self.steps);
        }
        set(&mut config.artifact, &self.artifact);
        set(&mut config.data, &self.data);
        let data = self.data_args.options(config.data_options());
        (config.mean, config.std, config.label_column) = (data.mean, data.std, data.label_column);
        set_optional(&mut config.max_unpacked, &self.data_args.max_unpacked);
        set(&mut config.augment, &self.augment);
        set(&mut config.batch_size, &self.batch_size);
        set(&mut config.last_batch, &self.last_batch);
        set(&mut config.accumulate, &self.accumulate);
        set(&mut config.lr, &self.lr);
        set(&mut config.schedule, &self.schedule);
        set(&mut config.warmup, &self.warmup);
        set(&mut config.seed, &self.seed);
        set(&mut config.lambda_warmup, &self.lambda_warmup);
        set(&mut config.log_every, &self.log_every);
        set(&mut config.keep, &self.keep);
        set(&mut config.device, &self.runtime.device);
        set_optional(&mut config.lambda, &self.lambda);
        set_optional(&mut config.lambda_sweep, &self.lambda_sweep);
        set_optional(&mut config.seeds, &self.seeds);
        set(&mut config.init, &self.init);
        set_optional(&mut config.ema, &self.ema);
        set_optional(&mut config.val, &self.val);
        set_optional(&mut config.patience, &self.patience);
        set_optional(&mut config.metric, &self.metric);
        set_optional(&mut config.checkpoint_every, &self.checkpoint_every);
        set_optional(&mut config.threads, &self.runtime.threads);
        config
    }
}

/// A configuration must mean the same from wherever it is read.
fn with_absolute_paths(mut config: Config) -> Result<Config> {
    let validation = match &mut config.val {
        Some(Validation::File(path)) => Some(path),
        _ => None,
    };
    for path in [&mut config.artifact, &mut config.data].into_iter().chain(validation) {
        *path = std::path::absolute(&*path).map_err(|source| Error::Io { path: path.clone(), source })?;
    }
    Ok(config)
}

fn default_output(config: &Config) -> PathBuf {
    let mut name = config.artifact.file_name().unwrap_or_default().to_owned();
    name.push(if config.lambda_sweep.is_some() { ".sweep" } else { ".run" });
    config.artifact.with_file_name(name)
}

fn finish(run: &Run, outcome: &Outcome, group: &Group, output: &Output) -> Result<()> {
    if group.leads() {
        output.result(&summary(run, outcome), || document(run, outcome))?;
    }
    match outcome.end {
        End::Finished | End::NoImprovement => Ok(()),
        End::Interrupted => Err(Error::Interrupted {
            step: outcome.step,
            run: run.directory.clone(),
            checkpoint: outcome.checkpoint.clone(),
        }),
    }
}

fn summary(run: &Run, outcome: &Outcome) -> String {
    let mut lines = vec![format!(
        "{:<12}{} steps, {} epochs{}",
        "trained",
        outcome.step,
        outcome.epoch,
        match outcome.end {
            End::NoImprovement => ", ended without further improvement",
            End::Finished | End::Interrupted => "",
        }
    )];
    if let Some(record) = &outcome.last {
        let kappa: String = record.kappa.iter().map(|(name, value)| format!("  {name} {value:.6}")).collect();
        lines.push(format!("{:<12}loss {:.6}{kappa}  objective {:.6}", "last step", record.loss, record.objective));
    }
    if let Some(figures) = &outcome.validation {
        lines.push(format!("{:<12}{}", "validation", progress::named(figures)));
    }
    if let Some(best) = &outcome.best {
        lines.push(format!("{:<12}{} {:.4} after step {}", "best", best.metric, best.value, best.step));
    }
    lines.push(format!("{:<12}{}", "run", run.directory.display()));
    lines.push(format!("{:<12}{}", "checkpoint", outcome.checkpoint.display()));
    lines.join("\n") + "\n"
}

fn document(run: &Run, outcome: &Outcome) -> Value {
    json!({
        "version": 1,
        "command": "train",
        "run": run.directory,
        "checkpoint": outcome.checkpoint,
        "end": match outcome.end {
            End::Finished => "finished",
            End::NoImprovement => "no-improvement",
            End::Interrupted => "interrupted",
        },
        "step": outcome.step,
        "epoch": outcome.epoch,
        "last": outcome.last.as_ref().map(|record| record.to_json()),
        "validation": outcome.validation.as_ref().map(|figures| figures.to_json()),
        "best": outcome.best,
    })
}
