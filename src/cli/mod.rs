//! The command line: one file a command, with its arguments (their doc comments are the help) and `run`.

mod completions;
mod data;
mod demo;
mod error;
mod evaluate;
mod export;
mod grad;
mod inject;
mod inspect;
mod interrupt;
mod limits;
mod loss;
mod man;
mod measure;
mod optimizer;
mod output;
mod print;
mod progress;
mod runtime;
mod sweep;
mod table;
mod train;
mod verify;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use error::{Error, Result};
use output::Output;

use crate::limits::fits_f32;
use crate::runtime::{Device, Fetch, MOST_THREADS, Options, Runtime};

/// Train exported ONNX models with the flatness regulariser FAM, on a stock ONNX Runtime
#[derive(Debug, Parser)]
#[command(name = "fam-onnx", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Grad(grad::Grad),
    Jvp(grad::Jvp),
    Inject(Box<inject::Inject>),
    Train(Box<train::Train>),
    Evaluate(evaluate::Evaluate),
    Measure(Box<measure::Measure>),
    Verify(verify::Verify),
    Export(export::Export),
    Runtime(runtime::RuntimeCommand),
    Print(print::Print),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Print errors and results only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: clap::ColorChoice,
    /// Print one JSON document on stdout; what is meant for people goes to stderr
    #[arg(long, global = true)]
    json: bool,
}

/// Parses the arguments of the process.
///
/// # Errors
/// [`Error::Arguments`], for `--help` and `--version` too.
pub fn parse() -> Result<Cli> {
    Cli::try_parse().map_err(Error::Arguments)
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever stops it; [`Error::exit_code`] says what the process returns.
    pub fn run(self) -> Result<()> {
        let output = Output::new(&self.common);
        match self.command {
            Command::Inspect(command) => command.run(&output),
            Command::Grad(command) => command.run(&output),
            Command::Jvp(command) => command.run(&output),
            Command::Inject(command) => command.run(&output),
            Command::Train(command) => command.run(&output),
            Command::Export(command) => command.run(&output),
            Command::Print(command) => command.run(&output),
            Command::Demo(command) => command.run(&output),
            Command::Evaluate(command) => command.run(&output),
            Command::Measure(command) => command.run(&output),
            Command::Verify(command) => command.run(&output),
            Command::Runtime(command) => command.run(&output),
            Command::Completions(command) => command.run(&output),
            Command::Man(command) => command.run(&output),
        }
    }
}

/// The whole command line, for completions and manual pages.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Parses a weight of the regulariser.
fn lambda(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        // The sum makes a zero of -0.
        Ok(value) if fits_f32(value) && value >= 0.0 => Ok(value + 0.0),
        Ok(value) if value.is_finite() && value >= 0.0 => Err("expected a number that float32 can hold".to_owned()),
        Ok(_) => Err("expected a finite number of 0 or more".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Where the library is and what it runs on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "ONNX Runtime")]
struct RuntimeArgs {
    /// The ONNX Runtime library to load (libonnxruntime.so, .dylib, onnxruntime.dll)
    #[arg(long, value_name = "PATH")]
    ort: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:INDEX [default: auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<Device>,
    /// Threads within an operation [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
}

fn threads(text: &str) -> std::result::Result<usize, String> {
    number_in(text, 1..=MOST_THREADS)
}

/// A whole number in a range.
fn number_in(text: &str, range: std::ops::RangeInclusive<usize>) -> std::result::Result<usize, String> {
    let expected = || format!("expected a number from {} to {}", range.start(), range.end());
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(expected)
}

impl RuntimeArgs {
    fn open(&self, output: &Output) -> Result<Runtime> {
        open_runtime(self.ort.as_deref(), Fetch::Allowed, output)
    }

    fn options(&self) -> Options {
        Options { device: self.device.unwrap_or_default(), threads: self.threads, ..Options::default() }
    }
}

fn open_runtime(explicit: Option<&std::path::Path>, fetch: Fetch, output: &Output) -> Result<Runtime> {
    let runtime = Runtime::open(explicit, fetch, &mut |text| output.say(text))?;
    let library = runtime.library();
    output.detail(&format!("ONNX Runtime {} from {} ({})", library.version, library.path.display(), library.origin));
    Ok(runtime)
}

/// Says what a panic is: a fault of this program, wherever it came from.
pub fn report_panic(info: &std::panic::PanicHookInfo) {
    let what = info.payload_as_str().unwrap_or("no reason given");
    let place = info.location().map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
    let hint = "please report it, with the command and the file that led here";
    output::report(&format!("internal error: {what}{place}"), Some(hint));
}

fn usage(message: String) -> Error {
    Error::Usage { message }
}

fn finite_in(option: &str, value: f64, low: f64, high: f64) -> Result<f64> {
    check_fits(option, value)?;
    if value.is_finite() && (low..=high).contains(&value) {
        return Ok(value + 0.0);
    }
    let range = if high == f64::INFINITY {
        format!("a finite number ≥ {low}")
    } else {
        format!("a number from {low} to {high}")
    };
    Err(usage(format!("{option} is {value}, expected {range}")))
}

/// The graphs hold the options' numbers as float32.
fn check_fits(option: &str, value: f64) -> Result<()> {
    if value.is_finite() && !fits_f32(value) {
        return Err(usage(format!("{option} is {value:e}, expected a number that float32 can hold")));
    }
    Ok(())
}

fn positive(option: &str, value: f64) -> Result<f64> {
    check_fits(option, value)?;
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(usage(format!("{option} is {value}, expected a finite number above 0")))
}
