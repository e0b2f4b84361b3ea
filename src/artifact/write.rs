//! An artifact on disk: it appears whole or not at all.

use super::manifest::{self, FileEntry, MODEL, Manifest, PARAMETERS};
use super::ort_training::Record;
use super::standard::Plan;
use crate::error::{Error, Result};
use crate::ir::Tensor;
use crate::{files, onnx, tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// `MODEL-STEM.fam` beside nothing else: in the current directory.
pub fn default_directory(model: &Path) -> PathBuf {
    let stem = model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    PathBuf::from(format!("{stem}.fam"))
}

/// Whether something new may stand at `directory`: nothing is there, or with `force` something that this program wrote.
///
/// # Errors
/// [`Error::Exists`], [`Error::NotOurs`].
pub fn check_free(directory: &Path, force: bool) -> Result<()> {
    let path = directory.to_owned();
    if fs::symlink_metadata(directory).is_err() {
        return Ok(());
    }
    let ours = Manifest::read(directory).is_ok() || Record::read(directory).is_ok() || is_demo(directory);
    match (ours, force) {
        (true, true) => Ok(()),
        (true, false) => Err(Error::Exists { path }),
        (false, _) => Err(Error::NotOurs { path }),
    }
}

/// What `demo` leaves holds an artifact one level down.
fn is_demo(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|path| path.extension().is_some_and(|e| e == "fam") && Manifest::read(&path).is_ok())
}

/// A directory in the making, beside the place where it will stand. It appears there whole, by [`Draft::finish`], or not at
/// all.
pub struct Draft {
    draft: tempfile::TempDir,
    directory: PathBuf,
    parent: PathBuf,
}

impl Draft {
    /// # Errors
    /// [`check_free`]; [`Error::Io`].
    pub fn new(directory: &Path, force: bool) -> Result<Draft> {
        check_free(directory, force)?;
        let draft = files::draft_beside(directory, files::UNFINISHED).map_err(at(directory))?;
        Ok(Draft { draft, directory: directory.to_owned(), parent: files::parent(directory) })
    }

    /// Where it is made.
    pub fn path(&self) -> &Path {
        self.draft.path()
    }

    /// Moves it to its final name.
    ///
    /// # Errors
    /// [`Error::Io`]; what stood there before is then still there.
    pub fn finish(self) -> Result<()> {
        let directory = self.directory;
        replace(self.draft, &directory, &self.parent).map_err(at(&directory))
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Writes the artifact to `directory`; `inference` is the content of `model.onnx`.
///
/// # Errors
/// As [`Draft::new`].
pub fn write(plan: &Plan, inference: &[u8], directory: &Path, force: bool) -> Result<()> {
    let draft = Draft::new(directory, force)?;
    let mut manifest = plan.manifest.clone();
    let save = |name: &str, bytes: &[u8]| -> Result<FileEntry> {
        files::write(&draft.path().join(name), bytes).map_err(at(&directory.join(name)))?;
        Ok(FileEntry { sha256: manifest::sha256(bytes) })
    };
    let graphs = || plan.graphs.par_iter().map(|(name, model)| save(name, &onnx::to_bytes(model))).collect();
    let parameters = || save_tensors(&plan.tensors, &draft.path().join(PARAMETERS), &directory.join(PARAMETERS));
    let (entries, (inference, parameters)): (Vec<Result<FileEntry>>, _) =
        rayon::join(graphs, || rayon::join(|| save(MODEL, inference), parameters));
    for ((name, _), entry) in plan.graphs.iter().zip(entries) {
        manifest.files.insert((*name).to_string(), entry?);
    }
    manifest.files.insert(MODEL.to_string(), inference?);
    manifest.files.insert(PARAMETERS.to_string(), parameters?);
    let text = manifest.to_json()?;
    files::write(&draft.path().join(manifest::FILE), text.as_bytes()).map_err(at(&directory.join(manifest::FILE)))?;
    draft.finish()
}

/// Writes the tensors to a safetensors file of a draft that will be known as `known`; its SHA-256, which is computed while
/// the disk is at work.
fn save_tensors(tensors: &BTreeMap<String, Tensor>, file: &Path, known: &Path) -> Result<FileEntry> {
    let file = fs::File::create(file).map_err(at(known))?;
    std::thread::scope(|scope| {
        let (chunks, written) = mpsc::sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
        let digest =
            scope.spawn(move || written.into_iter().fold(Sha256::new(), |hash, chunk| hash.chain_update(chunk)));
        let mut out = Observed { file: &file, chunks };
        tensor::write_safetensors(tensors, &mut out, known)?;
        drop(out);
        file.sync_all().map_err(at(known))?;
        let digest = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(FileEntry { sha256: manifest::hex(&digest.finalize()) })
    })
}

/// As many chunks wait for being hashed at most.
const CHUNKS_AHEAD: usize = 16;

/// A file; what is written to it is sent on.
struct Observed<'f> {
    file: &'f fs::File,
    chunks: mpsc::SyncSender<Vec<u8>>,
}

impl Write for Observed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.chunks.send(bytes[..written].to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes the tensors to a safetensors file: whole or not at all.
pub(super) fn save_weights(tensors: &BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
    let fault = RefCell::new(None);
    let written = files::write_with(path, |file| {
        tensor::write_safetensors(tensors, file, path).map_err(|error| match error {
            tensor::Error::Io { source, .. } => source,
            other => {
                fault.replace(Some(other));
                std::io::ErrorKind::InvalidData.into()
            }
        })
    });
    match fault.take() {
        Some(error) => Err(error.into()),
        None => written.map_err(at(path)),
    }
}

/// Moves the draft to its final name; what stood there before is moved aside first and removed last.
fn replace(draft: tempfile::TempDir, directory: &Path, parent: &Path) -> std::io::Result<()> {
    set_permissions(draft.path())?;
    let aside = if fs::symlink_metadata(directory).is_ok() {
        let aside = files::draft_beside(directory, ".fam-onnx-old-")?;
        fs::rename(directory, aside.path().join("old"))?;
        Some(aside)
    } else {
        None
    };
    if let Err(error) = fs::rename(draft.path(), directory) {
        if let Some(aside) = &aside {
            fs::rename(aside.path().join("old"), directory)?;
        }
        return Err(error);
    }
    // The draft has its final name now.
    let _ = draft.keep();
    files::sync_directory(parent)
}

/// A temporary directory is private; an artifact is as readable as any new directory.
#[cfg(unix)]
fn set_permissions(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn set_permissions(_: &Path) -> std::io::Result<()> {
    Ok(())
}
