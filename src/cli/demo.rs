use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Error, Output, Result, RuntimeArgs, interrupt, table::table};
use crate::demo::{self, ARTIFACT, BATCH, DATA, Event, LAYER, MODEL, Options, Outcome, Report, Runs};

/// The whole way on real data that ships with the program
///
/// Trains a LeNet on 1,000 handwritten digits, plain and with FAM on its layer fc2, each from several seeds, and tests it on
/// 4,000 others. Leaves the exported models of the first seed, the artifact with FAM, and what they were made from.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx demo
  fam-onnx demo --lambda 0.03 --seeds 5 -o demo-0.03
  fam-onnx demo --epochs 10 --json")]
pub(super) struct Demo {
    /// Runs of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    epochs: u64,
    /// Weight of κ in the runs with FAM
    #[arg(long, value_name = "λ", default_value_t = 0.01, value_parser = super::lambda)]
    lambda: f64,
    /// Where the models go
    #[arg(short, long, value_name = "DIR", default_value = "fam-onnx-demo")]
    output: PathBuf,
    /// Replace a directory that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl Demo {
    pub fn run(self, output: &Output) -> Result<()> {
        crate::artifact::check_free(&self.output, self.force)?;
        let runtime = self.runtime.open(output)?;
        let options =
            Options { seeds: self.seeds, epochs: self.epochs, lambda: self.lambda, runtime: self.runtime.options() };
        let stop = interrupt::catch(output);
        let mut progress = Progress { output: *output, bar: None, done: 0, since: Instant::now() };
        let report = demo::run(&runtime, &options, &self.output, self.force, stop, &mut |event| progress.show(&event));
        progress.finish();
        let report = report?.ok_or(Error::Stopped)?;
        output.result(&summary(&options, &report, &self.output), || {
            document(&options, &report, &self.output, &runtime.library().version.to_string())
        })
    }
}

/// One bar over all runs on a terminal; a line a run everywhere.
struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    done: u64,
    since: Instant,
}

impl Progress {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Start { steps, training_samples, device } => {
                self.line(&format!(
                    "LeNet on {training_samples} digits, plain and with FAM on {LAYER}: {steps} steps of {BATCH} on {device}"
                ));
                if self.output.draws() {
                    let bar = ProgressBar::new(*steps);
                    let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.enable_steady_tick(Duration::from_millis(250));
                    self.bar = Some(bar);
                }
                self.since = Instant::now();
            }
            Event::Step { kind, seed, record } => {
                self.done += 1;
                if let Some(bar) = &self.bar {
                    bar.set_position(self.done);
                    bar.set_message(format!("{}, seed {seed}: loss {:.4}", kind.name(), record.loss));
                }
            }
            Event::Trained { kind, seed, outcome } => {
                self.line(&format!(
                    "{:<5}  seed {seed}  test accuracy {}  loss {:.3}  κ {:.2}  ({:.1} s)",
                    kind.name(),
                    outcome.test.accuracy.map_or("none".to_owned(), |a| format!("{:.1} %", 100.0 * a)),
                    outcome.test.loss,
                    kappa(outcome),
                    self.since.elapsed().as_secs_f64()
                ));
                self.since = Instant::now();
            }
            Event::Timing => {
                self.finish();
                self.line("timing steps");
            }
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(text)),
            None => self.output.say(text),
        }
    }
}

fn kappa(outcome: &Outcome) -> f64 {
    outcome.training.kappa.first().map_or(f64::NAN, |(_, value)| *value)
}

/// A figure of the table: its name in the JSON document, how it is read, how it is written.
struct Column {
    title: &'static str,
    name: &'static str,
    of: fn(&Outcome) -> f64,
    show: fn(f64) -> String,
}

const COLUMNS: [Column; 3] = [
    Column {
        title: "test accuracy, %",
        name: "accuracy",
        of: |o| o.test.accuracy.unwrap_or(f64::NAN),
        show: |v| format!("{:.2}", 100.0 * v),
    },
    Column { title: "test loss", name: "loss", of: |o| o.test.loss, show: |v| format!("{v:.4}") },
    Column { title: "κ", name: "kappa", of: kappa, show: |v| format!("{v:.2}") },
];

impl Column {
    fn statistics(&self, runs: &Runs) -> (f64, Option<f64>) {
        crate::train::sweep::mean_and_deviation(&runs.outcomes.iter().map(self.of).collect::<Vec<_>>())
    }
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn summary(options: &Options, report: &Report, directory: &Path) -> String {
    let header: Vec<&str> = std::iter::once("").chain(COLUMNS.map(|c| c.title)).chain(["ms a step"]).collect();
    let rows = report.runs().map(|runs| {
        let cells = COLUMNS.iter().map(|column| match column.statistics(runs) {
            (mean, Some(deviation)) => format!("{} ± {}", (column.show)(mean), (column.show)(deviation)),
            (mean, None) => (column.show)(mean),
        });
        let kind = std::iter::once(runs.kind.name().to_owned());
        kind.chain(cells).chain([format!("{:.2}", milliseconds(runs.step))]).collect::<Vec<_>>()
    });
    let samples = report.plain.outcomes.first().map_or(0, |outcome| outcome.test.samples);
    let spread = match options.seeds {
        1 => String::new(),
        seeds => format!(", mean ± standard deviation of {seeds} seeds"),
    };
    let list = |file: &str, what: &str| format!("  {:<32}  {what}\n", directory.join(file).display());
    let files = [
        list(report.plain.kind.file(), "trained without FAM, seed 0"),
        list(report.fam.kind.file(), "trained with FAM, seed 0"),
        list(MODEL, "the model as PyTorch exported it"),
        list(ARTIFACT, "the training artifact with FAM"),
        list(DATA, "the digits"),
    ]
    .concat();
    format!(
        "\n{}\n{} epochs, λ = {} on {LAYER}{spread}\naccuracy and loss on {samples} test digits, κ of {LAYER} on the training digits\nFAM's overhead: {:+.0} % a step (medians, measured in turn)\n\n\
         written\n{files}\n\
         your own model\n  \
         fam-onnx inject model.onnx --layer penultimate --lambda 0.01\n  \
         fam-onnx train model.fam --data train.npz --val 0.1\n  \
         fam-onnx export model.fam.run -o model-fam.onnx\n",
        table(&header, &rows),
        options.epochs,
        options.lambda,
        100.0 * (report.step_ratio() - 1.0),
    )
}

fn document(options: &Options, report: &Report, directory: &Path, onnxruntime: &str) -> Value {
    let seed = |outcome: &Outcome| json!({"training": outcome.training.to_json(), "test": outcome.test.to_json()});
    let runs = |runs: &Runs| {
        let mut value = json!({
            "model": directory.join(runs.kind.file()),
            "step_ms": milliseconds(runs.step),
            "seeds": runs.outcomes.iter().map(seed).collect::<Vec<_>>(),
        });
        for column in &COLUMNS {
            let (mean, deviation) = column.statistics(runs);
            value[column.name] = json!({"mean": mean, "deviation": deviation});
        }
        value
    };
    json!({
        "version": 1,
        "command": "demo",
        "path": directory,
        "onnxruntime": onnxruntime,
        "layer": LAYER,
        "lambda": options.lambda,
        "epochs": options.epochs,
        "plain": runs(&report.plain),
        "fam": runs(&report.fam),
        "overhead": report.step_ratio() - 1.0,
    })
}
