//! Floating-point operations of a graph, counted from its shapes.

use crate::ir::{Dim, Graph, Node, ValueId};

/// What a symbolic dimension counts as: a usual batch.
pub const ASSUMED_BATCH: i64 = 64;

/// Operations of the whole graph; multiply and add are two. Symbolic dimensions count as [`ASSUMED_BATCH`].
pub fn flops(graph: &Graph) -> f64 {
    graph.nodes.iter().map(|node| node_flops(graph, node)).sum()
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

fn sizes(graph: &Graph, id: ValueId) -> Vec<f64> {
    let shape = graph.value(id).fact.shape.clone().unwrap_or_default();
    shape.iter().map(|d: &Dim| d.evaluate(&|_| ASSUMED_BATCH) as f64).collect()
}

fn elements(graph: &Graph, id: ValueId) -> f64 {
    sizes(graph, id).iter().product()
}
