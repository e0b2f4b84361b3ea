//! External data: files beside the model, memory-mapped, each once, and never outside the model's folder.

use super::fault::ExternalFault;
use super::proto::StringStringEntryProto;
use crate::ir::{Bytes, MappedFile};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The model's folder and the files mapped from it.
pub(super) struct Folder {
    dir: Option<PathBuf>,
    /// The model's own file, where it is mapped.
    model: Option<Arc<MappedFile>>,
    maps: RefCell<HashMap<PathBuf, Arc<MappedFile>>>,
    /// Bytes that sparse tensors may still take as dense ones.
    room: Cell<u64>,
}

impl Folder {
    /// The folder of a model in that file.
    pub fn around(model: Option<Arc<MappedFile>>, dir: Option<&Path>, unpacked: u64) -> Folder {
        Folder { model, ..Folder::new(dir, unpacked) }
    }

    pub fn new(dir: Option<&Path>, unpacked: u64) -> Folder {
        let here = |dir: &Path| if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_path_buf() };
        Folder { dir: dir.map(here), model: None, maps: RefCell::default(), room: Cell::new(unpacked) }
    }

    /// Takes `size` bytes for a dense tensor; the bytes there were, where these are too many.
    pub fn take(&self, size: usize) -> Result<(), u64> {
        let room = self.room.get();
        self.room.set(room.checked_sub(size as u64).ok_or(room)?);
        Ok(())
    }

    /// The `size` bytes that a tensor's `external_data` entries point at.
    pub fn bytes(&self, entries: &[StringStringEntryProto], size: usize) -> Result<Bytes, ExternalFault> {
        let value = |key: &str| entries.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &'static str| match value(key) {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse::<u64>()
                .map(Some)
                .map_err(|_| ExternalFault::BadNumber { key, value: text.to_string() }),
        };
        let location = value("location").filter(|l| !l.is_empty()).ok_or(ExternalFault::NoLocation)?;
        let (offset, length) = (number("offset")?.unwrap_or(0), size as u64);
        if let Some(found) = number("length")?
            && found != length
        {
            return Err(ExternalFault::Length { found, expected: length });
        }
        let file = self.map(location)?;
        let end = offset.checked_add(length).filter(|&end| end <= file.map.len() as u64);
        if end.is_none() {
            let (path, size) = (file.path.clone(), file.map.len() as u64);
            return Err(ExternalFault::PastEnd { path, size, offset, length });
        }
        // The range was checked against the file's length, which is a usize.
        Ok(Bytes::Mapped { file, offset: offset as usize, len: size })
    }

    /// The bytes as a part of the model's own file, if they are one.
    pub fn inside(&self, bytes: &[u8]) -> Option<Bytes> {
        self.model.as_ref()?.part(bytes)
    }

    fn map(&self, location: &str) -> Result<Arc<MappedFile>, ExternalFault> {
        let path = self.resolve(location)?;
        if let Some(map) = self.maps.borrow().get(&path) {
            return Ok(map.clone());
        }
        let unreadable = |reason: String| ExternalFault::Unreadable { path: path.clone(), reason };
        let file = File::open(&path).and_then(|file| MappedFile::new(&file, &path));
        let file = file.map_err(|e| unreadable(e.to_string()))?;
        self.maps.borrow_mut().insert(path, file.clone());
        Ok(file)
    }

    /// The file that `location` names, after checking that it lies in the folder: neither an absolute path nor `..`
    /// nor a symbolic link leads out.
    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalFault> {
        let outside = || ExternalFault::Outside { location: location.to_string() };
        let relative = Path::new(location);
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let Some(dir) = &self.dir else {
            return Err(ExternalFault::NoFolder { location: location.to_string() });
        };
        let path = dir.join(relative);
        let unreadable = |e: std::io::Error| ExternalFault::Unreadable { path: path.clone(), reason: e.to_string() };
        let real = path.canonicalize().map_err(unreadable)?;
        if !real.starts_with(dir.canonicalize().map_err(unreadable)?) {
            return Err(outside());
        }
        if !real.metadata().map_err(unreadable)?.is_file() {
            return Err(ExternalFault::Unreadable { path, reason: "it is not a regular file".to_string() });
        }
        Ok(path)
    }
}
