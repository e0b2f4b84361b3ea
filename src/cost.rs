//! What a graph costs, counted from its shapes: operations, memory traffic, tensors held; and the time that follows.

use crate::ir::{Dim, Graph, Node, ValueId};
use std::collections::HashMap;
use std::ops::{Add, Mul};

/// What a symbolic dimension counts as: a usual batch.
pub const ASSUMED_BATCH: i64 = 64;

/// Operations, traffic and nodes a second of a processor core with vector instructions. Only their ratios matter where
/// estimators are compared.
const FLOPS: f64 = 4e10;
const TRAFFIC: f64 = 1e10;
const NODES: f64 = 4e5;

/// The cost of a part of a step, at a batch of [`ASSUMED_BATCH`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; multiply and add are two.
    pub flops: f64,
    /// Bytes read and written.
    pub traffic: f64,
    /// Bytes of the tensors that it makes.
    pub held: f64,
    pub nodes: f64,
}

impl Cost {
    /// Seconds on one core, roughly.
    pub fn time(&self) -> f64 {
        self.flops / FLOPS + self.traffic / TRAFFIC + self.nodes / NODES
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            traffic: self.traffic + other.traffic,
            held: self.held + other.held,
            nodes: self.nodes + other.nodes,
        }
    }
}

/// Of so many of the same at once, in as many nodes as one.
impl Mul<f64> for Cost {
    type Output = Cost;
    fn mul(self, times: f64) -> Cost {
        Cost { flops: self.flops * times, traffic: self.traffic * times, held: self.held * times, nodes: self.nodes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(parts: I) -> Cost {
        parts.fold(Cost::default(), Add::add)
    }
}

/// A matrix product or a convolution: so many operations, between tensors of so many elements.
pub fn product(flops: f64, read: f64, written: f64) -> Cost {
    Cost { flops, traffic: BYTES * (read + written), held: BYTES * written, nodes: 1.0 }
}

/// An elementwise operation on so many elements, or their move.
pub fn elementwise(elements: f64) -> Cost {
    Cost { flops: elements, traffic: BYTES * 3.0 * elements, held: BYTES * elements, nodes: 1.0 }
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

/// The most bytes held at once by tensors that nodes make, where each is freed after its last reader.
pub fn peak(graph: &Graph) -> f64 {
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        last.extend(node.reads().map(|id| (id, at)));
    }
    last.extend(graph.outputs.iter().map(|&id| (id, graph.nodes.len())));
    let mut ends: HashMap<usize, f64> = HashMap::new();
    let (mut held, mut peak) = (0.0, 0.0f64);
    for (at, node) in graph.nodes.iter().enumerate() {
        if !is_view(&node.op) {
            for &out in node.outputs.iter().flatten() {
                let bytes = BYTES * elements(graph, out);
                held += bytes;
                *ends.entry(last.get(&out).copied().unwrap_or(at)).or_default() += bytes;
            }
        }
        peak = peak.max(held);
        held -= ends.remove(&at).unwrap_or(0.0);
    }
    peak
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
    product(node_flops(graph, node), read, written)
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
