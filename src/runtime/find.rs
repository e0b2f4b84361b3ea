//! Where the shared library comes from, in the order in which it is looked for.

use std::{
    ffi::CStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Attempt, Error, MINIMUM_VERSION};

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by the caller (`--ort`).
    Argument,
    /// `ORT_DYLIB_PATH`.
    Environment,
    /// The user's cache, where `install` keeps its copy.
    Cache,
    /// A package of the Python on the PATH.
    Python,
    /// Downloaded just now into the cache.
    Fetched,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Argument => "--ort",
            Origin::Environment => "ORT_DYLIB_PATH",
            Origin::Cache => "the user's cache",
            Origin::Python => "the Python on the PATH",
            Origin::Fetched => "pip download",
        })
    }
}

/// A shared library whose version was read and is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    pub path: PathBuf,
    /// As the library reports it, `1.20.1`.
    pub version: String,
    pub origin: Origin,
}

/// Whether a library may be downloaded when none is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    Allowed,
    Never,
}

/// The package of the Python package index that holds the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Package {
    Cpu,
    Cuda,
}

impl Package {
    pub fn name(self) -> &'static str {
        match self {
            Package::Cpu => "onnxruntime",
            Package::Cuda => "onnxruntime-gpu",
        }
    }
}

/// The first usable library: `explicit`, `ORT_DYLIB_PATH`, the user's cache, the Python on the PATH; at last it is fetched,
/// which `say` is told.
///
/// # Errors
/// A library that the user named and that cannot be used is an error of its own; otherwise [`Error::NotFound`] says what was
/// tried.
pub fn find(explicit: Option<&Path>, fetch: Fetch, say: &mut dyn FnMut(&str)) -> Result<Library, Error> {
    if let Some(path) = explicit {
        return named(Origin::Argument, path);
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return named(Origin::Environment, Path::new(&path));
    }
    let mut attempts = Vec::new();
    for (origin, candidates) in
        [(Origin::Cache, in_cache as fn() -> Result<Vec<PathBuf>, String>), (Origin::Python, in_python)]
    {
        match candidates().and_then(|paths| first_usable(origin, &paths)) {
            Ok(library) => return Ok(library),
            Err(why) => attempts.push(Attempt { origin, why }),
        }
    }
    let why = match fetch {
        Fetch::Never => "not asked for".to_owned(),
        Fetch::Allowed => match install(Package::Cpu, say) {
            Ok(library) => return Ok(library),
            Err(error) => error.to_string(),
        },
    };
    attempts.push(Attempt { origin: Origin::Fetched, why });
    Err(Error::NotFound { attempts })
}

fn named(origin: Origin, path: &Path) -> Result<Library, Error> {
    let path = &resolve(path);
    let version = library_version(path).map_err(|why| Error::Library { origin, path: path.to_owned(), why })?;
    if !new_enough(&version) {
        return Err(Error::TooOld { path: path.to_owned(), found: version });
    }
    Ok(Library { path: path.to_owned(), version, origin })
}

/// A relative path counts from the working directory; a bare name that is no file there is left to the system's loader.
pub(super) fn resolve(path: &Path) -> PathBuf {
    if path.exists() { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

fn first_usable(origin: Origin, paths: &[PathBuf]) -> Result<Library, String> {
    let mut refused = Vec::new();
    for path in paths {
        match named(origin, path) {
            Ok(library) => return Ok(library),
            Err(error) => refused.push(error.to_string()),
        }
    }
    Err(refused.join("; "))
}

fn new_enough(version: &str) -> bool {
    version_key(version).as_slice() >= [MINIMUM_VERSION.0, MINIMUM_VERSION.1].as_slice()
}

/// The numbers of a version or file name, for ordering.
fn version_key(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// What `OrtGetApiBase()->GetVersionString()` of the library says.
#[allow(unsafe_code)]
fn library_version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers. The path was named by the user or belongs to an installed package, and
    // `OrtGetApiBase` has had this signature in every release; both pointers are checked or promised by its documentation.
    unsafe {
        let library = libloading::Library::new(path).map_err(|error| format!("it cannot be loaded: {error}"))?;
        let base = library
            .get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0")
            .map_err(|_| "it is not ONNX Runtime: it has no function OrtGetApiBase".to_owned())?();
        if base.is_null() {
            return Err("OrtGetApiBase returned nothing".to_owned());
        }
        let version = CStr::from_ptr(((*base).GetVersionString)()).to_string_lossy().into_owned();
        // The sessions use the same library: unloading and loading it again would cost time and nothing is gained.
        std::mem::forget(library);
        Ok(version)
    }
}

/// `$XDG_CACHE_HOME/fam-onnx`, `~/.cache/fam-onnx`.
fn cache_directory() -> Result<PathBuf, String> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| if cfg!(windows) { absolute("LOCALAPPDATA") } else { None })
        .or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache")))
        .map(|cache| cache.join("fam-onnx"))
        .ok_or_else(|| "there is no home directory to keep a cache in".to_owned())
}

fn in_cache() -> Result<Vec<PathBuf>, String> {
    let cache = cache_directory()?;
    let mut versions: Vec<PathBuf> = entries(&cache)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("onnxruntime-")))
        .collect();
    versions.sort_by_key(|path| rank(&path.file_name().unwrap_or_default().to_string_lossy()));
    let libraries: Vec<PathBuf> = versions.iter().rev().flat_map(|directory| libraries_in(directory)).collect();
    if libraries.is_empty() { Err(format!("nothing in {}", cache.display())) } else { Ok(libraries) }
}

/// Orders what the cache holds, the best last. A build with CUDA is there because someone asked for it, and it computes on CPUs
/// too.
fn rank(name: &str) -> (bool, Vec<u64>) {
    (name.starts_with(Package::Cuda.name()), version_key(name))
}

/// Asks Python where the package lies; the package itself is not imported, and the working directory is not looked into.
const LOCATE: &str = "
import importlib.util, sys
sys.path = [path for path in sys.path if path]
spec = importlib.util.find_spec('onnxruntime')
if spec is not None and spec.submodule_search_locations:
    print(list(spec.submodule_search_locations)[0])
";

fn in_python() -> Result<Vec<PathBuf>, String> {
    let mut seen = Vec::new();
    for interpreter in PYTHONS {
        let Ok(output) = Command::new(interpreter).args(["-c", LOCATE]).output() else {
            continue;
        };
        let location = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if location.is_empty() {
            seen.push(format!("{interpreter} has no package onnxruntime"));
            continue;
        }
        let libraries = libraries_in(&Path::new(&location).join("capi"));
        if !libraries.is_empty() {
            return Ok(libraries);
        }
        seen.push(format!("{location}/capi holds no library"));
    }
    Err(if seen.is_empty() { "there is no Python".to_owned() } else { seen.join("; ") })
}

const PYTHONS: [&str; 2] = ["python3", "python"];

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(read) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = read.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    paths.sort();
    paths
}

/// The runtime's own libraries in a directory, the newest first.
fn libraries_in(directory: &Path) -> Vec<PathBuf> {
    let mut libraries: Vec<PathBuf> = entries(directory)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| is_main_library(&name.to_string_lossy())))
        .collect();
    libraries.sort_by_key(|path| version_key(&path.file_name().unwrap_or_default().to_string_lossy()));
    libraries.reverse();
    libraries
}

fn is_main_library(name: &str) -> bool {
    name.starts_with("libonnxruntime.so")
        || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
        || name == "onnxruntime.dll"
}

/// The main library and the providers that it loads from its own directory.
fn is_runtime_library(name: &str) -> bool {
    is_main_library(name)
        || name.starts_with("libonnxruntime_providers_")
        || (name.starts_with("onnxruntime_providers_") && name.ends_with(".dll"))
}

/// Downloads the newest release that fits the Python on the PATH and keeps its libraries in the user's cache.
///
/// # Errors
/// [`Error::Fetch`] with pip's own last line if it fails, [`Error::Io`] if the cache cannot be written.
pub fn install(package: Package, say: &mut dyn FnMut(&str)) -> Result<Library, Error> {
    let command = format!("python3 -m pip download --no-deps --only-binary :all: {}", package.name());
    let failed = |why: String| Error::Fetch { command: command.clone(), why };
    let cache = cache_directory().map_err(failed)?;
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(&cache).map_err(io_error(&cache))?;
    let staging = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&cache).map_err(io_error(&cache))?;

    say(&format!("fetching {} into {} (once)", package.name(), cache.display()));
    download(package, staging.path()).map_err(failed)?;
    let wheel = entries(staging.path())
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| failed("it left no wheel".to_owned()))?;
    let version = wheel_version(&wheel).ok_or_else(|| failed(format!("{} has no version", wheel.display())))?;

    let unpacked = staging.path().join("unpacked");
    fs::create_dir(&unpacked).map_err(io_error(&unpacked))?;
    extract_libraries(&wheel, &unpacked).map_err(failed)?;
    let target = cache.join(format!("{}-{version}", package.name()));
    match fs::rename(&unpacked, &target) {
        Ok(()) => {}
        // Another process was faster; its copy is the same.
        Err(_) if target.is_dir() => {}
        Err(source) => {
            return Err(Error::Io { path: target, source });
        }
    }
    first_usable(Origin::Fetched, &libraries_in(&target)).map_err(failed)
}

fn download(package: Package, directory: &Path) -> Result<(), String> {
    for interpreter in PYTHONS {
        let run = Command::new(interpreter)
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--quiet",
                "--disable-pip-version-check",
                "--dest",
            ])
            .arg(directory)
            .arg(package.name())
            .output();
        match run {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
                return Err(last.trim().to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("there is no Python on the PATH".to_owned())
}

/// The second field of a wheel's file name.
fn wheel_version(wheel: &Path) -> Option<String> {
    wheel.file_stem()?.to_str()?.split('-').nth(1).map(str::to_owned)
}

fn extract_libraries(wheel: &Path, into: &Path) -> Result<(), String> {
    let text = |error: &dyn fmt::Display| format!("{}: {error}", wheel.display());
    let file = fs::File::open(wheel).map_err(|error| text(&error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| text(&error))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| text(&error))?;
        let entry_name = entry.name().map_err(|error| text(&error))?.into_owned();
        let Some((directory, name)) = entry_name.rsplit_once('/') else {
            continue;
        };
        if !directory.ends_with("capi") || !is_runtime_library(name) {
            continue;
        }
        let mut library = fs::File::create(into.join(name)).map_err(|error| text(&error))?;
        io::copy(&mut entry, &mut library).map_err(|error| text(&error))?;
        library.sync_all().map_err(|error| text(&error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(new_enough("1.18.0"));
        assert!(new_enough("1.100.0"));
        assert!(new_enough("2.0.0"));
        assert!(!new_enough("1.17.3"));
        assert!(!new_enough("1.9.0"));
        assert!(!new_enough("nonsense"));
    }

    #[test]
    fn a_build_with_cuda_comes_before_a_newer_one_without() {
        let mut names = ["onnxruntime-1.32.0", "onnxruntime-gpu-1.31.1", "onnxruntime-1.9.0", "onnxruntime-gpu-1.31.0"];
        names.sort_by_key(|name| rank(name));
        assert_eq!(
            names,
            ["onnxruntime-1.9.0", "onnxruntime-1.32.0", "onnxruntime-gpu-1.31.0", "onnxruntime-gpu-1.31.1"]
        );
    }

    #[test]
    fn only_the_main_library_is_loaded() {
        for name in ["libonnxruntime.so.1.20.1", "libonnxruntime.so", "libonnxruntime.1.20.1.dylib", "onnxruntime.dll"]
        {
            assert!(is_main_library(name), "{name}");
        }
        for name in
            ["libonnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so", "onnxruntime_providers_shared.dll"]
        {
            assert!(!is_main_library(name), "{name}");
        }
    }
}
