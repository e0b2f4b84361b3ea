//! A directory for the readers that take paths: one a thread, emptied before each use.

use fam_onnx::tensor::DType;
use fam_onnx::train::data::{self, Dataset, Options, Role, Slot, Spec};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

use super::sound;

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a temporary directory");
}

/// Calls `f` with an empty directory.
pub fn with_directory<T>(f: impl FnOnce(&Path) -> T) -> T {
    DIRECTORY.with(|root| {
        let path = root.path().join("d");
        if path.exists() {
            fs::remove_dir_all(&path).expect("an own directory");
        }
        fs::create_dir(&path).expect("a new directory");
        f(&path)
    })
}

pub fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("space for a small file");
}

/// Reads data as `train` does, for each of several models, and takes samples out.
pub fn read_data(path: &Path, options: &Options) {
    for (shape, label) in
        [(vec![None], DType::I64), (vec![Some(1), None, None], DType::F32), (vec![Some(2)], DType::I32)]
    {
        let Some(mut source) = sound(data::read(path, options)) else { return };
        let slot = |name: &str, role, dtype, shape| Slot { name: name.to_owned(), role, dtype, shape };
        let slots = vec![slot("x", Role::Input, DType::F32, shape), slot("labels", Role::Labels, label, Vec::new())];
        let classes = label.is_int().then_some(10);
        let spec = Spec { slots, classes, ignore_index: None, label_range: None, batch: None };
        let held_out = Dataset::held_out(&mut source, &spec);
        let sets = [sound(Dataset::new(&mut source, &spec)), sound(held_out).flatten()];
        for set in sets.into_iter().flatten() {
            let few: Vec<usize> = (0..set.samples()).take(3).chain(set.samples().checked_sub(1)).collect();
            for column in set.columns() {
                sound(set.gather(column, &few));
            }
        }
    }
}
