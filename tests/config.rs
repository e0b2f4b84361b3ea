//! `config.toml`, completions and manual pages.

mod common;

use std::{fs, path::Path, process::Command};

use common::{fam_onnx, run, text, toy_artifact, toy_npz};
use expect_test::expect;
use fam_onnx::train::checkpoint;

/// Every option that changes what a run computes.
const OPTIONS: &str = "--val 0.2 --epochs 3 --batch-size 8 --accumulate 2 --last-batch keep --lr 0.03 --schedule one-cycle \
    --warmup 5 --seed 5 --init random --lambda 0.05 --lambda-warmup 4 --ema 0.9 --patience 9 --metric loss --log-every 2 \
    --checkpoint-every 4 --keep 2 --mean 0.1 --std 2 --device cpu --threads 1";

/// The configuration and the files of all checkpoints.
fn files(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("config.toml".to_owned(), fs::read(run.join("config.toml")).expect("a file"))];
    let checkpoints = checkpoint::list(&run.join("checkpoints"));
    for directory in checkpoints.iter().map(|(_, path)| path.clone()).chain([run.join("best")]) {
        for entry in fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            let name = entry.strip_prefix(run).expect("below it").display().to_string();
            files.push((name, fs::read(&entry).expect("a file")));
        }
    }
    files.sort();
    files
}

#[test]
fn a_configuration_repeats_its_run_to_the_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let (artifact, data) = (toy_artifact(directory.path(), false), toy_npz(directory.path(), 100));
    let mut first = fam_onnx(&["train", "-q", "--data"]);
    run(first.arg(data).args(OPTIONS.split_whitespace()).arg(artifact).arg("-o").arg(path("first")));
    let again = |name: &str, more: &[&str]| {
        let mut command = fam_onnx(&["train", "-q", "--config"]);
        run(command.arg(path("first/config.toml")).args(more).arg("-o").arg(path(name)).current_dir("/"));
    };
    again("second", &[]);
    let (found, expected) = (files(&path("second")), files(&path("first")));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    assert_eq!(expected.iter().filter(|(name, _)| name.ends_with("average.safetensors")).count(), 3);
    assert!(found == expected, "the bytes differ");
    // What the command line gives wins, and steps replace epochs.
    again("third", &["--steps", "2", "--seed", "6", "--device", "auto"]);
    let read = |name: &str| fs::read_to_string(path(name).join("config.toml")).expect("a file");
    let expected = read("first")
        .replace("epochs = 3", "steps = 2")
        .replace("seed = 5", "seed = 6")
        .replace("device = \"cpu\"", "device = \"auto\"");
    assert_eq!(read("third"), expected);
}

#[test]
fn faults_of_a_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("run.toml");
    let fails = |content: &str, code: i32| {
        fs::write(&file, content).expect("a file");
        let output = fam_onnx(&["train", "--config"]).arg(&file).output().expect("a process");
        assert_eq!(output.status.code(), Some(code));
        text(&output.stderr, directory.path())
    };
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 1
          |
        1 | epoch = 3
          | ^^^^^
        unknown field `epoch`, expected one of `artifact`, `data`, `val`, `epochs`, `steps`, `mean`, `std`, `label-column`, `max-unpacked`, `augment`, `batch-size`, `last-batch`, `accumulate`, `lr`, `schedule`, `warmup`, `seed`, `lambda`, `lambda-sweep`, `seeds`, `init`, `lambda-warmup`, `ema`, `patience`, `metric`, `log-every`, `checkpoint-every`, `keep`, `processes`, `device`, `threads`
    "#]].assert_eq(&fails("epoch = 3\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 6
          |
        1 | lr = "fast"
          |      ^^^^^^
        invalid type: string "fast", expected f64
    "#]]
    .assert_eq(&fails("lr = \"fast\"\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 12
          |
        1 | schedule = "round"
          |            ^^^^^^^
        unknown variant `round`, expected one of `constant`, `cosine`, `step`, `one-cycle`, `linear`
    "#]]
    .assert_eq(&fails("schedule = \"round\"\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 10
          |
        1 | device = "tpu"
          |          ^^^^^
        `tpu` is not a device; expected auto, cpu, cuda or cuda:INDEX
    "#]]
    .assert_eq(&fails("device = \"tpu\"\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 10
          |
        1 | epochs = -1
          |          ^^
        invalid value: integer `-1`, expected u64
    "#]]
    .assert_eq(&fails("epochs = -1\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 7
          |
        1 | val = 1.5
          |       ^^^
        the option val is 1.5; expected a file, a directory, or a fraction between 0 and 1
    "#]]
    .assert_eq(&fails("val = 1.5\n", 1));
    expect![[r#"
        error: DIR/run.toml: not a configuration: TOML parse error at line 1, column 7
          |
        1 | lr = [
          |       ^
        unclosed array, expected `]`
    "#]]
    .assert_eq(&fails("lr = [\n", 1));
    expect![[r#"
        error: the option batch-size is 0; expected a number above 0
    "#]]
    .assert_eq(&fails("artifact = \"a.fam\"\ndata = \"d.npz\"\nbatch-size = 0\n", 2));
    expect![[r#"
        error: ARTIFACT is given neither here nor in the configuration
    "#]]
    .assert_eq(&fails("lr = 0.1\n", 2));
    fs::remove_file(&file).expect("a file");
    let output = fam_onnx(&["train", "--config"]).arg(&file).output().expect("a process");
    expect![[r#"
        error: DIR/run.toml: No such file or directory (os error 2)
    "#]]
    .assert_eq(&text(&output.stderr, directory.path()));
}

const COMMANDS: [&str; 14] = [
    "completions",
    "demo",
    "evaluate",
    "export",
    "grad",
    "inject",
    "inspect",
    "jvp",
    "man",
    "measure",
    "print",
    "runtime",
    "train",
    "verify",
];

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&mut fam_onnx(&["completions", shell]));
        let script = String::from_utf8(output.stdout).expect("text");
        for word in COMMANDS.into_iter().chain(["lambda-sweep"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("completions");
    fs::write(&file, run(&mut fam_onnx(&["completions", "bash"])).stdout).expect("a file");
    let complete = "source \"$0\"; COMP_WORDS=(fam-onnx tra); COMP_CWORD=1; _fam__onnx fam-onnx tra fam-onnx; \
                    echo \"${COMPREPLY[@]}\"";
    let output = run(Command::new("bash").args(["-c", complete]).arg(&file));
    assert_eq!(text(&output.stdout, directory.path()), "train\n");
}

#[test]
fn manual_pages_for_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let man = directory.path().join("man1");
    run(fam_onnx(&["man", "-o"]).arg(&man));
    let mut names: Vec<String> = fs::read_dir(&man)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut expected: Vec<String> = COMMANDS.iter().map(|command| format!("fam-onnx-{command}.1")).collect();
    expected.push("fam-onnx.1".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    let page = fs::read_to_string(man.join("fam-onnx-train.1")).expect("a page");
    assert!(page.contains(".TH fam-onnx-train 1") && page.contains("lambda\\-sweep"), "{page}");
}
