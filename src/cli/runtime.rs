use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Output, Result, open_runtime};
use crate::runtime::{Fetch, Package, install};

/// Show which ONNX Runtime is used, or fetch one
///
/// Looked for in this order: --ort or ORT_DYLIB_PATH; the copy in the user's cache; the package onnxruntime or
/// onnxruntime-gpu of the Python on the PATH. Other commands fetch the package with pip where there is none.
#[derive(Debug, Args)]
#[command(
    after_long_help = "\
Examples:
  fam-onnx runtime
  fam-onnx runtime install
  ORT_DYLIB_PATH=/opt/onnxruntime/lib/libonnxruntime.so fam-onnx runtime --json",
    args_conflicts_with_subcommands = true
)]
pub(super) struct RuntimeCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// The ONNX Runtime library to load
    #[arg(long, value_name = "PATH")]
    ort: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch the newest ONNX Runtime with pip into the user's cache
    Install {
        /// The build for NVIDIA GPUs
        #[arg(long)]
        cuda: bool,
    },
}

impl RuntimeCommand {
    pub fn run(self, output: &Output) -> Result<()> {
        if let Some(Action::Install { cuda }) = self.action {
            let package = if cuda { Package::Cuda } else { Package::Cpu };
            let library = install(package, &mut |text| output.say(text))?;
            let text = format!("ONNX Runtime {}\n{}\n", library.version, library.path.display());
            return output.result(&text, || {
                json!({
                    "version": 1,
                    "command": "runtime install",
                    "onnxruntime": library.version,
                    "path": library.path,
                })
            });
        }
        let runtime = open_runtime(self.ort.as_deref(), Fetch::Never, output)?;
        let library = runtime.library();
        let devices: Vec<String> = runtime.devices().iter().map(ToString::to_string).collect();
        let text = format!(
            "ONNX Runtime  {}\nlibrary       {}\nfound by      {}\ndevices       {}\n",
            library.version,
            library.path.display(),
            library.origin,
            devices.join(", "),
        );
        output.result(&text, || {
            json!({
                "version": 1,
                "command": "runtime",
                "onnxruntime": library.version,
                "path": library.path,
                "origin": library.origin.to_string(),
                "devices": devices,
            })
        })
    }
}
