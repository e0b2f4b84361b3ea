use std::{fmt, path::PathBuf};

use super::{MINIMUM_VERSION, Origin};
use crate::tensor::DType;

/// Why ONNX Runtime could not be found, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no ONNX Runtime {}.{} or newer was found{}\nPoint at a library (libonnxruntime.so, .dylib or onnxruntime.dll) with ORT_DYLIB_PATH, \
         or install one for the Python on the PATH: python3 -m pip install onnxruntime",
        MINIMUM_VERSION.0,
        MINIMUM_VERSION.1,
        tried(attempts)
    )]
    NotFound { attempts: Vec<Attempt> },
    /// The library that the user named cannot be used.
    #[error("{origin}: {}: {why}", path.display())]
    Library { origin: Origin, path: PathBuf, why: String },
    #[error(
        "{}: ONNX Runtime {found}, but {}.{} or newer is needed; install a newer one: python3 -m pip install --upgrade onnxruntime",
        path.display(),
        MINIMUM_VERSION.0,
        MINIMUM_VERSION.1
    )]
    TooOld { path: PathBuf, found: String },
    #[error(
        "ONNX Runtime is loaded from {} already; a process cannot load another one from {}",
        loaded.display(),
        wanted.display()
    )]
    AlreadyLoaded { loaded: PathBuf, wanted: PathBuf },
    #[error("`{command}` failed: {why}")]
    Fetch { command: String, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{given}` is not a device; expected auto, cpu, cuda or cuda:INDEX")]
    DeviceName { given: String },
    #[error("the device {device} needs a build of ONNX Runtime with CUDA; {} is one without", library.display())]
    NoCuda { device: String, library: PathBuf },
    /// A library that ONNX Runtime's own needs, or one of its own.
    #[error(
        "the device {device} needs {missing}, which is not found; the ONNX Runtime at {} is built for the CUDA and cuDNN that have it",
        library.display()
    )]
    DeviceLibrary { device: String, library: PathBuf, missing: String },
    #[error("the device {device} cannot be used with the ONNX Runtime at {}: {why}", library.display())]
    Device { device: String, library: PathBuf, why: String },
    #[error("{graph}: ONNX Runtime does not load it: {why}")]
    Load { graph: String, why: String },
    #[error("{graph}: ONNX Runtime stopped while running it: {why}")]
    Run { graph: String, why: String },
    #[error("{graph}: there is no {what} named `{name}`; it has {}", names(found))]
    NoSuchPort { graph: String, what: &'static str, name: String, found: Vec<String> },
    #[error("{graph}: the {what} `{name}` is {found}; expected {expected}")]
    Port { graph: String, what: &'static str, name: String, found: String, expected: String },
    #[error(
        "{graph}: the tensor for `{name}` is {found:?} of {found_dtype}; expected {expected:?} of {expected_dtype}"
    )]
    Tensor {
        graph: String,
        name: String,
        found: Vec<usize>,
        found_dtype: DType,
        expected: Vec<usize>,
        expected_dtype: DType,
    },
    #[error("{graph}: no value was given for the input `{name}`")]
    Missing { graph: String, name: String },
}

/// One place where a library was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub origin: Origin,
    /// What was found there instead of a usable library.
    pub why: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.why)
    }
}

/// The shared library that the system's loader did not find, as ONNX Runtime reports it.
pub(super) fn missing_library(why: &str) -> Option<String> {
    let (before, _) = why.split_once(": cannot open shared object file")?;
    before.rsplit(' ').next().map(str::to_owned)
}

fn tried(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  {attempt}")).collect()
}

fn names(found: &[String]) -> String {
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{Error, missing_library};

    #[test]
    fn the_loader_names_the_library_that_it_does_not_find() {
        let why = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
                   onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                   /opt/ort/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: \
                   No such file or directory";
        let missing = missing_library(why).expect("a library");
        let error =
            Error::DeviceLibrary { device: "cuda:0".to_owned(), library: "/opt/ort/libonnxruntime.so".into(), missing };
        assert_eq!(
            error.to_string(),
            "the device cuda:0 needs libcublasLt.so.13, which is not found; \
             the ONNX Runtime at /opt/ort/libonnxruntime.so is built for the CUDA and cuDNN that have it"
        );
        assert_eq!(
            missing_library("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"),
            None
        );
    }
}
