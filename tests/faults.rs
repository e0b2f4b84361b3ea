//! What happens to a run when something goes wrong: the README's table, a row a test. Every run that goes on ends with the
//! bytes of one that nothing happened to.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{fam_onnx, npz, run, text, toy_artifact, toy_data, toy_npz};
use expect_test::expect;
use fam_onnx::train::{checkpoint, run as runs, run::Run};

/// An artifact, its data and a run of it.
struct Place {
    directory: tempfile::TempDir,
    artifact: PathBuf,
    data: PathBuf,
}

/// Steps of an epoch: 80 samples in batches of 16.
const OPTIONS: [&str; 7] = ["--batch-size", "16", "--val", "0.2", "--threads", "1", "-q"];

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let artifact = toy_artifact(directory.path(), false);
        let data = toy_npz(directory.path(), 100);
        Place { directory, artifact, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, name: &str) -> Run {
        Run::open(&self.path(name)).expect("a run")
    }

    fn train(&self, name: &str, more: &[&str]) -> Command {
        let mut command = fam_onnx(&["train"]);
        command.arg(&self.artifact).arg("--data").arg(&self.data).args(OPTIONS).args(more);
        command.arg("-o").arg(self.path(name));
        command
    }

    fn resume(&self, name: &str, more: &[&str]) -> Command {
        let mut command = fam_onnx(&["train", "--resume"]);
        command.arg(self.path(name)).args(more);
        command
    }

    /// Exit code and stderr of a command.
    fn says(&self, command: &mut Command) -> (i32, String) {
        let output = command.output().expect("a process");
        (output.status.code().expect("an exit code"), text(&output.stderr, self.directory.path()))
    }

    /// The final state of both runs is the same.
    #[track_caller]
    fn assert_same(&self, found: &str, expected: &str, step: u64) {
        for directory in [format!("checkpoints/step-{step}"), "best".to_owned()] {
            for file in ["parameters.safetensors", "state.json", "SHA256SUMS"] {
                let read = |run: &str| fs::read(self.path(run).join(&directory).join(file)).expect("a file");
                assert!(read(found) == read(expected), "{directory}/{file} of {found} is not that of {expected}");
            }
        }
        let metrics = |run: &str| {
            let text = fs::read_to_string(self.run(run).metrics()).expect("metrics");
            let without_speed = |line: &str| line.split(",\"examples_per_second\"").next().map(str::to_owned);
            text.lines().filter_map(without_speed).collect::<Vec<_>>()
        };
        assert_eq!(metrics(found), metrics(expected));
    }
}

fn latest(run: &Run) -> u64 {
    checkpoint::list(&run.checkpoints()).last().map_or(0, |(step, _)| *step)
}

/// SIGKILL at 20 random moments: while the program starts, between steps, while a checkpoint is written.
#[cfg(unix)]
#[test]
fn killed() {
    let place = Place::new();
    let endless = ["--steps", "1000000000", "--checkpoint-every", "7"];
    // A linear congruential generator: moments that differ, the same in every test.
    let mut random = 1u64;
    let mut moment = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Duration::from_millis((random >> 33) % 400)
    };
    let mut steps = Vec::new();
    for kill in 0..20 {
        let begun = place.path("run").exists();
        let mut command = if begun { place.resume("run", &["-q"]) } else { place.train("run", &endless) };
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a process");
        // Every fourth kill may come before the first step.
        if kill % 4 != 0 {
            let before = steps.last().copied().unwrap_or(0);
            while process.try_wait().expect("a process").is_none()
                && !(place.path("run").exists() && latest(&place.run("run")) > before)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::thread::sleep(moment());
        process.kill().expect("a kill");
        let status = process.wait().expect("an end");
        let mut stderr = String::new();
        process.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
        assert_eq!(status.code(), None, "it ended by itself: {stderr}");
        assert_eq!(stderr, "", "nothing is damaged by a kill");
        if place.path("run").exists() {
            steps.push(latest(&place.run("run")));
        }
    }
    assert!(steps.is_sorted() && steps.last() > Some(&0), "no step is lost: {steps:?}");
    let end = steps.last().expect("a step") + 23;
    run(&mut place.resume("run", &["--steps", &end.to_string()]));
    run(&mut place.train("whole", &["--steps", &end.to_string(), "--checkpoint-every", "7"]));
    place.assert_same("run", "whole", end);
}

#[cfg(unix)]
#[test]
fn killed_while_the_best_checkpoint_is_replaced() {
    let place = Place::new();
    run(&mut place.train("whole", &["--steps", "20"]));
    run(&mut place.train("run", &["--steps", "20"]));
    let best = place.run("run").best();
    let between = best.with_file_name(".best.old");
    fs::rename(&best, &between).expect("a rename");
    fs::create_dir(best.with_file_name(".best.new")).expect("a directory");
    let weights = runs::weights(&place.path("run")).expect("weights");
    assert_eq!((weights.origin, weights.parameters.parent()), (runs::Origin::Best, Some(between.as_path())));
    run(&mut place.resume("run", &[]));
    place.assert_same("run", "whole", 20);
    assert!(!between.exists() && !best.with_file_name(".best.new").exists());
}

/// A limit on the size of files is a full disk for those who may not mount a small one.
#[cfg(unix)]
#[test]
fn disk_full() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    let inject = fam_onnx(&["inject", "--layer", "fc2", "--lambda", "0.1", "--momentum", "0.9", "-o"])
        .arg(place("mlp.fam"))
        .arg(common::fixture("mlp").join("model.onnx"))
        .output()
        .expect("a process");
    assert!(inject.status.success());
    let (x, labels) = toy_data(500);
    let arrays = [("x", npz::f32s(&[100, 20], &x)), ("labels", npz::i64s(&[100], &labels[..100]))];
    npz::write(&place("data.npz"), &arrays, true);
    let train = |name: &str, steps: &str| {
        let mut command = fam_onnx(&["train", "-q", "--threads", "1", "--log-every", "1000000", "--steps", steps]);
        command.args(["--batch-size", "16", "--data"]).arg(place("data.npz")).arg(place("mlp.fam"));
        command.arg("-o").arg(place(name));
        command
    };
    run(&mut train("whole", "24"));
    run(&mut train("run", "12"));
    run(fam_onnx(&["train", "-q", "--resume"]).arg(place("run")).args(["--steps", "13"]));
    fs::write(place("run/config.toml"), fs::read(place("whole/config.toml")).expect("a file")).expect("a file");

    // The parameters take 5 kB, in a shell that lets files have 4.
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$0\" train -q --resume \"$1\"";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_fam-onnx")])
        .arg(place("run"))
        .env("NO_COLOR", "1")
        .output()
        .expect("a shell");
    let stderr = text(&output.stderr, directory.path());
    expect![[r#"
        error: DIR/run/checkpoints/step-18: File too large (os error 27)
        hint: make room; fam-onnx train --resume goes on from the last checkpoint
    "#]]
    .assert_eq(&stderr);
    assert_eq!(output.status.code(), Some(1));
    let left: Vec<String> = fs::read_dir(place("run/checkpoints"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "step-6" && name != "step-12" && name != "step-13")
        .collect();
    assert!(left.is_empty(), "{left:?}");

    run(fam_onnx(&["train", "-q", "--resume"]).arg(place("run")));
    for file in ["parameters.safetensors", "state.json"] {
        let read = |name: &str| fs::read(place(name).join("checkpoints/step-24").join(file)).expect("a file");
        assert!(read("run") == read("whole"), "{file}");
    }
}

#[test]
fn checkpoint_damaged() {
    let place = Place::new();
    run(&mut place.train("whole", &["--steps", "20"]));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("a file");
    };
    let cut = |path: &Path| fs::write(path, &fs::read(path).expect("a file")[..10]).expect("a file");
    let remove = |path: &Path| fs::remove_file(path).expect("a file");
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let damages: [Damage; 6] = [
        ("parameters.safetensors", &flip, "parameters.safetensors is not what SHA256SUMS says it is"),
        ("state.json", &flip, "state.json is not what SHA256SUMS says it is"),
        ("SHA256SUMS", &flip, ""),
        ("parameters.safetensors", &cut, "parameters.safetensors is not what SHA256SUMS says it is"),
        ("state.json", &remove, "it has no state.json"),
        ("SHA256SUMS", &remove, "it has no SHA256SUMS"),
    ];
    for (k, (file, damage, why)) in damages.into_iter().enumerate() {
        let name = format!("run-{k}");
        run(&mut place.train(&name, &["--steps", "13", "--checkpoint-every", "5"]));
        damage(&place.path(&name).join("checkpoints/step-13").join(file));
        let (code, stderr) = place.says(&mut place.resume(&name, &["--steps", "20"]));
        assert_eq!(code, 0, "{stderr}");
        let said = format!("DIR/{name}/checkpoints/step-13 is damaged ({why}");
        assert!(stderr.starts_with(&said), "{stderr}");
        let then = format!(
            "); it is now DIR/{name}/checkpoints/damaged-step-13, and the run goes on from the checkpoint before it\nsteps 11 to 20 on"
        );
        assert!(stderr.contains(&then), "{stderr}");
        place.assert_same(&name, "whole", 20);
    }

    run(&mut place.train("all", &["--steps", "10", "--checkpoint-every", "5"]));
    for step in ["step-5", "step-10"] {
        flip(&place.path("all/checkpoints").join(step).join("parameters.safetensors"));
    }
    let (code, stderr) = place.says(&mut place.resume("all", &[]));
    expect![[r#"
        error: DIR/all: no checkpoint is whole:
          DIR/all/checkpoints/step-10: parameters.safetensors is not what SHA256SUMS says it is
          DIR/all/checkpoints/step-5: parameters.safetensors is not what SHA256SUMS says it is
        hint: train anew, with --force in the same directory
    "#]]
    .assert_eq(&stderr);
    assert_eq!(code, 1);
    remove(&place.path("all/best/SHA256SUMS"));
    let (_, stderr) = place.says(fam_onnx(&["export", "-o", "x.onnx"]).arg(place.path("all")));
    expect![[r#"
        error: DIR/all/best: damaged: it has no SHA256SUMS
        hint: give another checkpoint of the run, RUN/checkpoints/step-N
    "#]]
    .assert_eq(&stderr);
}

#[test]
fn loss_not_finite() {
    let place = Place::new();
    let (code, stderr) = place.says(&mut place.train("run", &["--lr", "1e30", "--steps", "20"]));
    expect![[r#"
        error: step 2: the objective is NaN; no checkpoint was written yet
        hint: try a smaller --lr, a smaller --lambda, a --warmup or --lambda-warmup (--resume begins the run again with them); inject with --clip-norm keeps the gradient in bounds
    "#]]
    .assert_eq(&stderr);
    assert_eq!(code, 1);
    // A directory without a checkpoint is no trap: the run begins again in it, or is replaced.
    run(&mut place.resume("run", &["--lr", "0.01"]));
    run(&mut place.train("whole", &["--steps", "20"]));
    place.assert_same("run", "whole", 20);
    run(&mut place.train("run", &["--steps", "20", "--force"]));
    place.assert_same("run", "whole", 20);

    fs::create_dir(place.path("other")).expect("a directory");
    let (code, stderr) = place.says(&mut place.train("other", &["--force"]));
    expect![[r#"
        error: DIR/other: not a run, a checkpoint or an artifact: it has no config.toml
        hint: fam-onnx inject makes an artifact of a model, fam-onnx train a run of an artifact
    "#]]
    .assert_eq(&stderr);
    assert_eq!(code, 1);
}

#[test]
fn data_changed() {
    let place = Place::new();
    run(&mut place.train("run", &["--steps", "10", "--log-every", "10"]));
    let before = fs::read(&place.data).expect("data");
    toy_npz(place.directory.path(), 110);
    let (code, stderr) = place.says(&mut place.resume("run", &["--steps", "20"]));
    expect![[r#"
        error: DIR/toy.npz: the data are not those that the run began with; put them back, or begin a new run
        hint: to go on with them all the same, name them: --data DIR/toy.npz
    "#]]
    .assert_eq(&stderr);
    assert_eq!(code, 1);
    fs::write(&place.data, before).expect("data");
    run(&mut place.resume("run", &["--steps", "20"]));
    run(&mut place.train("whole", &["--steps", "20", "--log-every", "10"]));
    place.assert_same("run", "whole", 20);
    toy_npz(place.directory.path(), 110);
    let data = place.data.display().to_string();
    run(&mut place.resume("run", &["--steps", "25", "--data", &data]));
    run(&mut place.resume("run", &["--steps", "30"]));
    assert_eq!(latest(&place.run("run")), 30);
}

/// SIGTERM is what a queue sends when the time is over.
#[cfg(unix)]
#[test]
fn terminated_and_taken_by_one_process_only() {
    let place = Place::new();
    let command = place.train("run", &["--steps", "1000000000", "--log-every", "1"]);
    let loud = command.get_args().filter(|a| *a != "-q").map(std::ffi::OsStr::to_owned).collect::<Vec<_>>();
    let mut process = fam_onnx(&[]).args(loud).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
    let mut stderr = BufReader::new(process.stderr.take().expect("a pipe")).lines();
    stderr.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("step 1 "))).expect("a step").expect("text");
    let (code, said) = place.says(&mut place.resume("run", &["-q"]));
    expect![[r#"
        error: DIR/run: another process trains in it
    "#]]
    .assert_eq(&said);
    assert_eq!(code, 1);
    run(Command::new("kill").args(["-TERM", &process.id().to_string()]));
    let rest: Vec<String> = stderr.map(|line| line.expect("text")).collect();
    assert_eq!(process.wait().expect("an end").code(), Some(130), "{}", rest.join("\n"));
    let end = latest(&place.run("run")) + 9;
    run(&mut place.resume("run", &["--steps", &end.to_string(), "--log-every", "1"]));
    run(&mut place.train("whole", &["--steps", &end.to_string(), "--log-every", "1"]));
    place.assert_same("run", "whole", end);
}
