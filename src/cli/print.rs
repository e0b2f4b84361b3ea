use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::limits::ModelLimitArgs;
use super::{Output, Result};
use crate::onnx;

/// The model in ONNX's textual syntax
///
/// As it is read: every operator in its newest form. Large initialisers are left out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx print model.onnx
  fam-onnx print model.fam/train.onnx | less")]
pub(super) struct Print {
    /// The model, an .onnx file
    model: PathBuf,
    #[command(flatten)]
    limits: ModelLimitArgs,
}

impl Print {
    pub fn run(&self, output: &Output) -> Result<()> {
        let model = onnx::read_within(&self.model, &self.limits.limits())?;
        let text = onnx::text(&model, onnx::TextOptions::default());
        output.result(&text, || json!({"version": 1, "text": text}))
    }
}
