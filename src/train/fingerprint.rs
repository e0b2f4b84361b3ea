//! Whether data are still those that a run began with.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Up to this many bytes everything is read; of more, [`BLOCKS`] blocks of each file.
const WHOLE: u64 = 1 << 30;
const BLOCKS: u64 = 64;
const BLOCK: u64 = 1 << 16;

/// A digest of the names, sizes and content of a file, or of all files below a directory; of more than a gibibyte in all, of
/// blocks spread over each file instead of all its content.
///
/// # Errors
/// What keeps a file from being read.
pub(super) fn fingerprint(path: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    collect(path, Path::new(""), &mut files)?;
    files.sort();
    let total: u64 = files.iter().map(|(_, _, size)| size).sum();
    let mut hash = Sha256::new();
    for (name, path, size) in &files {
        hash.update(name.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(size.to_le_bytes());
        let mut file = File::open(path)?;
        if total <= WHOLE {
            io::copy(&mut file, &mut HashWriter(&mut hash))?;
        } else {
            sample(&mut file, *size, &mut hash)?;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Files below `path` by their names within it, hidden ones left out.
fn collect(path: &Path, name: &Path, files: &mut Vec<(PathBuf, PathBuf, u64)>) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        files.push((name.to_owned(), path.to_owned(), metadata.len()));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            collect(&entry.path(), &name.join(entry.file_name()), files)?;
        }
    }
    Ok(())
}

fn sample(file: &mut File, size: u64, hash: &mut Sha256) -> io::Result<()> {
    let last = size.saturating_sub(BLOCK);
    for k in 0..BLOCKS {
        file.seek(SeekFrom::Start(last / (BLOCKS - 1) * k))?;
        io::copy(&mut file.take(BLOCK), &mut HashWriter(hash))?;
    }
    Ok(())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
