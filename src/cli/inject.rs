use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::data::DataArgs;
use super::limits::LimitArgs;
use super::loss::LossArgs;
use super::optimizer::OptimizerArgs;
use super::table::{metric, significant, table};
use super::{Output, Result, RuntimeArgs, finite_in, positive, usage};
use crate::artifact::{self, Options, Plan, manifest, ort_training};
use crate::balance::{Balanced, Batches, balance};
use crate::flatness::{Estimator, Measure, Probes};
use crate::ir::Model;
use crate::limits::Limits;
use crate::onnx;
use crate::train::data;

/// The augmented training artifact: graphs that train a model with FAM on any ONNX Runtime
///
/// Adds λ·κ of the named layers to the loss and writes a directory with graphs of standard operators (gradient, optimizer,
/// train, evaluate), the initial parameters and a manifest of every name.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx inject model.onnx --layer fc --lambda 0.1
  fam-onnx inject model.onnx --layer encoder.layer.3.output.dense --lambda 0.01 --momentum 0.9 --weight-decay 5e-4
  fam-onnx inject model.onnx --layer fc --lambda 0.1 --optimizer adamw --betas 0.9,0.99 --clip-norm 1
  fam-onnx inject model.onnx --layer fc1:0.05 --layer fc2:0.02 -o two-layers.fam
  fam-onnx inject model.onnx --layer penultimate --lambda 0.1 --dry-run
  fam-onnx inject model.onnx --layer fc --lambda auto:0.1 --data train.npz
  fam-onnx inject unet.onnx --layer encoder.conv1 --lambda 0.01 --loss dice-with-logits
  fam-onnx inject model.onnx --layer fc --lambda 0.1 --class-weights weights.json --ignore-index 255 --label-smoothing 0.1
  fam-onnx inject model.onnx --layer fc --lambda 0.1 --loss my-loss.onnx
  fam-onnx inject model.onnx --layer fc --lambda 0.1 --format ort-training")]
pub(super) struct Inject {
    /// The model, an .onnx file
    model: PathBuf,
    /// A module path, a parameter, a node or its output, or `penultimate`; repeat for several, each with its own λ after a colon
    #[arg(long = "layer", value_name = "LAYER[:λ]", required = true)]
    layers: Vec<String>,
    /// Weight of κ in the objective; 0 leaves the FAM part out (κ stays in evaluate.onnx). auto:RATIO chooses it so that the
    /// median of ‖λ∇κ‖ over the first 8 batches of --data is RATIO of the median of ‖∇L‖
    #[arg(long, value_name = "λ|auto:RATIO", allow_negative_numbers = true)]
    lambda: Option<String>,
    /// What auto:RATIO is decided on: arrays named as the model's inputs and `labels` (or `x` and `y`)
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Samples a batch of --data
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::evaluate::batch_size, requires = "data")]
    batch_size: usize,
    /// The artifact's directory [default: MODEL-STEM.fam]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    #[command(flatten)]
    loss: LossArgs,

    /// κ by neurons, or ‖W‖² Tr H by the whole layer
    #[arg(long, value_enum, default_value_t = MeasureArg::Neuronwise)]
    measure: MeasureArg,
    /// fan-in divides κ by m, the scale of the published code
    #[arg(long, value_enum, default_value_t = Normalize::None)]
    normalize: Normalize,
    /// auto: exact where that is predicted to cost at most 1.10 plain steps, else hutchinson; gauss-newton leaves out how the
    /// head itself bends
    #[arg(long, value_enum, default_value_t = EstimatorArg::Auto)]
    estimator: EstimatorArg,
    /// Random directions that hutchinson takes the mean of, each step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    samples: u32,
    /// Signs of their own for each sample, one vector of them for all, a matrix of rank one, or a full matrix
    #[arg(long, value_enum, default_value_t = ProbesArg::Auto)]
    probes: ProbesArg,
    /// Drop the third-derivative term, as the published code does
    #[arg(long)]
    detach_trace: bool,

    #[command(flatten)]
    optimizer: OptimizerArgs,
    /// Parameters that stay as they are; a pattern as for file names (* ? [a-z] {a,b}), may be repeated
    #[arg(long, value_name = "GLOB")]
    freeze: Vec<String>,
    /// Normalise by the batch and update running statistics, or keep them as exported
    #[arg(long, value_enum, default_value_t = BatchNorm::Frozen)]
    batch_norm: BatchNorm,
    /// Drop while it trains, by masks drawn for each batch, or not at all; evaluate.onnx and the exported model drop nothing
    #[arg(long, value_enum, default_value_t = Dropout::Off)]
    dropout: Dropout,
    /// Weights stored as integers stay as they are, or train as floats that each step rounds (rounding is passed straight
    /// through); export stores integers again
    #[arg(long, value_enum, default_value_t = Quantized::Frozen)]
    quantized: Quantized,

    /// For any ONNX Runtime, or for the training API of ONNX Runtime up to 1.19.2
    #[arg(long, value_enum, default_value_t = Format::Standard)]
    format: Format,
    /// All the analysis, no file
    #[arg(long)]
    dry_run: bool,
    /// Replace a directory that exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    data_args: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MeasureArg {
    Neuronwise,
    Layerwise,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Normalize {
    None,
    FanIn,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EstimatorArg {
    Auto,
    Exact,
    Hutchinson,
    GaussNewton,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProbesArg {
    Auto,
    PerSample,
    Shared,
    LowRank,
    Full,
}

impl EstimatorArg {
    /// `None` for auto.
    pub fn chosen(self) -> Option<Estimator> {
        match self {
            EstimatorArg::Auto => None,
            EstimatorArg::Exact => Some(Estimator::Exact),
            EstimatorArg::Hutchinson => Some(Estimator::Hutchinson),
            EstimatorArg::GaussNewton => Some(Estimator::GaussNewton),
        }
    }
}

impl ProbesArg {
    /// `None` for auto.
    fn chosen(self) -> Option<Probes> {
        match self {
            ProbesArg::Auto => None,
            ProbesArg::PerSample => Some(Probes::PerSample),
            ProbesArg::Shared => Some(Probes::Shared),
            ProbesArg::LowRank => Some(Probes::LowRank),
            ProbesArg::Full => Some(Probes::Full),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Dropout {
    Train,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Quantized {
    Train,
    Frozen,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum BatchNorm {
    Train,
    Frozen,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Standard,
    OrtTraining,
}

impl Inject {
    pub fn run(&self, output: &Output) -> Result<()> {
        let (mut options, ratios) = self.options()?;
        let directory = self.output.clone().unwrap_or_else(|| artifact::default_directory(&self.model));
        if !self.dry_run {
            artifact::check_free(&directory, self.force)?;
        }
        let model = onnx::read_within(
            &self.model,
            &Limits { unpacked: self.data_args.options(data::Options::default()).max_unpacked, ..self.limits.limits() },
        )?;
        let source = manifest::Source {
            name: self.model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            sha256: manifest::sha256_file(&self.model)
                .map_err(|source| crate::Error::Io { path: self.model.clone(), source })?,
        };
        let mut plan = artifact::plan(&model, &options, source.clone())?;
        if ratios.iter().any(Option::is_some) {
            plan = self.balanced(&model, plan, &mut options, &ratios, output)?;
        }
        let ort_training = match self.format {
            Format::Standard => None,
            Format::OrtTraining => Some(ort_training::prepare(&plan, &options)?),
        };
        if !self.dry_run {
            let names: Vec<String> = plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
            let inference = onnx::without_weights(&self.model, &names)?;
            match &ort_training {
                Some(artifact) => ort_training::write(artifact, &inference, &directory, self.force)?,
                None => artifact::write(&plan, &inference, &directory, self.force)?,
            }
        }
        for note in &plan.report.notes {
            output.say(&format!("note: {note}"));
        }
        let text = summary(&plan, &directory, self.dry_run);
        output.result(&text, || report_json(&plan, &directory, self.dry_run))
    }

    /// The artifact with λ as the ratios say, on the data.
    fn balanced(
        &self,
        model: &Model,
        plan: Plan,
        options: &mut Options,
        ratios: &[Option<f64>],
        output: &Output,
    ) -> Result<Plan> {
        let Some(path) = &self.data else {
            return Err(usage("--lambda auto:RATIO needs --data, whose first batches it is decided on".to_string()));
        };
        let runtime = self.runtime.open(output)?;
        let how = self.data_args.options(data::Options::default());
        let batches = Batches { path, how: &how, size: self.batch_size };
        let balanced = balance(&plan, options, ratios, batches, &runtime, &self.runtime.options())?;
        for found in &balanced {
            if let Some((_, lambda)) = options.layers.iter_mut().find(|(name, _)| *name == found.layer) {
                *lambda = found.lambda;
            }
            output.say(&format!(
                "{}: λ = {}: {} of ‖∇L‖ = {}, with ‖∇κ‖ = {} (medians over {} batches of {})",
                found.layer,
                significant(found.lambda, 4),
                found.ratio,
                significant(found.loss_norm, 4),
                significant(found.kappa_norm, 4),
                found.batches,
                found.batch_size
            ));
        }
        let mut plan = artifact::plan(model, options, plan.manifest.source)?;
        let record = balanced.iter().map(Balanced::record).collect();
        plan.manifest.options.insert("lambda_auto".to_string(), record);
        Ok(plan)
    }

    /// The options, λ being 1 where it is still to be chosen, and the ratios of these layers.
    fn options(&self) -> Result<(Options, Vec<Option<f64>>)> {
        let (layers, ratios): (Vec<(String, f64)>, Vec<Option<f64>>) = self
            .layers
            .iter()
            .map(|text| self.layer(text).map(|(name, weight)| ((name, weight.first()), weight.ratio())))
            .collect::<Result<_>>()?;
        if self.data.is_some() && ratios.iter().all(Option::is_none) {
            return Err(usage("--data goes with --lambda auto:RATIO, and every λ is a number".to_string()));
        }
        let options = Options {
            layers,
            target: self.loss.target()?,
            output_name: self.loss.output_name(),
            measure: match self.measure {
                MeasureArg::Neuronwise => Measure::Neuronwise,
                MeasureArg::Layerwise => Measure::Layerwise,
            },
            per_fan_in: self.normalize == Normalize::FanIn,
            estimator: self.estimator.chosen(),
            probes: self.probes.chosen(),
            samples: i64::from(self.samples),
            detach_trace: self.detach_trace,
            optimizer: self.optimizer.optimizer()?,
            clip_norm: self.optimizer.clip_norm()?,
            freeze: self.freeze.clone(),
            train_batch_norm: self.batch_norm == BatchNorm::Train,
            train_dropout: self.dropout == Dropout::Train,
            train_quantized: self.quantized == Quantized::Train,
        };
        Ok((options, ratios))
    }

    /// `name`, `name:λ` or `name:auto:RATIO`; a name with a colon of its own stays whole where what follows is no λ.
    fn layer(&self, text: &str) -> Result<(String, Weight)> {
        let colons = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let own = colons.filter_map(|(name, weight)| Some((name, Weight::parse(weight)?))).next();
        let (name, weight) = match (own, &self.lambda) {
            (Some(own), _) => own,
            (None, Some(lambda)) => {
                let expected = || usage(format!("--lambda is {lambda:?}, expected a number or auto:RATIO"));
                (text, Weight::parse(lambda).ok_or_else(expected)?)
            }
            (None, None) => {
                return Err(usage(format!("layer {text:?} has no λ: give --lambda, or --layer {text}:λ")));
            }
        };
        let weight = match weight {
            Weight::Number(lambda) => Weight::Number(finite_in("λ", lambda, 0.0, f64::INFINITY)?),
            Weight::Ratio(ratio) => Weight::Ratio(positive("the ratio of auto:RATIO", ratio)?),
        };
        Ok((name.to_string(), weight))
    }
}

/// λ as it is given.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Weight {
    Number(f64),
    Ratio(f64),
}

impl Weight {
    fn parse(text: &str) -> Option<Weight> {
        match text.strip_prefix("auto:") {
            Some(ratio) => ratio.parse().ok().map(Weight::Ratio),
            None => text.parse().ok().map(Weight::Number),
        }
    }

    /// λ that the first artifact has.
    fn first(self) -> f64 {
        match self {
            Weight::Number(lambda) => lambda,
            Weight::Ratio(_) => 1.0,
        }
    }

    fn ratio(self) -> Option<f64> {
        match self {
            Weight::Number(_) => None,
            Weight::Ratio(ratio) => Some(ratio),
        }
    }
}

fn summary(plan: &Plan, directory: &std::path::Path, dry_run: bool) -> String {
    let report = &plan.report;
    let layers: Vec<Vec<String>> = report
        .layers
        .iter()
        .map(|l| {
            vec![
                l.name.clone(),
                format!("{}×{}", l.d, l.m),
                l.lambda.to_string(),
                match &l.decided_by {
                    Some(node) => format!("{} ({node})", l.class),
                    None => l.class.to_string(),
                },
                l.estimator.name().to_string(),
                l.why.clone(),
            ]
        })
        .collect();
    let parts = [("forward", report.forward), ("plain gradient", report.plain), ("FAM", report.fam)];
    let whole = report.forward.flops + report.plain.flops;
    let sizes: Vec<Vec<String>> = parts
        .iter()
        .map(|(name, size)| {
            let share = format!("{:.1} %", 100.0 * size.flops / whole.max(1.0));
            vec![name.to_string(), size.nodes.to_string(), metric(size.flops), share]
        })
        .collect();
    let done = if dry_run { "would be written to" } else { "written to" };
    format!(
        "{}\n{}\nmemory of a step beyond its inputs: {}B, {}B without κ (predicted)\n\n{done} {}\n",
        table(&["layer", "W", "λ", "head", "estimator", "why"], &layers),
        table(&["part", "nodes", "FLOPs", "of a plain step"], &sizes),
        metric(report.memory.whole),
        metric(report.memory.plain),
        directory.display()
    )
}

fn report_json(plan: &Plan, directory: &std::path::Path, dry_run: bool) -> serde_json::Value {
    let size = |s: artifact::Size| json!({"nodes": s.nodes, "flops": s.flops});
    json!({
        "version": 1,
        "path": directory.display().to_string(),
        "written": !dry_run,
        "layers": plan.report.layers.iter().map(|l| json!({
            "name": l.name, "weight": l.weight, "d": l.d, "m": l.m, "lambda": l.lambda, "head": l.class,
            "decided_by": l.decided_by, "estimator": l.estimator.name(), "why": l.why,
        })).collect::<Vec<_>>(),
        "forward": size(plan.report.forward), "plain": size(plan.report.plain), "fam": size(plan.report.fam),
        "memory": {"step": plan.report.memory.whole, "plain": plan.report.memory.plain},
        "notes": plan.report.notes,
    })
}
