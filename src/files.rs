//! Files, read up to a limit and written whole or not at all. Every file that this program leaves is written here, or into a
//! directory that appears whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// What the name of everything unfinished begins with; a process that was killed can leave such files, and nothing reads them.
pub const UNFINISHED: &str = ".fam-onnx-";

/// The bytes of a file that has no more than `most`.
///
/// # Errors
/// Those of reading; [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size <= most {
        // A pipe has no size, and a file may grow while it is read.
        bytes.reserve_exact(usize::try_from(size).unwrap_or(0));
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if size > most || bytes.len() as u64 > most {
        let why = format!("it has more than {most} bytes, the most that such a file can have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// As [`read`], of a file of text.
///
/// # Errors
/// As [`read`]; [`io::ErrorKind::InvalidData`] where it is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Writes a file anew: under another name in the same directory, synced before it takes its own.
///
/// # Errors
/// Those of writing; what stood there before is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write`](fn@write), of what `fill` writes.
///
/// # Errors
/// As [`write`](fn@write).
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    // A rename onto a directory fails late, and with a reason that names neither.
    if fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let directory = parent(path);
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; a result is as readable as any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(UNFINISHED).tempfile_in(&directory).map_err(without_path)?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(&directory)
}

/// The error alone: whoever reports it names the file that was to be written, not the temporary one.
fn without_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}

/// A new directory beside `path`, for what will take its place.
///
/// # Errors
/// Those of creating it.
pub fn draft_beside(path: &Path, prefix: &str) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent(path)).map_err(without_path)
}

/// The directory that `path` lies in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes names in a directory last. Only Unix opens a directory as a file; elsewhere the rename itself has to do.
///
/// # Errors
/// Those of opening and syncing it.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
