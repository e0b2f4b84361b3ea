//! Model files: cut short, changed, or made to take all memory or time.

use crate::parts::*;
use crate::place::{Ended, bounded};
use crate::record::row;
use fam_onnx::limits::Limits;
use fam_onnx::onnx::proto::*;
use fam_onnx::{ad, onnx};
use prost::Message;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Address space and time of one command on a hostile model, in a debug build on a busy machine.
const MEGABYTES: u64 = 3 << 10;
const SECONDS: u64 = 60;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_fam-onnx").into()
}

fn run(directory: &Path, line: &str) -> Ended {
    let arguments: Vec<&str> = line.split(' ').collect();
    bounded(&program(), &arguments, directory, MEGABYTES, SECONDS)
}

/// Every command that reads a model ends well and shows nothing that a terminal acts on; how many were refused.
#[track_caller]
fn commands_end(what: &str, model: &[u8]) -> usize {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("m.onnx"), model).expect("a file");
    let lines = [
        "inspect m.onnx",
        "grad m.onnx --of y --wrt x -o out.onnx",
        "jvp m.onnx --of y --wrt x -o out.onnx",
        "inject m.onnx --layer penultimate --lambda 0.1 -o out.fam",
    ];
    let mut refused = 0;
    for line in lines {
        let ended = run(directory.path(), line);
        let code = ended.code;
        assert!(matches!(code, Some(0 | 1)), "{what}: {line}: {code:?} after {} s\n{}", ended.seconds, ended.stderr);
        assert!(!ended.stderr.contains("internal error"), "{what}: {line}: {}", ended.stderr);
        assert!(!ended.stderr.contains("out of memory"), "{what}: {line}: {}", ended.stderr);
        let shown = ended.stdout + &ended.stderr;
        assert!(!shown.chars().any(|c| c != '\n' && fam_onnx::shown::is_hidden(c)), "{what}: {line}: {shown:?}");
        if code == Some(1) {
            refused += 1;
            let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").flatten().collect();
            assert!(
                left.iter().all(|e| !e.file_name().to_string_lossy().starts_with(".fam")),
                "{what}: {line}: {left:?}"
            );
        }
        for written in ["out.onnx", "out.fam"] {
            let path = directory.path().join(written);
            assert!(code == Some(0) || !path.exists(), "{what}: {line} left {written}");
            let _ = std::fs::remove_file(&path);
        }
    }
    refused
}

fn small_models() -> Vec<Vec<u8>> {
    let names = ["batch_norm_9_train", "functions", "grid_sample_16", "resize_10", "split_18", "subgraphs"];
    let path = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/onnx/{name}.onnx"));
    names.iter().map(|name| std::fs::read(path(name)).expect("a model")).collect()
}

/// Whether the bytes are a model; it is differentiated then.
fn survives(bytes: &[u8]) -> bool {
    let limits = Limits { inference: false, ..Limits::default() };
    let Ok(model) = onnx::read_bytes_within(bytes, None, &limits) else { return false };
    let _ = onnx::to_bytes(&model);
    for &output in &model.graph.outputs {
        let _ = ad::grad_model(&model, model.graph.name_of(output), &["inputs".to_string()]);
    }
    true
}

#[test]
fn cut_short() {
    let mut cases = 0;
    for bytes in small_models() {
        for length in 0..bytes.len() {
            let survived = catch_unwind(AssertUnwindSafe(|| survives(&bytes[..length])));
            assert!(survived.is_ok(), "{length} bytes of {}", bytes.len());
            cases += 1;
        }
    }
    row("models cut short at every byte", cases, "refused, or whole models without what is cut off");
}

#[test]
fn every_byte_changed() {
    let (mut cases, mut read) = (0, 0);
    for bytes in small_models() {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let survived = catch_unwind(AssertUnwindSafe(|| survives(&changed)));
                assert!(survived.is_ok(), "byte {at} of {} with {flip:#x}", bytes.len());
                cases += 1;
                read += usize::from(survived.is_ok_and(|read| read));
            }
        }
    }
    assert!(read > cases / 20, "{read} of {cases} are models: the changes are too coarse to test anything");
    row("models with a byte changed, every byte", cases, "refused, or read and differentiated");
}

/// `x + ReduceSum(made)`, `made` being computed from constants.
fn folds(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let mut nodes = nodes;
    let mut cast = node("Cast", &["made"], &["real"]);
    cast.attribute.push(int("to", 1));
    nodes.extend([cast, node("ReduceSum", &["real"], &["sum"]), node("Add", &["x", "sum"], &["y"])]);
    model(nodes, constants)
}

fn bombs() -> Vec<(String, ModelProto)> {
    let mut all: Vec<(String, ModelProto)> = Vec::new();
    let sizes: [&[i64]; 3] = [&[1_000_000_000_000], &[1 << 40, 1 << 40], &[1 << 20, 1 << 20, 1 << 20]];
    for size in sizes {
        let shape = || numbers("s", &[size.len() as i64], size);
        let mut add = |name: &str, model| all.push((format!("{name} {size:?}"), model));
        add("ConstantOfShape", folds(vec![node("ConstantOfShape", &["s"], &["made"])], vec![shape()]));
        add("Expand", folds(vec![node("Expand", &["one", "s"], &["made"])], vec![shape(), numbers("one", &[1], &[1])]));
        let ones = vec![1; size.len()];
        add("Tile", folds(vec![node("Tile", &["one", "s"], &["made"])], vec![shape(), numbers("one", &ones, &[1])]));
        let twice: Vec<i64> = size.iter().chain(size).copied().collect();
        let pads = numbers("p", &[twice.len() as i64], &twice);
        add("Pad", folds(vec![node("Pad", &["one", "p"], &["made"])], vec![pads, numbers("one", &ones, &[1])]));
        let mut resize = node("Resize", &["x", "", "", "s"], &["y"]);
        resize.attribute.push(ints("axes", &[1]));
        let last = numbers("s", &[1], &[size[0]]);
        add(
            "Resize",
            ModelProto {
                opset_import: vec![OperatorSetIdProto { domain: some(""), version: Some(18) }],
                ..model(vec![resize], vec![last])
            },
        );
    }
    let scalar = |name: &str, v: i64| numbers(name, &[], &[v]);
    for (from, to, step) in
        [(0, 1_000_000_000_000, 1), (0, i64::MAX, 0), (i64::MAX, i64::MIN, -1), (i64::MIN, i64::MAX, 1)]
    {
        let constants = vec![scalar("a", from), scalar("b", to), scalar("c", step)];
        all.push((
            format!("Range {from} {to} {step}"),
            folds(vec![node("Range", &["a", "b", "c"], &["made"])], constants),
        ));
    }
    let truth = TensorProto { data_type: Some(9), int32_data: vec![1], ..numbers("t", &[], &[]) };
    for trips in [1 << 40, i64::MAX] {
        let inner = GraphProto {
            node: vec![node("Identity", &["go"], &["goes"]), node("Add", &["v", "v"], &["w"])],
            input: vec![value("i", 7, &[]), value("go", 9, &[]), value("v", 7, &[])],
            output: vec![value("goes", 9, &[]), value("w", 7, &[])],
            name: some("body"),
            ..Default::default()
        };
        let mut repeat = node("Loop", &["n", "t", "k"], &["made"]);
        repeat.attribute.push(body("body", inner));
        all.push((
            format!("Loop {trips}"),
            folds(vec![repeat], vec![scalar("n", trips), truth.clone(), scalar("k", 1)]),
        ));
    }
    // Sizes that double with every operator, as numbers and as expressions.
    let doubled = |op: &str, depth: usize| {
        let name = |k: usize| {
            if k == 0 {
                "x".to_string()
            } else if k == depth {
                "y".to_string()
            } else {
                format!("t{k}")
            }
        };
        let mut nodes: Vec<NodeProto> = (0..depth).map(|k| node(op, &[&name(k), &name(k)], &[&name(k + 1)])).collect();
        if op == "Concat" {
            nodes.iter_mut().for_each(|node| node.attribute.push(int("axis", 0)));
        }
        model(nodes, Vec::new())
    };
    all.extend(["Concat", "Add", "Mul"].map(|op| (format!("{op} 40 times with itself"), doubled(op, 40))));
    all.push(("Concat 80 times with itself".into(), doubled("Concat", 80)));
    let mut square = vec![node("Shape", &["x"], &["shape"]), node("Gather", &["shape", "first"], &["q0"])];
    for k in 0..64 {
        square.push(node("Mul", &[&format!("q{k}"), &format!("q{k}")], &[&format!("m{k}")]));
        square.push(node("Add", &[&format!("m{k}"), &format!("q{k}")], &[&format!("s{k}")]));
        square.push(node("Div", &[&format!("s{k}"), "three"], &[&format!("q{}", k + 1)]));
    }
    square.push(node("Unsqueeze", &["q64", "axis"], &["u"]));
    square.push(node("Expand", &["one", "u"], &["made"]));
    let constants =
        vec![scalar("first", 0), scalar("three", 3), numbers("axis", &[1], &[0]), numbers("one", &[1], &[1])];
    all.push(("a size squared 64 times".into(), folds(square, constants)));
    all.push(("functions that double 40 times".into(), laughs(40)));
    all.push(("100,000 nodes in a row".into(), chain("Relu", 100_000)));
    all
}

/// Functions of which each calls the one before it twice.
fn laughs(levels: usize) -> ModelProto {
    let imports = vec![
        OperatorSetIdProto { domain: some(""), version: Some(17) },
        OperatorSetIdProto { domain: some("f"), version: Some(1) },
    ];
    let call = |level: usize, from: &str, to: &str| NodeProto {
        domain: some("f"),
        ..node(&format!("f{level}"), &[from], &[to])
    };
    let function = |level: usize| FunctionProto {
        name: some(&format!("f{level}")),
        domain: some("f"),
        input: vec!["a".to_string()],
        output: vec!["b".to_string()],
        opset_import: imports.clone(),
        node: match level {
            0 => vec![node("Sin", &["a"], &["b"])],
            _ => vec![call(level - 1, "a", "t"), call(level - 1, "t", "b")],
        },
        ..Default::default()
    };
    ModelProto {
        functions: (0..=levels).map(function).collect(),
        opset_import: imports.clone(),
        ..model(vec![call(levels, "x", "y")], Vec::new())
    }
}

#[test]
fn bombs_do_not_go_off() {
    let (mut cases, mut refused) = (0, 0);
    for (what, model) in bombs() {
        // Time of a long chain is measured elsewhere; a debug build is too slow for it.
        let bytes = model.encode_to_vec();
        if what.starts_with("100,000") {
            let ended = {
                let directory = tempfile::tempdir().expect("a directory");
                std::fs::write(directory.path().join("m.onnx"), &bytes).expect("a file");
                run(directory.path(), "inspect m.onnx --max-nodes 99999")
            };
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.ends_with("--max-nodes N allows more nodes\n"), "{}", ended.stderr);
            (cases, refused) = (cases + 1, refused + 1);
            continue;
        }
        cases += 4;
        refused += commands_end(&what, &bytes);
    }
    let outcome = format!("{refused} refused by name, the others done; 3 GB of address space were enough for each");
    row("models that compute, repeat, double or square constants and sizes without end", cases, &outcome);
}

#[test]
fn nested_without_end() {
    let deep = |levels: usize| {
        let mut bytes = node("Identity", &["x"], &["y"]).encode_to_vec();
        for _ in 0..levels {
            // attribute 5 of a node, graph 6 of an attribute, node 1 of a graph
            for field in [1u8, 6, 5] {
                let mut outer = vec![field << 3 | 2];
                prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
                outer.extend(bytes);
                bytes = outer;
            }
        }
        let graph = [
            vec![1 << 3 | 2],
            {
                let mut n = Vec::new();
                prost::encoding::encode_varint(bytes.len() as u64, &mut n);
                n
            },
            bytes,
        ]
        .concat();
        let mut model = vec![7 << 3 | 2];
        prost::encoding::encode_varint(graph.len() as u64, &mut model);
        [model, graph].concat()
    };
    let levels = [20, 30, 40, 100, 1000, 10_000];
    for levels in levels {
        assert_eq!(commands_end(&format!("{levels} levels"), &deep(levels)), 4);
    }
    row("subgraphs nested up to 10,000 deep", levels.len() * 4, "refused: protobuf allows 100 messages in each other");
}

#[test]
fn hostile_names() {
    let long = "n".repeat(1 << 20);
    let names = [
        "\u{1b}[31mred\u{1b}[0m",
        "\u{1b}]0;title\u{7}",
        "a\0b",
        "a\nb",
        "a\r\nfake: line",
        "\u{9b}2J",
        "\u{202e}gnp.exe",
        "a\u{200b}b",
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\a",
        "-o",
        "--help",
        "x.grad",
        "loss",
        "labels",
        "lambda",
        "probe.fc",
        "y.cotangent",
        "objective",
        "kappa",
        "learning_rate",
        "w.next",
        "const/0",
        "\"",
        "'",
        "%s%n",
        "${HOME}",
        "`id`",
        " ",
        "\u{feff}",
        long.as_str(),
    ];
    let (mut cases, mut refused) = (0, 0);
    for name in names {
        // As a node, as a tensor between, as a parameter, as a dimension, as an operator.
        let w = [0.5; 16];
        let mut named = node("MatMul", &["x", name], &["h"]);
        named.name = some(name);
        let gemm = node("MatMul", &["h", "v"], &["y"]);
        let models = [
            model(vec![named, gemm.clone()], vec![floats(name, &[4, 4], &w), floats("v", &[4, 4], &w)]),
            model(
                vec![node("MatMul", &["x", "w"], &[name]), node("MatMul", &[name, "v"], &["y"])],
                vec![floats("w", &[4, 4], &w), floats("v", &[4, 4], &w)],
            ),
            {
                let mut model = model(
                    vec![node("MatMul", &["x", "w"], &["h"]), gemm],
                    vec![floats("w", &[4, 4], &w), floats("v", &[4, 4], &w)],
                );
                let graph = model.graph.as_mut().expect("a graph");
                graph.input = vec![value("x", 1, &[name, "4"])];
                graph.name = some(name);
                model.producer_name = some(name);
                model.doc_string = some(name);
                model
            },
            model(vec![node(name, &["x"], &["y"])], Vec::new()),
            model(vec![node("Add", &["x", name], &["y"])], Vec::new()),
        ];
        for (k, model) in models.iter().enumerate() {
            cases += 4;
            refused += commands_end(
                &format!("{:?} in model {k}", name.chars().take(20).collect::<String>()),
                &model.encode_to_vec(),
            );
        }
    }
    let outcome = format!("{refused} refused by name, the others done; nothing reaches the terminal as a command");
    row(
        "names with terminal escapes, NUL, line ends, bidi marks, paths, of a megabyte, or like names we add",
        cases,
        &outcome,
    );
}
