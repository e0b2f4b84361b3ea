//! Every operator of the table with attributes, inputs and outputs that do not fit. A model is read, differentiated and
//! written, in a process of its own for each operator, so that no fault can stop the others.

use crate::place::bounded_with;
use crate::record::row;
use fam_onnx::ir::{Builder, DType, Dim, Fact, Model, Val};
use fam_onnx::limits::Limits;
use fam_onnx::onnx::proto::attribute_proto::AttributeType;
use fam_onnx::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fam_onnx::onnx::proto::{
    AttributeProto, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use fam_onnx::ops::{Case, Input, OPS, Op};
use fam_onnx::{ad, cost, flatness, onnx};
use prost::Message;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// One attempt in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const OPERATOR: &str = "HOSTILE_OPERATOR";
/// Every how many-th variant is tried. All of them, by `HOSTILE_EVERY=1`, take an hour in a debug build.
const EVERY: &str = "HOSTILE_EVERY";
const SPARSELY: usize = 40;

/// The case as a model; data are inputs.
fn model(op: &Op, case: &Case) -> Option<ModelProto> {
    let b = Builder::new();
    let mut inputs: Vec<Option<Val>> = Vec::new();
    for (k, input) in case.inputs.iter().enumerate() {
        let dims = |shape: &[usize]| -> Vec<Dim> { shape.iter().map(|&n| Dim::from(n)).collect() };
        inputs.push(match input {
            Input::None => None,
            Input::Real { shape, .. } | Input::Distinct { shape } => {
                Some(b.input(&format!("x{k}"), Fact::new(DType::F32, dims(shape)), None))
            }
            Input::Data(tensor) => Some(b.input(&format!("d{k}"), Fact::new(tensor.dtype, dims(&tensor.shape)), None)),
            Input::Constant(tensor) => Some(b.initializer(&format!("c{k}"), tensor.clone())),
        });
    }
    // A value that the builder computes by itself is no node.
    for (k, val) in b.node(op.name, &inputs, case.attrs.clone(), case.outputs).into_iter().enumerate() {
        b.output(val, &format!("y{k}"));
    }
    let model = Model { graph: b.finish().ok()?, opset: 21, ir_version: 10, ..Model::default() };
    ModelProto::decode(onnx::to_bytes(&model).as_slice()).ok()
}

fn attribute(name: &str, kind: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut proto =
        AttributeProto { name: Some(name.to_string()), r#type: Some(kind as i32), ..AttributeProto::default() };
    set(&mut proto);
    proto
}

/// An attribute with every value that could hurt.
fn attributes(name: &str) -> Vec<AttributeProto> {
    const WILD: [i64; 7] = [0, -1, 3, 1 << 40, i64::MAX, i64::MIN, 1_000_003];
    let ints = |values: Vec<i64>| attribute(name, AttributeType::Ints, |a| a.ints = values);
    let mut all: Vec<AttributeProto> =
        WILD.iter().map(|&v| attribute(name, AttributeType::Int, |a| a.i = Some(v))).collect();
    all.extend(WILD.iter().flat_map(|&v| [2, 4].map(|n| ints(vec![v; n]))));
    all.extend([ints(Vec::new()), ints(vec![i64::MAX, i64::MIN, 1]), ints(vec![1; 65]), ints(vec![0, 0, 1])]);
    for v in [f32::NAN, f32::INFINITY, -f32::INFINITY, -0.0, f32::MAX] {
        all.push(attribute(name, AttributeType::Float, |a| a.f = Some(v)));
    }
    for v in ["", "garbage", "ij,jk->ik", "...i,...->", "NOTSET", "\u{1b}[31m", "linear"] {
        all.push(attribute(name, AttributeType::String, |a| a.s = Some(v.as_bytes().to_vec().into())));
    }
    all.push(attribute(name, AttributeType::String, |a| a.s = Some(vec![b'a'; 100_000].into())));
    all.push(attribute(name, AttributeType::Floats, |a| a.floats = vec![f32::NAN; 3]));
    all.push(attribute(name, AttributeType::Strings, |a| a.strings = vec![b"Tanh".to_vec().into(); 2]));
    all.push(attribute(name, AttributeType::Tensor, |a| a.t = Some(numbers("", &[0], &[]))));
    all
}

fn numbers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_string()),
        dims: dims.to_vec(),
        data_type: Some(DType::I64.code()),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn tensor_type(code: i32, dims: Option<Vec<Dimension>>) -> TypeProto {
    let tensor = type_proto::Tensor { elem_type: Some(code), shape: dims.map(|dim| TensorShapeProto { dim }) };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }
}

fn size(n: i64) -> Dimension {
    Dimension { value: Some(dimension::Value::DimValue(n)), denotation: None }
}

fn symbol(name: &str) -> Dimension {
    Dimension { value: Some(dimension::Value::DimParam(name.to_string())), denotation: None }
}

fn dims_of(info: &ValueInfoProto) -> (i32, Vec<Dimension>) {
    match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => (t.elem_type(), t.shape.clone().unwrap_or_default().dim),
        _ => (1, Vec::new()),
    }
}

/// Other types of a graph's input.
fn types(info: &ValueInfoProto) -> Vec<TypeProto> {
    let (code, dims) = dims_of(info);
    let with = |dims: Vec<Dimension>| tensor_type(code, Some(dims));
    let each = |f: &dyn Fn(usize) -> Dimension| with((0..dims.len()).map(f).collect());
    let mut all = vec![
        with(Vec::new()),
        with(dims.iter().skip(1).cloned().collect()),
        with(dims.iter().cloned().chain([size(2)]).collect()),
        with(vec![size(1); 70]),
        tensor_type(code, None),
        each(&|_| size(0)),
        each(&|_| size(-7)),
        each(&|_| size(i64::MAX)),
        each(&|_| size(1 << 24)),
        each(&|_| size(1)),
        each(&|_| symbol("N")),
        each(&|i| symbol(&format!("S{i}"))),
        each(&|_| symbol("")),
        each(&|_| Dimension::default()),
    ];
    for axis in 0..dims.len() {
        let other = |new: Dimension| {
            with(dims.iter().enumerate().map(|(i, d)| if i == axis { new.clone() } else { d.clone() }).collect())
        };
        all.extend([0, 1, 7, 1 << 45].map(|n| other(size(n))));
        all.push(other(symbol("N")));
    }
    all.extend([1, 2, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 99].map(|code| tensor_type(code, Some(dims.clone()))));
    all
}

/// Constants in place of an input.
fn constants() -> Vec<TensorProto> {
    let one = |v: i64| {
        [numbers("", &[], &[v]), numbers("", &[1], &[v]), numbers("", &[2], &[v, v]), numbers("", &[4], &[v; 4])]
    };
    let wild = [0, 1, -1, 5, -100, 1 << 20, 1 << 40, i64::MAX, i64::MIN];
    let mut all: Vec<TensorProto> = wild.iter().flat_map(|&v| one(v)).collect();
    all.extend([numbers("", &[0], &[]), numbers("", &[0, 1 << 40], &[]), numbers("", &[2, 2], &[0, 1, 2, 3])]);
    for v in [f32::NAN, f32::INFINITY, 0.0, 1e30, 1e-30] {
        for n in [1usize, 4] {
            let float_data = vec![v; n];
            all.push(TensorProto { dims: vec![n as i64], data_type: Some(1), float_data, ..TensorProto::default() });
        }
    }
    all.push(TensorProto {
        dims: vec![2],
        data_type: Some(8),
        string_data: vec![b"a".to_vec().into(), b"\xff".to_vec().into()],
        ..TensorProto::default()
    });
    all
}

/// Calls `attempt` with the model in every broken form.
fn variants(base: &ModelProto, names: &BTreeSet<String>, attempt: &mut dyn FnMut(&ModelProto, &str)) {
    let graph = base.graph.as_ref().expect("a graph");
    let Some(at) = graph.node.len().checked_sub(1) else { return };
    let mut change = |what: String, f: &dyn Fn(&mut fam_onnx::onnx::proto::GraphProto)| {
        let mut proto = base.clone();
        f(proto.graph.as_mut().expect("a graph"));
        attempt(&proto, &what);
    };
    change("as it is".into(), &|_| {});
    for name in names {
        change(format!("without {name}"), &|g| g.node[at].attribute.retain(|a| a.name() != name));
        for value in attributes(name) {
            let shown = format!(
                "{name} = {:?} {:?} {:?} {:?}",
                value.i,
                value.f,
                value.ints,
                value.s.as_ref().map(|s| s.len())
            );
            change(shown, &|g| {
                g.node[at].attribute.retain(|a| a.name() != name);
                g.node[at].attribute.push(value.clone());
            });
        }
    }
    for k in 0..graph.input.len() {
        for (i, kind) in types(&graph.input[k]).into_iter().enumerate() {
            change(format!("input {k} of type {i}: {kind:?}"), &|g| g.input[k].r#type = Some(kind.clone()));
        }
    }
    for k in 0..graph.node[at].input.len() {
        change(format!("input {k} left out"), &|g| g.node[at].input[k] = String::new());
        change(format!("{k} inputs"), &|g| g.node[at].input.truncate(k));
        for value in constants() {
            change(format!("input {k} = {:?} {:?} {:?}", value.dims, value.int64_data, value.float_data), &|g| {
                g.node[at].input[k] = "wild".to_string();
                g.initializer.push(TensorProto { name: Some("wild".to_string()), ..value.clone() });
            });
        }
    }
    change("every input of open dimensions".into(), &|g| {
        g.input.iter_mut().for_each(|info| {
            let (code, dims) = dims_of(info);
            info.r#type = Some(tensor_type(code, Some(vec![Dimension::default(); dims.len()])));
        });
    });
    change("every input of unknown rank".into(), &|g| {
        g.input.iter_mut().for_each(|info| info.r#type = Some(tensor_type(dims_of(info).0, None)));
    });
    change("more inputs".into(), &|g| {
        let more = g.node[at].input.first().cloned().unwrap_or_default();
        g.node[at].input.extend(vec![more; 9]);
    });
    change("more outputs".into(), &|g| g.node[at].output.extend((0..9).map(|k| format!("more{k}"))));
    change("no output".into(), &|g| {
        g.node[at].output.clear();
        g.output.clear();
    });
    for opset in [7, 9, 11, 13, 17, 18, 24, 26] {
        let mut proto = base.clone();
        proto.opset_import.iter_mut().for_each(|import| import.version = Some(opset));
        attempt(&proto, &format!("in opset {opset}"));
    }
}

/// Everything that can be done with a file without data.
fn exercise(proto: &ModelProto) -> bool {
    // Shape inference is a process of its own; here it would stand in the way of the others.
    let limits = Limits { inference: false, ..Limits::default() };
    let Ok(model) = onnx::read_bytes_within(&proto.encode_to_vec(), None, &limits) else { return false };
    let _ = onnx::to_bytes(&model);
    let _ = onnx::text(&model, onnx::TextOptions::default());
    let _ = cost::flops(&model.graph);
    let _ = flatness::layers(&model.graph);
    for &output in &model.graph.outputs {
        for wrt in ["inputs", "parameters"] {
            let (of, wrt) = (model.graph.name_of(output), [wrt.to_string()]);
            if let Ok(gradient) = ad::grad_model(&model, of, &wrt) {
                let _ = onnx::to_bytes(&gradient.model);
            }
            if let Ok(tangent) = ad::jvp_model(&model, of, &wrt) {
                let _ = onnx::to_bytes(&tangent.model);
            }
        }
    }
    true
}

/// All variants of one operator, in this process; prints how many there were and what went wrong.
fn attack(op: &'static Op) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| eprintln!("  panic: {info}")));
    let all = (op.cases)();
    let mut names: BTreeSet<String> = all.iter().flat_map(|case| case.attrs.names().map(str::to_string)).collect();
    names.extend(["axis", "auto_pad", "pads", "strides"].map(String::from));
    let (mut seen, mut cases, mut accepted, mut faults) = (0usize, 0, 0, 0);
    let every: usize = std::env::var(EVERY).ok().and_then(|n| n.parse().ok()).unwrap_or(SPARSELY);
    let verbose = std::env::var_os("HOSTILE_VERBOSE").is_some();
    for (k, case) in all.iter().enumerate() {
        let Some(base) = model(op, case) else { continue };
        // Attributes are tried on the first cases; the others differ in their inputs.
        let names = if k < 2 { names.clone() } else { case.attrs.names().map(str::to_string).collect() };
        variants(&base, &names, &mut |proto, what| {
            seen += 1;
            if !seen.is_multiple_of(every) {
                return;
            }
            cases += 1;
            if verbose {
                eprintln!("case {k}: {what}");
            }
            let start = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| exercise(proto))) {
                Ok(read) => accepted += usize::from(read),
                Err(_) => {
                    faults += 1;
                    eprintln!("{} case {k}: {what}: panic", op.name);
                }
            }
            if start.elapsed() > PATIENCE {
                faults += 1;
                eprintln!("{} case {k}: {what}: {:?}", op.name, start.elapsed());
            }
        });
    }
    std::panic::set_hook(hook);
    println!("tried {cases} {accepted} {faults}");
}

/// What [`every_operator`] starts once for each operator.
#[test]
fn one_operator() {
    let Ok(name) = std::env::var(OPERATOR) else { return };
    let op = OPS.iter().find(|op| op.name == name).expect("an operator");
    attack(op);
}

#[test]
fn every_operator() {
    let program = std::env::current_exe().expect("this program");
    let directory = tempfile::tempdir().expect("a directory");
    let (mut cases, mut accepted, mut faults) = (0, 0, Vec::new());
    let only = std::env::var("ONLY_OPERATOR").ok();
    for op in OPS.iter().filter(|op| only.as_ref().is_none_or(|name| name == op.name)) {
        let arguments = ["--exact", "operators::one_operator", "--nocapture", "--test-threads", "1"];
        let ended = bounded_with(&program, &arguments, directory.path(), 6 << 10, 300, &[(OPERATOR, op.name)]);
        let line = ended.stdout.lines().find_map(|line| line.split("tried ").nth(1));
        let counts: Vec<usize> = line.iter().flat_map(|l| l.split(' ')).filter_map(|n| n.parse().ok()).collect();
        if let [tried, read, 0] = counts[..] {
            (cases, accepted) = (cases + tried, accepted + read);
            continue;
        }
        let last: Vec<&str> = ended.stderr.lines().rev().take(40).collect();
        faults.push(format!(
            "{} {counts:?} {:?}\n{}",
            op.name,
            ended.code,
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        ));
    }
    assert!(faults.is_empty(), "{} operators:\n{}", faults.len(), faults.join("\n"));
    if only.is_none() && std::env::var_os(EVERY).is_none() {
        // Every new case of an operator changes the number: the row is written, and not compared.
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let outcome = format!("{accepted} are read, differentiated and written; the others are refused by name");
            row("attributes, inputs and outputs of every operator that do not fit, one in 40", cases, &outcome);
        }
    }
}
