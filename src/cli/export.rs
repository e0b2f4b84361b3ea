use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Output, Result};
use crate::artifact;

/// The trained weights back in the inference model
///
/// Writes the model that `inject` was given, with the same names, inputs, outputs and operators, and the weights of a run, a
/// checkpoint or an artifact.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx export model.fam.run -o model-fam.onnx
  fam-onnx export model.fam.run/best -o model-best.onnx
  fam-onnx export model.fam.run/checkpoints/step-1000 -o model-1000.onnx
  fam-onnx export model.fam.run --ema -o model-averaged.onnx
  fam-onnx export model.fam.run --format safetensors -o weights.safetensors
  fam-onnx export model.fam/checkpoint -o model-fam.onnx       (of `inject --format ort-training`)")]
pub(super) struct Export {
    /// A run, one of its checkpoints, an artifact, or a checkpoint of ONNX Runtime's training API
    source: PathBuf,
    /// The model to write
    #[arg(short, long, value_name = "MODEL.onnx")]
    output: PathBuf,
    /// The model, or its weights alone by their names in it
    #[arg(long, value_enum, default_value_t = Format::Onnx)]
    format: Format,
    /// Take the moving average of the weights, of a run with --ema
    #[arg(long)]
    ema: bool,
    /// The artifact that a checkpoint of ONNX Runtime's training API belongs to [default: the one around it]
    #[arg(long, value_name = "DIR")]
    artifact: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Onnx,
    Safetensors,
}

impl Export {
    pub fn run(&self, output: &Output) -> Result<()> {
        let (from, parameters, what) = match self.format {
            Format::Onnx => {
                let exported = artifact::export(&self.source, self.artifact.as_deref(), self.ema)?;
                exported.save(&self.output)?;
                (exported.weights, exported.parameters, String::new())
            }
            Format::Safetensors => {
                let exported = artifact::export_weights(&self.source, self.ema)?;
                exported.save(&self.output)?;
                (exported.weights, exported.parameters, format!("{} tensors", exported.parameters))
            }
        };
        let from = from.display();
        let what = if what.is_empty() { "the weights" } else { &what };
        let text = format!("{} with {what} of {from}\n", self.output.display());
        output.result(&text, || {
            json!({"version": 1, "path": self.output.display().to_string(), "weights": from.to_string(), "parameters": parameters})
        })
    }
}
