//! `manifest.json`: every name of a standard artifact by its role. Scripts read it, so its fields only grow within a version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ort_training;
use crate::{
    files,
    tensor::{DType, Tensors},
};

/// The file's name within an artifact.
pub const FILE: &str = "manifest.json";
/// Initial parameters and state, within an artifact.
pub const PARAMETERS: &str = "parameters.safetensors";
/// The inference graph without weights, within an artifact.
pub const MODEL: &str = "model.onnx";
/// The version that this program writes and reads.
pub const VERSION: u32 = 1;
/// Bytes of a manifest at most.
const LONGEST: u64 = 64 << 20;
/// Elements of a probe for one sample at most.
const MOST_ELEMENTS: u64 = 1 << 32;
/// The one symbol that a probe's shape may hold.
pub const BATCH: &str = "batch";

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}; an artifact is a directory that `fam-onnx inject` writes", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a manifest: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: version {found}, but this program reads version {VERSION}; use the fam-onnx that wrote it, or inject anew", path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("{}: an artifact for ONNX Runtime's training API, which trains it; this program exports its checkpoints", path.display())]
    OrtTraining { path: PathBuf },
    /// A manifest, or tensors that are not as it says.
    #[error("{}: {}", path.display(), list(faults))]
    Invalid { path: PathBuf, faults: Vec<Fault> },
    #[error("{}: {}; inject anew or take another copy", directory.display(), list(files))]
    Files { directory: PathBuf, files: Vec<FileFault> },
}

/// Why a file of an artifact is not the one that its manifest lists.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    #[error("{name}: {source}")]
    Io { name: String, source: std::io::Error },
    #[error("{name} was changed or cut short: its SHA-256 is {found}, but the manifest says {expected}")]
    Digest { name: String, expected: String, found: String },
}

/// One thing wrong in a manifest that is well-formed JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("{place} names `{name}`, which is neither a parameter nor a state tensor")]
    UnknownName { place: String, name: String },
    #[error("`{name}` stands twice among the parameters and the state")]
    Duplicate { name: String },
    #[error("the trainable parameter `{name}` has no entry in {place}")]
    NotUpdated { place: String, name: String },
    #[error("{place} has the path `{path}`; expected the name of a file in the artifact's directory")]
    Path { place: String, path: String },
    #[error("layer `{layer}` has λ = {lambda}; expected a finite number ≥ 0")]
    Lambda { layer: String, lambda: f64 },
    #[error("probe `{probe}` has the symbolic dimension `{symbol}`; expected numbers and `{BATCH}` only")]
    Symbol { probe: String, symbol: String },
    #[error("probe `{probe}` has more than 2^32 elements a sample, which no runtime takes")]
    ProbeSize { probe: String },
    #[error("probe `{probe}` has the probability {found:?}; expected a number from 0 to 1")]
    Probability { probe: String, found: Option<f64> },
    #[error("{graph} has the input `{name}`, which has no role here")]
    NoRole { graph: String, name: String },
    #[error("{graph} has no {what} `{name}`")]
    NoPort { graph: String, what: &'static str, name: String },
    #[error("`{name}` of {graph} is {found}; expected {expected}")]
    PortType { graph: String, name: String, found: String, expected: String },
    #[error("the {role} `{name}` is not in it, but the manifest lists it")]
    NoTensor { role: &'static str, name: String },
    #[error("the {role} `{name}` is {found}; the manifest says {expected}")]
    TensorType { role: &'static str, name: String, found: String, expected: String },
    #[error("{graph} cannot be read: {why}")]
    Unreadable { graph: String, why: String },
    #[error("{place} has {found} names for κ; expected none or {expected}, one a layer")]
    KappaCount { place: String, found: usize, expected: usize },
}

fn list(faults: &[impl ToString]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A whole manifest. The order of the fields is the order in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Version of the program that wrote it.
    pub fam_onnx: String,
    pub source: Source,
    /// Version of the ONNX operator set of every graph.
    pub opset: u32,
    /// The options of `inject`, as given.
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
    pub layers: Vec<Layer>,
    /// Masks of the dropouts that train: inputs of ones and zeros, drawn afresh for each batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masks: Vec<Probe>,
    /// The model's inputs that data must fill.
    pub inputs: Vec<String>,
    /// The input that takes the labels; `None` where the model computes its own loss.
    pub labels: Option<String>,
    /// What the labels are; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_spec: Option<LabelSpec>,
    /// A kind such as `softmax-cross-entropy`, the file name of a loss model, or the name of the model's own output.
    pub loss: String,
    pub parameters: Vec<Parameter>,
    /// What a step carries besides the parameters: optimiser moments, running statistics, a step counter.
    pub state: Vec<State>,
    pub graphs: Graphs,
    /// SHA-256 of every file of the artifact but this one, by file name.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
}

/// The model that the artifact was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// File name without directories.
    pub name: String,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// A regularised layer; its weight is seen as `W[d, m]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    /// The parameter that the layer's weight is, or the integers that it is dequantised from.
    pub weight: String,
    /// The weight is dequantised from constants of the graphs and does not train.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub constant: bool,
    /// Outputs (neurons).
    pub d: usize,
    /// Fan-in.
    pub m: usize,
    pub lambda: f64,
    /// The graph input that overrides `lambda`; `None` where λ = 0 left the FAM part out.
    #[serde(default)]
    pub lambda_input: Option<String>,
    /// `neuronwise` or `layerwise`.
    pub measure: String,
    /// `exact`, `hutchinson` or `gauss-newton`.
    pub estimator: String,
    pub probes: Vec<Probe>,
}

/// A graph input of random numbers that whoever drives the graph fills afresh each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub name: String,
    pub shape: Vec<Dim>,
    pub distribution: Distribution,
    /// Of a one, where the distribution is `bernoulli`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

/// What labels are, for whoever checks data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelSpec {
    pub dtype: DType,
    pub shape: Vec<Dim>,
    /// Number of classes, where labels are class indices from 0.
    pub classes: Option<usize>,
    /// A class index that the loss leaves out.
    pub ignore_index: Option<i64>,
    /// Bounds of every label.
    pub range: Option<[f64; 2]>,
}

/// A dimension: a number, or a symbol; of a probe `batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    Fixed(usize),
    Symbol(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// +1 or −1, each with probability one half.
    Rademacher,
    /// 1 with a probability of its own, else 0.
    Bernoulli,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub trainable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graphs {
    pub gradient: GradientGraph,
    pub optimizer: OptimizerGraph,
    pub train: TrainGraph,
    pub evaluate: EvaluateGraph,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GradientGraph {
    pub path: String,
    pub loss: String,
    /// One a layer, in the order of `layers`; empty where λ = 0.
    pub kappa: Vec<String>,
    pub objective: String,
    /// Parameter → output that holds its gradient.
    pub gradients: BTreeMap<String, String>,
    /// State whose new value comes with the gradient (running statistics) → output that holds it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub updates: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizerGraph {
    pub path: String,
    /// Input, a float32 scalar.
    pub learning_rate: String,
    /// Parameter → input that takes its gradient.
    pub gradients: BTreeMap<String, String>,
    /// Output, the joint norm of the gradients before clipping; a float32 scalar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<String>,
    /// Parameter or state → output that holds its new value.
    pub updates: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainGraph {
    pub path: String,
    /// Input, a float32 scalar.
    pub learning_rate: String,
    pub loss: String,
    /// One a layer, in the order of `layers`; empty where λ = 0.
    pub kappa: Vec<String>,
    pub objective: String,
    /// Output, the joint norm of the objective's gradients before clipping; a float32 scalar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<String>,
    /// Parameter or state → output that holds its new value.
    pub updates: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateGraph {
    pub path: String,
    /// The model's outputs; the loss reads the first.
    pub predictions: Vec<String>,
    pub loss: String,
    pub kappa: Vec<String>,
    pub objective: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub sha256: String,
}

impl Manifest {
    /// Of no model, by this program.
    pub fn empty() -> Manifest {
        Manifest {
            version: VERSION,
            fam_onnx: env!("CARGO_PKG_VERSION").to_owned(),
            source: Source { name: String::new(), sha256: String::new() },
            opset: 0,
            options: serde_json::Map::new(),
            layers: Vec::new(),
            masks: Vec::new(),
            inputs: Vec::new(),
            labels: None,
            label_spec: None,
            loss: String::new(),
            parameters: Vec::new(),
            state: Vec::new(),
            graphs: Graphs::default(),
            files: BTreeMap::new(),
        }
    }

    /// Reads and validates `directory/manifest.json`.
    ///
    /// # Errors
    /// [`Error::Version`] before anything else is looked at; [`Error::Invalid`] lists every fault at once.
    pub fn read(directory: &Path) -> Result<Manifest, Error> {
        let path = directory.join(FILE);
        let text = files::read_text(&path, LONGEST).map_err(|source| Error::Io { path: path.clone(), source })?;
        Manifest::parse(&path, &text)
    }

    /// Parses and validates the text of a manifest; `path` only names it in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, Error> {
        let json = |source| Error::Json { path: path.to_owned(), source };
        let value: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        if let Some(found) = value.get("version").and_then(serde_json::Value::as_u64)
            && found != u64::from(VERSION)
        {
            return Err(Error::Version { path: path.to_owned(), found });
        }
        if value.get("format").is_some_and(|format| format == ort_training::FORMAT) {
            return Err(Error::OrtTraining { path: path.to_owned() });
        }
        // From the text and not from the value, so that the message has a line and a column.
        let manifest: Manifest = serde_json::from_str(text).map_err(json)?;
        let faults = manifest.faults();
        if faults.is_empty() { Ok(manifest) } else { Err(Error::Invalid { path: path.to_owned(), faults }) }
    }

    /// The text of the file: fields in a fixed order, indented, a newline at the end.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it would be refused when read.
    pub fn to_json(&self) -> Result<String, Error> {
        let faults = self.faults();
        if !faults.is_empty() {
            return Err(Error::Invalid { path: FILE.into(), faults });
        }
        let mut text =
            serde_json::to_string_pretty(self).map_err(|source| Error::Json { path: FILE.into(), source })?;
        text.push('\n');
        Ok(text)
    }

    /// What is inconsistent; empty for a manifest that can be used.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for name in self.carried() {
            if !names.insert(name) {
                faults.push(Fault::Duplicate { name: name.to_owned() });
            }
        }
        for (graph, path) in self.graph_paths() {
            if path.is_empty() || path.contains(['/', '\\']) || path.starts_with('.') {
                faults.push(Fault::Path { place: format!("graphs.{graph}"), path: path.to_owned() });
            }
        }
        self.check_names(&names, &mut faults);
        self.check_layers(&names, &mut faults);
        faults
    }

    fn check_names(&self, names: &BTreeSet<&str>, faults: &mut Vec<Fault>) {
        let graphs = &self.graphs;
        let maps = [
            ("graphs.gradient.gradients", &graphs.gradient.gradients),
            ("graphs.gradient.updates", &graphs.gradient.updates),
            ("graphs.optimizer.gradients", &graphs.optimizer.gradients),
            ("graphs.optimizer.updates", &graphs.optimizer.updates),
            ("graphs.train.updates", &graphs.train.updates),
        ];
        for (place, map) in maps {
            for name in map.keys().filter(|name| !names.contains(name.as_str())) {
                faults.push(Fault::UnknownName { place: place.to_owned(), name: name.clone() });
            }
        }
        for parameter in self.parameters.iter().filter(|p| p.trainable) {
            if !graphs.train.updates.contains_key(&parameter.name) {
                let place = "graphs.train.updates".to_owned();
                faults.push(Fault::NotUpdated { place, name: parameter.name.clone() });
            }
        }
    }

    fn check_layers(&self, names: &BTreeSet<&str>, faults: &mut Vec<Fault>) {
        for layer in &self.layers {
            if !layer.constant && !names.contains(layer.weight.as_str()) {
                let place = format!("layer `{}`", layer.name);
                faults.push(Fault::UnknownName { place, name: layer.weight.clone() });
            }
            if !(layer.lambda.is_finite() && layer.lambda >= 0.0) {
                faults.push(Fault::Lambda { layer: layer.name.clone(), lambda: layer.lambda });
            }
        }
        for probe in self.probes() {
            for dim in &probe.shape {
                if let Dim::Symbol(symbol) = dim
                    && symbol != BATCH
                {
                    faults.push(Fault::Symbol { probe: probe.name.clone(), symbol: symbol.clone() });
                }
            }
            let sizes =
                probe.shape.iter().filter_map(|dim| if let Dim::Fixed(n) = dim { Some(*n as u64) } else { None });
            if sizes.fold(1u64, u64::saturating_mul) > MOST_ELEMENTS {
                faults.push(Fault::ProbeSize { probe: probe.name.clone() });
            }
            let probable = probe.probability.is_some_and(|p| (0.0..=1.0).contains(&p));
            if probe.distribution == Distribution::Bernoulli && !probable {
                faults.push(Fault::Probability { probe: probe.name.clone(), found: probe.probability });
            }
        }
        let kappas = [
            ("graphs.gradient", self.graphs.gradient.kappa.len()),
            ("graphs.train", self.graphs.train.kappa.len()),
            ("graphs.evaluate", self.graphs.evaluate.kappa.len()),
        ];
        let expected = self.layers.len();
        for (place, found) in kappas {
            if found != 0 && found != expected {
                faults.push(Fault::KappaCount { place: place.to_owned(), found, expected });
            }
        }
    }

    /// Names of the parameters, then of the state. A running statistic that trains stands in both, and comes once.
    pub fn carried(&self) -> impl Iterator<Item = &str> {
        let statistics: BTreeSet<&str> =
            self.parameters.iter().filter(|p| !p.trainable).map(|p| p.name.as_str()).collect();
        let state = self.state.iter().map(|s| s.name.as_str()).filter(move |name| !statistics.contains(name));
        self.parameters.iter().map(|p| p.name.as_str()).chain(state)
    }

    /// Every probe of every layer, then the masks: all inputs that are drawn at random.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.layers.iter().flat_map(|layer| &layer.probes).chain(&self.masks)
    }

    /// The graphs' names and file names.
    pub fn graph_paths(&self) -> [(&'static str, &str); 4] {
        let g = &self.graphs;
        [
            ("gradient", g.gradient.path.as_str()),
            ("optimizer", g.optimizer.path.as_str()),
            ("train", g.train.path.as_str()),
            ("evaluate", g.evaluate.path.as_str()),
        ]
    }

    /// Compares the named files in `directory` with the digests of the manifest; a file without a digest passes.
    ///
    /// # Errors
    /// [`Error::Files`] with each that cannot be read or differs; [`Error::Invalid`] with everything in which the graphs
    /// among them are not as the manifest has it.
    pub fn verify_files(&self, directory: &Path, names: &[&str]) -> Result<(), Error> {
        let fault = |name: &&str| {
            let (name, expected) = (name.to_string(), self.files.get(*name)?.sha256.clone());
            match sha256_file(&directory.join(&name)) {
                Ok(found) if found == expected => None,
                Ok(found) => Some(FileFault::Digest { name, expected, found }),
                Err(source) => Some(FileFault::Io { name, source }),
            }
        };
        let files: Vec<FileFault> = names.iter().filter_map(fault).collect();
        if !files.is_empty() {
            return Err(Error::Files { directory: directory.to_owned(), files });
        }
        let faults = super::agreement::faults(self, directory, names);
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid { path: directory.join(FILE), faults }) }
    }

    /// Compares tensors read from `path` with the parameters and, where a step is to take them, the state.
    ///
    /// # Errors
    /// [`Error::Invalid`] with each that is missing or of another type or shape.
    pub fn verify_tensors(&self, path: &Path, tensors: &Tensors, with_state: bool) -> Result<(), Error> {
        let faults = super::agreement::tensor_faults(self, tensors, with_state);
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid { path: path.to_owned(), faults }) }
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file's content in lower-case hexadecimal.
pub fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
