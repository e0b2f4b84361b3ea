//! Layers: linear maps with a weight, found by the names people know them by, seen as `z = W a + b`, `W ∈ R^{d×m}`.

use super::form::{Form, Stored};
use super::parameters::{Root, dequantises, is_seen_through, root_of, takes_parts};
use crate::error::{Error, Result, nearest_names};
use crate::ir::{Graph, Node, NodeId, ValueId};
use foldhash::HashMap;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub struct Layer {
    /// The module path where one is known, else the node's name.
    pub name: String,
    pub node: NodeId,
    /// The initialiser that holds the weight, of integers where it is quantised.
    pub stored: ValueId,
    /// The numbers of the weight: that initialiser, or where it is quantised what DequantizeLinear makes of it.
    pub weight: ValueId,
    /// The nodes between `weight` and the layer's node, in order.
    pub chain: Vec<Node>,
    pub activation: ValueId,
    pub output: ValueId,
    pub form: Form,
    pub layout: Stored,
    /// Outputs, fan-in.
    pub d: i64,
    pub m: i64,
    /// Everything the layer is called: module path, parameter, node, output.
    pub aliases: BTreeSet<String>,
    /// How often the weight is used in the whole graph.
    pub uses: usize,
    /// The node reads a part of the weight only.
    pub in_parts: bool,
}

/// All layers in graph order. Layers of one module that would have one name are called as their nodes.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let uses = uses(graph);
    let mut layers: Vec<Layer> = graph.node_ids().filter_map(|id| layer_at(graph, id, &uses)).collect();
    let mut named: HashMap<String, usize> = HashMap::default();
    for layer in &layers {
        *named.entry(layer.name.clone()).or_default() += 1;
    }
    for layer in layers.iter_mut().filter(|l| named.get(&l.name).is_some_and(|&n| n > 1)) {
        layer.name = graph.node(layer.node).name.clone();
    }
    layers
}

fn layer_at(graph: &Graph, id: NodeId, uses: &HashMap<ValueId, usize>) -> Option<Layer> {
    let node = graph.node(id);
    if !node.domain.is_empty() {
        return None;
    }
    let acting = acting(graph, node)?;
    let Root { stored, weight, chain, whole } = root_of(graph, node.input(acting.weight_input)?)?;
    let operand = graph.value(node.input(acting.weight_input)?);
    let shape = crate::ir::fixed(whole.as_ref().or(operand.fact.shape.as_ref())?)?;
    let (d, m) = match (acting.stored, shape.as_slice()) {
        (Stored::Rows, [d, m]) | (Stored::Columns, [m, d]) => (*d, *m),
        (Stored::Filter, [d, rest @ ..]) => (*d, rest.iter().product()),
        (Stored::TransposedFilter { group }, [inner, each, taps @ ..]) if whole.is_none() => {
            (each * group, inner / group.max(1) * taps.iter().product::<i64>())
        }
        (Stored::StackedRows, [stack @ .., d, m]) | (Stored::StackedColumns, [stack @ .., m, d]) => {
            (stack.iter().product::<i64>() * d, *m)
        }
        _ => return None,
    };
    let output = node.output(0)?;
    let mut aliases: BTreeSet<String> = BTreeSet::new();
    let weight_name = graph.name_of(stored).to_string();
    // What ONNX Runtime's quantiser calls a weight that it has rounded.
    let full_name = weight_name.strip_suffix("_quantized").unwrap_or(&weight_name).to_string();
    let module = full_name.strip_suffix(".weight").map(str::to_string);
    let path = module_path(node).or_else(|| module.clone());
    aliases.extend(path.iter().chain(&module).cloned());
    let names = [full_name, weight_name, node.name.clone(), graph.name_of(output).to_string()];
    aliases.extend(names.into_iter().filter(|n| !n.is_empty()));
    Some(Layer {
        name: path.unwrap_or_else(|| node.name.clone()),
        node: id,
        stored,
        weight,
        chain,
        activation: node.input(1 - acting.weight_input)?,
        output,
        form: acting.form,
        layout: acting.stored,
        d,
        m,
        aliases,
        uses: uses.get(&weight).copied().unwrap_or(1),
        in_parts: whole.is_some(),
    })
}

/// How a node applies a weight.
struct Acting {
    /// Which of the first two inputs is the weight; the other one is the activation.
    weight_input: usize,
    form: Form,
    stored: Stored,
}

fn acting(graph: &Graph, node: &Node) -> Option<Acting> {
    let stands_at = |i: usize| node.input(i).is_some_and(|id| root_of(graph, id).is_some());
    let rank = |i: usize| node.input(i).and_then(|id| graph.value(id).fact.rank());
    match node.op.as_str() {
        "Gemm" => {
            let weight_input = usize::from(stands_at(1));
            let set = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
            let alpha = node.attrs.float("alpha").unwrap_or(1.0);
            let (form, by_rows) = match weight_input {
                1 => (Form::Rows { alpha, turned: set("transA") }, set("transB")),
                _ => (Form::Columns { alpha, turned: set("transB") }, !set("transA")),
            };
            Some(Acting { weight_input, form, stored: if by_rows { Stored::Rows } else { Stored::Columns } })
        }
        "MatMul" => {
            let weight_input = usize::from(stands_at(1));
            let (form, stored) = match (weight_input, rank(weight_input)?) {
                (1, 2) => (Form::Rows { alpha: 1.0, turned: false }, Stored::Columns),
                (_, 2) => (Form::Columns { alpha: 1.0, turned: false }, Stored::Rows),
                (1, _) => (Form::Stack, Stored::StackedColumns),
                _ => (Form::Stack, Stored::StackedRows),
            };
            Some(Acting { weight_input, form, stored })
        }
        "Conv" => {
            let form = Form::Conv(crate::ops::conv_geometry(graph, node)?);
            Some(Acting { weight_input: 1, form, stored: Stored::Filter })
        }
        "ConvTranspose" => {
            let geometry = crate::ops::conv_transpose_geometry(graph, node)?;
            let stored = Stored::TransposedFilter { group: geometry.group };
            Some(Acting { weight_input: 1, form: Form::ConvTranspose(geometry), stored })
        }
        _ => None,
    }
}

/// How often nodes compute with each initialiser, or with what DequantizeLinear makes of one, counting through transposes
/// and the like.
fn uses(graph: &Graph) -> HashMap<ValueId, usize> {
    let mut root: HashMap<ValueId, ValueId> = graph.initializers().map(|id| (id, id)).collect();
    let mut uses: HashMap<ValueId, usize> = HashMap::default();
    for node in &graph.nodes {
        // A shape is not a use of the weight's values.
        if matches!(node.op.as_str(), "Shape" | "Size") {
            continue;
        }
        let passed = node.input(0).filter(|_| is_seen_through(node)).and_then(|id| root.get(&id)).copied();
        if let (Some(root_id), Some(out)) = (passed, node.output(0)) {
            root.insert(out, root_id);
            continue;
        }
        let whole = node.input(0).filter(|_| takes_parts(node)).and_then(|id| root.get(&id)).copied();
        if let Some(whole) = whole {
            root.extend(node.outputs.iter().flatten().map(|&out| (out, whole)));
            continue;
        }
        if let Some(out) = node.output(0).filter(|_| dequantises(node)) {
            root.insert(out, out);
        }
        for read in node.reads().filter_map(|id| root.get(&id)) {
            *uses.entry(*read).or_default() += 1;
        }
    }
    uses
}

/// The module a node comes from: `metadata_props` of the dynamo exporter, or a TorchScript node name.
///
/// `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`: a container repeats its own path as a prefix of its children's.
pub fn module_path(node: &Node) -> Option<String> {
    let scopes = node.metadata.iter().find(|(k, _)| k == "pkg.torch.onnx.name_scopes").map(|(_, v)| v);
    if let Some(scopes) = scopes {
        let names: Vec<&str> = scopes.split('\'').skip(1).step_by(2).collect();
        return names.iter().rev().nth(1).filter(|n| !n.is_empty()).map(|n| n.to_string());
    }
    let namespace = node.metadata.iter().find(|(k, _)| k == "namespace").map(|(_, v)| v);
    if let Some(namespace) = namespace {
        let names: Vec<&str> = namespace.split('/').filter_map(|part| part.split(": ").next()).collect();
        return names.iter().rev().nth(1).filter(|n| !n.is_empty()).map(|n| n.to_string());
    }
    let parts: Vec<&str> = node.name.split('/').filter(|p| !p.is_empty()).collect();
    let (_, modules) = parts.split_last()?;
    if modules.is_empty() {
        return None;
    }
    let mut path = String::new();
    let mut last = "";
    for &module in modules {
        let repeats = !last.is_empty() && module.strip_prefix(last).is_some_and(|rest| rest.starts_with('.'));
        if repeats {
            path.truncate(path.len() - last.len());
        } else if !path.is_empty() {
            path.push('.');
        }
        path.push_str(module);
        last = module;
    }
    Some(path)
}

/// The layer that `name` means: exactly one of its names, or the end of a module path. `penultimate` is the last
/// layer but one before `output`.
pub fn find(graph: &Graph, name: &str, output: ValueId) -> Result<Layer> {
    let all = layers(graph);
    if name == "penultimate" && !all.iter().any(|l| l.aliases.contains(name)) {
        let above = graph.ancestors(&[output]);
        let mut on_path: Vec<Layer> = all.into_iter().filter(|l| above.contains(&l.output)).collect();
        on_path.pop();
        return on_path.pop().ok_or_else(|| no_layer(graph, name));
    }
    let exact: Vec<&Layer> = all.iter().filter(|l| l.aliases.contains(name)).collect();
    let suffix = || all.iter().filter(|l| l.aliases.iter().any(|a| ends_with_path(a, name))).collect();
    let found: Vec<&Layer> = if exact.is_empty() { suffix() } else { exact };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(no_layer(graph, name)),
        several if several.iter().all(|l| l.weight == several[0].weight) => Ok(several[0].clone()),
        several => {
            Err(Error::AmbiguousLayer { name: name.into(), layers: several.iter().map(|l| l.name.clone()).collect() })
        }
    }
}

fn ends_with_path(alias: &str, name: &str) -> bool {
    let rest = alias.strip_suffix(".weight").unwrap_or(alias);
    [alias, rest].iter().any(|a| a.strip_suffix(name).is_some_and(|head| head.ends_with(['.', '/'])))
}

fn no_layer(graph: &Graph, name: &str) -> Error {
    let all = layers(graph);
    let near = nearest_names(name, all.iter().flat_map(|l| l.aliases.iter().map(String::as_str)));
    let near = if near.is_empty() { all.iter().map(|l| l.name.clone()).take(8).collect() } else { near };
    Error::UnknownName { what: "layer", name: name.to_string(), near }
}

impl Layer {
    /// Whether the weight acts at more than one place of the graph.
    pub fn is_tied(&self) -> bool {
        self.uses > 1
    }

    /// Whether what is stored is not the weight itself, but what it is dequantised from.
    pub fn is_quantised(&self) -> bool {
        self.stored != self.weight
    }
}
