use std::process::ExitCode;

use fam_onnx::cli;
use mimalloc::MiMalloc;

/// Graphs are many small strings and lists, made and dropped as graphs are rewritten: the system's allocator takes most of the
/// time of a large one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let outcome = cli::parse().and_then(|cli| cli.run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            error.exit_code()
        }
    }
}
