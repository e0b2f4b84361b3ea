//! Options with numbers that nobody means, of every command, as the command line itself defines them; and globs,
//! configurations and class weights that are garbage.

use crate::common::{fixture, toy_artifact, toy_npz};
use crate::place::{Ended, bounded};
use crate::record::row;
use clap::{Arg, ArgAction, Command};
use std::any::TypeId;
use std::fs;
use std::path::{Path, PathBuf};

/// The first four for names too, and where no file is there.
const NUMBERS: [&str; 16] = [
    "NaN",
    "-1",
    "",
    "x",
    "inf",
    "-inf",
    "-0",
    "0",
    "1e308",
    "-1e308",
    "1e-320",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "-9223372036854775808",
    "99999999999999999999",
];

/// A directory with a model, an artifact and data for it.
struct Inputs {
    directory: tempfile::TempDir,
    /// What stands in it before a command runs.
    names: Vec<String>,
    output: String,
}

impl Inputs {
    fn new() -> Inputs {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("m.onnx");
        fs::copy(fixture("mlp").join("model.onnx"), &model).expect("a model");
        toy_artifact(directory.path(), false);
        toy_npz(directory.path(), 8);
        let read = fam_onnx::onnx::read(&model).expect("a model");
        let output = read.graph.name_of(read.graph.outputs[0]).to_string();
        let names = names(directory.path());
        Inputs { directory, names, output }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Ends within bounds, by a message where it fails; only what succeeds leaves something.
    #[track_caller]
    fn run(&self, line: &[String]) -> Ended {
        let arguments: Vec<&str> = line.iter().map(String::as_str).collect();
        let ended = bounded(Path::new(env!("CARGO_BIN_EXE_fam-onnx")), &arguments, self.path(), 6 << 10, 60);
        let shown: String = line.join(" ").chars().take(300).collect();
        let stderr: String = ended.stderr.chars().take(2000).collect();
        assert!(matches!(ended.code, Some(0..=2)), "{shown}: {:?}\n{stderr}", ended.code);
        assert!(!stderr.contains("internal error") && !stderr.contains("panicked"), "{shown}\n{stderr}");
        let left: Vec<String> = names(self.path()).into_iter().filter(|name| !self.names.contains(name)).collect();
        if ended.code == Some(0) {
            left.iter().for_each(|name| remove(&self.path().join(name)));
        } else if stderr.contains("error: step ") {
            // A run whose loss became infinite is there to be gone on with.
            assert_eq!(left, ["run"], "{shown}");
            remove(&self.path().join("run"));
        } else {
            assert!(stderr.contains("error: "), "{shown}\n{stderr}");
            assert!(left.is_empty(), "{shown} leaves {left:?}");
        }
        ended
    }

    /// The arguments that a command needs, with files that are there (but for data that would be computed with for long), or
    /// with none.
    fn needed(&self, command: &str, option: &str, there: bool) -> Vec<(&'static str, String)> {
        let file = |name: &str| if there { name.to_owned() } else { format!("no-{name}") };
        let model = ("", file("m.onnx"));
        let output = |name: &str| ("output", name.to_owned());
        let no_data = ("data", "no.npz".to_owned());
        match command {
            "grad" | "jvp" => {
                vec![model, ("of", self.output.clone()), ("wrt", "parameters".to_owned()), output("out.onnx")]
            }
            "inject" => {
                vec![model, ("layer", "penultimate".to_owned()), ("lambda", "0.1".to_owned()), output("out.fam")]
            }
            "train" => {
                // Epochs and steps without number train without end.
                let data = match option {
                    "epochs" | "steps" => "no.npz".to_owned(),
                    _ => file("toy.npz"),
                };
                let few = [("steps", "2"), ("batch-size", "2")].map(|(name, value)| (name, value.to_owned()));
                let few = few.into_iter().filter(|(name, _)| *name != "steps" || option != "epochs");
                [("", file("toy.fam")), ("data", data), output("run")].into_iter().chain(few).collect()
            }
            "evaluate" => vec![("", file("toy.fam")), ("data", file("toy.npz"))],
            "measure" => vec![model, ("layer", "penultimate".to_owned()), no_data],
            "verify" => vec![("", file("toy.fam")), ("data", file("toy.npz"))],
            "export" => vec![("", file("toy.fam")), output("out.onnx")],
            "demo" => vec![("ort", "no.so".to_owned()), output("demo")],
            "inspect" | "print" => vec![model],
            _ => Vec::new(),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .expect("a directory")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.expect("removed");
}

/// Options whose value is no path and not one of a few words.
fn is_open(argument: &&Arg) -> bool {
    let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    takes && !argument.is_positional() && !path && argument.get_possible_values().is_empty()
}

fn is_name(argument: &Arg) -> bool {
    let is = |name: &clap::builder::Str| ["NAME", "GLOB", "OUTPUT", "LAYER"].contains(&name.as_str());
    argument.get_value_names().unwrap_or_default().iter().any(is)
}

fn given(needed: &[(&str, String)], without: &str) -> Vec<String> {
    let given = needed.iter().filter(|(option, _)| *option != without);
    given.map(|(option, value)| if option.is_empty() { value.clone() } else { format!("--{option}={value}") }).collect()
}

#[test]
fn numbers() {
    let inputs = Inputs::new();
    let mut definition = fam_onnx::cli::definition();
    definition.build();
    let (mut cases, mut refused, mut options) = (0, 0, 0);
    let leaves = definition.get_subcommands().filter(|command: &&Command| command.get_name() != "help");
    for command in leaves {
        let name = command.get_name();
        for option in command.get_arguments().filter(is_open) {
            let long = option.get_long().expect("a long name");
            options += 1;
            for there in [false, true] {
                for number in if is_name(option) || !there { &NUMBERS[..4] } else { &NUMBERS[..] } {
                    let mut line = vec![name.to_owned()];
                    line.extend(given(&inputs.needed(name, long, there), long));
                    line.push(format!("--{long}={number}"));
                    let ended = inputs.run(&line);
                    assert!(there || ended.code != Some(0), "{line:?}");
                    (cases, refused) = (cases + 1, refused + usize::from(ended.code != Some(0)));
                }
            }
        }
    }
    assert!(options > 80, "{options}");
    // What is multiplied or added to another number.
    let base = "train toy.fam --data toy.npz -o run --batch-size 2 --val 0.5 --lr 0";
    for (more, code) in [
        ("--epochs 18446744073709551615 --patience 1", 0),
        ("--epochs 18446744073709551615 --patience 1 --last-batch keep --accumulate 18446744073709551615", 0),
        ("--accumulate 9223372036854775808", 1),
        ("--steps 2 --lambda-sweep 0,0.1 --seeds 18446744073709551615", 2),
        ("--steps 2 --lambda-sweep 0,0.1 --seeds 10000 --seed 18446744073709551615", 2),
        ("--steps 2 --lambda-sweep 1e308", 2),
    ] {
        let line: Vec<String> = base.split(' ').chain(more.split(' ')).map(str::to_owned).collect();
        let ended = inputs.run(&line);
        assert_eq!(ended.code, Some(code), "{more}: {}", ended.stderr);
        (cases, refused) = (cases + 1, refused + usize::from(code != 0));
    }
    let outcome = format!("{refused} refused, by the option, or by the file that is missing; the others done");
    row(
        "NaN, infinities, negative and huge numbers, nothing and words, for every option of every command that is no path",
        cases,
        &outcome,
    );
}

/// Globs, each where `inject` takes one.
fn globs() -> Vec<String> {
    let mut globs: Vec<String> =
        ["[", "[!", "[z-a]", "{", "}", "{a,{b,{c", "\\", "**", "***", ":", "::", "fc:", "fc:NaN", "fc:-1"]
            .into_iter()
            .chain([
                "fc:inf",
                "fc:1e308",
                "fc:auto:",
                "fc:auto:0",
                "fc:auto:NaN",
                "\u{1b}[31m",
                "\n",
                "é*",
                "[é-\u{10ffff}]",
            ])
            .map(str::to_owned)
            .collect();
    for part in ["*", "?", "[", "{", "{a,b}", "**/", "*a", "[a-z]", "\\", "a:"] {
        globs.extend([100, 10_000].map(|times| part.repeat(times)));
    }
    globs
}

#[test]
fn texts() {
    let inputs = Inputs::new();
    let owned = |line: &[&str]| line.iter().map(|part| part.to_string()).collect::<Vec<String>>();
    let (mut cases, mut refused) = (0, 0);
    let mut count = |ended: Ended| {
        (cases, refused) = (cases + 1, refused + usize::from(ended.code != Some(0)));
    };
    for glob in globs() {
        let layer = format!("--layer={glob}");
        count(inputs.run(&owned(&["inject", "m.onnx", &layer, "--lambda=0.1", "-o", "out.fam"])));
        let freeze = format!("--freeze={glob}");
        count(inputs.run(&owned(&["inject", "m.onnx", "--layer=fc", "--lambda=0.1", &freeze, "-o", "out.fam"])));
    }
    // A hundred thousand names in one command line are more than a system takes as one argument.
    let many: Vec<String> = (0..100_000).map(|k| format!("{k:x}")).collect();
    let mut line = owned(&["grad", "m.onnx", "--of", &inputs.output, "-o", "out.onnx"]);
    line.extend(many.chunks(20_000).map(|names| format!("--wrt={}", names.join(","))));
    count(inputs.run(&line));
    let mut line = owned(&["grad", "m.onnx", "--of", &inputs.output, "-o", "out.onnx"]);
    line.extend((0..5).map(|_| format!("--wrt={}", vec!["x"; 20_000].join(","))));
    count(inputs.run(&line));
    row(
        "globs that are none, nested, repeated 10,000 times, for `--layer` and `--freeze`; 100,000 names for `--wrt`",
        cases,
        &format!("{refused} refused by name; where a glob names nothing to do, the others done"),
    );
}

#[test]
fn files_of_options() {
    let inputs = Inputs::new();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let configurations = [
        b"\0\0\0".to_vec(),
        b"\xff\xfe".to_vec(),
        b"[".to_vec(),
        b"lr = 1e999\n".to_vec(),
        b"lr = nan\n".to_vec(),
        b"lr = -inf\n".to_vec(),
        b"lr = 1e308\n".to_vec(),
        b"lr = 1\nlr = 2\n".to_vec(),
        b"epochs = 99999999999999999999\n".to_vec(),
        b"seeds = 9223372036854775807\nlambda-sweep = [0.0]\n".to_vec(),
        b"seed = -1\n".to_vec(),
        b"std = [0.0]\n".to_vec(),
        b"mean = [nan]\n".to_vec(),
        b"lambda-sweep = [-1.0, inf]\n".to_vec(),
        b"val = nan\n".to_vec(),
        b"accumulate = 0\n".to_vec(),
        b"augment = \"crop:9223372036854775807\"\n".to_vec(),
        b"artifact = 3\n".to_vec(),
        format!("mean = {}", deep("[", "]")).into_bytes(),
        format!("mean = {}", deep("{a=", "}")).into_bytes(),
        format!("{} = 1", vec!["a"; 100_000].join(".")).into_bytes(),
        format!("metric = \"{}", "x".repeat(900_000)).into_bytes(),
        vec![b'#'; 2 << 20],
    ];
    let weights = [
        "",
        "{}",
        "null",
        "3",
        "[]",
        "[",
        "[1,2",
        "[1,]",
        "[NaN, 1, 1]",
        "[-1, 1, 1]",
        "[1e999, 1, 1]",
        "[1e308, 1, 1]",
        "[0, 0, 0]",
        "[\"1\", 1, 1]",
        "[[1, 1, 1]]",
        "[1]",
        "\u{feff}[1,1,1]",
        "\0",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([deep("[", "]"), deep("{\"a\":", "}"), format!("[{}1]", "1,".repeat(1_000_000))]);
    let mut cases = 0;
    let mut refused = |line: &[&str]| {
        let ended = inputs.run(&line.iter().map(|part| part.to_string()).collect::<Vec<_>>());
        assert!(matches!(ended.code, Some(1 | 2)), "{line:?}");
        assert!(ended.stderr.len() < 10_000, "{} bytes", ended.stderr.len());
        cases += 1;
    };
    for content in configurations {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), &content).expect("a file");
        let path = file.path().to_str().expect("a path");
        refused(&["train", "toy.fam", "--data", "toy.npz", "--config", path, "-o", "run"]);
    }
    for content in weights {
        let file = tempfile::NamedTempFile::with_suffix(".json").expect("a file");
        fs::write(file.path(), &content).expect("a file");
        let path = file.path().to_str().expect("a path");
        let line = ["inject", "m.onnx", "--layer=fc", "--lambda=1", "--class-weights", path, "-o", "out.fam"];
        refused(&line);
    }
    row(
        "configurations and class weights that are garbage, nested 100,000 deep, of wrong types and sizes",
        cases,
        "refused by the name of the file or of the option",
    );
}
