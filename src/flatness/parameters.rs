//! Which initialisers training changes.

use crate::ir::{Dim, Graph, Node, ValueId};
use foldhash::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    pub value: ValueId,
    /// False for running statistics.
    pub trainable: bool,
}

/// Operators through which a weight is still the weight.
const SEEN_THROUGH: &[&str] = &["Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"];

/// Operators between a weight as it is stored and the numbers that it stands for.
const QUANTISATION: &[&str] = &["QuantizeLinear", DEQUANTIZE];

/// Operators that give parts of a weight.
const PARTS: &[&str] = &["Split", "Slice"];

/// What may stand between a part of a weight and its layer, so that the whole can be seen as the part is.
const BEHIND_PARTS: &[&str] = &["Identity", "Transpose", "Cast"];

pub(super) const DEQUANTIZE: &str = "DequantizeLinear";

fn is_one_of(node: &Node, operators: &[&str]) -> bool {
    node.domain.is_empty() && operators.contains(&node.op.as_str())
}

/// Whether a weight that the node reads first is still that weight in its output, element by element.
pub(super) fn is_seen_through(node: &Node) -> bool {
    is_one_of(node, SEEN_THROUGH)
}

/// Whether the outputs are parts of the weight that the node reads first.
pub(super) fn takes_parts(node: &Node) -> bool {
    is_one_of(node, PARTS)
}

fn quantises(node: &Node) -> bool {
    is_one_of(node, QUANTISATION)
}

/// Whether the numbers of a layer's weight come out of the node: scales and zero points are constants of the number
/// format, and rounding is passed straight through.
pub(super) fn dequantises(node: &Node) -> bool {
    is_one_of(node, &[DEQUANTIZE])
}

/// Where operators take weights: `(operator, inputs)`.
const WEIGHT_INPUTS: &[(&str, &[usize])] = &[
    ("Conv", &[1, 2]),
    ("ConvTranspose", &[1, 2]),
    ("Gemm", &[0, 1, 2]),
    ("MatMul", &[0, 1]),
    ("Einsum", &[0, 1, 2, 3]),
    ("Gather", &[0]),
    ("PRelu", &[1]),
    ("BatchNormalization", &[1, 2]),
    ("InstanceNormalization", &[1, 2]),
    ("GroupNormalization", &[1, 2]),
    ("LayerNormalization", &[1, 2]),
    ("RMSNormalization", &[1]),
    ("LSTM", &[1, 2, 3, 7]),
    ("GRU", &[1, 2, 3]),
    ("RNN", &[1, 2, 3]),
];

/// Operators that take a bias or a scale as well as constants; there the initialiser's own look decides.
const MAYBE_WEIGHT: &[&str] = &["Add", "Sub", "Mul", "Div", "Concat", "Expand"];

const RUNNING_STATISTICS: (&str, &[usize]) = ("BatchNormalization", &[3, 4]);

/// The parameters of a model, in the order of its initialisers.
pub fn parameters(graph: &Graph) -> Vec<Parameter> {
    let (roles, inputs) = (roles(graph), graph.input_set());
    graph
        .initializers()
        .filter(|id| !inputs.contains(id) || !roles.get(id).is_none_or(Vec::is_empty))
        .filter_map(|id| {
            let roles = roles.get(&id)?;
            let trainable = roles.contains(&Role::Weight) || (roles.contains(&Role::Maybe) && looks_trained(graph, id));
            let statistics = roles.contains(&Role::Statistics);
            (trainable || statistics).then_some(Parameter { value: id, trainable })
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Weight,
    Maybe,
    Statistics,
}

/// What each float initialiser is used as.
fn roles(graph: &Graph) -> HashMap<ValueId, Vec<Role>> {
    let mut origin: HashMap<ValueId, ValueId> =
        graph.initializers().filter(|&id| graph.value(id).fact.dtype.is_float()).map(|id| (id, id)).collect();
    let mut roles: HashMap<ValueId, Vec<Role>> = HashMap::default();
    for node in graph.nodes.iter().filter(|n| n.domain.is_empty()) {
        for (i, input) in node.inputs.iter().enumerate() {
            let Some(&root) = input.as_ref().and_then(|id| origin.get(id)) else { continue };
            if i == 0 && (is_seen_through(node) || quantises(node) || takes_parts(node)) {
                origin.extend(node.outputs.iter().flatten().map(|&out| (out, root)));
            } else if let Some(role) = role(node, i) {
                roles.entry(root).or_default().push(role);
            }
        }
    }
    roles
}

fn role(node: &Node, input: usize) -> Option<Role> {
    let op = node.op.as_str();
    if WEIGHT_INPUTS.iter().any(|(name, at)| *name == op && at.contains(&input)) {
        return Some(Role::Weight);
    }
    if op == RUNNING_STATISTICS.0 && RUNNING_STATISTICS.1.contains(&input) {
        return Some(Role::Statistics);
    }
    MAYBE_WEIGHT.contains(&op).then_some(Role::Maybe)
}

/// A scalar, or a tensor that an exporter named by itself, is a constant of the formula, not something learnt.
fn looks_trained(graph: &Graph, id: ValueId) -> bool {
    let value = graph.value(id);
    let elements: usize = value.data.as_ref().map_or(0, |t| t.len());
    elements > 1 && !is_generated_name(&value.name)
}

/// Names that exporters make up for constants: `val_17`, `/block/Constant_output_0`, `onnx::Add_12`, `scalar_tensor_default`.
pub(super) fn is_generated_name(name: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits(name)
        || name.strip_prefix("val_").is_some_and(digits)
        || name.contains("Constant")
        || name.starts_with("onnx::")
        || name.starts_with("const/")
        || name.starts_with("scalar_tensor")
        || name.starts_with("_tensor_constant")
}

/// Where the operand of a layer comes from.
pub(super) struct Root {
    /// The initialiser that it is stored in.
    pub stored: ValueId,
    /// The numbers it stands for: that initialiser, or what DequantizeLinear makes of it.
    pub weight: ValueId,
    /// The nodes from `weight` to the operand, in order; each leaves every element as it is. Those that take parts are left
    /// out.
    pub chain: Vec<Node>,
    /// Where the operand is a part of the weight, the shape that the whole has in its place.
    pub whole: Option<Vec<Dim>>,
}

/// The root of the operand `id`, through operators that leave a weight a weight; `None` where there is none, or it holds
/// integers that are not dequantised.
pub(super) fn root_of(graph: &Graph, id: ValueId) -> Option<Root> {
    let mut chain = Vec::new();
    let (mut weight, mut whole): (_, Option<Vec<Dim>>) = (None, None);
    let mut at = id;
    let mut seen = HashSet::default();
    while seen.insert(at) {
        let value = graph.value(at);
        if value.data.is_some() {
            chain.reverse();
            let real = weight.is_some() || value.fact.dtype.is_float();
            return real.then_some(Root { stored: at, weight: weight.unwrap_or(at), chain, whole });
        }
        let node = graph.node(value.producer?);
        if takes_parts(node) && weight.is_none() && chain.iter().all(|n| is_one_of(n, BEHIND_PARTS)) {
            if whole.is_none() {
                let shape = graph.value(node.input(0)?).fact.shape.clone()?;
                whole = Some(chain.iter().rev().fold(shape, permuted));
            }
            at = node.input(0)?;
            continue;
        }
        if dequantises(node) {
            weight = weight.or(Some(at));
        } else if !(is_seen_through(node) || quantises(node) && weight.is_some()) {
            return None;
        }
        if weight.is_none() {
            chain.push(node.clone());
        }
        at = node.input(0)?;
    }
    None
}

/// The shape behind a node that at most permutes.
fn permuted(shape: Vec<Dim>, node: &Node) -> Vec<Dim> {
    let reversed: Vec<i64> = (0..shape.len() as i64).rev().collect();
    let perm = match node.op.as_str() {
        "Transpose" => node.attrs.ints("perm").map_or(reversed, <[i64]>::to_vec),
        _ => return shape,
    };
    perm.iter().filter_map(|&axis| shape.get(usize::try_from(axis).ok()?).cloned()).collect()
}
