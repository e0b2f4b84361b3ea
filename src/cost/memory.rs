//! The peak memory of a step in ONNX Runtime, predicted from its graph: what the process takes beyond itself before the
//! session was opened, its inputs (parameters, state, a batch) not counted.
//!
//! ONNX Runtime gives each tensor memory when its node runs and takes it back behind the last one that reads it. The
//! first run takes tensors one by one, later runs lie in one block as large as the first one's peak, and the arena keeps
//! both. Nodes run as a depth-first search from the last output finds them.

use super::{ASSUMED_BATCH, in_blocks, is_view};
use crate::ir::{Fact, Graph, Node, NodeId, ValueId};
use foldhash::{HashMap, HashSet};

/// Bytes of a session that holds no tensor.
const SESSION: f64 = 2e6;

/// Memory that the arena keeps for a byte of live tensors, and for a byte of outputs, of which the caller's copies
/// replace some. Fitted to resident memory, by `benches/memory.py`.
const KEPT: f64 = 2.7;
const GIVEN: f64 = 0.4;

/// The predicted peak, in bytes. Symbolic dimensions count as [`ASSUMED_BATCH`].
pub fn of_graph(graph: &Graph) -> f64 {
    with_live(live(graph), outputs(graph))
}

/// The predicted peak, in bytes, of a step whose tensors take so many bytes at once, and its outputs.
pub fn with_live(live: f64, outputs: f64) -> f64 {
    SESSION + KEPT * live + GIVEN * outputs
}

/// Bytes of the outputs.
pub fn outputs(graph: &Graph) -> f64 {
    graph.outputs.iter().map(|&id| bytes(&graph.value(id).fact)).sum()
}

fn bytes(fact: &Fact) -> f64 {
    let elements: f64 = fact.shape.iter().flatten().map(|dim| dim.evaluate(&|_| ASSUMED_BATCH) as f64).product();
    elements * fact.dtype.bits() as f64 / 8.0
}

/// Operators whose result ONNX Runtime lets stand where an operand of its size stood that nothing reads any more.
fn is_in_place(op: &str) -> bool {
    const IN_PLACE: &[&str] = &[
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Relu",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Clip",
        "Not",
        "And",
        "Abs",
        "Sign",
        "Softmax",
        "LogSoftmax",
    ];
    IN_PLACE.contains(&op)
}

/// Bytes that a node takes while it runs beyond its operands and results.
fn workspace(graph: &Graph, node: &Node) -> f64 {
    let constant = |i: usize| node.input(i).is_some_and(|id| graph.value(id).data.is_some());
    if node.op != "Conv" || !constant(1) || node.attrs.int("group").unwrap_or(1) != 1 {
        return 0.0;
    }
    let out = node.output(0).map(|id| &graph.value(id).fact);
    let channels = out.and_then(|fact| fact.shape.as_ref()?.get(1)?.fixed()).unwrap_or(1).max(1) as f64;
    out.map_or(0.0, bytes) * in_blocks(channels) / channels
}

/// The nodes as ONNX Runtime runs them: those that a node reads from before it, later ones of the graph first, beginning
/// with the last node that nothing reads.
fn order(graph: &Graph) -> Vec<NodeId> {
    let read: HashSet<ValueId> = graph.nodes.iter().flat_map(Node::reads).collect();
    let is_leaf = |id: &NodeId| !graph.node(*id).outputs.iter().flatten().any(|v| read.contains(v));
    let mut stack: Vec<(NodeId, bool)> = graph.node_ids().filter(is_leaf).map(|id| (id, false)).collect();
    let (mut seen, mut order) = (HashSet::default(), Vec::with_capacity(graph.nodes.len()));
    while let Some((id, done)) = stack.pop() {
        if done {
            order.push(id);
            continue;
        }
        if !seen.insert(id) {
            continue;
        }
        stack.push((id, true));
        let mut before: Vec<NodeId> = graph.node(id).reads().filter_map(|v| graph.value(v).producer).collect();
        before.sort_unstable_by_key(|id| id.0);
        before.dedup();
        stack.extend(before.into_iter().filter(|id| !seen.contains(id)).map(|id| (id, false)));
    }
    order
}

/// Tensors in memory: each value's buffer, each buffer's bytes and the values that still hold it.
#[derive(Default)]
struct Buffers {
    of: HashMap<ValueId, usize>,
    sizes: Vec<(f64, usize)>,
    live: f64,
}

impl Buffers {
    fn add(&mut self, value: ValueId, size: f64) {
        self.of.insert(value, self.sizes.len());
        self.sizes.push((size, 1));
        self.live += size;
    }

    fn share(&mut self, value: ValueId, buffer: usize) {
        self.of.insert(value, buffer);
        self.sizes[buffer].1 += 1;
    }

    fn drop(&mut self, value: ValueId) {
        let Some(&buffer) = self.of.get(&value) else { return };
        let (size, holders) = &mut self.sizes[buffer];
        *holders -= 1;
        if *holders == 0 {
            self.live -= *size;
        }
    }
}

/// Bytes of the tensors that are in memory at once at most: neither inputs nor constants nor outputs.
pub fn live(graph: &Graph) -> f64 {
    let order = order(graph);
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut last: HashMap<ValueId, usize> = HashMap::default();
    for (at, &id) in order.iter().enumerate() {
        last.extend(graph.node(id).reads().map(|v| (v, at)));
    }
    let (mut buffers, mut peak) = (Buffers::default(), 0.0f64);
    for (at, &id) in order.iter().enumerate() {
        let node = graph.node(id);
        for made in node.outputs.iter().flatten().filter(|v| !outputs.contains(v)) {
            let size = bytes(&graph.value(*made).fact);
            let free = |v: &ValueId| {
                let alone = buffers.of.get(v).is_some_and(|&k| buffers.sizes[k] == (size, 1));
                alone && last.get(v) == Some(&at)
            };
            let reused = match is_view(&node.op) {
                true => node.input(0),
                false => node.reads().filter(|_| is_in_place(&node.op)).find(free),
            };
            match reused.and_then(|v| buffers.of.get(&v).copied()) {
                Some(buffer) => buffers.share(*made, buffer),
                None => buffers.add(*made, size),
            }
            if !last.contains_key(made) {
                peak = peak.max(buffers.live);
                buffers.drop(*made);
            }
        }
        peak = peak.max(buffers.live + workspace(graph, node));
        let read: HashSet<ValueId> = node.reads().filter(|v| last.get(v) == Some(&at)).collect();
        read.into_iter().for_each(|v| buffers.drop(v));
    }
    peak
}
