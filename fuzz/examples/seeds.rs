//! Writes the seeds of every target to `fuzz/corpus/TARGET/`.

use fam_onnx_fuzz::{seeds::seeds, targets::TARGETS};
use std::path::Path;

fn main() -> std::io::Result<()> {
    for (target, _) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&directory)?;
        for (k, seed) in seeds(target).iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{k:03}")), seed)?;
        }
    }
    Ok(())
}
