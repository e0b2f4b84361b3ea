//! The derivative of a ReLU as one node of the emitted graph.

use crate::ir::{Attrs, DType, Graph, Node, ValueId};

/// The slope of a HardSigmoid that is 0 at 0 and 1 at the smallest normal float32: `min(max(αy, 0), 1) = 1 where y > 0`.
pub(crate) const STEP: f32 = 3e38;

/// `Cast(y > 0) = HardSigmoid_α(y)` for the result `y` of a ReLU, in float32. Not a rewrite of the builder's: derivatives see
/// through a comparison. What only the cast read is left behind.
pub(crate) fn step_functions(mut graph: Graph) -> Graph {
    let replaced: Vec<(usize, ValueId)> =
        (0..graph.nodes.len()).filter_map(|at| Some((at, step(&graph, &graph.nodes[at])?))).collect();
    for &(at, y) in &replaced {
        let node = &mut graph.nodes[at];
        node.op = "HardSigmoid".to_string();
        node.inputs = vec![Some(y)];
        node.attrs = Attrs::new().with("alpha", STEP).with("beta", 0.0f32);
    }
    graph
}

/// `y`, if the node is a cast of `y > 0`.
fn step(graph: &Graph, node: &Node) -> Option<ValueId> {
    let made_by = |id: ValueId, op: &str| {
        let node = graph.node(graph.value(id).producer?);
        (node.op == op && node.domain.is_empty()).then_some(node)
    };
    let output = graph.value(node.outputs.first().copied().flatten()?);
    if node.op != "Cast" || !node.domain.is_empty() || output.fact.dtype != DType::F32 {
        return None;
    }
    let greater = made_by(node.input(0)?, "Greater")?;
    let (y, zero) = (greater.input(0)?, greater.input(1)?);
    let zero = graph.value(zero).data.as_ref().is_some_and(|data| data.len() == 1 && data.to_f64() == [0.0]);
    (zero && graph.value(y).fact.dtype == DType::F32 && made_by(y, "Relu").is_some()).then_some(y)
}
