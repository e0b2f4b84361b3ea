//! The tool itself: reading (which normalises), simplifying, differentiating, surveying, injecting and writing, against the
//! size of a model.
//!
//! `cargo bench --bench tool [-- FILTER]`. The models are chains of linear layers with ReLU and a residual, made here: many
//! small nodes, or few large weights in external data. `TOOL_BENCH=large` adds 100,000 nodes and 1 GB; the latter takes twice
//! its size in the temporary directory. `benches/commands.py` measures whole commands, with the memory that they take.

use criterion::{BenchmarkId, Criterion, Throughput};
use fam_onnx::artifact::{self, Options, Target, manifest::Source};
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Model, Tensor, Val};
use fam_onnx::loss::Loss;
use fam_onnx::onnx::External;
use fam_onnx::{ad, onnx, simplify};
use std::path::Path;
use std::time::Duration;

/// `x ← relu(x Wᵀ + b) + x`, three nodes a time; then a classifier.
fn chain(nodes: usize, width: usize) -> Model {
    let b = Builder::new();
    let weight = |name: &str, rows: usize| {
        let bytes: Vec<u8> = (0..rows * width).flat_map(|i| ((i % 7) as f32 * 0.01).to_le_bytes()).collect();
        b.initializer(name, Tensor::from_bytes(DType::F32, vec![rows, width], bytes))
    };
    let bias = |name: &str, n: usize| b.initializer(name, Tensor::from_bytes(DType::F32, vec![n], vec![0; 4 * n]));
    let gemm = |x: Val<'_>, w: Val<'_>, c: Val<'_>| {
        b.op("Gemm", &[x, w, c].map(|v| b.val(v.id())), Attrs::new().with("transB", 1)).id()
    };
    let mut x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::from(width)]), None);
    for k in 0..nodes / 3 {
        b.scope(&format!("/layer.{k}/Gemm"));
        let z = b.val(gemm(x, weight(&format!("layer.{k}.weight"), width), bias(&format!("layer.{k}.bias"), width)));
        b.scope(&format!("/layer.{k}/Relu"));
        let h = b.op("Relu", &[z], Attrs::new());
        b.scope(&format!("/layer.{k}/Add"));
        x = h + x;
    }
    b.scope("/fc/Gemm");
    let logits = b.val(gemm(x, weight("fc.weight", 10), bias("fc.bias", 10)));
    b.output(logits, "logits");
    let graph = b.finish().expect("the chain is well formed");
    Model { graph, opset: 17, ir_version: 8, ..Model::default() }
}

fn options() -> Options {
    Options { layers: vec![("fc".to_string(), 0.1)], ..Options::of(Target::Loss(Loss::SoftmaxCrossEntropy.into())) }
}

fn parameters(graph: &Graph) -> Vec<String> {
    graph.initializers().map(|id| graph.name_of(id).to_string()).filter(|name| !name.starts_with("const/")).collect()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut sizes = vec![(100, 64), (1_000, 64), (10_000, 8), (30, 1024)];
    if std::env::var("TOOL_BENCH").is_ok_and(|v| v == "large") {
        sizes.extend([(100_000, 8), (192, 2048)]);
    }
    for (nodes, width) in sizes {
        measure(&mut criterion, folder.path(), nodes, width);
    }
    criterion.final_summary();
}

/// Every stage on one model; throughput is bytes of the model with its weights.
fn measure(criterion: &mut Criterion, folder: &Path, nodes: usize, width: usize) {
    let path = folder.join(format!("{nodes}x{width}.onnx"));
    onnx::write_with(&chain(nodes, width), &path, External::Always).expect("room for the model");
    let model = onnx::read(&path).expect("what is written can be read");
    let bytes: usize =
        model.graph.initializers().filter_map(|id| Some(model.graph.value(id).data.as_ref()?.bytes.len())).sum();
    let (wrt, options) = (parameters(&model.graph), options());
    let source = Source { name: String::new(), sha256: String::new() };
    let mut group = criterion.benchmark_group(format!("{nodes} nodes, {} MB", bytes >> 20));
    group.throughput(Throughput::Bytes(bytes as u64));
    let mut stage = |name: &str, run: &mut dyn FnMut()| {
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(&mut *run));
    };
    stage("read", &mut || drop(onnx::read(&path)));
    stage("simplify", &mut || drop(simplify::simplify(&model.graph)));
    stage("differentiate", &mut || drop(ad::grad_model(&model, "logits", &wrt)));
    stage("survey", &mut || drop(artifact::survey(&model, &options)));
    stage("inject", &mut || drop(artifact::plan(&model, &options, source.clone())));
    let gradient = ad::grad_model(&model, "logits", &wrt).expect("a chain is differentiable");
    let out = folder.join("out.onnx");
    stage("write", &mut || drop(onnx::write(&gradient.model, &out)));
    group.finish();
}
