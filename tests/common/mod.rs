//! Helpers of the integration tests: an ONNX Runtime, a Python with pinned packages, fixtures.
//! Every test binary compiles this file and uses a part of it.
#![allow(dead_code)]

pub mod judge;
pub mod npz;
pub mod place;
pub mod rng;
pub mod step;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use fam_onnx::runtime::{Fetch, Runtime};

/// The packages of the tests' Python.
const PACKAGES: [&str; 4] = ["onnx==1.20.1", "numpy==2.3.5", "onnxruntime==1.23.2", "safetensors==0.7.0"];

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
    PYTHON.get_or_init(|| make_python("test-python", &PACKAGES)).clone()
}

/// A Python interpreter with TensorBoard, whose reader judges the events of a run.
pub fn tensorboard_python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| make_python("test-python-tensorboard", &["tensorboard==2.21.0"])).clone()
}

/// A Python interpreter with the last release of ONNX Runtime that has the training API (for CPython 3.8 to 3.11).
pub fn ort_training_python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| make_python("test-python-ort-training", &["onnxruntime-training-cpu==1.19.2"])).clone()
}

fn make_python(name: &str, packages: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let environment = target.join(name);
    let interpreter = environment.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let wanted = packages.join("\n");
    let stamp = environment.join("packages.txt");
    let is_ready = || fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);

    // Test binaries run side by side; the first makes the environment and the others wait for it.
    let lock = File::create(target.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock");
    if !is_ready() {
        eprintln!("making a Python environment with {} in {} (once)", packages.join(", "), environment.display());
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&interpreter).args(pip).args(packages));
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

/// The artifact of `make_toy_artifact.py` in a new directory; `plain` as that script says.
pub fn toy_artifact(directory: &Path, plain: bool) -> PathBuf {
    let artifact = directory.join("toy.fam");
    let mut arguments = vec![artifact.as_path()];
    arguments.extend(plain.then_some(Path::new("plain")));
    script("make_toy_artifact.py", &arguments);
    artifact
}

/// Data for it that softmax regression can learn but not fit: `samples` of 4 features, 3 classes.
pub fn toy_data(samples: usize) -> (Vec<f32>, Vec<i64>) {
    // A linear congruential generator is random enough, and the same everywhere.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let x: Vec<f32> = (0..4 * samples).map(|_| 3.0 * uniform()).collect();
    let labels = x.chunks(4).map(|x| match (x[0] + x[1] + uniform() > 0.0, x[2] - x[3] + uniform() > 0.0) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    });
    let labels = labels.collect();
    (x, labels)
}

/// [`toy_data`] as an `.npz` file.
pub fn toy_npz(directory: &Path, samples: usize) -> PathBuf {
    let (x, labels) = toy_data(samples);
    let path = directory.join("toy.npz");
    let arrays = [("x", npz::f32s(&[samples, 4], &x)), ("labels", npz::i64s(&[samples], &labels))];
    npz::write(&path, &arrays, true);
    path
}

/// What a command printed, with `directory` written as `DIR`.
pub fn text(bytes: &[u8], directory: &Path) -> String {
    String::from_utf8_lossy(bytes).replace(&directory.display().to_string(), "DIR")
}
