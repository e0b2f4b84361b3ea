use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::data::DataArgs;
use super::table::{significant, table};
use super::{Error, Output, Result, RuntimeArgs, number_in};
use crate::train::data;
use crate::verify::{self, Check, Options, Report, Verdict, What};

/// Check an artifact: its gradients against central differences, κ against its definition, float32 against float64
///
/// In float64, every parameter is moved along random directions and the slope of the objective is compared with the gradient
/// that the artifact computes; κ of small layers is compared with the Hessian of the loss, by differences; where κ is
/// estimated, the mean over many probes is. The gradient of ONNX Runtime in float32 is compared with that in float64.
/// Disagreement ends with exit code 1.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx verify resnet.fam
  fam-onnx verify resnet.fam --data train.npz --batch-size 8
  fam-onnx verify resnet.fam.run/checkpoints/step-500 --data train.npz
  fam-onnx verify mlp.fam --definition 1000 --probes 4096 --json")]
pub(super) struct Verify {
    /// The artifact, or a run or checkpoint for its weights
    #[arg(value_name = "ARTIFACT")]
    path: PathBuf,
    /// Take the first samples of this instead of random numbers
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Samples in the batch
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = |text: &str| number_in(text, 1..=65_536))]
    batch_size: usize,
    /// Random directions a parameter
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = |text: &str| number_in(text, 1..=10_000))]
    directions: usize,
    /// Compare κ with its definition where the layer has at most N weights
    #[arg(long, value_name = "N", default_value_t = 512)]
    definition: usize,
    /// Probes that an estimate of κ is averaged over
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = |text: &str| number_in(text, 1..=1_048_576))]
    probes: usize,
    /// Seed of samples, directions and probes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    data_args: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl Verify {
    pub fn run(self, output: &Output) -> Result<()> {
        let runtime = self.runtime.open(output)?;
        let options = Options {
            data: self.data.clone().map(|path| (path, self.data_args.options(data::Options::default()))),
            batch: self.batch_size,
            directions: self.directions,
            definition: self.definition,
            probes: self.probes,
            seed: self.seed,
        };
        let report = verify::verify(&self.path, &runtime, &options)?;
        let samples = if self.data.is_some() { "of the data" } else { "of random numbers" };
        output.say(&format!("{} samples {samples}; float64 by {}", report.samples, report.engine));
        output.result(&text(&report), || self.json(&report))?;
        match report.disagreements() {
            0 => Ok(()),
            disagreements => Err(Error::Disagrees { path: self.path, disagreements, checks: report.checks.len() }),
        }
    }

    fn json(&self, report: &Report) -> Value {
        json!({
            "version": 1,
            "command": "verify",
            "artifact": self.path,
            "samples": report.samples,
            "engine": report.engine,
            "agrees": report.disagreements() == 0,
            "checks": report.checks.iter().map(check_json).collect::<Vec<_>>(),
        })
    }
}

fn check_json(check: &Check) -> Value {
    let what = match check.what {
        What::Gradient => "gradient",
        What::GradientInFloat32 => "gradient-float32",
        What::Kappa => "kappa",
        What::InFloat32 => "float32",
    };
    let (verdict, reason) = match &check.verdict {
        Verdict::Agrees => ("agrees", None),
        Verdict::Disagrees => ("disagrees", None),
        Verdict::NotCompared(reason) => ("not-compared", Some(reason)),
    };
    json!({
        "what": what, "of": check.of, "value": check.found, "off": check.off, "limit": check.limit,
        "verdict": verdict, "reason": reason,
    })
}

fn text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.checks.iter().map(row).collect();
    table(&["check", "of", "value", "off", "limit", "verdict"], &rows)
}

fn row(check: &Check) -> Vec<String> {
    let (what, against) = match check.what {
        What::Gradient => ("gradient", "central differences"),
        What::GradientInFloat32 => ("gradient, float32", "float64"),
        What::Kappa => ("κ", "its definition"),
        What::InFloat32 => ("float32", "float64"),
    };
    let relative = |value: f64| if value.is_nan() { "-".to_string() } else { format!("{value:.0e}") };
    vec![
        format!("{what} against {against}"),
        check.of.clone(),
        significant(check.found, 4),
        relative(check.off),
        relative(check.limit),
        match &check.verdict {
            Verdict::Agrees => "agrees".to_string(),
            Verdict::Disagrees => "DISAGREES".to_string(),
            Verdict::NotCompared(reason) => format!("not compared: {reason}"),
        },
    ]
}
