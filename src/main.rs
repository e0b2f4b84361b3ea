use std::process::ExitCode;

use fam_onnx::cli;

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
