//! ONNX files: what is read, written and printed, and what is said of a broken one.

use expect_test::{Expect, expect, expect_file};
use fam_onnx::ir::{Attr, DType, Model, Tensor, verify};
use fam_onnx::onnx::proto::attribute_proto::AttributeType;
use fam_onnx::onnx::proto::tensor_proto::DataLocation;
use fam_onnx::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fam_onnx::onnx::proto::*;
use fam_onnx::onnx::{External, TextOptions, compact, read, read_bytes, text, to_bytes, write, write_with};
use prost::Message;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn models(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![here(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|e| e == "onnx") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

// what small models are made of

fn some(s: &str) -> Option<String> {
    Some(s.to_string())
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: some(op), input: strings(inputs), output: strings(outputs), ..Default::default() }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: some(name), r#type: Some(kind as i32), ..Default::default() }
}

fn tensor_type(code: i32, dims: &[&str]) -> TypeProto {
    let dim = |text: &&str| Dimension {
        value: Some(match text.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam(text.to_string()),
        }),
        denotation: None,
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(code), shape };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }
}

fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    ValueInfoProto { name: some(name), r#type: Some(tensor_type(1, dims)), ..Default::default() }
}

fn tensor(name: &str, dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto { name: some(name), data_type: Some(dtype.code()), dims: dims.to_vec(), ..Default::default() }
}

/// `y = …(x)`, both `float[N,2]`.
fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        name: some("g"),
        node: nodes,
        initializer,
        input: vec![value("x", &["N", "2"])],
        output: vec![value("y", &["N", "2"])],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: some(""), version: Some(17) }],
        ..Default::default()
    }
}

fn parse(proto: &ModelProto) -> Model {
    let model = read_bytes(&proto.encode_to_vec(), None).unwrap();
    verify(&model.graph).unwrap();
    model
}

fn fails(proto: &ModelProto, expected: Expect) {
    expected.assert_eq(&read_bytes(&proto.encode_to_vec(), None).unwrap_err().to_string());
}

// reading and writing again

#[test]
fn every_fixture_is_written_as_it_was_read() {
    let all = TextOptions { data: true, names: true };
    let dir = tempfile::tempdir().unwrap();
    let found = models("fixtures");
    assert!(found.len() >= 13);
    for path in found {
        let first = read(&path).unwrap();
        verify(&first.graph).unwrap();
        let copy = dir.path().join("copy.onnx");
        write(&first, &copy).unwrap();
        let second = read(&copy).unwrap();
        assert_eq!(text(&first, all), text(&second, all), "{}", path.display());
        assert_eq!(std::fs::read(&copy).unwrap(), to_bytes(&second), "{}", path.display());
        let original = ModelProto::decode(&*std::fs::read(&path).unwrap()).unwrap();
        for node in &original.graph.unwrap().node {
            for name in &node.output {
                assert!(first.graph.find(name).is_some(), "{}: {name} is gone", path.display());
            }
        }
        let open = |v: &&fam_onnx::ir::Value| v.fact.dtype.is_float() && v.fact.shape.is_none();
        assert_eq!(first.graph.values.iter().find(open).map(|v| &v.name), None, "{}", path.display());
    }
}

/// Old opsets, functions, subgraphs: the internal form of each, and that it survives being written.
#[test]
fn normal_form() {
    let mut out = String::new();
    for path in models("tests/data/onnx") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match read(&path) {
            Err(error) => {
                let error = error.to_string().replace(&path.display().to_string(), "FILE");
                let _ = writeln!(out, "# {name}\n{error}\n");
            }
            Ok(model) => {
                verify(&model.graph).unwrap();
                let bytes = to_bytes(&model);
                let again = read_bytes(&bytes, None).unwrap();
                assert_eq!(compact(&model.graph), compact(&again.graph), "{name}");
                assert_eq!(bytes, to_bytes(&again), "{name}");
                let _ = writeln!(out, "# {name}: {} -> {}\n{}", model.opset, again.opset, compact(&model.graph));
            }
        }
    }
    expect_file!["golden/onnx_normal_form.txt"].assert_eq(&out);
}

#[test]
fn text_of_a_model() {
    expect_file!["golden/onnx_lenet_view.txt"]
        .assert_eq(&text(&read(&here("fixtures/lenet-view/model.onnx")).unwrap(), TextOptions::default()));
}

#[test]
fn text_never_holds_control_characters() {
    let evil = "\u{1b}[31mred\n\"\\\u{202e}";
    let mut made = model(vec![node(evil, &["x"], &[evil]), node("Add", &[evil, evil], &["y"])], vec![]);
    let mut attr = attribute(evil, AttributeType::String);
    attr.s = Some(evil.as_bytes().to_vec().into());
    made.graph.as_mut().unwrap().node[0].attribute.push(attr);
    made.graph.as_mut().unwrap().input[0] = value("x", &[evil]);
    made.doc_string = some(evil);
    made.producer_name = some(evil);
    let printed = text(&parse(&made), TextOptions { data: true, names: true });
    assert!(printed.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{printed}");
    expect![[r#"
        <
           ir_version: 8,
           opset_import: ["" : 17],
           producer_name: "\u{1b}[31mred\u{a}\"\\\u{202e}",
           doc_string: "\u{1b}[31mred\u{a}\"\\\u{202e}"
        >
        g (float["\u{1b}[31mred\u{a}\"\\\u{202e}"] x) => (float[N,2] y)
        {
           ["\u{1b}[31mred\u{a}\"\\\u{202e}_\u{1b}[31mred\u{a}\"\\\u{202e}"] "\u{1b}[31mred\u{a}\"\\\u{202e}" = \u{1b}[31mred\u{a}"\\u{202e} <\u{1b}[31mred\u{a}"\\u{202e} = "\u{1b}[31mred\u{a}\"\\\u{202e}"> (x)
           [Add_y] y = Add ("\u{1b}[31mred\u{a}\"\\\u{202e}", "\u{1b}[31mred\u{a}\"\\\u{202e}")
        }
    "#]]
    .assert_eq(&printed);
}

/// No bytes make the reader panic, and what it accepts can be written and read again.
#[test]
fn broken_bytes_are_no_panic() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let small: Vec<Vec<u8>> =
        models("tests/data/onnx").iter().map(|p| std::fs::read(p).unwrap()).filter(|b| b.len() < 2000).collect();
    let rounds: usize = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut accepted = 0;
    for bytes in &small {
        for _ in 0..rounds {
            let mut broken = bytes.clone();
            for _ in 0..1 + random(2) {
                let at = random(broken.len());
                match random(8) {
                    0..3 => broken[at] = random(256) as u8,
                    3..6 => broken[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                    6 => broken.truncate(at.max(1)),
                    _ => broken.insert(at, random(256) as u8),
                }
            }
            if let Ok(model) = read_bytes(&broken, None) {
                accepted += 1;
                let written = to_bytes(&model);
                if let Err(error) = read_bytes(&written, None) {
                    panic!("{error}\n{}", text(&model, TextOptions { data: true, names: true }));
                }
            }
        }
    }
    assert!(accepted > small.len() * rounds / 20, "only {accepted} accepted");
}

// constants

#[test]
fn data_in_typed_fields() {
    let cases: Vec<(DType, TensorProto, Vec<f64>)> = vec![
        (DType::F32, TensorProto { float_data: vec![1.5, -2.0], ..Default::default() }, vec![1.5, -2.0]),
        (DType::F64, TensorProto { double_data: vec![1.5, -2.0], ..Default::default() }, vec![1.5, -2.0]),
        (DType::I64, TensorProto { int64_data: vec![-3, 4], ..Default::default() }, vec![-3.0, 4.0]),
        (DType::U64, TensorProto { uint64_data: vec![3, 4], ..Default::default() }, vec![3.0, 4.0]),
        (DType::U32, TensorProto { uint64_data: vec![3, 4], ..Default::default() }, vec![3.0, 4.0]),
        (DType::I32, TensorProto { int32_data: vec![-3, 4], ..Default::default() }, vec![-3.0, 4.0]),
        (DType::I16, TensorProto { int32_data: vec![-3, 4], ..Default::default() }, vec![-3.0, 4.0]),
        (DType::I8, TensorProto { int32_data: vec![-3, 4], ..Default::default() }, vec![-3.0, 4.0]),
        (DType::U16, TensorProto { int32_data: vec![65535, 4], ..Default::default() }, vec![65535.0, 4.0]),
        (DType::U8, TensorProto { int32_data: vec![255, 4], ..Default::default() }, vec![255.0, 4.0]),
        (DType::Bool, TensorProto { int32_data: vec![1, 0], ..Default::default() }, vec![1.0, 0.0]),
        (DType::F16, TensorProto { int32_data: vec![0x3e00, 0xc000], ..Default::default() }, vec![1.5, -2.0]),
        (DType::BF16, TensorProto { int32_data: vec![0x3fc0, 0xc000], ..Default::default() }, vec![1.5, -2.0]),
    ];
    for (dtype, data, expected) in cases {
        let data = TensorProto { name: some("w"), dims: vec![2], data_type: Some(dtype.code()), ..data };
        let made = parse(&model(vec![node("Custom", &["x", "w"], &["y"])], vec![data]));
        let w = made.graph.value(made.graph.find("w").unwrap()).data.clone().unwrap();
        assert_eq!((w.dtype, w.shape.as_slice(), w.to_f64()), (dtype, [2].as_slice(), expected));
        let again = read_bytes(&to_bytes(&made), None).unwrap();
        assert_eq!(again.graph.value(again.graph.find("w").unwrap()).data, Some(w));
    }
}

#[test]
fn constants_of_every_kind_are_initializers() {
    let constant =
        |out: &str, attr: AttributeProto| NodeProto { attribute: vec![attr], ..node("Constant", &[], &[out]) };
    let bytes = |s: &str| prost::bytes::Bytes::copy_from_slice(s.as_bytes());
    let sparse = SparseTensorProto {
        values: Some(TensorProto { float_data: vec![7.0, 8.0], ..tensor("", DType::F32, &[2]) }),
        indices: Some(TensorProto { int64_data: vec![0, 1, 2, 0], ..tensor("", DType::I64, &[2, 2]) }),
        dims: vec![3, 2],
    };
    let attrs = [
        AttributeProto {
            t: Some(TensorProto { int64_data: vec![9], ..tensor("", DType::I64, &[1]) }),
            ..attribute("value", AttributeType::Tensor)
        },
        AttributeProto { sparse_tensor: Some(sparse), ..attribute("sparse_value", AttributeType::SparseTensor) },
        AttributeProto { i: Some(3), ..attribute("value_int", AttributeType::Int) },
        AttributeProto { ints: vec![3, 4], ..attribute("value_ints", AttributeType::Ints) },
        AttributeProto { f: Some(0.5), ..attribute("value_float", AttributeType::Float) },
        AttributeProto { floats: vec![0.5, 1.0], ..attribute("value_floats", AttributeType::Floats) },
        AttributeProto { s: Some(bytes("a")), ..attribute("value_string", AttributeType::String) },
        AttributeProto { strings: vec![bytes("a"), bytes("b")], ..attribute("value_strings", AttributeType::Strings) },
    ];
    let names: Vec<String> = (0..attrs.len()).map(|k| format!("c{k}")).collect();
    let mut nodes: Vec<NodeProto> = names.iter().zip(attrs).map(|(name, attr)| constant(name, attr)).collect();
    let mut reads = vec!["x"];
    reads.extend(names.iter().map(String::as_str));
    nodes.push(node("Custom", &reads, &["y"]));
    expect![[r#"
        g (float[N,2] x) => (float[N,2] y)
        <
           int64[1] c0 = {9},
           float[3,2] c1 = {0.0, 7.0, 0.0, 0.0, 8.0, 0.0},
           int64 c2 = {3},
           int64[2] c3 = {3, 4},
           float c4 = {0.5},
           float[2] c5 = {0.5, 1.0},
           string c6 = {"a"},
           string[2] c7 = {"a", "b"}
        >
        {
           [Custom_y] y = Custom (x, c0, c1, c2, c3, c4, c5, c6, c7)
        }
    "#]]
    .assert_eq(&compact(&parse(&model(nodes, vec![])).graph));
}

// external data

fn external(entries: &[(&str, &str)]) -> ModelProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto { key: some(k), value: some(v) };
    let weight = TensorProto {
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(DataLocation::External as i32),
        ..tensor("w", DType::F32, &[2])
    };
    model(vec![node("Add", &["x", "w"], &["y"])], vec![weight])
}

#[test]
fn external_data_comes_from_the_models_folder() {
    let dir = tempfile::tempdir().unwrap();
    let floats: Vec<u8> = [9.0f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/w.bin"), floats).unwrap();
    for entries in [
        [("location", "sub/w.bin"), ("offset", "4"), ("length", "8")].as_slice(),
        [("location", "./sub/w.bin"), ("offset", "4")].as_slice(),
    ] {
        let made = read_bytes(&external(entries).encode_to_vec(), Some(dir.path())).unwrap();
        let w = made.graph.value(made.graph.find("w").unwrap()).data.clone().unwrap();
        assert_eq!(w.to_f64(), [1.0, 2.0]);
    }
}

#[test]
fn external_data_stays_in_the_models_folder() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("model");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(outer.path().join("secret"), [0; 8]).unwrap();
    std::fs::write(dir.join("w.bin"), [0; 12]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outer.path().join("secret"), dir.join("link")).unwrap();
    let absolute = outer.path().join("secret").display().to_string();
    let mut out = String::new();
    for entries in [
        [("location", absolute.as_str())].as_slice(),
        &[("location", "../secret")],
        &[("location", "sub/../../secret")],
        #[cfg(unix)]
        &[("location", "link")],
        &[("location", "sub")],
        &[("location", "none.bin")],
        &[("location", "")],
        &[],
        &[("location", "w.bin"), ("offset", "8")],
        &[("location", "w.bin"), ("offset", "18446744073709551615")],
        &[("location", "w.bin"), ("offset", "-4")],
        &[("location", "w.bin"), ("length", "4")],
    ] {
        let error = read_bytes(&external(entries).encode_to_vec(), Some(&dir)).unwrap_err().to_string();
        let line = error.lines().nth(1).unwrap_or_default();
        let _ = writeln!(out, "{}", line.trim().replace(&outer.path().display().to_string(), "DIR"));
    }
    expect![[r#"
        external data of tensor "w": "DIR/secret" is not a path inside the model's folder
        external data of tensor "w": "../secret" is not a path inside the model's folder
        external data of tensor "w": "sub/../../secret" is not a path inside the model's folder
        external data of tensor "w": "link" is not a path inside the model's folder
        external data of tensor "w": DIR/model/sub: it is not a regular file; it must lie beside the model
        external data of tensor "w": DIR/model/none.bin: No such file or directory (os error 2); it must lie beside the model
        external data of tensor "w": it names no file (key "location")
        external data of tensor "w": it names no file (key "location")
        external data of tensor "w": DIR/model/w.bin has 12 bytes, the tensor needs 8 from offset 8; the file is cut short
        external data of tensor "w": DIR/model/w.bin has 12 bytes, the tensor needs 8 from offset 18446744073709551615; the file is cut short
        external data of tensor "w": offset is "-4", expected a number of bytes
        external data of tensor "w": its length is 4, the tensor takes 8 bytes
    "#]].assert_eq(&out);
    fails(
        &external(&[("location", "w.bin")]),
        expect![[r#"
            model: the model is not valid:
              external data of tensor "w": the model was read from memory, so there is no folder to find "w.bin" in"#]],
    );
}

#[test]
fn large_weights_go_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let original = read(&here("fixtures/lenet/model.onnx")).unwrap();
    let path = dir.path().join("m.onnx");
    write_with(&original, &path, External::Always).unwrap();
    let data = std::fs::metadata(dir.path().join("m.onnx.data")).unwrap().len();
    let model = std::fs::metadata(&path).unwrap().len();
    assert!(data > 100_000 && model < 20_000, "{data} and {model} bytes");
    let all = TextOptions { data: true, names: true };
    let again = read(&path).unwrap();
    assert_eq!(text(&original, all), text(&again, all));
    // The files are replaced while their old data is mapped.
    write_with(&again, &path, External::Always).unwrap();
    assert_eq!(text(&original, all), text(&read(&path).unwrap(), all));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

// what is kept

#[test]
fn everything_around_the_graph_is_kept() {
    let mut made = model(
        vec![NodeProto {
            name: some("n"),
            metadata_props: vec![StringStringEntryProto { key: some("namespace"), value: some("a/b") }],
            ..node("Relu", &["x"], &["y"])
        }],
        vec![],
    );
    made.doc_string = some("what it is for");
    made.producer_name = some("me");
    made.producer_version = some("1");
    made.metadata_props = vec![StringStringEntryProto { key: some("k"), value: some("v") }];
    let again = read_bytes(&to_bytes(&parse(&made)), None).unwrap();
    assert_eq!(again.doc, "what it is for");
    assert_eq!(again.producer, ("me".into(), "1".into()));
    assert_eq!(again.metadata, [("k".into(), "v".into())]);
    assert_eq!(again.graph.nodes[0].metadata, [("namespace".into(), "a/b".into())]);
    assert_eq!((again.opset, again.ir_version), (17, 8));
}

#[test]
fn subgraphs_list_what_they_capture() {
    let model = read(&here("tests/data/onnx/subgraphs.onnx")).unwrap();
    let names = |ids: &[fam_onnx::ir::ValueId]| ids.iter().map(|&id| model.graph.name_of(id)).collect::<Vec<_>>();
    assert_eq!(names(&model.graph.nodes[0].captures), ["x", "c", "w"]);
    let Some(Attr::Graph(then)) = model.graph.nodes[0].attrs.get("then_branch") else { panic!() };
    let inner: Vec<&str> = then.nodes[0].captures.iter().map(|&id| then.name_of(id)).collect();
    assert_eq!(inner, ["x", "w"]);
}

#[test]
fn opsets_rise_only_where_a_form_needs_it() {
    let opset = |b: fam_onnx::ir::Builder| {
        let graph = b.finish().unwrap();
        let made = Model { graph, opset: 13, ir_version: 7, ..Model::default() };
        let again = read_bytes(&to_bytes(&made), None).unwrap();
        (again.opset, again.ir_version)
    };
    let builder = || {
        let b = fam_onnx::ir::Builder::new();
        b.input("x", fam_onnx::ir::Fact::new(DType::F32, [2i64.into(), 3i64.into()]), None);
        b
    };
    let b = builder();
    b.output(b.find("x").unwrap().mean(&[1]), "y");
    assert_eq!(opset(b), (13, 8));
    let b = builder();
    let axes = b.input("axes", fam_onnx::ir::Fact::new(DType::I64, [1i64.into()]), None);
    b.output(b.op("ReduceMean", &[b.find("x").unwrap(), axes], fam_onnx::ir::Attrs::new()), "y");
    assert_eq!(opset(b), (18, 8));
    let b = builder();
    b.output(b.op("Gelu", &[b.find("x").unwrap()], fam_onnx::ir::Attrs::new()), "y");
    assert_eq!(opset(b), (20, 9));
}

// errors

#[test]
fn what_is_no_model() {
    let mut out = String::new();
    for bytes in [
        b"".as_slice(),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04....",
        b"\x89HDF\r\n\x1a\n",
        b"\x20\0\0\0ORTM",
        b"{\"not\": \"onnx\"}",
        b"\x08\x08",
    ] {
        let _ = writeln!(out, "{}", read_bytes(bytes, None).unwrap_err());
    }
    let _ = writeln!(out, "{}", read(Path::new("does/not/exist.onnx")).unwrap_err());
    expect![[r#"
        model: this is not an ONNX model: it is empty
        model: this is not an ONNX model: it is a Git LFS pointer, not the model itself; run `git lfs pull`
        model: this is not an ONNX model: it is a zip archive (a PyTorch checkpoint is one); export the model with torch.onnx.export
        model: this is not an ONNX model: it is an HDF5 file (Keras weights are one); export the model with tf2onnx
        model: this is not an ONNX model: it is a model in ONNX Runtime's own format (.ort); use the .onnx file it was made from
        model: this is not an ONNX model: its bytes are not a protobuf message of that kind (failed to decode Protobuf message: buffer underflow)
        model: this is not an ONNX model: it has no graph
        does/not/exist.onnx: No such file or directory (os error 2)
    "#]].assert_eq(&out);
}

#[test]
fn opsets_outside_of_the_range() {
    let mut made = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    made.opset_import[0].version = Some(6);
    fails(
        &made,
        expect![
            "model: the model uses opset 6, this program reads 7 to 26; export it again with an opset between, or convert it with onnx.version_converter"
        ],
    );
    made.opset_import.clear();
    fails(
        &made,
        expect![[r#"model: the model does not say which opset it uses (opset_import has no entry for domain "")"#]],
    );
}

#[test]
fn faults_of_names_come_together() {
    let relu = |name: &str, i: &str, o: &str| NodeProto { name: some(name), ..node("Relu", &[i], &[o]) };
    let mut made = model(
        vec![
            relu("one", "x", "a"),
            relu("two", "x", "a"),
            relu("three", "missing", "b"),
            relu("four", "d", "c"),
            relu("five", "c", "d"),
            relu("six", "a", "x"),
            NodeProto { domain: some("com.example"), ..relu("seven", "a", "e") },
        ],
        vec![
            TensorProto { float_data: vec![1.0], ..tensor("w", DType::F32, &[1]) },
            TensorProto { float_data: vec![1.0], ..tensor("w", DType::F32, &[1]) },
            TensorProto { float_data: vec![1.0], ..tensor("", DType::F32, &[1]) },
        ],
    );
    made.graph.as_mut().unwrap().output.extend([value("", &[]), value("a", &[]), value("a", &[])]);
    fails(
        &made,
        expect![[r#"
            model: the model is not valid:
              an initializer of graph "g" has no name
              tensor "w" is defined twice, as an initializer and as an initializer; every name must be defined once
              tensor "a" is defined twice, by node "one" (Relu) and by node "two" (Relu); every name must be defined once
              tensor "x" is defined twice, as an input and by node "six" (Relu); every name must be defined once
              the output "y" of graph "g" is never computed
              an output of graph "g" has no name
              the output "a" of graph "g" is listed twice
              the graph has a cycle: "four" -> "five" -> "four"
              node "three" (Relu) reads "missing", which is no input, initializer or output of a node
              node "seven" (Relu) is of domain "com.example", of which the file imports no version"#]],
    );
}

#[test]
fn faults_of_constants() {
    let sparse = SparseTensorProto {
        values: Some(TensorProto { float_data: vec![7.0], ..tensor("sparse", DType::F32, &[1]) }),
        indices: Some(TensorProto { int64_data: vec![9], ..tensor("", DType::I64, &[1]) }),
        dims: vec![3],
    };
    let mut made = model(
        vec![node("Relu", &["x"], &["y"]), node("Constant", &[], &["nothing"])],
        vec![
            TensorProto { raw_data: Some(vec![0; 7].into()), ..tensor("raw", DType::F32, &[2]) },
            TensorProto { float_data: vec![0.0; 3], ..tensor("typed", DType::F32, &[2]) },
            tensor("empty", DType::I64, &[2]),
            tensor("negative", DType::I64, &[2, -1]),
            tensor("huge", DType::F32, &[i64::MAX, i64::MAX]),
            TensorProto { data_type: Some(17), ..tensor("float8", DType::F32, &[1]) },
            TensorProto { string_data: vec![vec![0xff].into()], ..tensor("bytes", DType::Str, &[1]) },
            TensorProto { string_data: vec![], ..tensor("strings", DType::Str, &[1]) },
            TensorProto { segment: Some(Default::default()), ..tensor("segment", DType::F32, &[1]) },
        ],
    );
    let graph = made.graph.as_mut().unwrap();
    graph.sparse_initializer.push(sparse);
    let sequence = type_proto::Sequence { elem_type: None };
    let list = TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))), denotation: None };
    graph.input.push(ValueInfoProto { name: some("list"), r#type: Some(list), ..Default::default() });
    graph.node[0].attribute.push(attribute("graphs", AttributeType::Graphs));
    graph.node[0].attribute.push(attribute("no_graph", AttributeType::Graph));
    fails(
        &made,
        expect![[r#"
            model: the model is not valid:
              tensor "raw" is float[2], that is 8 bytes, but holds 7
              tensor "typed" is float[2], that is 2 elements, but holds 3
              tensor "empty" is int64[2], that is 2 elements, but holds 0
              tensor "negative" has the negative dimension -1
              tensor "huge" has the shape [9223372036854775807, 9223372036854775807], more elements than memory can hold
              tensor "float8" is float8e4m3fn[1], that is 1 elements, but holds 0
              a string of tensor "bytes" is not UTF-8
              tensor "strings" is string[1], that is 1 strings, but holds 0
              "segment" has type a segment of a tensor; only tensors of floats of 4 to 64 bits, (u)int2 to (u)int64, bool and string are supported
              sparse tensor "sparse": index 0 lies outside of [3]
              attribute "graphs" of node "Relu_y" (Relu) is of kind GRAPHS, which is not supported
              attribute "no_graph" of node "Relu_y" (Relu) is of kind GRAPH or TENSOR without a value, which is not supported
              the Constant node "Constant_nothing" has no value
              "list" has type sequence; only tensors of floats of 4 to 64 bits, (u)int2 to (u)int64, bool and string are supported"#]],
    );
}

#[test]
fn a_node_that_does_not_fit_is_named() {
    let weight = TensorProto { float_data: vec![0.0; 3], ..tensor("w", DType::F32, &[3]) };
    let add = NodeProto { name: some("sum"), ..node("Add", &["x", "w"], &["y"]) };
    fails(
        &model(vec![add], vec![weight]),
        expect![[
            r#"model: node "sum" (Add): broadcast: [3] does not fit [N,2]; its inputs are x: float[N,2], w: float[3]"#
        ]],
    );
    let pool = NodeProto { name: some("pool"), ..node("MaxPool", &["x"], &["y"]) };
    fails(
        &model(vec![pool], vec![]),
        expect![[
            r#"model: node "pool" (MaxPool): attribute kernel_shape is absent, expected the window's sizes; its inputs are x: float[N,2]"#
        ]],
    );
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: some(name),
        domain: some("local"),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: some(""), version: Some(17) }],
        ..Default::default()
    }
}

fn call(function: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: some("local"), ..node(function, inputs, outputs) }
}

#[test]
fn functions_that_cannot_be_inlined() {
    let with = |nodes: Vec<NodeProto>, functions: Vec<FunctionProto>| {
        let mut made = model(nodes, vec![]);
        made.opset_import.push(OperatorSetIdProto { domain: some("local"), version: Some(1) });
        made.functions = functions;
        made
    };
    let f = function("F", vec![call("G", &["a"], &["b"])]);
    let g = function("G", vec![call("F", &["a"], &["b"])]);
    fails(
        &with(vec![call("F", &["x"], &["y"])], vec![f, g]),
        expect![[r#"
            model: the model is not valid:
              function "local::F" calls itself: "local::F" -> "local::G" -> "local::F""#]],
    );
    let f = function("F", vec![node("Relu", &["a"], &["b"])]);
    fails(
        &with(vec![call("F", &["x", "x"], &["y"])], vec![f]),
        expect![[r#"
            model: the model is not valid:
              node "F_y" calls function "local::F" with 2 inputs, it takes 1"#]],
    );
    // Each function calls the one before it twice, so the last one is 2^40 nodes.
    let double = |k: usize| {
        let inner = format!("F{}", k - 1);
        function(&format!("F{k}"), vec![call(&inner, &["a"], &["m"]), call(&inner, &["m"], &["b"])])
    };
    let mut functions = vec![function("F0", vec![node("Relu", &["a"], &["b"])])];
    functions.extend((1..=40).map(double));
    fails(
        &with(vec![call("F40", &["x"], &["y"])], functions),
        expect![[r#"
            model: the model is not valid:
              it has more than 1000000 nodes, those of its local functions included"#]],
    );
    let nested = |k: usize| function(&format!("F{k}"), vec![call(&format!("F{}", k - 1), &["a"], &["b"])]);
    let mut functions = vec![function("F0", vec![node("Relu", &["a"], &["b"])])];
    functions.extend((1..=100).map(nested));
    fails(
        &with(vec![call("F100", &["x"], &["y"])], functions),
        expect![[r#"
            model: the model is not valid:
              functions and subgraphs are nested more than 48 deep, down to a node of operator "F52""#]],
    );
}

fn fact(model: &Model, name: &str) -> String {
    model.graph.value(model.graph.find(name).unwrap()).fact.to_string()
}

#[test]
fn an_unknown_operator_leaves_facts_open() {
    let nodes =
        vec![node("NoSuchOperator", &["x"], &["a"]), node("Relu", &["a"], &["b"]), node("Relu", &["b"], &["y"])];
    let made = parse(&model(nodes, vec![]));
    assert_eq!(["a", "b", "y"].map(|name| fact(&made, name)), ["float", "float", "float[N,2]"]);
}

#[test]
fn shapes_come_from_tract_where_nothing_else_says_them() {
    let equation = AttributeProto {
        s: Some(prost::bytes::Bytes::from_static(b"ij,kj->ki")),
        ..attribute("equation", AttributeType::String)
    };
    let einsum = NodeProto { attribute: vec![equation], ..node("Einsum", &["x", "w"], &["a"]) };
    let weight = TensorProto { float_data: vec![0.0; 6], ..tensor("w", DType::F32, &[3, 2]) };
    let made = parse(&model(vec![einsum, node("Neg", &["a"], &["b"]), node("Relu", &["x"], &["y"])], vec![weight]));
    assert_eq!(["a", "b"].map(|name| fact(&made, name)), ["float[3,N]", "float[3,N]"]);
}

#[test]
fn equal_models_give_equal_bytes() {
    let path = here("fixtures/resnet/model.onnx");
    assert_eq!(to_bytes(&read(&path).unwrap()), to_bytes(&read(&path).unwrap()));
    let tensor = Tensor::ints(&[2], &[1, 2]);
    assert_eq!(tensor, Tensor::ints(&[2], &[1, 2]));
}

/// The field numbers, against another implementation: what we encode, it decodes, name by name, and the reverse.
#[test]
fn messages_agree_with_another_implementation() {
    use onnx_protobuf::{self as other, Message as _};
    let entry = || StringStringEntryProto { key: some("k"), value: some("v") };
    let entry2 = || other::StringStringEntryProto { key: "k".into(), value: "v".into(), ..Default::default() };
    let bytes = || prost::bytes::Bytes::from_static(b"b");

    let tensor = || TensorProto {
        dims: vec![2, 3],
        data_type: Some(1),
        segment: Some(tensor_proto::Segment { begin: Some(1), end: Some(2) }),
        float_data: vec![1.0],
        int32_data: vec![2],
        string_data: vec![bytes()],
        int64_data: vec![3],
        name: some("t"),
        raw_data: Some(bytes()),
        double_data: vec![4.0],
        uint64_data: vec![5],
        doc_string: some("d"),
        external_data: vec![entry()],
        data_location: Some(DataLocation::External as i32),
        metadata_props: vec![entry()],
    };
    let tensor2 = || other::TensorProto {
        dims: vec![2, 3],
        data_type: 1,
        segment: Some(other::tensor_proto::Segment { begin: 1, end: 2, ..Default::default() }).into(),
        float_data: vec![1.0],
        int32_data: vec![2],
        string_data: vec![b"b".to_vec()],
        int64_data: vec![3],
        name: "t".into(),
        raw_data: b"b".to_vec(),
        double_data: vec![4.0],
        uint64_data: vec![5],
        doc_string: "d".into(),
        external_data: vec![entry2()],
        data_location: other::tensor_proto::DataLocation::EXTERNAL.into(),
        metadata_props: vec![entry2()],
        ..Default::default()
    };
    let sparse = || SparseTensorProto { values: Some(tensor()), indices: Some(tensor()), dims: vec![7] };
    let sparse2 = || other::SparseTensorProto {
        values: Some(tensor2()).into(),
        indices: Some(tensor2()).into(),
        dims: vec![7],
        ..Default::default()
    };

    let shape = || TensorShapeProto {
        dim: vec![
            Dimension { value: Some(dimension::Value::DimValue(4)), denotation: some("D") },
            Dimension { value: Some(dimension::Value::DimParam("n".into())), denotation: None },
        ],
    };
    let shape2 = || {
        use other::tensor_shape_proto::{Dimension, dimension::Value};
        let fixed = Dimension { value: Some(Value::DimValue(4)), denotation: "D".into(), ..Default::default() };
        let open = Dimension { value: Some(Value::DimParam("n".into())), ..Default::default() };
        other::TensorShapeProto { dim: vec![fixed, open], ..Default::default() }
    };
    let of = |value| TypeProto { value: Some(value), denotation: some("T") };
    let of2 = |value| other::TypeProto { value: Some(value), denotation: "T".into(), ..Default::default() };
    let types = || {
        use type_proto::*;
        let dense = || of(Value::TensorType(Tensor { elem_type: Some(1), shape: Some(shape()) }));
        vec![
            of(Value::SequenceType(Box::new(Sequence { elem_type: Some(Box::new(dense())) }))),
            of(Value::MapType(Box::new(Map { key_type: Some(7), value_type: Some(Box::new(dense())) }))),
            of(Value::OptionalType(Box::new(Optional { elem_type: Some(Box::new(dense())) }))),
            of(Value::SparseTensorType(SparseTensor { elem_type: Some(1), shape: Some(shape()) })),
            dense(),
        ]
    };
    let types2 = || {
        use other::type_proto::*;
        let dense = || {
            let tensor = Tensor { elem_type: 1, shape: Some(shape2()).into(), ..Default::default() };
            of2(Value::TensorType(tensor))
        };
        let sequence = Sequence { elem_type: Some(dense()).into(), ..Default::default() };
        let map = Map { key_type: 7, value_type: Some(dense()).into(), ..Default::default() };
        let optional = Optional { elem_type: Some(dense()).into(), ..Default::default() };
        let sparse = SparseTensor { elem_type: 1, shape: Some(shape2()).into(), ..Default::default() };
        vec![
            of2(Value::SequenceType(sequence)),
            of2(Value::MapType(map)),
            of2(Value::OptionalType(optional)),
            of2(Value::SparseTensorType(sparse)),
            dense(),
        ]
    };
    let infos = || -> Vec<ValueInfoProto> {
        let info = |t| ValueInfoProto {
            name: some("i"),
            r#type: Some(t),
            doc_string: some("d"),
            metadata_props: vec![entry()],
        };
        types().into_iter().map(info).collect()
    };
    let infos2 = || -> Vec<other::ValueInfoProto> {
        let info = |t| other::ValueInfoProto {
            name: "i".into(),
            type_: Some(t).into(),
            doc_string: "d".into(),
            metadata_props: vec![entry2()],
            ..Default::default()
        };
        types2().into_iter().map(info).collect()
    };

    let attribute = || AttributeProto {
        name: some("a"),
        f: Some(1.0),
        i: Some(2),
        s: Some(bytes()),
        t: Some(tensor()),
        g: Some(GraphProto { name: some("inner"), ..Default::default() }),
        floats: vec![3.0],
        ints: vec![4],
        strings: vec![bytes()],
        tensors: vec![tensor()],
        graphs: vec![GraphProto { name: some("inner"), ..Default::default() }],
        doc_string: some("d"),
        tp: types().pop(),
        type_protos: types(),
        r#type: Some(AttributeType::TypeProtos as i32),
        ref_attr_name: some("r"),
        sparse_tensor: Some(sparse()),
        sparse_tensors: vec![sparse()],
    };
    let inner2 = || other::GraphProto { name: "inner".into(), ..Default::default() };
    let attribute2 = || other::AttributeProto {
        name: "a".into(),
        f: 1.0,
        i: 2,
        s: b"b".to_vec(),
        t: Some(tensor2()).into(),
        g: Some(inner2()).into(),
        floats: vec![3.0],
        ints: vec![4],
        strings: vec![b"b".to_vec()],
        tensors: vec![tensor2()],
        graphs: vec![inner2()],
        doc_string: "d".into(),
        tp: types2().pop().into(),
        type_protos: types2(),
        type_: other::attribute_proto::AttributeType::TYPE_PROTOS.into(),
        ref_attr_name: "r".into(),
        sparse_tensor: Some(sparse2()).into(),
        sparse_tensors: vec![sparse2()],
        ..Default::default()
    };
    let node = || NodeProto {
        input: vec!["i".into()],
        output: vec!["o".into()],
        name: some("n"),
        op_type: some("Op"),
        attribute: vec![attribute()],
        doc_string: some("d"),
        domain: some("dom"),
        overload: some("over"),
        metadata_props: vec![entry()],
    };
    let node2 = || other::NodeProto {
        input: vec!["i".into()],
        output: vec!["o".into()],
        name: "n".into(),
        op_type: "Op".into(),
        attribute: vec![attribute2()],
        doc_string: "d".into(),
        domain: "dom".into(),
        overload: "over".into(),
        metadata_props: vec![entry2()],
        ..Default::default()
    };
    let graph = || GraphProto {
        node: vec![node()],
        name: some("g"),
        initializer: vec![tensor()],
        doc_string: some("d"),
        input: infos(),
        output: infos(),
        value_info: infos(),
        quantization_annotation: vec![TensorAnnotation {
            tensor_name: some("t"),
            quant_parameter_tensor_names: vec![entry()],
        }],
        sparse_initializer: vec![sparse()],
        metadata_props: vec![entry()],
    };
    let graph2 = || other::GraphProto {
        node: vec![node2()],
        name: "g".into(),
        initializer: vec![tensor2()],
        doc_string: "d".into(),
        input: infos2(),
        output: infos2(),
        value_info: infos2(),
        quantization_annotation: vec![other::TensorAnnotation {
            tensor_name: "t".into(),
            quant_parameter_tensor_names: vec![entry2()],
            ..Default::default()
        }],
        sparse_initializer: vec![sparse2()],
        metadata_props: vec![entry2()],
        ..Default::default()
    };
    let opset = || OperatorSetIdProto { domain: some("dom"), version: Some(3) };
    let opset2 = || other::OperatorSetIdProto { domain: "dom".into(), version: 3, ..Default::default() };
    let ours = ModelProto {
        ir_version: Some(8),
        producer_name: some("p"),
        producer_version: some("pv"),
        domain: some("dom"),
        model_version: Some(9),
        doc_string: some("d"),
        graph: Some(graph()),
        opset_import: vec![opset()],
        metadata_props: vec![entry()],
        training_info: vec![TrainingInfoProto {
            initialization: Some(graph()),
            algorithm: Some(graph()),
            initialization_binding: vec![entry()],
            update_binding: vec![entry()],
        }],
        functions: vec![FunctionProto {
            name: some("f"),
            input: vec!["i".into()],
            output: vec!["o".into()],
            attribute: vec!["a".into()],
            node: vec![node()],
            doc_string: some("d"),
            opset_import: vec![opset()],
            domain: some("dom"),
            attribute_proto: vec![attribute()],
            value_info: infos(),
            overload: some("over"),
            metadata_props: vec![entry()],
        }],
    };
    let theirs = other::ModelProto {
        ir_version: 8,
        producer_name: "p".into(),
        producer_version: "pv".into(),
        domain: "dom".into(),
        model_version: 9,
        doc_string: "d".into(),
        graph: Some(graph2()).into(),
        opset_import: vec![opset2()],
        metadata_props: vec![entry2()],
        training_info: vec![other::TrainingInfoProto {
            initialization: Some(graph2()).into(),
            algorithm: Some(graph2()).into(),
            initialization_binding: vec![entry2()],
            update_binding: vec![entry2()],
            ..Default::default()
        }],
        functions: vec![other::FunctionProto {
            name: "f".into(),
            input: vec!["i".into()],
            output: vec!["o".into()],
            attribute: vec!["a".into()],
            node: vec![node2()],
            doc_string: "d".into(),
            opset_import: vec![opset2()],
            domain: "dom".into(),
            attribute_proto: vec![attribute2()],
            value_info: infos2(),
            overload: "over".into(),
            metadata_props: vec![entry2()],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert!(other::ModelProto::parse_from_bytes(&ours.encode_to_vec()).unwrap() == theirs);
    assert!(ModelProto::decode(&*theirs.write_to_bytes().unwrap()).unwrap() == ours);
}
