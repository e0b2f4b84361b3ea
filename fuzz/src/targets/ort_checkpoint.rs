//! Checkpoints of ONNX Runtime's training API: flatbuffers.

use super::scratch::{with_directory, write};
use super::sound;
use fam_onnx::artifact::ort_training::{Checkpoint, External};

/// The first byte says how much of the rest is data beside the file. What is read is written and read again as the same.
pub fn ort_checkpoint(data: &[u8]) {
    let Some((share, rest)) = data.split_first() else { return };
    with_directory(|directory| {
        let path = directory.join("checkpoint");
        let (beside, rest) = rest.split_at(rest.len() * usize::from(*share) / 255);
        write(&path, rest);
        if !beside.is_empty() {
            write(&directory.join("checkpoint.data"), beside);
        }
        let Some(read) = sound(Checkpoint::read(&path)) else { return };
        let copy = directory.join("copy");
        read.write(&copy, External::Auto).expect("what was read can be written");
        let again = Checkpoint::read(&copy).expect("what was written can be read");
        assert!(read.trainable == again.trainable && read.frozen == again.frozen, "written and read again, it differs");
    });
}
