//! Bytes → [`Model`].

use super::dims::Symbols;
use super::external::Folder;
use super::facts::{self, Declared};
use super::fault::{ModelFault, NotOnnx};
use super::normalise::{self, Draft};
use super::proto::ModelProto;
use super::raw::{Expander, RawAttr, RawGraph, RawNode, domain};
use super::{OPSETS, check, types};
use crate::error::{Error, Result};
use crate::ir::{Attr, Attrs, Builder, DType, Fact, Graph, Model, Node, Tensor, Val};
use prost::Message;
use prost::bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Reads a model file; external data is looked for in its folder.
pub fn read(path: &Path) -> Result<Model> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    parse(bytes.into(), &path.display().to_string(), path.parent())
}

/// Reads a model from memory; `dir` is the folder of its external data.
pub fn read_bytes(bytes: &[u8], dir: Option<&Path>) -> Result<Model> {
    parse(Bytes::copy_from_slice(bytes), "model", dir)
}

fn parse(bytes: Bytes, file: &str, dir: Option<&Path>) -> Result<Model> {
    let proto = decode(&bytes).map_err(|reason| Error::NotOnnx { file: file.to_string(), reason })?;
    let opset = check_opset(&proto, file)?;
    let (mut raw, domains) = expand(&proto, opset, dir, file)?;
    if proto.ir_version() < 4 {
        unlist_initializers(&mut raw);
    }
    let symbols = Symbols::of(&raw.inputs);
    let in_file = |e: Error| Error::InFile { file: file.to_string(), source: Box::new(e) };
    let mut declared = Declared::new();
    let mut graph = build(&raw, &symbols, &declared, None).map_err(in_file)?;
    if facts::wanting(&graph) {
        declared = facts::from_tract(&bytes, dir, &symbols);
        if !declared.is_empty() {
            graph = build(&raw, &symbols, &declared, None).map_err(in_file)?;
        }
    }
    Ok(Model {
        graph,
        opset,
        ir_version: proto.ir_version(),
        domains,
        producer: (proto.producer_name().to_string(), proto.producer_version().to_string()),
        doc: proto.doc_string().to_string(),
        metadata: proto.metadata_props.iter().map(|e| (e.key().to_string(), e.value().to_string())).collect(),
    })
}

fn decode(bytes: &Bytes) -> Result<ModelProto, NotOnnx> {
    let known: [(bool, NotOnnx); 5] = [
        (bytes.is_empty(), NotOnnx::Empty),
        (bytes.starts_with(b"version https://git-lfs"), NotOnnx::LfsPointer),
        (bytes.starts_with(b"PK\x03\x04"), NotOnnx::Zip),
        (bytes.starts_with(b"\x89HDF\r\n"), NotOnnx::Hdf5),
        (bytes.get(4..8) == Some(b"ORTM"), NotOnnx::OrtFormat),
    ];
    if let Some((_, reason)) = known.into_iter().find(|(is, _)| *is) {
        return Err(reason);
    }
    let proto = ModelProto::decode(bytes.clone()).map_err(|e| NotOnnx::Protobuf { reason: e.to_string() })?;
    if proto.graph.is_none() { Err(NotOnnx::NoGraph) } else { Ok(proto) }
}

fn check_opset(proto: &ModelProto, file: &str) -> Result<i64> {
    let standard = proto.opset_import.iter().filter(|o| domain(o.domain()).is_empty()).map(|o| o.version()).max();
    let found = standard.ok_or_else(|| Error::NoOpset { file: file.to_string() })?;
    if OPSETS.contains(&found) {
        return Ok(found);
    }
    Err(Error::Opset { file: file.to_string(), found, first: *OPSETS.start(), last: *OPSETS.end() })
}

/// The graph with functions inlined and everything checked that concerns names and constants; and the versions of the
/// domains it uses beside the standard one.
fn expand(proto: &ModelProto, opset: i64, dir: Option<&Path>, file: &str) -> Result<(RawGraph, Vec<(String, i64)>)> {
    let folder = Folder::new(dir);
    let imports = proto.opset_import.iter().filter(|o| !domain(o.domain()).is_empty());
    let expander = Expander {
        functions: proto.functions.iter().map(|f| ((domain(f.domain()), f.name(), f.overload()), f)).collect(),
        folder: &folder,
        domains: RefCell::new(imports.map(|o| (o.domain().to_string(), o.version())).collect()),
        names: RefCell::default(),
        nodes: Cell::new(0),
        faults: RefCell::default(),
    };
    let Some(graph) = &proto.graph else {
        return Err(Error::NotOnnx { file: file.to_string(), reason: NotOnnx::NoGraph });
    };
    if !proto.functions.is_empty() {
        let names = graph.node.iter().flat_map(|n| n.input.iter().chain(&n.output)).cloned();
        let inputs = graph.input.iter().chain(&graph.output).map(|i| i.name().to_string());
        let initializers = graph.initializer.iter().map(|t| t.name().to_string());
        expander.names.borrow_mut().extend(names.chain(inputs).chain(initializers));
    }
    let mut raw = expander.graph(graph, None, opset, 0);
    let mut faults = expander.faults.take();
    check::check(&mut raw, &mut HashSet::new(), &mut faults);
    let undefined = |f: &super::raw::Free| ModelFault::UndefinedInput {
        node: f.node.clone(),
        op: f.op.clone(),
        tensor: f.tensor.clone(),
    };
    faults.extend(raw.free.iter().map(undefined));
    let mut domains = BTreeMap::new();
    used_domains(&raw, &expander.domains.borrow(), &mut domains, &mut faults);
    for input in raw.inputs.iter().chain(&raw.outputs) {
        faults.extend(types::fact(input, &Symbols::default(), |_| String::new()).err());
    }
    if faults.is_empty() {
        return Ok((raw, domains.into_iter().collect()));
    }
    Err(Error::InvalidModel { file: file.to_string(), faults })
}

/// The versions of the domains that some node is of.
fn used_domains(
    graph: &RawGraph,
    imports: &BTreeMap<String, i64>,
    used: &mut BTreeMap<String, i64>,
    faults: &mut Vec<ModelFault>,
) {
    for node in &graph.nodes {
        node.graphs().for_each(|g| used_domains(g, imports, used, faults));
        let domain = node.domain.clone();
        match imports.get(&domain) {
            _ if domain.is_empty() => {}
            Some(&version) => {
                used.insert(domain, version);
            }
            None => faults.push(ModelFault::NoOpset { node: node.name.clone(), op: node.op.clone(), domain }),
        }
    }
}

/// Before IR version 4 every initialiser had to be listed as an input as well, which said nothing.
fn unlist_initializers(graph: &mut RawGraph) {
    let names: HashSet<&str> = graph.initializers.iter().map(|(name, _)| name.as_str()).collect();
    graph.inputs.retain(|i| !names.contains(i.name()));
    let attrs = graph.nodes.iter_mut().flat_map(|n| n.attrs.values_mut());
    for attr in attrs {
        if let RawAttr::Graph(inner) = attr {
            unlist_initializers(inner);
        }
    }
}

/// The facts of the names that a subgraph may capture.
type Outer<'o> = Option<&'o dyn Fn(&str) -> Option<Fact>>;

fn build(raw: &RawGraph, symbols: &Symbols, given: &Declared, outer: Outer) -> Result<Graph> {
    let builder = Builder::new();
    let declared = declared(raw, symbols, given);
    let mut vals = leaves(&builder, raw, symbols, outer);
    let outputs = raw.nodes.iter().flat_map(|n| n.outputs.iter().chain([&n.name]).map(String::as_str));
    builder.reserve(outputs);
    for node in &raw.nodes {
        add_node(&builder, node, symbols, given, &declared, &mut vals)?;
        // The first fault is the cause of those after it.
        builder.check()?;
    }
    for output in &raw.outputs {
        if let Some(&val) = vals.get(output.name()) {
            builder.output(val, output.name());
        }
    }
    let mut graph = builder.finish()?;
    graph.name = raw.name.clone();
    Ok(graph)
}

/// What the file and `given` say of values, by name.
fn declared(raw: &RawGraph, symbols: &Symbols, given: &Declared) -> Declared {
    let mut declared = Declared::new();
    for info in raw.value_info.iter().chain(&raw.outputs) {
        let made_up = |axis| format!("?{}.{axis}", info.name());
        // Types that have no fact (sequences) are those of values that only operators without rules read.
        if let Ok(Some(fact)) = types::fact(info, symbols, made_up) {
            declared.insert(info.name().to_string(), fact);
        }
    }
    for (name, fact) in given {
        let known = declared.get(name).and_then(|f| f.shape.as_ref());
        if known.is_none_or(|dims| dims.iter().any(types::is_made_up)) {
            declared.insert(name.clone(), fact.clone());
        }
    }
    declared
}

/// Inputs, initialisers and captured values.
fn leaves<'g>(b: &'g Builder, raw: &RawGraph, symbols: &Symbols, outer: Outer) -> HashMap<String, Val<'g>> {
    let data: HashMap<&str, &Tensor> = raw.initializers.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut vals = HashMap::new();
    for input in &raw.inputs {
        let name = input.name();
        let fact = types::fact(input, symbols, |axis| format!("{name}_dim{axis}")).ok().flatten();
        let default = data.get(name).copied().cloned();
        let fact = match (fact, &default) {
            (Some(fact), _) => fact,
            (None, Some(t)) => Fact::new(t.dtype, t.shape.iter().map(|&d| d.into()).collect::<Vec<_>>()),
            (None, None) => Fact::unknown(DType::F32),
        };
        vals.insert(name.to_string(), b.input(name, fact, default));
    }
    for (name, tensor) in &raw.initializers {
        if !vals.contains_key(name) {
            vals.insert(name.clone(), b.initializer(name, tensor.clone()));
        }
    }
    for free in &raw.free {
        let fact = outer.and_then(|fact| fact(&free.tensor)).unwrap_or(Fact::unknown(DType::F32));
        vals.insert(free.tensor.clone(), b.captured(&free.tensor, fact));
    }
    vals
}

fn add_node<'g>(
    builder: &'g Builder,
    raw: &RawNode,
    symbols: &Symbols,
    given: &Declared,
    declared: &Declared,
    vals: &mut HashMap<String, Val<'g>>,
) -> Result<()> {
    let mut attrs = Attrs::new();
    let mut captures = Vec::new();
    for (name, attr) in &raw.attrs {
        let attr = match attr {
            RawAttr::Plain(attr) => attr.clone(),
            RawAttr::Graph(inner) => {
                let outer = |name: &str| vals.get(name).map(|v| v.fact());
                let graph = build(inner, symbols, given, Some(&outer))?;
                for free in &inner.free {
                    captures.extend(vals.get(&free.tensor).map(|v| v.id()).filter(|id| !captures.contains(id)));
                }
                Attr::Graph(Box::new(graph))
            }
        };
        attrs.0.insert(name.clone(), attr);
    }
    let mut draft = Draft {
        builder,
        name: raw.name.clone(),
        op: raw.op.clone(),
        inputs: raw.inputs.iter().map(|n| vals.get(n.as_str()).copied()).collect(),
        outputs: raw.outputs.iter().map(|n| Some(n.clone()).filter(|n| !n.is_empty())).collect(),
        attrs,
        opset: raw.opset,
        metadata: raw.metadata.clone(),
    };
    // Nothing says more about an input left out at the end than its absence.
    while draft.inputs.last().is_some_and(Option::is_none) {
        draft.inputs.pop();
    }
    if raw.domain.is_empty() {
        normalise::normalise(&mut draft).map_err(|fault| draft.error(fault))?;
    }
    let node = Node {
        name: draft.name,
        op: draft.op,
        domain: raw.domain.clone(),
        inputs: draft.inputs.iter().map(|v| v.map(|v| v.id())).collect(),
        outputs: Vec::new(),
        attrs: draft.attrs,
        captures,
        metadata: draft.metadata,
    };
    let guess = facts::dtypes(&node, &draft.inputs);
    let says = |name: &String, k: usize| {
        declared.get(name).cloned().or_else(|| Some(Fact::unknown(guess.get(k).or(guess.last()).copied()?)))
    };
    let known: Vec<Option<Fact>> = draft.outputs.iter().enumerate().map(|(k, name)| says(name.as_ref()?, k)).collect();
    for (name, val) in draft.outputs.iter().zip(builder.import(node, &draft.outputs, &known)) {
        if let (Some(name), Some(val)) = (name, val) {
            vals.insert(name.clone(), val);
        }
    }
    Ok(())
}
