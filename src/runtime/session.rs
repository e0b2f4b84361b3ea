//! The library, loaded once a process, and sessions with it.

use std::{
    fmt,
    path::Path,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use ort::{
    ep::{self, ExecutionProvider},
    logging::LogLevel,
    memory::Allocator,
    session::builder::SessionBuilder,
    value::{DynTensor, Outlet, ValueType},
};

use super::{
    Error, Fetch, Library,
    error::missing_library,
    find,
    value::{self, Place},
};
use crate::tensor::{DType, Tensor};

/// A loaded ONNX Runtime. Clones share it.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: ort::environment::Environment,
    library: Library,
}

/// ONNX Runtime keeps one environment a process, and it cannot be made a second time.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Finds a library and loads it: `explicit`, else `ORT_DYLIB_PATH`, the user's cache, the Python on the PATH; at last it
    /// is fetched, which `say` is told. A process loads one library; asking again gives the same.
    ///
    /// # Errors
    /// [`Error::NotFound`] says what was tried; [`Error::Library`] and [`Error::TooOld`] are of a library that was named;
    /// [`Error::AlreadyLoaded`] if `explicit` names another library than the one in use.
    pub fn open(explicit: Option<&Path>, fetch: Fetch, say: &mut dyn FnMut(&str)) -> Result<Runtime, Error> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = loaded.as_ref() {
            return match explicit {
                Some(wanted) if find::resolve(wanted) != runtime.library.path => {
                    Err(Error::AlreadyLoaded { loaded: runtime.library.path.clone(), wanted: wanted.to_owned() })
                }
                _ => Ok(runtime.clone()),
            };
        }
        let library = find::find(explicit, fetch, say)?;
        let refused = |why: String| Error::Library { origin: library.origin, path: library.path.clone(), why };
        let environment = ort::init_from(&library.path)
            .map_err(|error| refused(error.to_string()))?
            .with_name("fam-onnx")
            .with_telemetry(false)
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(loaded.insert(Runtime { environment, library }).clone())
    }

    pub fn library(&self) -> &Library {
        &self.library
    }

    /// The devices that this build of the library has kernels for. Whether CUDA's own libraries are there shows only when a
    /// session asks for them.
    pub fn devices(&self) -> Vec<Device> {
        let mut devices = vec![Device::Cpu];
        if self.has_cuda() {
            devices.push(Device::Cuda(0));
        }
        devices
    }

    fn has_cuda(&self) -> bool {
        ep::CUDA::is_available().unwrap_or(false)
    }
}

/// Where a session computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// CUDA where the library has it and it starts, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The GPU with this index.
    Cuda(i32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.pad("auto"),
            Device::Cpu => f.pad("cpu"),
            Device::Cuda(index) => f.pad(&format!("cuda:{index}")),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(given: &str) -> Result<Device, Error> {
        match given {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => given
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .filter(|index| *index >= 0)
                .map(Device::Cuda)
                .ok_or_else(|| Error::DeviceName { given: given.to_owned() }),
        }
    }
}

/// Threads within an operator at most; ONNX Runtime starts all that it is told to.
pub const MOST_THREADS: usize = 1024;

/// How a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub device: Device,
    /// Threads within an operator, [`MOST_THREADS`] of them at most; `None` leaves the choice to ONNX Runtime (a thread a
    /// physical core).
    pub threads: Option<usize>,
    /// Whether idle threads wait in a loop. It is faster while one session runs without a pause, and steals cores from
    /// everything else.
    pub spin: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { device: Device::Auto, threads: None, spin: true }
    }
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// `None` for a sequence, a map, strings and other things that are not numbers.
    pub dtype: Option<DType>,
    /// `None` where a dimension has no fixed number.
    pub shape: Vec<Option<usize>>,
    /// An input that may be left out, because the graph has a value for it.
    pub optional: bool,
}

impl Port {
    fn new(name: &str, kind: &ValueType, optional: bool) -> Port {
        let (dtype, shape) = match kind {
            ValueType::Tensor { ty, shape, .. } => {
                (value::dtype(*ty), shape.iter().map(|&d| usize::try_from(d).ok()).collect())
            }
            _ => (None, Vec::new()),
        };
        Port { name: name.to_owned(), dtype, shape, optional }
    }

    /// `float32 [batch? × 10]`-like text for messages.
    pub fn describe(&self) -> String {
        let dtype = self.dtype.map_or("not a tensor of numbers", DType::name);
        let dims: Vec<String> = self.shape.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
        format!("{dtype} [{}]", dims.join(", "))
    }
}

/// A graph that is ready to run.
pub struct Session {
    pub(super) inner: ort::session::Session,
    pub(super) graph: String,
    pub(super) place: Place,
    pub(super) host: Allocator,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    refused: Option<Error>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("graph", &self.graph).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the graph in a file; its external data is looked for beside it.
    ///
    /// # Errors
    /// [`Error::Load`] if ONNX Runtime refuses the graph, [`Error::NoCuda`], [`Error::DeviceLibrary`] or
    /// [`Error::Device`] if the device that was asked for cannot be used.
    pub fn from_file(runtime: &Runtime, path: &Path, options: &Options) -> Result<Session, Error> {
        let graph = path.display().to_string();
        open(runtime, graph, options, &mut |builder| builder.commit_from_file(path))
    }

    /// Opens a graph from the bytes of its file; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Session::from_file`].
    pub fn from_bytes(runtime: &Runtime, name: &str, bytes: &[u8], options: &Options) -> Result<Session, Error> {
        open(runtime, name.to_owned(), options, &mut |builder| builder.commit_from_memory(bytes))
    }

    /// Inputs in the graph's order, those with a default value last.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The device that the session really uses: never `Auto`.
    pub fn device(&self) -> Device {
        match self.place {
            Place::Host => Device::Cpu,
            Place::Cuda(index) => Device::Cuda(index),
        }
    }

    /// Why it is not CUDA, where [`Device::Auto`] has tried.
    pub fn refused(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    pub fn has_input(&self, name: &str) -> bool {
        self.inputs.iter().any(|port| port.name == name)
    }

    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn input(&self, name: &str) -> Result<&Port, Error> {
        self.port("input", &self.inputs, name)
    }

    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn output(&self, name: &str) -> Result<&Port, Error> {
        self.port("output", &self.outputs, name)
    }

    fn port<'a>(&self, what: &'static str, ports: &'a [Port], name: &str) -> Result<&'a Port, Error> {
        ports.iter().find(|port| port.name == name).ok_or_else(|| Error::NoSuchPort {
            graph: self.graph.clone(),
            what,
            name: name.to_owned(),
            found: ports.iter().map(|port| port.name.clone()).collect(),
        })
    }

    /// Runs the graph once: `feeds` by input name in, the named outputs out, all in host memory.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] for an unknown name, [`Error::Missing`] for an input without a value, [`Error::Run`] for what
    /// ONNX Runtime reports.
    pub fn run(&mut self, feeds: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, Error> {
        for port in self.inputs.iter().filter(|port| !port.optional) {
            if !feeds.iter().any(|(name, _)| *name == port.name) {
                return Err(Error::Missing { graph: self.graph.clone(), name: port.name.clone() });
            }
        }
        for name in outputs {
            self.output(name)?;
        }
        let mut values = Vec::with_capacity(feeds.len());
        for (name, tensor) in feeds {
            self.input(name)?;
            let value = value::from_tensor(&self.host, tensor).map_err(|error| run_error(&self.graph, &error))?;
            values.push(((*name).to_owned(), value));
        }
        let graph = &self.graph;
        let mut results = self.inner.run(values).map_err(|error| run_error(graph, &error))?;
        outputs
            .iter()
            .map(|name| {
                let value = results.remove(name).ok_or_else(|| no_tensor(graph, name))?;
                let value: DynTensor = value.downcast().map_err(|_| no_tensor(graph, name))?;
                value::to_tensor(&value)
                    .map_err(|error| run_error(graph, &error))?
                    .ok_or_else(|| no_tensor(graph, name))
            })
            .collect()
    }
}

pub(super) fn run_error<R>(graph: &str, error: &ort::Error<R>) -> Error {
    Error::Run { graph: graph.to_owned(), why: error.message().trim().to_owned() }
}

pub(super) fn no_tensor(graph: &str, name: &str) -> Error {
    Error::Port {
        graph: graph.to_owned(),
        what: "output",
        name: name.to_owned(),
        found: "not a tensor of numbers".to_owned(),
        expected: "one".to_owned(),
    }
}

type Commit<'a> = dyn FnMut(&mut SessionBuilder) -> ort::Result<ort::session::Session> + 'a;

fn open(runtime: &Runtime, graph: String, options: &Options, commit: &mut Commit) -> Result<Session, Error> {
    let mut refused = None;
    let (inner, place) = match options.device {
        Device::Cpu => (open_on_host(runtime, &graph, options, commit)?, Place::Host),
        Device::Cuda(index) => (open_on_cuda(runtime, &graph, options, index, commit)?, Place::Cuda(index)),
        Device::Auto if runtime.has_cuda() => match open_on_cuda(runtime, &graph, options, 0, commit) {
            Ok(inner) => (inner, Place::Cuda(0)),
            Err(error) => {
                refused = Some(error);
                (open_on_host(runtime, &graph, options, commit)?, Place::Host)
            }
        },
        Device::Auto => (open_on_host(runtime, &graph, options, commit)?, Place::Host),
    };
    let required = inner.inputs().iter().map(|outlet| port(outlet, false));
    let optional = inner.overridable_initializers();
    let inputs = required.chain(optional.iter().map(|i| Port::new(i.name(), i.dtype(), true))).collect();
    let outputs = inner.outputs().iter().map(|outlet| port(outlet, false)).collect();
    Ok(Session { inner, graph, place, host: Allocator::default(), inputs, outputs, refused })
}

fn port(outlet: &Outlet, optional: bool) -> Port {
    Port::new(outlet.name(), outlet.dtype(), optional)
}

fn open_on_host(
    runtime: &Runtime,
    graph: &str,
    options: &Options,
    commit: &mut Commit,
) -> Result<ort::session::Session, Error> {
    builder(runtime, options)
        .and_then(|mut builder| commit(&mut builder))
        .map_err(|error| Error::Load { graph: graph.to_owned(), why: error.message().trim().to_owned() })
}

fn open_on_cuda(
    runtime: &Runtime,
    graph: &str,
    options: &Options,
    index: i32,
    commit: &mut Commit,
) -> Result<ort::session::Session, Error> {
    let (device, library) = (Device::Cuda(index).to_string(), runtime.library.path.clone());
    if !runtime.has_cuda() {
        return Err(Error::NoCuda { device, library });
    }
    let refused = |why: &str| match missing_library(why) {
        Some(missing) => Error::DeviceLibrary { device: device.clone(), library: library.clone(), missing },
        None => Error::Device { device: device.clone(), library: library.clone(), why: why.trim().to_owned() },
    };
    // The heuristic search keeps a convolution with a dynamic weight from trying every algorithm for each new shape.
    let provider = ep::CUDA::default()
        .with_device_id(index)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    let mut builder = builder(runtime, options)
        .map_err(|error| refused(error.message()))?
        .with_execution_providers([provider])
        .map_err(|error| refused(error.message()))?;
    commit(&mut builder)
        .map_err(|error| Error::Load { graph: graph.to_owned(), why: error.message().trim().to_owned() })
}

fn builder(runtime: &Runtime, options: &Options) -> ort::Result<SessionBuilder> {
    let mut builder = SessionBuilder::new(&runtime.environment)?
        .with_log_level(LogLevel::Fatal)?
        .with_intra_op_spinning(options.spin)?
        .with_inter_op_spinning(options.spin)?;
    if let Some(threads) = options.threads {
        builder = builder.with_intra_threads(threads.min(MOST_THREADS))?;
    }
    Ok(builder)
}
