//! `.csv` files.

use super::scratch::{read_data, with_directory, write};
use fam_onnx::train::data::Options;

/// The first byte says whether a column is named that holds the labels.
pub fn table(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    with_directory(|directory| {
        let path = directory.join("data.csv");
        write(&path, rest);
        let label_column = (kind % 2 == 1).then(|| "label".to_owned());
        read_data(&path, &Options { label_column, ..Options::default() });
    });
}
