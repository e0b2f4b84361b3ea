//! Helpers of the integration tests: an ONNX Runtime, a Python with pinned packages, fixtures.
//! Every test binary compiles this file and uses a part of it.
#![allow(dead_code)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use fam_onnx::runtime::{Fetch, Runtime};

/// The packages of the tests' Python.
const PACKAGES: [&str; 3] = ["onnx==1.20.1", "numpy==2.3.5", "onnxruntime==1.23.2"];

/// The library that the program finds by itself, loaded; one a process.
pub fn runtime() -> Runtime {
    Runtime::open(None, Fetch::Allowed, &mut |text| eprintln!("{text}")).expect("an ONNX Runtime")
}

/// Path of that library.
pub fn ort() -> PathBuf {
    runtime().library().path.clone()
}

/// A Python interpreter with [`PACKAGES`], in a virtual environment below `target/` that is made once.
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(make_python).clone()
}

fn make_python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let environment = target.join("test-python");
    let interpreter = environment.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let wanted = PACKAGES.join("\n");
    let stamp = environment.join("packages.txt");
    let is_ready = || fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);

    // Test binaries run side by side; the first makes the environment and the others wait for it.
    let lock = File::create(target.join("test-python.lock")).expect("a lock file");
    lock.lock().expect("the lock");
    if !is_ready() {
        eprintln!("making a Python environment with {} in {} (once)", PACKAGES.join(", "), environment.display());
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&interpreter).args(pip).args(PACKAGES));
        fs::write(&stamp, &wanted).expect("the list of packages");
    }
    interpreter
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a script of `tests/common` with the tests' Python.
pub fn script(name: &str, arguments: &[&Path]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common").join(name);
    run(Command::new(python()).arg(path).args(arguments));
}

/// `fixtures/NAME`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A command that runs the program itself, without a terminal's colours.
pub fn fam_onnx(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fam-onnx"));
    command.args(arguments).env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
    command
}
