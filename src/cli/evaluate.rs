use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Output, Result, RuntimeArgs, data::DataArgs};
use crate::train::{
    Config, Error, Evaluator,
    data::{self, Dataset, Options},
    run::{self, CONFIG, Origin, Weights},
};

/// Measure loss, κ, objective and accuracy on data, without training
///
/// Takes an artifact with its initial parameters, a run with its best checkpoint (the latest, if it was not validated), or a
/// checkpoint. Data are as those of train; of a run they are normalised as in training. Of a directory with a part for
/// evaluation (MNIST's t10k files, a directory val) it takes that part.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx evaluate resnet.fam --data test.npz
  fam-onnx evaluate resnet.fam.run --data test.npz --json
  fam-onnx evaluate resnet.fam.run/checkpoints/step-500 --data test.npz")]
pub(super) struct Evaluate {
    /// The artifact, run or checkpoint
    #[arg(value_name = "ARTIFACT|RUN")]
    path: PathBuf,
    /// What to measure on
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Samples a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = batch_size)]
    batch_size: usize,
    /// Replace the artifact's λ in the objective
    #[arg(long, value_name = "λ", value_parser = super::lambda)]
    lambda: Option<f64>,
    /// Seed of the probes, where κ is estimated
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    data_args: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(super) fn batch_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected a number above 0".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}

impl Evaluate {
    pub fn run(self, output: &Output) -> Result<()> {
        let weights = run::weights(&self.path)?;
        output.say(&format!(
            "{}: {}",
            weights.parameters.display(),
            match weights.origin {
                Origin::Artifact => "initial parameters".to_owned(),
                Origin::Best => format!("the best checkpoint, after step {}", weights.step),
                Origin::Checkpoint => format!("the checkpoint after step {}", weights.step),
            }
        ));
        let graph = weights.manifest.graphs.evaluate.path.clone();
        weights.manifest.verify_files(&weights.graphs, &[&graph])?;
        let runtime = self.runtime.open(output)?;
        let options = self.runtime.options();
        let mut evaluator =
            Evaluator::open(&runtime, &weights.manifest, &weights.graphs, &options, self.seed, self.lambda)?;
        evaluator.hold(&weights.tensors)?;
        let dataset = self.read_data(&weights, &evaluator, output)?;
        let indices: Vec<usize> = (0..dataset.samples()).collect();
        let figures = evaluator.evaluate(&dataset, &indices, self.batch_size)?;

        let rows = figures.named().into_iter().map(|(name, value)| {
            let estimate = figures.estimated.iter().any(|estimate| estimate == name);
            format!("{name:<14}{value:.6}{}\n", if estimate { "  (estimate, random probes)" } else { "" })
        });
        let text: String = rows.chain([format!("{:<14}{}\n", "samples", figures.samples)]).collect();
        output.result(&text, || {
            let mut document = json!({
                "version": 1,
                "command": "evaluate",
                "parameters": weights.parameters,
                "step": weights.step,
            });
            document["figures"] = figures.to_json();
            document
        })
    }

    fn read_data(&self, weights: &Weights, evaluator: &Evaluator, output: &Output) -> Result<Dataset> {
        let config = weights.graphs.join(CONFIG);
        let base = if config.is_file() { Config::read(&config)?.data_options() } else { Options::default() };
        let mut source = data::read(&self.data, &self.data_args.options(base)).map_err(Error::from)?;
        if let Some(dataset) = Dataset::held_out(&mut source, evaluator.spec()).map_err(Error::from)? {
            output.say(&format!("{}: the test part", self.data.display()));
            return Ok(dataset);
        }
        Ok(Dataset::new(&mut source, evaluator.spec()).map_err(Error::from)?)
    }
}
