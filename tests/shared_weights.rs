//! Weights beside a model are mapped, not copied: what is derived from the model shares the file of its weights.
#![cfg(unix)]

mod common;

use std::os::unix::fs::MetadataExt;

use common::step::model;
use fam_onnx::ad::grad_model;
use fam_onnx::onnx::{self, External};

#[test]
fn a_gradient_shares_the_weights_of_its_model() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    onnx::write_with(&model("lenet"), &path("lenet.onnx"), External::Always).expect("a written model");
    let read = onnx::read(&path("lenet.onnx")).expect("a model");
    let gradient = grad_model(&read, "logits", &["parameters".to_string()]).expect("a gradient").model;
    // A file that stands in the way is replaced.
    std::fs::write(path("gradient.onnx.data"), "other").expect("a file");
    onnx::write(&gradient, &path("gradient.onnx")).expect("a written gradient");
    let inode = |name: &str| std::fs::metadata(path(name)).expect("a file").ino();
    assert_eq!(inode("gradient.onnx.data"), inode("lenet.onnx.data"));

    // Each stands without the other, and over itself.
    std::fs::remove_file(path("lenet.onnx.data")).expect("a removed file");
    let again = onnx::read(&path("gradient.onnx")).expect("the gradient");
    let inside = |model| onnx::read_bytes(&onnx::to_bytes(model), None).expect("a model with its weights inside");
    assert_eq!(onnx::to_bytes(&again), onnx::to_bytes(&inside(&gradient)));
    onnx::write(&again, &path("gradient.onnx")).expect("the gradient over itself");
    let once_more = onnx::read(&path("gradient.onnx")).expect("the gradient");
    assert_eq!(onnx::to_bytes(&once_more), onnx::to_bytes(&inside(&again)));
    let mut names: Vec<_> =
        std::fs::read_dir(directory.path()).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["gradient.onnx", "gradient.onnx.data", "lenet.onnx"]);
}
