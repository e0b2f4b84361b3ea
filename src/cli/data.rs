use clap::Args;

use crate::train::data::Options;

/// How data are read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// Subtracted from the model's first input: a number, or one a channel; image bytes are 0 … 1 before it [default: 0]
    #[arg(long, value_name = "X,…", value_delimiter = ',', allow_negative_numbers = true, value_parser = mean)]
    pub mean: Option<Vec<f64>>,
    /// Divides the model's first input after that: a number, or one a channel [default: 1]
    #[arg(long, value_name = "X,…", value_delimiter = ',', allow_negative_numbers = true, value_parser = deviation)]
    pub std: Option<Vec<f64>>,
    /// The column of a .csv file that holds the labels [default: labels, label, y, target or class]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Refuse arrays that unpack to more bytes: compressed ones, and those that lie column after column [default: 16 GiB]
    #[arg(long, value_name = "BYTES")]
    pub max_unpacked: Option<u64>,
}

impl DataArgs {
    /// `base`, replaced where the command line says otherwise.
    pub fn options(&self, base: Options) -> Options {
        Options {
            mean: self.mean.clone().unwrap_or(base.mean),
            std: self.std.clone().unwrap_or(base.std),
            label_column: self.label_column.clone().or(base.label_column),
            max_unpacked: self.max_unpacked.unwrap_or(base.max_unpacked),
        }
    }
}

fn mean(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    if value.is_finite() { Ok(value) } else { Err("expected a finite number".to_owned()) }
}

fn deviation(text: &str) -> Result<f64, String> {
    let value = mean(text)?;
    if value > 0.0 { Ok(value) } else { Err("expected a number above 0".to_owned()) }
}
