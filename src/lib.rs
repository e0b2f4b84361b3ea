//! Training exported ONNX models with the flatness regulariser FAM on a stock ONNX Runtime.
//!
//! A model goes in as an `.onnx` file; an *artifact* comes out: ONNX graphs of standard operators that compute the loss, the
//! relative flatness κ of chosen layers, the gradient of `loss + λ·κ`, and the optimiser's step. Any ONNX Runtime trains with
//! them, and the trained weights go back into the model.
//!
//! One sentence carries the design: **a differentiated graph is a DAG whose edges are labelled with linear maps; forward mode
//! pushes tangents along the edges, reverse mode pushes cotangents against them; every operator contributes its edges once.**
//!
//! ```
//! use fam_onnx::{ad, ir::{Builder, DType, Dim, Fact, Model}, onnx};
//!
//! // y = Σᵢ sin xᵢ
//! let b = Builder::new();
//! let x = b.input("x", Fact::new(DType::F32, vec![Dim::Fixed(3)]), None);
//! b.output(x.sin().sum_all(), "y");
//! let model = Model { graph: b.finish()?, opset: 17, ..Model::default() };
//!
//! let gradient = ad::grad_model(&model, "y", &["x".to_owned()])?;
//! let text = onnx::compact(&gradient.model.graph);
//! assert_eq!(
//!     text,
//!     r#"graph (float[3] x) => (float y, float[3] "x.grad")
//! <
//!    int64[1] "const/0" = {0}
//! >
//! {
//!    Sin = Sin (x)
//!    [ReduceSum] y = ReduceSum <keepdims = 0> (Sin, "const/0")
//!    ["Sin.linear"] "x.grad" = Cos (x)
//! }
//! "#
//! );
//! # Ok::<(), fam_onnx::Error>(())
//! ```
//!
//! # Words
//!
//! - **Layer**: a linear map `z = W a + b` in the graph (`Gemm`, `MatMul` with a parameter, `Conv` …). Its weight is seen as
//!   `W ∈ R^{d×m}`, a row a neuron, however the exporter stores it.
//! - **Head**: everything between the layer's output `z` and the scalar loss. Its kind decides in which form κ is exact.
//! - **Parameter**: a float initialiser that training changes. **State**: what a step carries besides.
//! - **κ**: relative flatness, `Σ_{s,s'} ⟨w_s, w_s'⟩ · Tr H_{s,s'}` with `H_{s,s'} = ∂²L/∂w_s∂w_s'`. **Measure**: κ by neurons, or
//!   `‖W‖² · Tr H` by the whole layer.
//! - **Value** ([`ir::Val`]) and **tangent** ([`ad::Tan`]): small handles with operators. A tangent has linear ones only, so that
//!   a rule that is not linear does not type-check.
//!
//! # Rooms
//!
//! From a file to a trained model:
//!
//! | room | what it does |
//! |---|---|
//! | [`onnx`] | bytes ↔ [`ir::Model`]: reads any opset into one internal form, writes the lowest that will do, prints text |
//! | [`ir`] | the graph, what is known of each value, and the [`ir::Builder`] that makes nodes |
//! | [`ops`] | an operator a file: its facts, its tangent, its reference evaluation, its test cases; one table of all |
//! | [`control`] | bodies of `If`, `Loop` and `Scan`: how they run, and their derivatives as bodies again |
//! | [`lower`] | composites written with core operators before they are differentiated |
//! | [`linear`] | the linear maps that edges are labelled with: how each is emitted, and its transpose |
//! | [`ad`] | linearise, push tangents, pull cotangents |
//! | [`simplify`] | rewrites, common subexpressions, dead code |
//! | [`flatness`] | layers, heads, κ in its exact forms and estimated |
//! | [`loss`], [`optim`] | losses and optimisers as graphs |
//! | [`cost`] | floating-point operations of a graph, by which an estimator is chosen |
//! | [`artifact`] | the traced step cut into the graphs that people run; manifest, export |
//! | [`runtime`] | ONNX Runtime: the library, sessions, steps that feed themselves |
//! | [`train`] | data, the loop, schedules, checkpoints, evaluation, metrics |
//! | [`balance`] | λ from the ratio of the gradients' norms |
//! | [`measure`] | κ, `Tr H` and weight norms of a model on data, batch by batch |
//! | [`verify`] | an artifact against differences, definitions and float64 |
//! | [`demo`] | all of it on data that ships with the program |
//! | [`eval`] | a slow, obvious interpreter in `f64`: the oracle of every rule |
//! | [`tensor`] | tensors on the host |
//! | [`files`], [`limits`], [`shown`] | files read up to a limit and written whole; how large things may become; text out of files, safe to show |
//! | [`cli`] | a command a file: its arguments and what it prints |
//!
//! # Invariants
//!
//! - Protobuf is known in [`onnx`] only, the `ort` crate in [`runtime`] only.
//! - [`ad`] names no operator; [`ops`] does no input or output.
//! - A pass is a pure function from graph to graph, deterministic, and verified after it in tests.
//! - Emitted graphs hold standard operators only (domain `""`), and each of them is in the table of [`ops`]: what is emitted can
//!   be differentiated again.
//! - Every operator says what its derivative is: a rule, a lowering, zero, or why there is none. Nothing is the default.
//! - A zero tangent is a state, never a tensor of zeros.
//! - The same input gives the same bytes.
//! - A file or directory appears under its final name whole or not at all.

#![deny(unsafe_code)]

pub mod ad;
pub mod artifact;
pub mod balance;
pub mod cli;
pub mod control;
pub mod cost;
pub mod demo;
pub mod error;
pub mod eval;
pub mod files;
pub mod flatness;
pub mod ir;
pub mod limits;
pub mod linear;
pub mod loss;
pub mod lower;
pub mod measure;
pub mod onnx;
pub mod ops;
pub mod optim;
pub mod runtime;
pub mod shown;
pub mod simplify;
pub mod tensor;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
