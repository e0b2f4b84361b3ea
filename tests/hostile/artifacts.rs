//! Artifacts and checkpoints of which one part is not what another says.

use crate::common::{fam_onnx, fixture, run, text, toy_artifact, toy_npz};
use crate::record::row;
use expect_test::{Expect, expect};
use fam_onnx::artifact::manifest::sha256;
use fam_onnx::tensor::{DType, Tensor, Tensors, encode_safetensors, read_safetensors};
use fam_onnx::train::checkpoint;
use std::fs;
use std::path::{Path, PathBuf};

struct Place {
    directory: tempfile::TempDir,
    data: PathBuf,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        toy_artifact(directory.path(), false);
        let data = toy_npz(directory.path(), 8);
        Place { directory, data }
    }

    fn artifact(&self) -> PathBuf {
        self.directory.path().join("toy.fam")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.artifact().join(name)
    }

    /// Changes the manifest's text.
    fn manifest(&self, changes: &[(&str, &str)]) {
        let path = self.file("manifest.json");
        let text = fs::read_to_string(&path).expect("a manifest");
        let changed = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        fs::write(path, changed).expect("a manifest");
    }

    /// Writes a file of the artifact, and its digest to the manifest.
    fn replace(&self, name: &str, bytes: &[u8]) {
        let before = fs::read(self.file(name)).expect("a file");
        fs::write(self.file(name), bytes).expect("a file");
        self.manifest(&[(&sha256(&before), &sha256(bytes))]);
    }

    fn tensors(&self, change: fn(&mut Tensors)) {
        let mut tensors = read_safetensors(&self.file("parameters.safetensors")).expect("tensors");
        change(&mut tensors);
        self.replace("parameters.safetensors", &encode_safetensors(&tensors).expect("bytes"));
    }

    #[track_caller]
    fn refused(&self, line: &[&str], expected: &Expect) {
        let output = fam_onnx(line).current_dir(self.directory.path()).output().expect("a process");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let told = text(&output.stderr, &self.directory.path().canonicalize().expect("a directory"));
        let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parts = told.split_inclusive([' ', ',', ';']).map(|part| {
            let word = part.trim_end_matches([' ', ',', ';']);
            if is_digest(word) { part.replace(word, "DIGEST") } else { part.to_owned() }
        });
        expected.assert_eq(&parts.collect::<String>());
    }

    #[track_caller]
    fn train_refused(&self, expected: &Expect) {
        let data = self.data.to_str().expect("a path");
        self.refused(
            &["train", "-q", "toy.fam", "--data", data, "-o", "run", "--batch-size", "2", "--steps", "2"],
            expected,
        );
        assert!(!self.directory.path().join("run").exists());
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::new(DType::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]).expect("a tensor")
}

type Change = fn(&Place);

/// What is changed in an artifact, and what training it says.
fn disagreements() -> Vec<(Change, Expect)> {
    vec![
        (
            |p| p.manifest(&[("\"version\": 1,", "\"version\": 2,")]),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: version 2, but this program reads version 1; use the fam-onnx that wrote it, or inject anew
        "#]],
        ),
        (
            |p| {
                p.manifest(&[
                    ("\"learning_rate\": \"learning_rate\"", "\"learning_rate\": \"rate\""),
                    ("\"objective\": \"objective\"", "\"objective\": \"total\""),
                ])
            },
            expect![[r#"
                error: DIR/toy.fam/manifest.json: train.onnx has the input `learning_rate`, which has no role here; train.onnx has no input `rate`; train.onnx has no output `total`; evaluate.onnx has no output `total`
            "#]],
        ),
        (
            |p| p.manifest(&[("float32", "float64")]),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: `fc.bias` of train.onnx is float[3]; expected double[3]; `fc.weight` of train.onnx is float[3,4]; expected double[3,4]; `fc.bias.momentum` of train.onnx is float[3]; expected double[3]; `fc.weight.momentum` of train.onnx is float[3,4]; expected double[3,4]; `fc.bias.momentum.next` of train.onnx is float[3]; expected double[3]; `fc.bias.next` of train.onnx is float[3]; expected double[3]; `fc.weight.momentum.next` of train.onnx is float[3,4]; expected double[3,4]; `fc.weight.next` of train.onnx is float[3,4]; expected double[3,4]; `fc.bias` of evaluate.onnx is float[3]; expected double[3]; `fc.weight` of evaluate.onnx is float[3,4]; expected double[3,4]
        "#]],
        ),
        (
            |p| p.manifest(&[("4\n", "5\n")]),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: `fc.weight` of train.onnx is float[3,4]; expected float[3,5]; `fc.weight.momentum` of train.onnx is float[3,4]; expected float[3,5]; `fc.weight.momentum.next` of train.onnx is float[3,4]; expected float[3,5]; `fc.weight.next` of train.onnx is float[3,4]; expected float[3,5]; `fc.weight` of evaluate.onnx is float[3,4]; expected float[3,5]
        "#]],
        ),
        (
            |p| p.manifest(&[("\"fc.weight.momentum\"", "\"fc.weight.speed\"")]),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: train.onnx has the input `fc.weight.momentum`, which has no role here
        "#]],
        ),
        (
            |p| p.manifest(&[("\"train.onnx\",\n", "\"evaluate.onnx\",\n")]),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: evaluate.onnx has no input `learning_rate`; evaluate.onnx has no output `fc.bias.momentum.next`; evaluate.onnx has no output `fc.bias.next`; evaluate.onnx has no output `fc.weight.momentum.next`; evaluate.onnx has no output `fc.weight.next`
        "#]],
        ),
        (
            |p| p.replace("train.onnx", &fs::read(p.file("optimizer.onnx")).expect("a file")),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: train.onnx has the input `fc.bias.grad`, which has no role here; train.onnx has the input `fc.weight.grad`, which has no role here; train.onnx has no output `kappa`; train.onnx has no output `loss`; train.onnx has no output `objective`
        "#]],
        ),
        (
            |p| p.replace("train.onnx", b"shorter"),
            expect![[r#"
            error: DIR/toy.fam/manifest.json: train.onnx cannot be read: DIR/toy.fam/train.onnx: this is not an ONNX model: its bytes are not a protobuf message of that kind (failed to decode Protobuf message: ModelProto.metadata_props: invalid wire type: StartGroup (expected LengthDelimited))
        "#]],
        ),
        (
            |p| fs::write(p.file("train.onnx"), "shorter").expect("a file"),
            expect![[r#"
                error: DIR/toy.fam: train.onnx was changed or cut short: its SHA-256 is DIGEST, but the manifest says DIGEST; inject anew or take another copy
            "#]],
        ),
        (
            |p| {
                fs::write(p.file("train.onnx"), "").expect("a file");
                fs::write(p.file("parameters.safetensors"), [0; 64]).expect("a file");
                fs::remove_file(p.file("evaluate.onnx")).expect("a file");
            },
            expect![[r#"
                error: DIR/toy.fam: train.onnx was changed or cut short: its SHA-256 is DIGEST, but the manifest says DIGEST; evaluate.onnx: No such file or directory (os error 2); parameters.safetensors was changed or cut short: its SHA-256 is DIGEST, but the manifest says DIGEST; inject anew or take another copy
            "#]],
        ),
        (
            |p| fs::remove_file(p.file("evaluate.onnx")).expect("a file"),
            expect![[r#"
                error: DIR/toy.fam: evaluate.onnx: No such file or directory (os error 2); inject anew or take another copy
            "#]],
        ),
        (
            |p| fs::remove_file(p.file("parameters.safetensors")).expect("a file"),
            expect![[r#"
                error: DIR/toy.fam: parameters.safetensors: No such file or directory (os error 2); inject anew or take another copy
            "#]],
        ),
        (
            |p| {
                p.tensors(|tensors| {
                    tensors.remove("fc.bias");
                    tensors.remove("fc.weight.momentum");
                    tensors.insert("fc.weight".to_owned(), zeros(&[4, 3]));
                })
            },
            expect![[r#"
                error: DIR/toy.fam/parameters.safetensors: the parameter `fc.bias` is not in it, but the manifest lists it; the parameter `fc.weight` is float[4,3]; the manifest says float[3,4]; the state `fc.weight.momentum` is not in it, but the manifest lists it
            "#]],
        ),
        (
            |p| {
                p.tensors(|tensors| {
                    let wide = Tensor::new(DType::F64, vec![3], vec![0; 24]).expect("a tensor");
                    tensors.insert("fc.bias".to_owned(), wide);
                })
            },
            expect![[r#"
                error: DIR/toy.fam/parameters.safetensors: the parameter `fc.bias` is double[3]; the manifest says float[3]
            "#]],
        ),
    ]
}

#[test]
fn artifacts() {
    let cases = disagreements();
    for (change, expected) in &cases {
        let place = Place::new();
        change(&place);
        place.train_refused(expected);
    }
    let probes = probes_that_lie();
    row(
        "artifacts whose manifest, graphs, tensors or digests disagree: names, types, shapes, other graphs, versions",
        cases.len() + probes,
        "refused by the name of what differs; all that differs at once",
    );
}

/// Probes of other sizes than the graphs', or of no size that a machine has.
fn probes_that_lie() -> usize {
    let place = Place { directory: tempfile::tempdir().expect("a directory"), data: PathBuf::new() };
    fs::copy(fixture("mlp").join("model.onnx"), place.directory.path().join("m.onnx")).expect("a model");
    let line = "inject -q m.onnx --layer fc2 --lambda 0.1 --estimator hutchinson -o toy.fam";
    run(fam_onnx(&line.split(' ').collect::<Vec<_>>()).current_dir(place.directory.path()));
    let manifest = fs::read_to_string(place.file("manifest.json")).expect("a manifest");
    let cases = [
        (
            "13",
            expect![[r#"
            error: toy.fam/manifest.json: `probe.fc2` of gradient.onnx is float[batch,16]; expected float[batch,13]; `probe.fc2` of evaluate.onnx is float[batch,16]; expected float[batch,13]
        "#]],
        ),
        (
            "\"batch\"",
            expect![[r#"
            error: node "kappa/fc2/Gemm" (Gemm): matrix product: [12,16] does not fit [2,2]; its inputs are probe.fc2: double[2,2], fc2.weight: double[12,16]
        "#]],
        ),
        (
            "4294967297",
            expect![[r#"
            error: toy.fam/manifest.json: probe `probe.fc2` has more than 2^32 elements a sample, which no runtime takes
        "#]],
        ),
        (
            "18446744073709551615",
            expect![[r#"
            error: toy.fam/manifest.json: probe `probe.fc2` has more than 2^32 elements a sample, which no runtime takes
        "#]],
        ),
    ];
    for (size, expected) in &cases {
        let mut lying: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
        let shape = &mut lying["layers"][0]["probes"][0]["shape"];
        let last = shape.as_array().expect("sizes").len() - 1;
        shape[last] = serde_json::from_str(size).expect("JSON");
        fs::write(place.file("manifest.json"), lying.to_string()).expect("a manifest");
        place.refused(&["verify", "-q", "toy.fam", "--batch-size", "2"], expected);
    }
    cases.len()
}

/// Writes a file of a checkpoint, and its digest.
fn replace(checkpoint: &Path, name: &str, bytes: &[u8]) {
    let before = sha256(&fs::read(checkpoint.join(name)).expect("a file"));
    fs::write(checkpoint.join(name), bytes).expect("a file");
    let sums = fs::read_to_string(checkpoint.join(checkpoint::SUMS)).expect("digests");
    assert!(sums.contains(&before));
    fs::write(checkpoint.join(checkpoint::SUMS), sums.replace(&before, &sha256(bytes))).expect("digests");
}

type Damage = fn(&Path);

fn damages() -> Vec<(Damage, Expect)> {
    vec![
        (
            |at| {
                let mut tensors = read_safetensors(&at.join("parameters.safetensors")).expect("tensors");
                tensors.remove("fc.bias");
                tensors.insert("fc.weight".to_owned(), zeros(&[4, 3]));
                replace(at, "parameters.safetensors", &encode_safetensors(&tensors).expect("bytes"));
            },
            expect![[r#"
                error: run/checkpoints/step-2/parameters.safetensors: the parameter `fc.bias` is not in it, but the manifest lists it; the parameter `fc.weight` is float[4,3]; the manifest says float[3,4]
            "#]],
        ),
        (
            |at| replace(at, "parameters.safetensors", b"short"),
            expect![[r#"
                error: run/checkpoints/step-2: damaged: parameters.safetensors: not a valid safetensors file (header too small); write it anew or take another copy
                hint: give another checkpoint of the run, RUN/checkpoints/step-N
            "#]],
        ),
        (
            |at| fs::write(at.join("parameters.safetensors"), "short").expect("a file"),
            expect![[r#"
            error: run/checkpoints/step-2: damaged: parameters.safetensors is not what SHA256SUMS says it is
            hint: give another checkpoint of the run, RUN/checkpoints/step-N
        "#]],
        ),
        (
            |at| fs::remove_file(at.join("parameters.safetensors")).expect("a file"),
            expect![[r#"
            error: run/checkpoints/step-2: damaged: it has no parameters.safetensors
            hint: give another checkpoint of the run, RUN/checkpoints/step-N
        "#]],
        ),
        (
            |at| {
                let state = fs::read_to_string(at.join("state.json")).expect("a state");
                replace(at, "state.json", state.replace("\"version\": 2", "\"version\": 3").as_bytes());
            },
            expect![[r#"
                error: run/checkpoints/step-2: damaged: state.json: version 3; expected 2
                hint: give another checkpoint of the run, RUN/checkpoints/step-N
            "#]],
        ),
        (
            |at| replace(at, "state.json", b"{}"),
            expect![[r#"
            error: run/checkpoints/step-2: damaged: state.json: missing field `version` at line 1 column 2
            hint: give another checkpoint of the run, RUN/checkpoints/step-N
        "#]],
        ),
        (
            |at| fs::write(at.join("SHA256SUMS"), "0  ../../manifest.json\n").expect("a file"),
            expect![[r#"
            error: run/checkpoints/step-2: damaged: SHA256SUMS lists "../../manifest.json", which is no file of a checkpoint
            hint: give another checkpoint of the run, RUN/checkpoints/step-N
        "#]],
        ),
        (
            |at| fs::write(at.join("SHA256SUMS"), "").expect("a file"),
            expect![[r#"
            error: run/checkpoints/step-2: damaged: SHA256SUMS does not list state.json
            hint: give another checkpoint of the run, RUN/checkpoints/step-N
        "#]],
        ),
    ]
}

#[test]
fn checkpoints() {
    let cases = damages();
    for (damage, expected) in &cases {
        let place = Place::new();
        let mut train =
            fam_onnx(&["train", "-q", "toy.fam", "--batch-size", "2", "--steps", "2", "-o", "run", "--data"]);
        run(train.arg(&place.data).current_dir(place.directory.path()));
        let at = place.directory.path().join("run/checkpoints/step-2");
        damage(&at);
        place.refused(&["export", "-q", "run/checkpoints/step-2", "-o", "out.onnx"], expected);
        assert!(!place.directory.path().join("out.onnx").exists());
    }
    row(
        "checkpoints whose tensors, state, versions or digests disagree with the manifest or each other",
        cases.len(),
        "refused by the name of what differs",
    );
}
