//! Weights stored as integers that train: as real numbers, rounded where the model rounds them, and integers again in the
//! exported model.

use crate::error::{Error, Result};
use crate::eval;
use crate::ir::{Attrs, DType, Dim, Fact, Graph, Model, Node, NodeId, Tensor, Value, ValueId};
use crate::onnx;
use crate::simplify::dead_code;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

const QUANTIZE: &str = "QuantizeLinear";
const DEQUANTIZE: &str = "DequantizeLinear";

/// The nodes that dequantise the initialiser `id`, where nothing else reads it and all of them do it alike.
fn dequantisers(graph: &Graph, id: ValueId, uses: &[NodeId]) -> Option<Node> {
    let mut nodes = uses.iter().map(|&at| graph.node(at));
    let first = nodes.next()?;
    let dequantises =
        |n: &Node| n.domain.is_empty() && n.op == DEQUANTIZE && n.input(0) == Some(id) && n.input(1) != Some(id);
    let alike = |n: &Node| dequantises(n) && n.inputs == first.inputs && n.attrs == first.attrs;
    (dequantises(first) && nodes.all(alike)).then(|| first.clone())
}

/// The data of the node's inputs, `x` in place of the first; `None` if one is computed.
fn operands(graph: &Graph, node: &Node, x: &Tensor) -> Option<Vec<Option<Tensor>>> {
    let rest = node.inputs.iter().skip(1).map(|id| match id {
        Some(id) => graph.value(*id).data.clone().map(Some),
        None => Some(None),
    });
    std::iter::once(Some(Some(x.clone()))).chain(rest).collect()
}

/// Initialisers of integers that are dequantised before they are used, as floats: rounded in the graph where ONNX's
/// QuantizeLinear has their type, which biases of 32 bits have not.
pub(super) fn as_floats(model: &Model, notes: &mut Vec<String>) -> Model {
    let mut graph = model.graph.clone();
    let uses = graph.uses();
    let ends: HashSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    let mut rounded: HashMap<ValueId, Node> = HashMap::new();
    let mut count = 0;
    let integers = graph.initializers().filter(|id| !graph.value(*id).fact.dtype.is_float() && !ends.contains(id));
    for id in integers.collect::<Vec<_>>() {
        let Some(node) = dequantisers(&graph, id, uses.get(&id).map_or(&[], Vec::as_slice)) else { continue };
        let stored = graph.value(id).fact.dtype;
        let Some(out) = node.output(0).map(|out| graph.value(out).fact.dtype) else { continue };
        let real = graph.value(id).data.as_ref().and_then(|x| {
            let fact = Fact { dtype: out, ..graph.value(id).fact.clone() };
            eval::fold(DEQUANTIZE, &operands(&graph, &node, x)?, &node.attrs, &[fact])?.pop()
        });
        let Some(real) = real else { continue };
        graph.value_mut(id).fact.dtype = out;
        graph.value_mut(id).data = Some(real);
        count += 1;
        let attrs = quantizer(&node, stored);
        rounded.insert(id, Node { op: QUANTIZE.into(), attrs, ..node });
        if stored.size() > 2 {
            // The type of 32 bits is as fine as float32.
            rounded.remove(&id);
            let dequantised = uses.get(&id).cloned().unwrap_or_default();
            for at in dequantised {
                let node = &mut graph.nodes[at.0 as usize];
                (node.op, node.attrs) = ("Identity".into(), Attrs::new());
                node.inputs.truncate(1);
            }
        } else if let Some(node) = rounded.get_mut(&id) {
            let name = format!("{}.rounded", graph.name_of(id));
            let fact = Fact { dtype: stored, ..graph.value(id).fact.clone() };
            node.name = name.clone();
            node.outputs = vec![Some(graph.add_value(Value { name, fact, data: None, producer: None }))];
        }
    }
    insert(&mut graph, rounded);
    notes.push(match count {
        0 => "no weight is stored as integers, so none is trained so".to_string(),
        n => format!("{n} tensors stored as integers train as floats; export rounds them again"),
    });
    Model { graph, ..model.clone() }
}

/// The graph with one node where several quantise or dequantise the same tensor alike, as quantisers lay one before each
/// node that reads it: what is one weight shows as one.
pub(super) fn joined(mut graph: Graph) -> Graph {
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut known: HashMap<(String, Vec<Option<ValueId>>, Attrs), ValueId> = HashMap::new();
    let mut same: HashMap<ValueId, ValueId> = HashMap::new();
    for node in &mut graph.nodes {
        for id in node.inputs.iter_mut().flatten() {
            *id = *same.get(id).unwrap_or(id);
        }
        let quantises = node.domain.is_empty() && [QUANTIZE, DEQUANTIZE].contains(&node.op.as_str());
        let Some(out) = node.output(0).filter(|out| quantises && !outputs.contains(out)) else { continue };
        let first = *known.entry((node.op.clone(), node.inputs.clone(), node.attrs.clone())).or_insert(out);
        if first != out {
            same.insert(out, first);
        }
    }
    if same.is_empty() { graph } else { dead_code(&graph) }
}

/// The graph with a scale for each place of the first axis, all alike, where a weight is rounded to a signed type by one
/// scale. ONNX Runtime (1.32) carries one scale past a Reshape behind it, with a zero point of the wrong type from opset 21
/// on, and does not load the graph.
pub(super) fn by_axis(mut graph: Graph) -> Graph {
    let pairs: Vec<(NodeId, NodeId)> = graph.node_ids().filter_map(|id| rounding_of_weight(&graph, id)).collect();
    for (quantize, dequantize) in pairs {
        let node = graph.node(quantize).clone();
        let rows = node.input(0).and_then(|x| graph.value(x).fact.shape.as_ref()?.first()?.fixed());
        let Some(rows) = rows.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 1) else { continue };
        let mut inputs = node.inputs.clone();
        for input in inputs.iter_mut().skip(1).flatten() {
            let value = graph.value(*input).clone();
            let Some(one) = value.data else { continue };
            let same = Tensor::from_f64(one.dtype, &[rows], vec![one.to_f64().first().copied().unwrap_or(0.0); rows]);
            let fact = Fact::new(one.dtype, [Dim::from(rows)]);
            let name = format!("{}.{}", node.name, value.name);
            *input = graph.add_value(Value { name, fact, data: Some(same), producer: None });
        }
        for id in [quantize, dequantize] {
            let node = &mut graph.nodes[id.0 as usize];
            node.inputs.splice(1.., inputs.iter().skip(1).copied());
            node.attrs = std::mem::take(&mut node.attrs).with("axis", 0);
        }
    }
    graph
}

/// A QuantizeLinear of a constant to a signed type with one scale, and the node `id` that undoes it.
fn rounding_of_weight(graph: &Graph, id: NodeId) -> Option<(NodeId, NodeId)> {
    let node = graph.node(id);
    let made_by = graph.value(node.input(0)?).producer.filter(|_| node.op == DEQUANTIZE)?;
    let before = graph.node(made_by);
    let fed = before.input(0).filter(|_| before.op == QUANTIZE)?;
    let constants = before.inputs.iter().skip(1).flatten().all(|&id| graph.value(id).data.is_some());
    let one = graph.value(before.input(1)?).data.as_ref()?.len() == 1 && constants;
    let signed = graph.value(node.input(0)?).fact.dtype != DType::U8;
    let alike = node.inputs.iter().skip(1).eq(before.inputs.iter().skip(1));
    let above = graph.ancestors(&[fed]);
    let of_weight = !graph.inputs.iter().any(|id| above.contains(id));
    (one && signed && alike && of_weight).then_some((made_by, id))
}

/// The attributes of a QuantizeLinear to `dtype` that the node undoes; a zero point has the type already.
fn quantizer(node: &Node, dtype: DType) -> Attrs {
    let mut attrs = Attrs::new();
    if node.input(2).is_none() && dtype != DType::U8 {
        attrs = attrs.with("output_dtype", i64::from(dtype.code()));
    }
    for name in ["axis", "block_size"] {
        if let Some(value) = node.attrs.int(name) {
            attrs = attrs.with(name, value);
        }
    }
    attrs
}

/// Puts each node before the first that reads the initialiser, which then reads its output.
fn insert(graph: &mut Graph, mut rounded: HashMap<ValueId, Node>) {
    let outputs: HashMap<ValueId, Option<ValueId>> =
        rounded.iter().map(|(id, node)| (*id, node.outputs.first().copied().flatten())).collect();
    for mut node in std::mem::take(&mut graph.nodes) {
        let first = node.input(0).filter(|_| node.op == DEQUANTIZE);
        if let Some((id, out)) = first.and_then(|id| Some((id, outputs.get(&id)?))) {
            graph.nodes.extend(rounded.remove(&id));
            node.inputs[0] = *out;
        }
        graph.nodes.push(node);
    }
    let made: Vec<(ValueId, NodeId)> = (0..)
        .zip(&graph.nodes)
        .flat_map(|(at, node)| node.outputs.iter().flatten().map(move |&id| (id, NodeId(at))))
        .collect();
    for (id, node) in made {
        graph.value_mut(id).producer = Some(node);
    }
}

/// The parameters as the model in `bytes` stores them: integers again where it keeps a place for integers.
///
/// # Errors
/// What [`onnx::read_bytes`] says of `bytes`; [`Error::NotStored`] where nothing in it says how to round.
pub(super) fn as_stored(
    bytes: &[u8],
    path: &Path,
    parameters: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let integers = onnx::integer_weights(bytes);
    if !integers.iter().any(|name| parameters.get(name).is_some_and(|t| t.dtype.is_float())) {
        return Ok(parameters);
    }
    let graph = onnx::read_bytes(bytes, path.parent())?.graph;
    let mut stored = parameters;
    for name in integers {
        let Some(real) = stored.get(&name).filter(|t| t.dtype.is_float()) else { continue };
        let rounded = graph.find(&name).and_then(|id| {
            let node = graph.nodes.iter().find(|n| n.op == DEQUANTIZE && n.input(0) == Some(id))?;
            let fact = graph.value(id).fact.clone();
            eval::fold(QUANTIZE, &operands(&graph, node, real)?, &quantizer(node, fact.dtype), &[fact])?.pop()
        });
        let fact = || graph.find(&name).map(|id| graph.value(id).fact.to_string()).unwrap_or_default();
        let rounded = rounded.ok_or_else(|| Error::NotStored { tensor: name.clone(), fact: fact() })?;
        stored.insert(name, rounded);
    }
    Ok(stored)
}
