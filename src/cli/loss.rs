//! The options that say which scalar is looked at.

use std::path::PathBuf;

use clap::Args;

use super::Result;
use crate::artifact::Target;
use crate::loss::{Loss, LossModel, Settings, read_class_weights};
use crate::onnx;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Loss")]
pub(super) struct LossArgs {
    /// softmax-cross-entropy, nll, bce-with-logits, bce, mse, mae, huber, dice, dice-with-logits, or a loss model (.onnx: inputs
    /// prediction and target, one scalar output) [default: softmax-cross-entropy]
    #[arg(long, value_name = "KIND", value_parser = parse_loss, conflicts_with = "loss_output")]
    loss: Option<LossKind>,
    /// The model computes its scalar loss itself, as this output
    #[arg(long, value_name = "NAME", conflicts_with = "output_name")]
    loss_output: Option<String>,
    /// Which output the loss reads, if several
    #[arg(long, value_name = "NAME")]
    output_name: Option<String>,
    /// Mix the labels with the uniform distribution, 0 to 1; for losses on classes
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    label_smoothing: f64,
    /// A weight a class, as .npy or as a JSON array; the mean is weighted, as in PyTorch
    #[arg(long, value_name = "FILE")]
    class_weights: Option<PathBuf>,
    /// A class index that the mean leaves out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    ignore_index: Option<i64>,
    /// Labels are probabilities of the classes, of the logits' shape, instead of class indices
    #[arg(long)]
    soft_labels: bool,
}

#[derive(Debug, Clone)]
enum LossKind {
    Kind(Loss),
    File(PathBuf),
}

fn parse_loss(name: &str) -> std::result::Result<LossKind, String> {
    let is_file = std::path::Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    match Loss::from_name(name) {
        Some(loss) => Ok(LossKind::Kind(loss)),
        None if is_file => Ok(LossKind::File(PathBuf::from(name))),
        None => Err(format!("expected one of {}, or an .onnx file", Loss::names().collect::<Vec<_>>().join(", "))),
    }
}

impl LossArgs {
    pub fn output_name(&self) -> Option<String> {
        self.output_name.clone()
    }

    /// The scalar, with its files read.
    pub fn target(&self) -> Result<Target> {
        if let Some(name) = &self.loss_output {
            self.no_labels("--loss-output")?;
            return Ok(Target::Output(name.clone()));
        }
        let kind = match &self.loss {
            Some(LossKind::File(path)) => {
                self.no_labels("a loss model")?;
                let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                return Ok(Target::Model(LossModel::new(&file, onnx::read(path)?)?));
            }
            Some(LossKind::Kind(kind)) => *kind,
            None => Loss::SoftmaxCrossEntropy,
        };
        let label_smoothing = super::finite_in("--label-smoothing", self.label_smoothing, 0.0, 1.0)?;
        let class_weights = self.class_weights.as_deref().map(read_class_weights).transpose()?;
        let (soft_labels, ignore_index) = (self.soft_labels, self.ignore_index);
        let settings = Settings { kind, soft_labels, label_smoothing, class_weights, ignore_index };
        match settings.option_fault() {
            Some(fault) => Err(crate::Error::LossOptions { fault }.into()),
            None => Ok(Target::Loss(settings)),
        }
    }

    /// Options about labels go with losses that are computed here.
    fn no_labels(&self, with: &str) -> Result<()> {
        let given = [
            ("--label-smoothing", self.label_smoothing != 0.0),
            ("--class-weights", self.class_weights.is_some()),
            ("--ignore-index", self.ignore_index.is_some()),
            ("--soft-labels", self.soft_labels),
        ];
        let named: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if named.is_empty() {
            return Ok(());
        }
        let verb = if named.len() == 1 { "does" } else { "do" };
        Err(super::usage(format!("{} {verb} not go with {with}, which knows its labels itself", named.join(", "))))
    }
}
