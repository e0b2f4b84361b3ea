//! What is written appears whole or not at all, whatever happens meanwhile.

use crate::common::{fam_onnx, fixture};
use crate::record::row;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn place() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let model = place.path().join("m.onnx");
    fs::copy(fixture("mlp").join("model.onnx"), &model).expect("a model");
    (place, model)
}

/// The output of the model at hand.
fn grad(model: &Path, out: &Path) -> Command {
    let read = fam_onnx::onnx::read(model).expect("a model");
    let of = read.graph.name_of(read.graph.outputs[0]).to_string();
    let mut command = fam_onnx(&["grad", "-q", "--wrt", "parameters", "--of", &of]);
    command.arg(model).arg("-o").arg(out);
    command
}

fn inject(model: &Path, out: &Path) -> Command {
    let mut command = fam_onnx(&["inject", "-q", "--layer", "penultimate", "--lambda", "0.1", "--force"]);
    command.arg(model).arg("-o").arg(out);
    command
}

/// Files and directories that are not hidden.
fn visible(place: &Path) -> Vec<String> {
    let names =
        fs::read_dir(place).expect("a directory").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with(".fam-onnx-")).collect();
    names.sort();
    names
}

/// How often a test disturbs a command.
const ROUNDS: u32 = 40;

/// The time a command takes when nobody disturbs it.
fn duration(mut command: Command) -> Duration {
    let started = Instant::now();
    assert!(command.stdout(Stdio::null()).status().expect("a process").success());
    started.elapsed()
}

/// When a round disturbs its command: from the first moment to four times the command's time, half of them within it,
/// so that some come before the end and some after it on a machine of any speed.
fn moment(round: u32, whole: Duration) -> Duration {
    whole.mul_f64(4.0 * (f64::from(round) / f64::from(ROUNDS)).powi(2))
}

fn killed(mut command: Command, after: Duration) {
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process");
    std::thread::sleep(after);
    let _ = process.kill();
    process.wait().expect("an end");
}

#[test]
fn killed_at_any_moment() {
    let (place, model) = place();
    let (file, directory) = (place.path().join("out.onnx"), place.path().join("out.fam"));
    let whole = || {
        if file.exists() {
            fam_onnx::onnx::read(&file).expect("a whole model");
        }
        if directory.exists() {
            let manifest = fam_onnx::artifact::manifest::Manifest::read(&directory).expect("a whole manifest");
            let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
            assert!(names.len() >= 5);
            manifest.verify_files(&directory, &names).expect("whole files");
        }
    };
    let (differentiating, injecting) = (duration(grad(&model, &file)), duration(inject(&model, &directory)));
    let mut cases = 0;
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            killed(grad(&model, &file), moment(round, differentiating));
        } else {
            killed(inject(&model, &directory), moment(round, injecting));
        }
        whole();
        cases += 1;
    }
    assert!(grad(&model, &file).status().expect("a process").success());
    assert!(inject(&model, &directory).status().expect("a process").success());
    whole();
    assert_eq!(visible(place.path()), ["m.onnx", "out.fam", "out.onnx"]);
    row(
        "SIGKILL while `grad` or `inject` writes, at any moment",
        cases,
        "whole or not there; what is left is called `.fam-onnx-…`",
    );
}

/// What stands at an output when the process that replaces it is killed: what was there before, or the new whole.
#[test]
fn killed_over_an_existing_output() {
    let (place, model) = place();
    let root = place.path();
    let (file, directory) = (root.join("out.onnx"), root.join("out.fam"));
    assert!(inject(&model, &root.join("from.fam")).status().expect("a process").success());
    let export = || {
        let mut command = fam_onnx(&["export", "-q"]);
        command.arg(root.join("from.fam")).arg("-o").arg(&file);
        command
    };
    assert!(export().status().expect("a process").success());
    let new = fs::read(&file).expect("a model");
    let exporting = duration(export());
    let injecting = duration(inject(&model, &directory));
    let (mut cases, mut kept) = (0, 0);
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            fs::write(&file, "before").expect("a file");
            killed(export(), moment(round, exporting));
            let found = fs::read(&file).expect("a file");
            assert!(found == new || found == b"before", "{} bytes", found.len());
            kept += usize::from(found == b"before");
        } else {
            let _ = fs::remove_dir_all(&directory);
            assert!(inject(&model, &directory).status().expect("a process").success());
            let mut other = inject(&model, &directory);
            other.args(["--optimizer", "adam"]);
            killed(other, moment(round, injecting));
            // Between two renames the one before stands aside.
            let aside = fs::read_dir(root).expect("a directory").flatten().map(|e| e.path().join("old"));
            let at = std::iter::once(directory.clone()).chain(aside).find(|path| path.exists()).expect("an artifact");
            let manifest = fam_onnx::artifact::manifest::Manifest::read(&at).expect("a whole manifest");
            let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
            manifest.verify_files(&at, &names).expect("whole files");
            for left in fs::read_dir(root).expect("a directory").flatten() {
                if left.file_name().to_string_lossy().starts_with(".fam-onnx-old-") {
                    fs::remove_dir_all(left.path()).expect("removed");
                }
            }
        }
        cases += 1;
    }
    assert!((1..ROUNDS as usize / 2).contains(&kept), "{kept}");
    row(
        "SIGKILL while `export` or `inject --force` replaces what is there, at any moment",
        cases,
        "what was there before, or the new whole",
    );
}

/// The directory of the output is removed, or gets another name, while it is written.
#[test]
fn targets_that_vanish() {
    let (place, model) = place();
    let (home, moved) = (place.path().join("home"), place.path().join("moved"));
    let commands = || [grad(&model, &home.join("out.onnx")), inject(&model, &home.join("out.fam"))];
    fs::create_dir(&home).expect("a directory");
    let durations = commands().map(duration);
    fs::remove_dir_all(&home).expect("removed");
    let mut cases = 0;
    for round in 0..ROUNDS {
        fs::create_dir(&home).expect("a directory");
        let [graph, artifact] = commands();
        let (mut command, whole) = if round % 2 == 0 { (graph, durations[0]) } else { (artifact, durations[1]) };
        let process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a process");
        std::thread::sleep(moment(round, whole));
        match round % 4 < 2 {
            // What is written meanwhile may keep it from being empty.
            true => while fs::remove_dir_all(&home).is_err() {},
            false => fs::rename(&home, &moved).expect("moved"),
        }
        let output = process.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{stderr}");
        assert!(!stderr.contains("internal error") && !stderr.contains(".fam-onnx-"), "{stderr}");
        assert!(output.status.success() || stderr.contains("home/out"), "{stderr}");
        for directory in [&home, &moved].into_iter().filter(|directory| directory.exists()) {
            for name in visible(directory) {
                let at = directory.join(&name);
                match name.as_str() {
                    "out.onnx" => drop(fam_onnx::onnx::read(&at).expect("a whole model")),
                    _ => drop(fam_onnx::artifact::manifest::Manifest::read(&at).expect("a whole manifest")),
                }
            }
            fs::remove_dir_all(directory).expect("removed");
        }
        cases += 1;
    }
    row(
        "the directory of an output removed or moved while `grad` or `inject` writes",
        cases,
        "done, or refused by the name of the output; no part of one is left under its name",
    );
}

#[test]
fn two_at_once() {
    let (place, model) = place();
    let (file, directory) = (place.path().join("out.onnx"), place.path().join("out.fam"));
    let mut cases = 0;
    for _ in 0..4 {
        let both = |make: &dyn Fn() -> Command| {
            let mut pair: Vec<_> = (0..3)
                .map(|_| make().stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process"))
                .collect();
            pair.drain(..).map(|p| p.wait_with_output().expect("an end")).collect::<Vec<_>>()
        };
        let ends = both(&|| grad(&model, &file));
        assert!(ends.iter().all(|end| end.status.success()), "{ends:?}");
        fam_onnx::onnx::read(&file).expect("a whole model");
        let ends = both(&|| inject(&model, &directory));
        assert!(ends.iter().any(|end| end.status.success()), "{ends:?}");
        assert!(ends.iter().all(|end| matches!(end.status.code(), Some(0 | 1))), "{ends:?}");
        let manifest = fam_onnx::artifact::manifest::Manifest::read(&directory).expect("a whole manifest");
        let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
        manifest.verify_files(&directory, &names).expect("whole files");
        cases += 2;
    }
    assert_eq!(visible(place.path()), ["m.onnx", "out.fam", "out.onnx"]);
    row("three processes with one output", cases, "a whole one of one of them");
}

#[test]
fn targets_that_cannot_be() {
    let (place, model) = place();
    let root = place.path();
    fs::create_dir(root.join("directory")).expect("a directory");
    fs::write(root.join("file"), "mine").expect("a file");
    fs::create_dir(root.join("sealed")).expect("a directory");
    fs::set_permissions(root.join("sealed"), fs::Permissions::from_mode(0o555)).expect("permissions");
    std::os::unix::fs::symlink(root.join("file"), root.join("link")).expect("a link");
    let mut cases = 0;
    let mut refused = |mut command: Command, name: &str| {
        let output = command.output().expect("a process");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.contains(name) && !stderr.contains(".fam-onnx-"), "{stderr}");
        cases += 1;
    };
    for name in ["directory", "missing/out.onnx", "file/out.onnx", "m.onnx"] {
        refused(grad(&model, &root.join(name)), name);
    }
    for name in ["directory", "missing/out.fam", "file", "file/out.fam", "link"] {
        refused(inject(&model, &root.join(name)), name);
    }
    // A full disk: no file may have more than 4 kB.
    for (mut command, name) in
        [(grad(&model, &root.join("full.onnx")), "full.onnx"), (inject(&model, &root.join("full.fam")), "full.fam")]
    {
        let line: Vec<_> =
            [command.get_program()].into_iter().chain(command.get_args()).map(|a| a.to_owned()).collect();
        command = Command::new("bash");
        command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""]).args(line).env("NO_COLOR", "1");
        refused(command, name);
    }
    assert_eq!(fs::read(root.join("file")).expect("a file"), b"mine");
    assert_eq!(visible(root), ["directory", "file", "link", "m.onnx", "sealed"]);
    assert!(
        fs::read_dir(root)
            .expect("a directory")
            .flatten()
            .all(|e| !e.file_name().to_string_lossy().starts_with(".fam"))
    );
    // A link as the target of a file is replaced, and what it leads to stays.
    assert!(grad(&model, &root.join("link")).status().expect("a process").success());
    assert_eq!(fs::read(root.join("file")).expect("a file"), b"mine");
    row(
        "outputs that are directories, files, links, in no directory, on a full disk",
        cases + 1,
        "refused by the name of the output; nothing is left or changed",
    );
}

/// Files that were private while they were unfinished can be read by whoever reads any new file.
#[test]
fn what_is_written_is_as_readable_as_any_new_file() {
    let (place, model) = place();
    let (new, directory, out) = (place.path().join("new"), place.path().join("m.fam"), place.path().join("grad.onnx"));
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode();
    fs::write(&new, "").expect("a file");
    assert!(inject(&model, &directory).status().expect("a process").success());
    assert!(grad(&model, &out).status().expect("a process").success());
    let files = fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    for file in files.chain([out]) {
        assert_eq!(mode(&file), mode(&new), "{}", file.display());
    }
}
