//! What the program does grows as the model does: twice the nodes take twice the allocations and twice the memory, whatever
//! is done with them.

use fam_onnx::artifact::{self, Options, Target, manifest::Source};
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Model, Tensor};
use fam_onnx::loss::Loss;
use fam_onnx::{ad, onnx, simplify};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts what is allocated.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and their bytes while `work` runs.
fn taken<T>(work: impl FnOnce() -> T) -> (T, [usize; 2]) {
    let before = [CALLS.load(Relaxed), BYTES.load(Relaxed)];
    let made = work();
    (made, [CALLS.load(Relaxed) - before[0], BYTES.load(Relaxed) - before[1]])
}

/// `x ← relu(W x + b) + x` for each layer, then a classifier.
fn chain(layers: usize) -> Model {
    let b = Builder::new();
    let zeros = |shape: &[usize]| Tensor::from_f64(DType::F32, shape, vec![0.0; shape.iter().product()]);
    let mut x = b.input("x", Fact::new(DType::F32, [Dim::symbol("batch"), Dim::Fixed(4)]), None);
    let linear = |x, name: &str, outputs: usize| {
        let w = b.initializer(&format!("{name}.weight"), zeros(&[outputs, 4]));
        let bias = b.initializer(&format!("{name}.bias"), zeros(&[outputs]));
        b.op("Gemm", &[x, w, bias], Attrs::new().with("transB", 1))
    };
    for k in 0..layers {
        b.scope(&format!("/layer.{k}/Gemm"));
        let z = linear(x, &format!("layer.{k}"), 4);
        b.scope(&format!("/layer.{k}/Relu"));
        x = b.op("Relu", &[z], Attrs::new()) + x;
    }
    b.scope("/fc/Gemm");
    b.output(linear(x, "fc", 10), "logits");
    Model { graph: b.finish().expect("a chain"), opset: 17, ir_version: 8, ..Model::default() }
}

fn parameters(graph: &Graph) -> Vec<String> {
    let names = graph.initializers().map(|id| graph.name_of(id).to_string());
    names.filter(|name| name.ends_with("weight") || name.ends_with("bias")).collect()
}

/// What each thing that is done with a model of so many layers takes.
fn stages(layers: usize) -> Vec<(&'static str, [usize; 2])> {
    let options = Options {
        layers: vec![("fc".to_string(), 0.1), ("layer.3".to_string(), 0.1)],
        ..Options::of(Target::Loss(Loss::SoftmaxCrossEntropy.into()))
    };
    let source = Source { name: String::new(), sha256: String::new() };
    let bytes = onnx::to_bytes(&chain(layers));
    let (model, read) = taken(|| onnx::read_bytes(&bytes, None).expect("a model"));
    let (_, simplified) = taken(|| black_box(simplify::simplify(&model.graph).expect("a graph")));
    let wrt = parameters(&model.graph);
    let (gradient, differentiated) = taken(|| ad::grad_model(&model, "logits", &wrt).expect("a gradient").model);
    let (_, written) = taken(|| black_box(onnx::to_bytes(&gradient)));
    let (surveyed, survey) = taken(|| artifact::survey(&model, &options).expect("a survey"));
    assert_eq!(surveyed.layers.iter().filter(|(_, _, found)| found.is_ok()).count(), layers + 1);
    let (_, planned) = taken(|| black_box(artifact::plan(&model, &options, source).expect("a plan")));
    vec![
        ("read", read),
        ("simplify", simplified),
        ("differentiate", differentiated),
        ("write", written),
        ("survey", survey),
        ("plan", planned),
    ]
}

/// A part that grew with the square would take more than three times as much here as soon as it is half of the whole.
#[test]
fn work_grows_with_the_model() {
    // What is made once in a process is made now.
    stages(8);
    let (small, large) = (stages(300), stages(600));
    for ((stage, small), (_, large)) in small.into_iter().zip(large) {
        for (what, small, large) in [("allocations", small[0], large[0]), ("bytes", small[1], large[1])] {
            assert!(10 * large <= 24 * small, "{stage}: {small} {what} for 300 layers, {large} for 600");
        }
    }
}
