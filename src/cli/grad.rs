use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::limits::ModelLimitArgs;
use super::{Output, Result};
use crate::{ad, ir::Model, onnx};

/// Reverse mode: the gradient of an output as an ONNX model
///
/// Everything the model has stays. It gains an output NAME.grad for each NAME and, unless OUTPUT has one element, an input
/// OUTPUT.cotangent. The result can be differentiated again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx grad model.onnx --of loss --wrt parameters -o gradient.onnx
  fam-onnx grad model.onnx --of logits --wrt x,fc.weight -o vjp.onnx
  fam-onnx grad gradient.onnx --of x.grad --wrt x -o hessian-vector.onnx")]
pub(super) struct Grad {
    #[command(flatten)]
    common: Differentiate,
}

/// Forward mode: the tangent of an output as an ONNX model
///
/// Everything the model has stays. It gains an input NAME.tangent for each NAME and the output OUTPUT.tangent. The result
/// can be differentiated again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx jvp model.onnx --of logits --wrt x -o tangent.onnx
  fam-onnx jvp model.onnx --of logits --wrt parameters -o tangent.onnx")]
pub(super) struct Jvp {
    #[command(flatten)]
    common: Differentiate,
}

#[derive(Debug, Args)]
struct Differentiate {
    /// The model, an .onnx file
    model: PathBuf,
    /// What is differentiated: an output, or any tensor of the model
    #[arg(long, value_name = "OUTPUT")]
    of: String,
    /// With respect to what: inputs, initialisers or any tensors; `parameters` or `inputs` for all of them
    #[arg(long, value_name = "NAME", value_delimiter = ',', required = true)]
    wrt: Vec<String>,
    /// The model to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    limits: ModelLimitArgs,
}

type Mode = fn(&Model, &str, &[String]) -> crate::Result<ad::Differentiated>;

impl Grad {
    pub fn run(&self, output: &Output) -> Result<()> {
        self.common.run(ad::grad_model, output)
    }
}

impl Jvp {
    pub fn run(&self, output: &Output) -> Result<()> {
        self.common.run(ad::jvp_model, output)
    }
}

impl Differentiate {
    fn run(&self, mode: Mode, output: &Output) -> Result<()> {
        let same = |a: &std::path::Path, b: &std::path::Path| {
            std::fs::canonicalize(a).is_ok_and(|a| std::fs::canonicalize(b).is_ok_and(|b| a == b))
        };
        if same(&self.model, &self.output) {
            return Err(crate::Error::OutputIsInput { path: self.output.clone() }.into());
        }
        let model = onnx::read_within(&self.model, &self.limits.limits())?;
        let result = mode(&model, &self.of, &self.wrt)?;
        onnx::write(&result.model, &self.output)?;
        let (before, after) = (model.graph.nodes.len(), result.model.graph.nodes.len());
        let lines = |what: &str, names: &[String]| names.iter().map(|n| format!("{what} {n}\n")).collect::<String>();
        let text = format!(
            "{}{}{} nodes, {} of them the model's; written to {}\n",
            lines("input ", &result.inputs),
            lines("output", &result.outputs),
            after,
            before,
            self.output.display()
        );
        output.result(&text, || {
            json!({
                "version": 1,
                "path": self.output.display().to_string(),
                "inputs": result.inputs,
                "outputs": result.outputs,
                "nodes": {"model": before, "all": after},
            })
        })
    }
}
