use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::data::DataArgs;
use super::inject::EstimatorArg;
use super::limits::LimitArgs;
use super::loss::LossArgs;
use super::table::{significant, table};
use super::{Output, Result, RuntimeArgs, progress};
use crate::artifact::{self, Measurement, Options};
use crate::limits::Limits;
use crate::measure::{Figures, LayerFigures, Mean, Meter, Pace};
use crate::onnx;
use crate::train::{
    Error,
    data::{self, Dataset},
};

/// κ, κ̂, Tr H and ‖W‖² of a model's layers on data, without training
///
/// Each figure is the mean over batches, weighted by their samples, with its standard error. Where samples do not meet (no
/// batch statistics, no loss over the whole batch), κ is itself a mean over samples, so this mean is κ of the whole set; with
/// class weights or ignored labels it is so up to what the batches' weights differ. κ = Σ ⟨w_s,w_s'⟩ Tr H_ss', κ̂ = ‖W‖² Tr H,
/// H being the second derivative of the mean loss in the layer's weight W.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx measure model.onnx --layer fc --data test.npz
  fam-onnx measure model.onnx --layer '*' --data train.npz --limit 2000 --batch-size 128
  fam-onnx measure model.onnx --layer 'encoder.*.dense' --data train.npz --estimator hutchinson --samples 64
  fam-onnx measure unet.onnx --layer up.conv --data masks.npz --loss dice-with-logits --json")]
pub(super) struct Measure {
    /// The model, an .onnx file
    model: PathBuf,
    /// A module path, a parameter, a node or its output, `penultimate`, or a pattern such as '*'; may be repeated
    #[arg(long = "layer", value_name = "LAYER", required = true)]
    layers: Vec<String>,
    /// What to measure on: arrays named as the model's inputs and `labels` (or `x` and `y`)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Samples a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::evaluate::batch_size)]
    batch_size: usize,
    /// Only the first N samples
    #[arg(long, value_name = "N", value_parser = super::evaluate::batch_size)]
    limit: Option<usize>,

    #[command(flatten)]
    loss: LossArgs,

    /// auto: exact where a batch is predicted to take at most a second, or 100 steps of training; else hutchinson
    #[arg(long, value_enum, default_value_t = EstimatorArg::Auto)]
    estimator: EstimatorArg,
    /// Random probes a batch, where κ is estimated
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// Seed of the probes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    data_args: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Measure {
    pub fn run(self, output: &Output) -> Result<()> {
        let model = onnx::read_within(
            &self.model,
            &Limits { unpacked: self.data_args.options(data::Options::default()).max_unpacked, ..self.limits.limits() },
        )?;
        let options = Options {
            output_name: self.loss.output_name(),
            estimator: self.estimator.chosen(),
            ..Options::of(self.loss.target()?)
        };
        let measurement = artifact::measurement(&model, &self.layers, &options)?;
        for note in &measurement.notes {
            output.say(&format!("note: {note}"));
        }
        for layer in &measurement.skipped {
            output.say(&format!("{}: not measured: {}", layer.name, layer.reason));
        }
        let runtime = self.runtime.open(output)?;
        let mut meter = Meter::open(&runtime, &measurement, &self.runtime.options(), self.seed)?;
        let mut source =
            data::read(&self.data, &self.data_args.options(data::Options::default())).map_err(Error::from)?;
        let dataset = Dataset::new(&mut source, meter.spec()).map_err(Error::from)?;
        let pace = Pace { batch: self.batch_size, limit: self.limit, probes: self.samples };
        let figures = meter.measure(&dataset, &pace, &mut progress::batches(output))?;
        output.result(&text(&figures), || self.json(&measurement, &figures))
    }

    fn json(&self, measurement: &Measurement, figures: &Figures) -> Value {
        json!({
            "version": 1,
            "command": "measure",
            "model": self.model,
            "loss": measurement.manifest.loss,
            "samples": figures.samples,
            "batches": figures.batches,
            "mean_loss": mean_json(&figures.loss),
            "layers": figures.layers.iter().map(layer_json).collect::<Vec<_>>(),
            "skipped": measurement.skipped.iter().map(|layer| json!({
                "name": layer.name, "reason": layer.reason,
            })).collect::<Vec<_>>(),
        })
    }
}

fn layer_json(figures: &LayerFigures) -> Value {
    let layer = &figures.layer;
    json!({
        "name": layer.name, "weight": layer.weight, "d": layer.d, "m": layer.m,
        "head": layer.class, "decided_by": layer.decided_by, "estimator": layer.estimator, "why": layer.why,
        "kappa": mean_json(&figures.kappa),
        "kappa_hat": mean_json(&figures.kappa_hat),
        "trace": mean_json(&figures.trace),
        "squared_norm": figures.norm,
    })
}

fn mean_json(mean: &Mean) -> Value {
    json!({"mean": mean.value, "standard_error": mean.error})
}

fn text(figures: &Figures) -> String {
    let rows: Vec<Vec<String>> = figures.layers.iter().map(row).collect();
    let batches = if figures.batches == 1 { "1 batch" } else { &format!("{} batches", figures.batches) };
    format!(
        "{}\nloss {} over {} samples in {batches}\n",
        table(&["layer", "W", "head", "estimator", "κ", "κ̂", "Tr H", "‖W‖²"], &rows),
        shown(&figures.loss),
        figures.samples,
    )
}

fn row(figures: &LayerFigures) -> Vec<String> {
    let layer = &figures.layer;
    vec![
        layer.name.clone(),
        format!("{}×{}", layer.d, layer.m),
        layer.class.to_string(),
        layer.estimator.to_string(),
        shown(&figures.kappa),
        shown(&figures.kappa_hat),
        shown(&figures.trace),
        significant(figures.norm, 5),
    ]
}

fn shown(mean: &Mean) -> String {
    match mean.error {
        Some(error) => format!("{} ± {}", significant(mean.value, 5), significant(error, 2)),
        None => significant(mean.value, 5),
    }
}
