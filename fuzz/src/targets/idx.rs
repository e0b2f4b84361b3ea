//! MNIST's IDX files.

use super::scratch::{read_data, with_directory, write};
use fam_onnx::train::data::Options;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

/// The first byte says whether the rest is plain, gzip, or to be packed; the second how much of it the images take.
pub fn idx(data: &[u8]) {
    let [kind, share, rest @ ..] = data else { return };
    let (images, labels) = rest.split_at(rest.len() * usize::from(*share) / 255);
    with_directory(|directory| {
        for (name, bytes) in [("train-images", images), ("train-labels", labels), ("t10k-images", labels)] {
            let (file, bytes) = match kind % 3 {
                0 => (format!("{name}-idx"), bytes.to_vec()),
                1 => (format!("{name}-idx.gz"), bytes.to_vec()),
                _ => (format!("{name}-idx.gz"), packed(bytes)),
            };
            if name.starts_with("train") || kind & 0x80 != 0 {
                write(&directory.join(file), &bytes);
            }
        }
        read_data(directory, &Options::default());
    });
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all")
}
