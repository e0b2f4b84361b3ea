use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
};

use fam_onnx::{cli, onnx};

mod memory;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == onnx::INFER_APART) {
        memory::limit(INFERENCE);
        onnx::answer_inference(arguments.next().map(PathBuf::from).as_deref());
        return ExitCode::SUCCESS;
    }
    if let Ok(program) = std::env::current_exe() {
        onnx::infer_apart(program);
    }
    // A fault of this program ends like any other failure, with a message and an exit code, and leaves nothing half-written.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::FAILURE)
}

/// Bytes that shape inference may take.
const INFERENCE: usize = 4 << 30;

fn run() -> ExitCode {
    std::panic::set_hook(Box::new(cli::report_panic));
    let outcome = cli::parse().and_then(|cli| cli.run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            error.exit_code()
        }
    }
}
