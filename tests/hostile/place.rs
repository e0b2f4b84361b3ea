//! A process that may take only so much time and memory.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a process did within its limits.
pub struct Ended {
    /// `None` where it was stopped by a signal or ran out of time.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub seconds: f64,
}

/// Runs a program with at most `megabytes` of address space and `seconds` of time.
pub fn bounded(program: &Path, arguments: &[&str], directory: &Path, megabytes: u64, seconds: u64) -> Ended {
    bounded_with(program, arguments, directory, megabytes, seconds, &[])
}

pub fn bounded_with(
    program: &Path,
    arguments: &[&str],
    directory: &Path,
    megabytes: u64,
    seconds: u64,
    environment: &[(&str, &str)],
) -> Ended {
    let script = format!("ulimit -v {}; ulimit -c 0; exec \"$0\" \"$@\"", megabytes << 10);
    let start = Instant::now();
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .arg(program)
        .args(arguments)
        .current_dir(directory)
        .envs(environment.iter().copied())
        .env("NO_COLOR", "1")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    // Each pipe has a reader of its own, so that a full one never stops the process.
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = reader(Box::new(child.stdout.take().expect("a pipe")));
    let stderr = reader(Box::new(child.stderr.take().expect("a pipe")));
    let status = loop {
        match child.try_wait().expect("a process") {
            Some(status) => break Some(status),
            None if start.elapsed() > Duration::from_secs(seconds) => {
                child.kill().expect("a kill");
                child.wait().expect("an end");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Ended {
        code: status.and_then(|status| status.code()),
        stdout: stdout.join().expect("text"),
        stderr: stderr.join().expect("text"),
        seconds: start.elapsed().as_secs_f64(),
    }
}
