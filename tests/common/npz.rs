//! Writes `.npz` files the way NumPy does, in every layout that the reader must take.
#![allow(dead_code)]

use std::{fs::File, io::Write, path::Path};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// The bytes of an `.npy` file; `data` in the order and byte order that `descr` and `fortran` announce.
pub fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({}), }}", dims.trim_end());
    let padding = 64 - (10 + header.len() + 1) % 64;
    header.push_str(&" ".repeat(padding % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn f32s(shape: &[usize], values: &[f32]) -> Vec<u8> {
    npy("<f4", false, shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

pub fn i64s(shape: &[usize], values: &[i64]) -> Vec<u8> {
    npy("<i8", false, shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// An archive of named arrays.
pub fn write(path: &Path, arrays: &[(&str, Vec<u8>)], deflate: bool) {
    let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let mut archive = ZipWriter::new(File::create(path).expect("a new file"));
    for (name, bytes) in arrays {
        let options = SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).expect("a new entry");
        archive.write_all(bytes).expect("an entry's bytes");
    }
    archive.finish().expect("a whole archive");
}
