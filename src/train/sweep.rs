//! A grid of runs over λ and seeds. λ is an input of the graphs, so one artifact serves them all.
//!
//! ```text
//! SWEEP/config.toml                             options of every run, the grid
//!       lambda-0.01/seed-0/                     a run, with result.json when it is done
//!       sweep.json  sweep.md  sweep.svg         figures, when all are
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Config, Error, Event, Resume, Trainer,
    checkpoint::write_directory,
    event::{End, Outcome},
    run::{self, CONFIG, Run},
};
use crate::{files, runtime::Runtime};

/// The figures of a finished run, within its directory.
pub const RESULT: &str = "result.json";

/// The grid and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub directory: PathBuf,
    /// Of every run, but for λ and the seed.
    pub config: Config,
}

/// What one run of the grid came to: its last evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub lambda: f64,
    pub seed: u64,
    pub step: u64,
    pub loss: f64,
    /// Of the first layer, on the validation data.
    pub kappa: Option<f64>,
    pub accuracy: Option<f64>,
}

/// A figure over the seeds of one λ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub mean: f64,
    /// Standard deviation of a sample; `None` for one seed.
    pub deviation: Option<f64>,
}

/// The runs of one λ.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub lambda: f64,
    pub accuracy: Option<Spread>,
    pub loss: Spread,
    pub kappa: Option<Spread>,
}

/// Mean and, of several values, their standard deviation (that of a sample).
pub fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

impl Sweep {
    /// Makes the directory of a new sweep, once its first run could begin.
    ///
    /// # Errors
    /// [`run::check_free`]; [`Trainer::new`]; [`Error::Io`].
    pub fn create(runtime: &Runtime, directory: &Path, config: &Config, force: bool) -> Result<Sweep, Error> {
        run::check_free(directory, force)?;
        config.check()?;
        let sweep = Sweep { directory: directory.to_owned(), config: config.clone() };
        if let Some((lambda, seed)) = sweep.cells().first() {
            check_validated(&Trainer::new(runtime, &sweep.config_of(*lambda, *seed))?)?;
        }
        write_directory(directory, &[(CONFIG, config.to_toml()?.as_bytes())])
            .map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        Ok(sweep)
    }

    /// λ and seed of every run, the seeds of one λ together.
    pub fn cells(&self) -> Vec<(f64, u64)> {
        let lambdas = self.config.lambda_sweep.iter().flatten();
        let seeds = self.config.seed..self.config.seed + self.config.seeds.unwrap_or(1);
        lambdas.flat_map(|&lambda| seeds.clone().map(move |seed| (lambda, seed))).collect()
    }

    /// Runs what is not done yet and writes the figures of all; `None` if `stop` was set before the end.
    ///
    /// # Errors
    /// What stops a run; the runs before it stay, and the sweep goes on from there.
    pub fn run(
        &self,
        runtime: &Runtime,
        stop: &AtomicBool,
        report: &mut dyn FnMut(f64, u64, &Event),
        done: &mut dyn FnMut(&Measured),
    ) -> Result<Option<Vec<Measured>>, Error> {
        let mut all = Vec::new();
        for (lambda, seed) in self.cells() {
            let directory = self.directory.join(format!("lambda-{lambda}")).join(format!("seed-{seed}"));
            let measured = match finished(&directory)? {
                Some(measured) => measured,
                None => {
                    let mut show = |event: &Event| report(lambda, seed, event);
                    let outcome = self.one(runtime, &directory, lambda, seed, stop, &mut show)?;
                    if outcome.end == End::Interrupted {
                        return Ok(None);
                    }
                    record(&directory, lambda, seed, &outcome)?
                }
            };
            done(&measured);
            all.push(measured);
        }
        self.write(&all)?;
        Ok(Some(all))
    }

    fn one(
        &self,
        runtime: &Runtime,
        directory: &Path,
        lambda: f64,
        seed: u64,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Event),
    ) -> Result<Outcome, Error> {
        let config = self.config_of(lambda, seed);
        let (trainer, run) = if directory.join(CONFIG).is_file() {
            let run = Run::open(directory)?;
            (Trainer::resume(runtime, &run, &config, Resume::SameData, report)?, run)
        } else {
            let trainer = Trainer::new(runtime, &config)?;
            let run = Run::create(directory, &config, trainer.manifest(), false)?;
            (trainer, run)
        };
        check_validated(&trainer)?;
        trainer.run(&run, stop, report)
    }

    /// The configuration of one run.
    fn config_of(&self, lambda: f64, seed: u64) -> Config {
        Config { lambda: Some(lambda), seed, lambda_sweep: None, seeds: None, ..self.config.clone() }
    }

    fn write(&self, all: &[Measured]) -> Result<(), Error> {
        let rows = rows(all);
        let document = document(&self.directory, all, &rows);
        for (name, text) in [
            ("sweep.json", format!("{document:#}\n")),
            ("sweep.md", markdown(&rows)),
            ("sweep.svg", super::sweep_plot::svg(&rows)?),
        ] {
            let path = self.directory.join(name);
            files::write(&path, text.as_bytes()).map_err(|source| Error::Io { path, source })?;
        }
        Ok(())
    }
}

fn check_validated(trainer: &Trainer) -> Result<(), Error> {
    if trainer.plan().validation_samples > 0 {
        return Ok(());
    }
    Err(Error::Option {
        name: "lambda-sweep",
        found: "given without validation data".to_owned(),
        expected: "val beside it, a file or a fraction of the data",
    })
}

/// The figures as a JSON document.
pub fn document(directory: &Path, all: &[Measured], rows: &[Row]) -> serde_json::Value {
    let spread = |s: &Spread| json!({"mean": s.mean, "deviation": s.deviation});
    json!({
        "version": 1,
        "command": "train",
        "sweep": directory,
        "rows": rows.iter().map(|row| json!({
            "lambda": row.lambda,
            "accuracy": row.accuracy.as_ref().map(spread),
            "loss": spread(&row.loss),
            "kappa": row.kappa.as_ref().map(spread),
        })).collect::<Vec<_>>(),
        "runs": all,
    })
}

/// The runs by their λ, in the order of the grid.
pub fn rows(all: &[Measured]) -> Vec<Row> {
    let mut lambdas: Vec<f64> = Vec::new();
    for measured in all {
        if !lambdas.contains(&measured.lambda) {
            lambdas.push(measured.lambda);
        }
    }
    let row = |lambda: f64| {
        let runs = all.iter().filter(|m| m.lambda == lambda);
        let spread = |values: Option<Vec<f64>>| {
            values.map(|values| mean_and_deviation(&values)).map(|(mean, deviation)| Spread { mean, deviation })
        };
        let losses: Vec<f64> = runs.clone().map(|m| m.loss).collect();
        let (mean, deviation) = mean_and_deviation(&losses);
        Row {
            lambda,
            accuracy: spread(runs.clone().map(|m| m.accuracy).collect()),
            loss: Spread { mean, deviation },
            kappa: spread(runs.map(|m| m.kappa).collect()),
        }
    };
    lambdas.into_iter().map(row).collect()
}

/// The figures of each row as text: λ, accuracy in per cent, loss, κ.
pub fn cells_of(row: &Row) -> [String; 4] {
    let show = |s: &Spread, scale: f64, digits: usize| {
        let deviation = s.deviation.map_or(String::new(), |d| format!(" ± {:.digits$}", scale * d));
        format!("{:.digits$}{deviation}", scale * s.mean)
    };
    let or_none = |s: &Option<Spread>, scale, digits| s.as_ref().map_or("-".to_owned(), |s| show(s, scale, digits));
    [row.lambda.to_string(), or_none(&row.accuracy, 100.0, 2), show(&row.loss, 1.0, 4), or_none(&row.kappa, 1.0, 3)]
}

pub const TITLES: [&str; 4] = ["λ", "accuracy, %", "loss", "κ"];

fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = line(&TITLES.map(str::to_owned)) + &line(&TITLES.map(|_| "---".to_owned()));
    rows.iter().fold(head, |text, row| text + &line(&cells_of(row)))
}

fn finished(directory: &Path) -> Result<Option<Measured>, Error> {
    let path = directory.join(RESULT);
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path, source }),
    }
}

fn record(directory: &Path, lambda: f64, seed: u64, outcome: &Outcome) -> Result<Measured, Error> {
    let figures = outcome.validation.as_ref();
    let measured = Measured {
        lambda,
        seed,
        step: outcome.step,
        loss: figures.map_or(f64::NAN, |f| f.loss),
        kappa: figures.and_then(|f| f.kappa.first()).map(|(_, kappa)| *kappa),
        accuracy: figures.and_then(|f| f.accuracy),
    };
    let path = directory.join(RESULT);
    files::write(&path, format!("{:#}\n", json!(measured)).as_bytes()).map_err(|source| Error::Io { path, source })?;
    Ok(measured)
}
