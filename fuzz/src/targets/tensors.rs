//! `.safetensors` files, checkpoints, manifests.

use super::scratch::{read_data, with_directory, write};
use super::sound;
use fam_onnx::artifact::manifest::{Manifest, sha256};
use fam_onnx::tensor::{decode_safetensors, encode_safetensors};
use fam_onnx::train::checkpoint;
use fam_onnx::train::data::Options;
use std::path::Path;

/// The first byte says what the rest is.
pub fn tensors(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => safetensors(rest),
        1 => manifest(rest),
        _ => with_directory(|directory| training_checkpoint(directory, *kind, rest)),
    }
}

fn safetensors(bytes: &[u8]) {
    if let Some(tensors) = sound(decode_safetensors(Path::new("x.safetensors"), bytes)) {
        let written = encode_safetensors(&tensors).expect("what was read can be written");
        let again = decode_safetensors(Path::new("x.safetensors"), &written).expect("what was written can be read");
        assert!(tensors.iter().eq(again.iter()), "written and read again, the tensors differ");
    }
    with_directory(|directory| {
        let path = directory.join("data.safetensors");
        write(&path, bytes);
        read_data(&path, &Options::default());
    });
}

fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(manifest) = sound(Manifest::parse(Path::new("manifest.json"), &text)) {
        let written = manifest.to_json().expect("what was read can be written");
        let again = Manifest::parse(Path::new("manifest.json"), &written).expect("what was written can be read");
        assert_eq!(again.to_json().expect("twice"), written);
    }
}

/// Two files with right digests, or three of which the third is the list of digests.
fn training_checkpoint(directory: &Path, kind: u8, bytes: &[u8]) {
    let at = bytes.len() * usize::from(kind) / 255;
    let (parameters, state) = bytes.split_at(at);
    write(&directory.join("parameters.safetensors"), parameters);
    write(&directory.join("state.json"), state);
    let sums: String = [("parameters.safetensors", parameters), ("state.json", state)]
        .iter()
        .map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes)))
        .collect();
    let own = kind % 4 == 2;
    write(&directory.join("SHA256SUMS"), if own { sums.as_bytes() } else { state });
    sound(checkpoint::load(directory));
}
