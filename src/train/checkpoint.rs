//! Checkpoints: a directory each, which appears whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    artifact::manifest::{PARAMETERS, sha256},
    tensor::{self, Tensors},
};

/// Position, and what the loop remembers, within a checkpoint.
pub const STATE: &str = "state.json";
const VERSION: u32 = 1;

/// How far a run is. The order of the samples and every random number follow from this and the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Batches done of the epoch after those.
    pub batch: u64,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub metric: String,
    pub value: f64,
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
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    #[serde(flatten)]
    progress: Progress,
    /// Of the parameters' file.
    sha256: String,
}

/// Writes a checkpoint at `path`, in the place of one that is there already.
///
/// # Errors
/// [`Error::Io`].
pub fn save(path: &Path, progress: &Progress, tensors: &Tensors) -> Result<(), Error> {
    let parameters = tensor::encode_safetensors(tensors)?;
    let state = StateFile { version: VERSION, progress: progress.clone(), sha256: sha256(&parameters) };
    let mut state = serde_json::to_string_pretty(&state)
        .map_err(|error| Error::Checkpoint { path: path.to_owned(), why: error.to_string() })?;
    state.push('\n');
    write_directory(path, &[(PARAMETERS, &parameters), (STATE, state.as_bytes())])
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads a checkpoint and compares its digest.
///
/// # Errors
/// [`Error::Checkpoint`] if a file is damaged, [`Error::Io`] if one cannot be read.
pub fn load(path: &Path) -> Result<(Progress, Tensors), Error> {
    let damaged = |why: String| Error::Checkpoint { path: path.to_owned(), why };
    let read = |name: &str| {
        let file = path.join(name);
        fs::read(&file).map_err(|source| Error::Io { path: file, source })
    };
    let state: StateFile =
        serde_json::from_slice(&read(STATE)?).map_err(|error| damaged(format!("{STATE}: {error}")))?;
    if state.version != VERSION {
        return Err(damaged(format!("{STATE}: version {}; expected {VERSION}", state.version)));
    }
    let parameters = read(PARAMETERS)?;
    if sha256(&parameters) != state.sha256 {
        return Err(damaged(format!("{PARAMETERS} is not what {STATE} says it is")));
    }
    Ok((state.progress, tensor::decode_safetensors(&path.join(PARAMETERS), &parameters)?))
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

/// Writes a directory under another name, syncs it, and renames it; one that is there makes way.
pub(super) fn write_directory(path: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    fs::create_dir_all(parent)?;
    let hidden = |suffix: &str| parent.join(format!(".{}.{suffix}", name.to_string_lossy()));
    let (new, old) = (hidden("new"), hidden("old"));
    remove_if_there(&new)?;
    fs::create_dir(&new)?;
    for (name, bytes) in files {
        let mut file = File::create(new.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    sync_directory(&new)?;
    if path.exists() {
        remove_if_there(&old)?;
        fs::rename(path, &old)?;
    }
    fs::rename(&new, path)?;
    sync_directory(parent)?;
    remove_if_there(&old)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Only Unix opens a directory as a file; elsewhere the rename itself has to do.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
