//! What a graph costs, counted from its shapes: operations, tensors made, nodes; and the time that follows.

pub mod memory;

use crate::ir::{Dim, Graph, Node, ValueId};
use std::ops::{Add, Mul};

/// What a symbolic dimension counts as: a usual batch.
pub const ASSUMED_BATCH: i64 = 64;

/// Seconds that ONNX Runtime takes to start a kernel.
const START: f64 = 1.2e-6;

/// Seconds that each product of a stack of small ones takes to start.
const PRODUCT_START: f64 = 1.5e-7;

/// How ONNX Runtime computes an operator on a processor core: operations that take about the same time a byte and a
/// floating-point operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Product,
    Convolution,
    Elementwise,
    /// `Where`: a branch for each element.
    Selection,
    Pooling,
    /// A pooling that says where its maxima are.
    IndexedPooling,
    Scatter,
}

impl Kernel {
    /// Floating-point operations and bytes a second, measured by `benches/cost.py` on one core with vector
    /// instructions. Only their ratios matter where estimators are compared.
    fn rates(self) -> (f64, f64) {
        match self {
            Kernel::Product => (1.2e11, 3e10),
            Kernel::Convolution => (1e11, 1e10),
            Kernel::Elementwise => (f64::INFINITY, 1.6e10),
            Kernel::Selection => (f64::INFINITY, 4e9),
            Kernel::Pooling => (f64::INFINITY, 5e9),
            Kernel::IndexedPooling => (f64::INFINITY, 1.3e9),
            Kernel::Scatter => (f64::INFINITY, 6e9),
        }
    }

    fn of(node: &Node) -> Kernel {
        match node.op.as_str() {
            "MatMul" | "Gemm" => Kernel::Product,
            "Conv" | "ConvTranspose" => Kernel::Convolution,
            "Where" => Kernel::Selection,
            "MaxPool" if node.output(1).is_some() => Kernel::IndexedPooling,
            "MaxPool" | "AveragePool" => Kernel::Pooling,
            "ScatterElements" | "ScatterND" => Kernel::Scatter,
            _ => Kernel::Elementwise,
        }
    }

    /// One node: so many operations, between tensors of so many elements.
    pub fn cost(self, flops: f64, read: f64, written: f64) -> Cost {
        let (operations, bytes) = self.rates();
        let busy = flops / operations + BYTES * (read + written) / bytes;
        Cost { flops, busy, held: BYTES * written, nodes: 1.0 }
    }
}

/// The cost of a part of a step, at a batch of [`ASSUMED_BATCH`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; multiply and add are two.
    pub flops: f64,
    /// Seconds in kernels.
    pub busy: f64,
    /// Bytes of the tensors that it makes.
    pub held: f64,
    pub nodes: f64,
}

impl Cost {
    /// Seconds on one core, roughly.
    pub fn time(&self) -> f64 {
        self.busy + self.nodes * START
    }

    /// A part of a step done so many times, each in nodes of its own.
    pub fn repeated(self, times: f64) -> Cost {
        Cost { nodes: self.nodes * times, ..self * times }
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            busy: self.busy + other.busy,
            held: self.held + other.held,
            nodes: self.nodes + other.nodes,
        }
    }
}

/// Of so many of the same at once, in as many nodes as one.
impl Mul<f64> for Cost {
    type Output = Cost;
    fn mul(self, times: f64) -> Cost {
        Cost { flops: self.flops * times, busy: self.busy * times, held: self.held * times, nodes: self.nodes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(parts: I) -> Cost {
        parts.fold(Cost::default(), Add::add)
    }
}

/// A matrix product: so many operations, between tensors of so many elements.
pub fn product(flops: f64, read: f64, written: f64) -> Cost {
    Kernel::Product.cost(flops, read, written)
}

/// Channels that a convolution computes side by side; those that are not there take their time too.
const CHANNEL_BLOCK: f64 = 16.0;

/// As many channels as a convolution computes where it makes so many.
pub fn in_blocks(channels: f64) -> f64 {
    (channels / CHANNEL_BLOCK).ceil() * CHANNEL_BLOCK
}

/// A convolution of so many operations that makes so many channels a group, between tensors of so many elements.
pub fn convolution(flops: f64, channels: f64, read: f64, written: f64) -> Cost {
    let computed = flops * in_blocks(channels) / channels.max(1.0);
    Cost { flops, ..Kernel::Convolution.cost(computed, read, written) }
}

/// What so many products in one node take beyond their operations and traffic.
pub fn stacked(products: f64) -> Cost {
    Cost { busy: products * PRODUCT_START, ..Cost::default() }
}

/// What starting a step takes before its first node and after its last one.
pub fn run() -> Cost {
    Cost { nodes: 15.0, ..Cost::default() }
}

/// An elementwise operation on so many elements, or their move.
pub fn elementwise(elements: f64) -> Cost {
    Kernel::Elementwise.cost(elements, 2.0 * elements, elements)
}

/// Bytes of an element.
const BYTES: f64 = 4.0;

/// Floating-point operations of the whole graph. Symbolic dimensions count as [`ASSUMED_BATCH`].
pub fn flops(graph: &Graph) -> f64 {
    graph.nodes.iter().map(|node| node_flops(graph, node)).sum()
}

/// The cost of the nodes that are chosen.
pub fn of_nodes<'a>(graph: &Graph, nodes: impl Iterator<Item = &'a Node>) -> Cost {
    nodes.map(|node| node_cost(graph, node)).sum()
}

/// Operators whose output a runtime lets share its input's memory.
fn is_view(op: &str) -> bool {
    matches!(op, "Reshape" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Shape")
}

fn node_cost(graph: &Graph, node: &Node) -> Cost {
    if is_view(&node.op) {
        return Cost { nodes: 1.0, ..Cost::default() };
    }
    let read: f64 = node.reads().map(|id| elements(graph, id)).sum();
    let written: f64 = node.outputs.iter().flatten().map(|&id| elements(graph, id)).sum();
    let flops = node_flops(graph, node);
    match Kernel::of(node) {
        Kernel::Convolution => convolution(flops, channels(graph, node), read, written),
        kernel => kernel.cost(flops, read, written),
    }
}

/// Channels that each group of a convolution makes.
fn channels(graph: &Graph, node: &Node) -> f64 {
    let filter = node.input(1).map(|id| sizes(graph, id)).unwrap_or_default();
    let (axis, groups) = match node.op.as_str() {
        "ConvTranspose" => (1, 1),
        _ => (0, node.attrs.int("group").unwrap_or(1)),
    };
    filter.get(axis).map_or(1.0, |made| made / groups.max(1) as f64)
}

fn node_flops(graph: &Graph, node: &Node) -> f64 {
    let size = |id: Option<ValueId>| id.map_or(0.0, |id| elements(graph, id));
    let dims = |i: usize| node.input(i).map(|id| sizes(graph, id)).unwrap_or_default();
    let out = size(node.output(0));
    match node.op.as_str() {
        "MatMul" => 2.0 * out * dims(0).last().copied().unwrap_or(1.0),
        "Gemm" => {
            let rows = node.attrs.int("transA").unwrap_or(0) != 0;
            let inner = dims(0).get(usize::from(!rows)).copied().unwrap_or(1.0);
            2.0 * out * inner
        }
        "Conv" => 2.0 * out * dims(1).iter().skip(1).product::<f64>(),
        "ConvTranspose" => 2.0 * size(node.input(0)) * dims(1).iter().skip(1).product::<f64>(),
        "Reshape" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Shape" | "Cast" | "Transpose" | "Slice"
        | "Concat" | "Expand" | "Gather" | "Pad" => 0.0,
        "MaxPool" | "AveragePool" => {
            out * node.attrs.ints("kernel_shape").map_or(1.0, |k| k.iter().map(|&n| n as f64).product())
        }
        op if op.starts_with("Reduce") || op.starts_with("Global") => size(node.input(0)),
        "Softmax" | "LogSoftmax" => 5.0 * out,
        "ScatterND" | "ScatterElements" => size(node.input(2)),
        _ => out,
    }
}

/// Elements of a tensor of that shape.
pub fn elements_of(shape: &[Dim]) -> f64 {
    shape.iter().map(size_of).product()
}

/// A dimension, symbols as in a usual batch.
pub fn size_of(dim: &Dim) -> f64 {
    dim.evaluate(&|_| ASSUMED_BATCH) as f64
}

fn sizes(graph: &Graph, id: ValueId) -> Vec<f64> {
    graph.value(id).fact.shape.iter().flatten().map(size_of).collect()
}

fn elements(graph: &Graph, id: ValueId) -> f64 {
    elements_of(graph.value(id).fact.shape.as_deref().unwrap_or_default())
}
