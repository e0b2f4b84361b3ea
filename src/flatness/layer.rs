//! Layers: linear maps with a weight, found by the names people know them by, seen as `z = W a + b`, `W ∈ R^{d×m}`.

use super::parameters::{is_seen_through, root_of};
use crate::error::{Error, Result, nearest_names};
use crate::ir::{Dim, Graph, Node, NodeId, Val, ValueId, count};
use crate::linear::ConvGeometry;
use std::collections::{BTreeSet, HashMap};

/// How a layer's weight acts.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// `z[…, d] = a[…, m] · Wᵀ`; `transposed`: the node's operand is `[m, d]`.
    Rows { transposed: bool, alpha: f32 },
    /// `z[…, d, p] = W · a[…, m, p]`
    Columns,
    /// A convolution, `[N, Cin, H…] → [N, d, P…]`.
    Conv(ConvGeometry),
}

#[derive(Clone, Debug)]
pub struct Layer {
    /// The module path where one is known, else the node's name.
    pub name: String,
    pub node: NodeId,
    /// The initialiser that holds the weight.
    pub weight: ValueId,
    /// The nodes between the initialiser and the layer's node, initialiser first.
    pub chain: Vec<Node>,
    /// Which input of the node is the weight, and which the activation.
    pub weight_input: usize,
    pub activation: ValueId,
    pub output: ValueId,
    pub form: Form,
    /// Outputs, fan-in.
    pub d: i64,
    pub m: i64,
    /// Everything the layer is called: module path, parameter, node, output.
    pub aliases: BTreeSet<String>,
    /// How often the weight is used in the whole graph.
    pub uses: usize,
}

/// All layers in graph order. Layers of one module that would have one name are called as their nodes.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let uses = uses(graph);
    let mut layers: Vec<Layer> = graph.node_ids().filter_map(|id| layer_at(graph, id, &uses)).collect();
    let mut named: HashMap<String, usize> = HashMap::new();
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
    let (weight_input, activation_input, form) = match node.op.as_str() {
        "Gemm" => {
            let plain = node.attrs.int("transA").unwrap_or(0) == 0;
            let transposed = node.attrs.int("transB").unwrap_or(0) == 0;
            if !plain {
                return None;
            }
            (1, 0, Form::Rows { transposed, alpha: node.attrs.float("alpha").unwrap_or(1.0) })
        }
        "MatMul" if root_of(graph, node.input(1)?).is_some() => (1, 0, Form::Rows { transposed: true, alpha: 1.0 }),
        "MatMul" => (0, 1, Form::Columns),
        "Conv" => (1, 0, Form::Conv(crate::ops::conv_geometry(graph, node)?)),
        _ => return None,
    };
    let (weight, chain) = root_of(graph, node.input(weight_input)?)?;
    let operand = graph.value(node.input(weight_input)?);
    let shape = crate::ir::fixed(operand.fact.shape.as_ref()?)?;
    let (d, m) = match (&form, shape.as_slice()) {
        (Form::Rows { transposed: true, .. }, [m, d]) => (*d, *m),
        (Form::Rows { transposed: false, .. } | Form::Columns, [d, m]) => (*d, *m),
        (Form::Conv(_), [d, rest @ ..]) => (*d, rest.iter().product()),
        _ => return None,
    };
    let output = node.output(0)?;
    let mut aliases: BTreeSet<String> = BTreeSet::new();
    let weight_name = graph.name_of(weight).to_string();
    let path = module_path(node).or_else(|| weight_name.strip_suffix(".weight").map(str::to_string));
    aliases.extend(path.clone());
    aliases.extend(weight_name.strip_suffix(".weight").map(str::to_string));
    aliases.extend(
        [weight_name, node.name.clone(), graph.name_of(output).to_string()].into_iter().filter(|n| !n.is_empty()),
    );
    Some(Layer {
        name: path.unwrap_or_else(|| node.name.clone()),
        node: id,
        weight,
        chain,
        weight_input,
        activation: node.input(activation_input)?,
        output,
        form,
        d,
        m,
        aliases,
        uses: uses.get(&weight).copied().unwrap_or(1),
    })
}

/// How often nodes compute with each initialiser, counting through transposes and the like.
fn uses(graph: &Graph) -> HashMap<ValueId, usize> {
    let mut root: HashMap<ValueId, ValueId> = graph.initializers().map(|id| (id, id)).collect();
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
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
    /// The weight as `W[d, m]`, from the value that stands for the initialiser.
    pub fn view<'g>(&self, root: Val<'g>) -> Val<'g> {
        let b = root.builder();
        let mut operand = root;
        for node in &self.chain {
            let others = node.inputs.iter().skip(1).map(|id| id.map(|id| b.val(id)));
            let inputs: Vec<Option<Val<'g>>> = std::iter::once(Some(operand)).chain(others).collect();
            operand = b.node(&node.op, &inputs, node.attrs.clone(), 1)[0];
        }
        match &self.form {
            Form::Rows { transposed: true, .. } => operand.transpose(),
            Form::Rows { transposed: false, .. } | Form::Columns => operand,
            Form::Conv(_) => operand.reshape(&[self.d.into(), self.m.into()]),
        }
    }

    /// The activations as `a[N, P, m]`, or `[N, G, P, m/…]` for a grouped convolution; `P` positions a sample.
    pub fn activations<'g>(&self, a: Val<'g>) -> Val<'g> {
        let shape = a.shape();
        match &self.form {
            Form::Rows { alpha, .. } => {
                let positions = count(&shape[1..shape.len() - 1]);
                let a = a.reshape(&[shape[0].clone(), positions, self.m.into()]);
                if *alpha == 1.0 { a } else { a * f64::from(*alpha) }
            }
            Form::Columns => {
                let (columns, batch) = (shape[shape.len() - 1].clone(), count(&shape[1..shape.len() - 2]));
                a.transpose().reshape(&[shape[0].clone(), batch * columns, self.m.into()])
            }
            Form::Conv(g) => {
                let columns = g.columns(a);
                let c = columns.shape();
                let grouped = columns.reshape(&[c[0].clone(), g.group.into(), self.m.into(), c[2].clone()]);
                grouped.permute(&[0, 1, 3, 2])
            }
        }
    }

    /// `z` for another weight `V[d, m]`, without the bias.
    pub fn apply<'g>(&self, a: Val<'g>, v: Val<'g>) -> Val<'g> {
        match &self.form {
            Form::Rows { alpha, .. } => {
                let z = a.matmul(v.transpose());
                if *alpha == 1.0 { z } else { z * f64::from(*alpha) }
            }
            Form::Columns => v.matmul(a),
            Form::Conv(g) => {
                let fan_in: i64 = g.kernel.iter().product();
                let mut shape = vec![Dim::Fixed(self.d), Dim::Fixed(self.m / fan_in.max(1))];
                shape.extend(g.kernel.iter().map(|&k| Dim::Fixed(k)));
                g.conv(a, v.reshape(&shape))
            }
        }
    }

    /// Whether the first axis of the layer's input and output can be the samples: they have one, and it is the same.
    pub fn batched(&self, graph: &Graph) -> bool {
        let first = |id| graph.value(id).fact.shape.as_ref().and_then(|s| s.first().cloned());
        let rank = graph.value(self.output).fact.rank().unwrap_or(0);
        let behind = match self.form {
            Form::Rows { .. } => 2,
            Form::Columns | Form::Conv(_) => 3,
        };
        rank >= behind && first(self.activation).is_some() && first(self.activation) == first(self.output)
    }

    /// Whether the weight acts at one position of each sample only.
    pub fn single_position(&self, graph: &Graph) -> bool {
        let Some(shape) = &graph.value(self.output).fact.shape else { return false };
        match self.form {
            Form::Rows { .. } => shape.len() == 2,
            _ => false,
        }
    }
}
