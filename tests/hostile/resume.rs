//! Runs to be gone on with, whose checkpoints are damaged, of another version, of another model, links, or garbage.

use crate::common::{fam_onnx, run, text, toy_artifact, toy_npz};
use crate::record::row;
use expect_test::{Expect, expect};
use fam_onnx::artifact::manifest::sha256;
use fam_onnx::tensor::{encode_safetensors, read_safetensors};
use fam_onnx::train::checkpoint::SUMS;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const FILES: [&str; 3] = ["parameters.safetensors", "state.json", SUMS];

/// A directory with a run of four steps that has a checkpoint after two of them and after four.
struct Place {
    directory: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        toy_artifact(directory.path(), false);
        toy_npz(directory.path(), 8);
        let line = "train -q toy.fam --data toy.npz --batch-size 2 --steps 4 --checkpoint-every 2 -o whole";
        run(fam_onnx(&line.split(' ').collect::<Vec<_>>()).current_dir(directory.path()));
        Place { directory }
    }

    /// The run anew.
    fn fresh(&self) -> PathBuf {
        let run = self.directory.path().join("run");
        let _ = fs::remove_dir_all(&run);
        copy(&self.directory.path().join("whole"), &run);
        run
    }

    /// What going on for two more steps says, and how it ends.
    #[track_caller]
    fn resumed(&self, more: &[&str]) -> (i32, String) {
        let line = [&["train", "--resume", "run", "--steps", "6"], more].concat();
        let output = fam_onnx(&line).current_dir(self.directory.path()).output().expect("a process");
        let told = text(&output.stderr, &self.directory.path().canonicalize().expect("a directory"));
        assert!(!told.contains("internal error"), "{told}");
        (output.status.code().expect("no signal"), told)
    }
}

fn step(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step}"))
}

/// Writes a file of a checkpoint, and its digest.
fn replace(checkpoint: &Path, name: &str, bytes: &[u8]) {
    let before = sha256(&fs::read(checkpoint.join(name)).expect("a file"));
    fs::write(checkpoint.join(name), bytes).expect("a file");
    let sums = fs::read_to_string(checkpoint.join(SUMS)).expect("digests");
    fs::write(checkpoint.join(SUMS), sums.replace(&before, &sha256(bytes))).expect("digests");
}

/// A run goes on from the checkpoint before the one that is damaged, which stays beside it under another name.
#[test]
fn damaged() {
    let place = Place::new();
    let mut cases = 0;
    let mut gone_on = |damage: &dyn Fn(&Path)| {
        let run = place.fresh();
        damage(&step(&run, 4));
        let (code, told) = place.resumed(&[]);
        assert_eq!(code, 0, "{told}");
        assert!(told.contains("damaged-step-4"), "{told}");
        assert!(step(&run, 6).is_dir() && run.join("checkpoints/damaged-step-4").exists());
        cases += 1;
    };
    for name in FILES {
        let bytes = fs::read(step(&place.directory.path().join("whole"), 4).join(name)).expect("a file");
        for part in [0, 1, 2, 3] {
            let at = bytes.len() * part / 4;
            gone_on(&|checkpoint| fs::write(checkpoint.join(name), &bytes[..at]).expect("a file"));
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            gone_on(&|checkpoint| fs::write(checkpoint.join(name), &flipped).expect("a file"));
        }
        gone_on(&|checkpoint| fs::remove_file(checkpoint.join(name)).expect("a file"));
    }
    gone_on(&|checkpoint| {
        let state = fs::read_to_string(checkpoint.join("state.json")).expect("a state");
        replace(checkpoint, "state.json", state.replace("\"version\": 2", "\"version\": 99").as_bytes());
    });
    gone_on(&|checkpoint| replace(checkpoint, "parameters.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"));
    row(
        "runs to be gone on with whose last checkpoint is cut short, changed, without a file, of another version",
        cases,
        "gone on with from the one before, as is said; the damaged one is kept aside",
    );
}

type Change = fn(&Path);

fn changes() -> Vec<(Change, i32, Expect)> {
    vec![
        (
            |run| {
                let at = step(run, 4);
                let mut tensors = read_safetensors(&at.join("parameters.safetensors")).expect("tensors");
                let weight = tensors.remove("fc.weight").expect("a weight");
                tensors.insert("fc.other".to_owned(), weight);
                replace(&at, "parameters.safetensors", &encode_safetensors(&tensors).expect("bytes"));
            },
            1,
            expect![[r#"
                error: run/checkpoints/step-4/parameters.safetensors: the parameter `fc.weight` is not in it, but the manifest lists it
            "#]],
        ),
        (
            |run| {
                for number in [2, 4] {
                    fs::write(step(run, number).join("state.json"), "{}").expect("a file");
                }
            },
            1,
            expect![[r#"
                error: run: no checkpoint is whole:
                  run/checkpoints/step-4: state.json is not what SHA256SUMS says it is
                  run/checkpoints/step-2: state.json is not what SHA256SUMS says it is
                hint: train anew, with --force in the same directory
            "#]],
        ),
        (
            |run| {
                // What is no checkpoint is left alone.
                let at = run.join("checkpoints");
                fs::write(at.join("step-8"), "garbage").expect("a file");
                fs::create_dir(at.join("step-9")).expect("a directory");
                fs::create_dir(at.join("step-18446744073709551616")).expect("a directory");
                fs::create_dir(at.join("step-x")).expect("a directory");
                fs::write(at.join(".fam-onnx-left"), "garbage").expect("a file");
            },
            0,
            expect![[""]],
        ),
        (
            |run| {
                let outside = run.parent().expect("a directory").join("outside");
                let _ = fs::remove_dir_all(&outside);
                fs::create_dir(&outside).expect("a directory");
                fs::write(outside.join("mine"), "mine").expect("a file");
                symlink(outside, run.join("checkpoints/step-5")).expect("a link");
                symlink("/nowhere", run.join("checkpoints/step-7")).expect("a link");
            },
            0,
            expect![[""]],
        ),
        (
            |run| {
                let manifest = fs::read_to_string(run.join("manifest.json")).expect("a manifest");
                fs::write(run.join("manifest.json"), manifest.replace("\"fc.bias\"", "\"fc.b\"")).expect("a manifest");
            },
            1,
            expect![[r#"
                error: run/manifest.json: train.onnx has the input `fc.bias`, which has no role here; evaluate.onnx has the input `fc.bias`, which has no role here
            "#]],
        ),
        (
            |run| fs::write(run.join("train.onnx"), "short").expect("a graph"),
            1,
            expect![[r#"
            error: run: train.onnx was changed or cut short: its SHA-256 is DIGEST  but the manifest says DIGEST  inject anew or take another copy
        "#]],
        ),
        (
            |run| fs::write(run.join("config.toml"), "artifact = [").expect("a configuration"),
            1,
            expect![[r#"
            error: run/config.toml: not a configuration: TOML parse error at line 1, column 13
              |
            1 | artifact = [
              |             ^
            unclosed array, expected `]`
        "#]],
        ),
    ]
}

#[test]
fn disagreeing() {
    let place = Place::new();
    let cases = changes();
    for (change, code, expected) in &cases {
        let run = place.fresh();
        change(&run);
        let (found, told) = place.resumed(&["-q"]);
        let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let words: Vec<&str> = told
            .split_inclusive([' ', ',', ';'])
            .map(|part| if is_digest(part.trim_end_matches([' ', ',', ';'])) { "DIGEST " } else { part })
            .collect();
        expected.assert_eq(&words.concat());
        assert_eq!(found, *code, "{told}");
    }
    assert_eq!(fs::read(place.directory.path().join("outside/mine")).expect("a file"), b"mine");
    row(
        "runs to be gone on with whose checkpoints, manifest, graphs or configuration disagree, with garbage or links beside them",
        cases.len(),
        "refused by the name of what differs; garbage is left or kept aside, what a link leads to stays as it is",
    );
}
