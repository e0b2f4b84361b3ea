//! A directory of images for each class.

use super::scratch::{read_data, with_directory, write};
use fam_onnx::train::data::Options;

/// The first byte says by its extension what the rest claims to be.
pub fn images(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    with_directory(|directory| {
        let class = directory.join("class");
        std::fs::create_dir(&class).expect("a new directory");
        let extensions = ["png", "jpg", "bmp", "gif", "webp"];
        write(&class.join(format!("a.{}", extensions[usize::from(*kind) % extensions.len()])), rest);
        read_data(directory, &Options::default());
    });
}
