//! Checkpoints: a directory each, which appears whole or not at all, with a digest of every file in it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    artifact::manifest::{PARAMETERS, sha256},
    files,
    tensor::{self, Tensors},
};

/// Position, and what the loop remembers, within a checkpoint.
pub const STATE: &str = "state.json";
/// The moving average of the weights, where the run keeps one.
pub const AVERAGE: &str = "average.safetensors";
/// Digests of the other files, as `sha256sum -c` reads them.
pub const SUMS: &str = "SHA256SUMS";
const VERSION: u32 = 2;

/// How far a run is. The order of the samples and every random number follow from this and the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Steps done of the epoch after those.
    pub batch: u64,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub metric: String,
    #[serde(with = "exact")]
    pub value: f64,
}

/// A number as text that reads back as the same bits, which a JSON reader need not do for its own numbers.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// What the loop carries besides tensors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    #[serde(flatten)]
    pub position: Position,
    pub seed: u64,
    pub best: Option<Best>,
    /// Evaluations since the best one.
    pub stale: u64,
    /// Digest of the training data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<String>,
    /// Digest of the validation data, where they are others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation: Option<String>,
}

/// Everything that a run goes on from. A step is never cut: what several micro-batches add up to is saved after the last of
/// them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    pub progress: Progress,
    /// Parameters and state.
    pub tensors: Tensors,
    /// The moving average of the weights that train.
    pub average: Option<Tensors>,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    #[serde(flatten)]
    progress: Progress,
}

/// Writes a checkpoint at `path`, in the place of one that is there already.
///
/// # Errors
/// [`Error::Io`]; nothing is left under the final name then, nor of the attempt.
pub fn save(path: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
    let mut files = vec![(PARAMETERS, tensor::encode_safetensors(&checkpoint.tensors)?)];
    if let Some(average) = &checkpoint.average {
        files.push((AVERAGE, tensor::encode_safetensors(average)?));
    }
    let state = StateFile { version: VERSION, progress: checkpoint.progress.clone() };
    let mut state = serde_json::to_string_pretty(&state)
        .map_err(|error| Error::Checkpoint { path: path.to_owned(), why: error.to_string() })?;
    state.push('\n');
    files.push((STATE, state.into_bytes()));
    let sums: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
    files.push((SUMS, sums.into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    write_directory(path, &files).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads a checkpoint and compares every digest.
///
/// # Errors
/// [`Error::Checkpoint`] if a file is damaged or gone, [`Error::Io`] if one cannot be read.
pub fn load(path: &Path) -> Result<Checkpoint, Error> {
    let damaged = |why: String| Error::Checkpoint { path: path.to_owned(), why };
    let read = |name: &str| {
        let file = path.join(name);
        fs::read(&file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => damaged(format!("it has no {name}")),
            _ => Error::Io { path: file, source },
        })
    };
    let sums = read(SUMS)?;
    let mut files = BTreeMap::new();
    for line in String::from_utf8_lossy(&sums).lines() {
        let (sum, name) = line.split_once("  ").ok_or_else(|| damaged(format!("{SUMS}: {line:?} is no digest")))?;
        if ![PARAMETERS, AVERAGE, STATE].contains(&name) {
            return Err(damaged(format!("{SUMS} lists {name:?}, which is no file of a checkpoint")));
        }
        let bytes = read(name)?;
        if sha256(&bytes) != sum {
            return Err(damaged(format!("{name} is not what {SUMS} says it is")));
        }
        files.insert(name.to_owned(), bytes);
    }
    let mut listed = |name: &str| files.remove(name).ok_or_else(|| damaged(format!("{SUMS} does not list {name}")));
    let state: StateFile =
        serde_json::from_slice(&listed(STATE)?).map_err(|error| damaged(format!("{STATE}: {error}")))?;
    if state.version != VERSION {
        return Err(damaged(format!("{STATE}: version {}; expected {VERSION}", state.version)));
    }
    let decoded = |name: &str, bytes: &[u8]| {
        tensor::decode_safetensors(Path::new(name), bytes).map_err(|error| damaged(error.to_string()))
    };
    let tensors = decoded(PARAMETERS, &listed(PARAMETERS)?)?;
    let average = files.remove(AVERAGE).map(|bytes| decoded(AVERAGE, &bytes)).transpose()?;
    Ok(Checkpoint { progress: state.progress, tensors, average })
}

/// Renames a damaged checkpoint so that nothing takes it for one; gives the name it got.
///
/// # Errors
/// [`Error::Io`].
pub fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("damaged-{name}"));
    remove_if_there(&aside)
        .and_then(|()| fs::rename(path, &aside))
        .map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok(aside)
}

/// `step-N` directories, the earliest first.
pub fn list(directory: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Removes all but the newest `keep` checkpoints.
///
/// # Errors
/// [`Error::Io`].
pub fn prune(directory: &Path, keep: usize) -> Result<(), Error> {
    let found = list(directory);
    let surplus = found.len().saturating_sub(keep);
    for (_, path) in &found[..surplus] {
        fs::remove_dir_all(path).map_err(|source| Error::Io { path: path.clone(), source })?;
    }
    Ok(())
}

const NEW: &str = ".new";
const OLD: &str = ".old";

/// The name of a directory in the making, or on the way out, hidden beside where it stands.
fn hidden(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!(".{}{suffix}", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Writes a directory under another name, syncs it, and renames it; one that is there makes way.
pub(super) fn write_directory(path: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let parent = &files::parent(path);
    fs::create_dir_all(parent)?;
    let (new, old) = (hidden(path, NEW), hidden(path, OLD));
    remove_if_there(&new)?;
    if let Err(error) = fill(&new, files) {
        // On a full disk every byte counts; the error is that of writing.
        let _ = remove_if_there(&new);
        return Err(error);
    }
    if path.exists() {
        remove_if_there(&old)?;
        fs::rename(path, &old)?;
    }
    fs::rename(&new, path)?;
    files::sync_directory(parent)?;
    remove_if_there(&old)
}

fn fill(directory: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    fs::create_dir(directory)?;
    for (name, bytes) in files {
        let mut file = File::create(directory.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    files::sync_directory(directory)
}

/// Puts in order what a process that was killed left in `directory` between two renames: a directory that made way for one
/// that never came is there again; what was never finished goes.
///
/// # Errors
/// [`Error::Io`].
pub fn recover(directory: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let Some(name) = name.strip_prefix('.').filter(|_| path.is_dir()) else { continue };
        let done = match (name.strip_suffix(OLD), name.strip_suffix(NEW)) {
            (Some(name), _) if !directory.join(name).exists() => fs::rename(&path, directory.join(name)),
            (Some(_), _) | (_, Some(_)) => remove_if_there(&path),
            _ => continue,
        };
        done.map_err(|source| Error::Io { path: path.clone(), source })?;
    }
    Ok(())
}

/// Where the directory `path` is, should a process have been killed just before it was replaced.
pub fn standing(path: &Path) -> Option<PathBuf> {
    [path.to_owned(), hidden(path, OLD)].into_iter().find(|path| path.is_dir())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
