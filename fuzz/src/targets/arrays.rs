//! `.npz` archives and directories of `.npy` files.

use super::scratch::{read_data, with_directory, write};
use fam_onnx::train::data::Options;

/// The first byte says what the rest is: an archive, an archive's only array, or a bare array.
pub fn arrays(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    with_directory(|directory| {
        let archive = directory.join("data.npz");
        match kind % 3 {
            0 => write(&archive, rest),
            1 => write(&archive, &stored(&[("x.npy", rest), ("labels.npy", rest)])),
            _ => write(&directory.join("x.npy"), rest),
        }
        let path = if kind % 3 == 2 { directory } else { &archive };
        read_data(path, &Options::default());
    });
}

/// A ZIP archive of files that are not compressed, so that what is in them reaches the reader with a valid checksum.
pub fn stored(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let at = archive.len() as u32;
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        // Versions, flags, method, time and date, checksum, both sizes, length of the name, length of what follows it.
        let mut entry = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        entry.extend(crc.sum().to_le_bytes());
        entry.extend((bytes.len() as u32).to_le_bytes());
        entry.extend((bytes.len() as u32).to_le_bytes());
        entry.extend((name.len() as u16).to_le_bytes());
        entry.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&entry);
        archive.extend(name.as_bytes());
        archive.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&entry);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, count) = (archive.len() as u32, files.len() as u16);
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend(count.to_le_bytes());
    archive.extend(count.to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(at.to_le_bytes());
    archive.extend([0, 0]);
    archive
}
