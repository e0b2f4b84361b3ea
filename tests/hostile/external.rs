//! References to data beside a model, that lead elsewhere or nowhere.

use crate::parts::*;
use crate::place::bounded;
use crate::record::row;
use expect_test::expect;
use fam_onnx::onnx::proto::tensor_proto::DataLocation;
use fam_onnx::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use prost::Message;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

/// `x · w`, the 16 floats of `w` in a file.
fn model(entries: &[(&str, &str)]) -> ModelProto {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: some(key), value: some(value) };
    let w = TensorProto {
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(DataLocation::External as i32),
        ..floats("w", &[4, 4], &[])
    };
    crate::parts::model(vec![node("MatMul", &["x", "w"], &["y"])], vec![w])
}

fn make_place(root: &Path) {
    let folder = root.join("models");
    fs::create_dir(&folder).expect("a directory");
    fs::write(root.join("secret"), [0; 64]).expect("a file");
    fs::write(folder.join("w"), [0; 64]).expect("a file");
    fs::write(folder.join("short"), [0; 63]).expect("a file");
    fs::create_dir(folder.join("directory")).expect("a directory");
    std::os::unix::fs::symlink(root.join("secret"), folder.join("link")).expect("a link");
    std::os::unix::fs::symlink("/etc", folder.join("etc")).expect("a link");
    std::os::unix::fs::symlink("loop", folder.join("loop")).expect("a link");
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero")).expect("a link");
    assert!(std::process::Command::new("mkfifo").arg(folder.join("fifo")).status().expect("mkfifo").success());
    File::create(folder.join("terabyte")).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
}

#[test]
fn external_data() {
    let place = tempfile::tempdir().expect("a directory");
    make_place(place.path());
    let at = |location: &'static str| vec![("location", location)];
    let cases: Vec<Vec<(&str, &str)>> = vec![
        at("../secret"),
        at("a/../../secret"),
        at("/etc/passwd"),
        at("link"),
        at("etc/passwd"),
        at("loop"),
        at("zero"),
        at("fifo"),
        at("directory"),
        at("missing"),
        at("short"),
        at(""),
        at("\u{1b}[31mw"),
        at("w\0"),
        vec![],
        vec![("location", "w"), ("offset", "-1")],
        vec![("location", "w"), ("offset", "1e3")],
        vec![("location", "w"), ("offset", "18446744073709551615")],
        vec![("location", "w"), ("offset", "99999999999999999999")],
        vec![("location", "w"), ("offset", "64")],
        vec![("location", "w"), ("length", "-64")],
        vec![("location", "w"), ("length", "65")],
        vec![("location", "w"), ("length", "NaN")],
        vec![("location", "terabyte"), ("offset", "1099511627775")],
    ];
    let mut said = String::new();
    for case in &cases {
        let folder = place.path().join("models");
        fs::write(folder.join("m.onnx"), model(case).encode_to_vec()).expect("a file");
        let arguments = ["grad", "m.onnx", "--of", "y", "--wrt", "w", "-o", "out.onnx"];
        let ended = bounded(env!("CARGO_BIN_EXE_fam-onnx").as_ref(), &arguments, &folder, 2 << 10, 30);
        assert_eq!(ended.code, Some(1), "{case:?}: {}", ended.stderr);
        assert!(!folder.join("out.onnx").exists());
        let line = ended.stderr.lines().nth(1).unwrap_or_default();
        let line = line.replace("  external data of tensor \"w\": ", "");
        writeln!(said, "{case:?}\n    {line}").expect("text");
    }
    expect![[r#"
        [("location", "../secret")]
            "../secret" is not a path inside the model's folder
        [("location", "a/../../secret")]
            "a/../../secret" is not a path inside the model's folder
        [("location", "/etc/passwd")]
            "/etc/passwd" is not a path inside the model's folder
        [("location", "link")]
            "link" is not a path inside the model's folder
        [("location", "etc/passwd")]
            "etc/passwd" is not a path inside the model's folder
        [("location", "loop")]
            ./loop: Too many levels of symbolic links (os error 40); it must lie beside the model
        [("location", "zero")]
            "zero" is not a path inside the model's folder
        [("location", "fifo")]
            ./fifo: it is not a regular file; it must lie beside the model
        [("location", "directory")]
            ./directory: it is not a regular file; it must lie beside the model
        [("location", "missing")]
            ./missing: No such file or directory (os error 2); it must lie beside the model
        [("location", "short")]
            ./short has 63 bytes, the tensor needs 64 from offset 0; the file is cut short
        [("location", "")]
            it names no file (key "location")
        [("location", "\u{1b}[31mw")]
            ./\u{1b}[31mw: No such file or directory (os error 2); it must lie beside the model
        [("location", "w\0")]
            ./w\u{0}: file name contained an unexpected NUL byte; it must lie beside the model
        []
            it names no file (key "location")
        [("location", "w"), ("offset", "-1")]
            offset is "-1", expected a number of bytes
        [("location", "w"), ("offset", "1e3")]
            offset is "1e3", expected a number of bytes
        [("location", "w"), ("offset", "18446744073709551615")]
            ./w has 64 bytes, the tensor needs 64 from offset 18446744073709551615; the file is cut short
        [("location", "w"), ("offset", "99999999999999999999")]
            offset is "99999999999999999999", expected a number of bytes
        [("location", "w"), ("offset", "64")]
            ./w has 64 bytes, the tensor needs 64 from offset 64; the file is cut short
        [("location", "w"), ("length", "-64")]
            length is "-64", expected a number of bytes
        [("location", "w"), ("length", "65")]
            its length is 65, the tensor takes 64 bytes
        [("location", "w"), ("length", "NaN")]
            length is "NaN", expected a number of bytes
        [("location", "terabyte"), ("offset", "1099511627775")]
            ./terabyte: Cannot allocate memory (os error 12); it must lie beside the model
    "#]]
    .assert_eq(&said);
    // A terabyte of which 64 bytes are read is no trouble.
    let folder = place.path().join("models");
    fs::write(folder.join("m.onnx"), model(&at("terabyte")).encode_to_vec()).expect("a file");
    let ended =
        bounded(env!("CARGO_BIN_EXE_fam-onnx").as_ref(), &["inspect", "m.onnx"], &folder, 2 << 40 >> 20 | 4096, 30);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    row(
        "external data outside of the folder, at bad places, in no file, in devices, of a terabyte",
        cases.len() + 1,
        "refused by name; of a sparse terabyte only what is asked for is read",
    );
}
