//! Bytes → [`Model`].

use super::dims::Symbols;
use super::external::Folder;
use super::facts::{self, Declared};
use super::fault::{ModelFault, NotOnnx};
use super::fused::{self, Fused};
use super::normalise::{self, Draft};
use super::proto::ModelProto;
use super::raw::{Expander, RawAttr, RawGraph, RawNode, domain};
use super::sequences::{self, Given, Held, Made, Site};
use super::{OPSETS, bodies, check, types};
use crate::error::{Error, Result};
use crate::files;
use crate::ir::Bytes as Weights;
use crate::ir::{Attr, Attrs, Builder, DType, Dim, Fact, Graph, MappedFile, Model, Node, Tensor, Val, ValueId, refine};
use crate::limits::Limits;
use prost::Message;
use prost::bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Reads a model file; external data is looked for in its folder.
pub fn read(path: &Path) -> Result<Model> {
    read_within(path, &Limits::default())
}

/// As [`read`], with limits of one's own.
pub fn read_within(path: &Path, limits: &Limits) -> Result<Model> {
    let ModelFile { bytes, map } = file_bytes(path)?;
    parse(bytes, map, &path.display().to_string(), path.parent(), limits)
}

/// Reads a model from memory; `dir` is the folder of its external data.
pub fn read_bytes(bytes: &[u8], dir: Option<&Path>) -> Result<Model> {
    read_bytes_within(bytes, dir, &Limits::default())
}

/// As [`read_bytes`], with limits of one's own.
pub fn read_bytes_within(bytes: &[u8], dir: Option<&Path>, limits: &Limits) -> Result<Model> {
    parse(Bytes::copy_from_slice(bytes), None, "model", dir, limits)
}

/// What is in a model file. A protobuf message has no more than 2 GB.
pub(super) fn file_bytes(path: &Path) -> Result<ModelFile> {
    const MOST: u64 = i32::MAX as u64;
    let failed = |source| Error::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    // A pipe has no size.
    let size = file.metadata().ok().filter(|found| found.is_file()).map_or(0, |found| found.len());
    if (MAPPED_FROM..=MOST).contains(&size)
        && let Ok(map) = MappedFile::model(&file, path)
    {
        return Ok(ModelFile { bytes: Bytes::from_owner(Whole(map.clone())), map: Some(map) });
    }
    Ok(ModelFile { bytes: files::read(path, MOST).map_err(failed)?.into(), map: None })
}

/// Smaller files are read.
const MAPPED_FROM: u64 = 1 << 20;

/// What is in a model file, and the file where it is mapped.
pub(super) struct ModelFile {
    pub bytes: Bytes,
    pub map: Option<Arc<MappedFile>>,
}

/// A mapped file as protobuf bytes, without a copy.
struct Whole(Arc<MappedFile>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

fn parse(bytes: Bytes, map: Option<Arc<MappedFile>>, file: &str, dir: Option<&Path>, limits: &Limits) -> Result<Model> {
    let mut proto = decode(&bytes).map_err(|reason| Error::NotOnnx { file: file.to_string(), reason })?;
    let opset = check_opset(&proto, file)?;
    let folder = Folder::around(map, dir, limits.unpacked);
    let (mut raw, domains) = expand(&proto, opset, &folder, file, limits)?;
    if proto.ir_version() < 4 {
        unlist_initializers(&mut raw);
    }
    // Nodes and tensors stand in `raw` now, and take less there.
    (proto.graph, proto.functions) = (None, Vec::new());
    let symbols = Symbols::of(&raw.inputs);
    let in_file = |e: Error| Error::InFile { file: file.to_string(), source: Box::new(e) };
    let build_with = |inferred: &Declared| build(&raw, &Says { symbols: &symbols, inferred }, None);
    let mut graph = build_with(&Declared::new()).map_err(in_file)?;
    if limits.inference && facts::wanting(&graph) {
        let inferred = facts::inferred(&bytes, external_bytes(&raw), dir, &symbols);
        // What tract says may contradict the operators' own facts; then these stand alone.
        if !inferred.is_empty()
            && let Ok(refined) = build_with(&inferred)
        {
            graph = refined;
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

/// Bytes of the initialisers that stand beside the file.
fn external_bytes(graph: &RawGraph) -> usize {
    let mapped = |(_, tensor): &(String, Tensor)| match tensor.bytes {
        Weights::Mapped { len, ref file, .. } if !file.is_model => len,
        _ => 0,
    };
    graph.initializers.iter().map(mapped).sum()
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
fn expand(
    proto: &ModelProto,
    opset: i64,
    folder: &Folder,
    file: &str,
    limits: &Limits,
) -> Result<(RawGraph, Vec<(String, i64)>)> {
    let imports = proto.opset_import.iter().filter(|o| !domain(o.domain()).is_empty());
    let expander = Expander {
        functions: proto.functions.iter().map(|f| ((domain(f.domain()), f.name(), f.overload()), f)).collect(),
        folder,
        domains: RefCell::new(imports.map(|o| (o.domain().to_string(), o.version())).collect()),
        names: RefCell::default(),
        limits: *limits,
        count: Cell::new(0),
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
    if expander.too_many() {
        // The graph is incomplete, so that nothing else can be said of it.
        let faults = vec![ModelFault::TooManyNodes { limit: limits.nodes }];
        return Err(Error::InvalidModel { file: file.to_string(), faults });
    }
    check::check(&mut raw, &mut HashSet::new(), &mut faults);
    fused::untype_tables(&mut raw);
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

/// What a subgraph knows of the graph around it.
struct Around<'a> {
    /// The fact of a name that it captures.
    captured: &'a dyn Fn(&str) -> Option<Fact>,
    /// Facts of its inputs.
    inputs: Vec<Fact>,
    /// What its values are named after, where the file does not name them.
    prefix: String,
}

/// What is said of values elsewhere than at their definition.
struct Says<'a> {
    symbols: &'a Symbols,
    /// By tract.
    inferred: &'a Declared,
}

fn build(raw: &RawGraph, says: &Says, around: Option<&Around>) -> Result<Graph> {
    let builder = Builder::new();
    if let Some(around) = around {
        builder.scope(&around.prefix);
    }
    let declared = declared(raw, says);
    let vals = leaves(&builder, raw, says.symbols, around);
    let outputs = raw.nodes.iter().flat_map(|n| n.outputs.iter().chain([&n.name]).map(String::as_str));
    builder.reserve(outputs);
    let mut importer = Importer {
        builder: &builder,
        says,
        declared,
        vals,
        held: HashMap::new(),
        doubtful: HashSet::new(),
        inlined: false,
    };
    for node in &raw.nodes {
        importer.node(node)?;
        // The first fault is the cause of those after it.
        builder.check()?;
    }
    for output in &raw.outputs {
        if let Some(&val) = importer.vals.get(output.name()) {
            builder.output(val, output.name());
        }
    }
    let mut graph = builder.finish()?;
    graph.name = raw.name.clone();
    Ok(graph)
}

/// What the file and tract say of values, by name.
fn declared(raw: &RawGraph, says: &Says) -> Declared {
    let mut declared = Declared::new();
    for info in raw.value_info.iter().chain(&raw.outputs) {
        let made_up = |axis| format!("?{}.{axis}", info.name());
        // Types that have no fact (sequences) are those of values that only operators without rules read.
        if let Ok(Some(fact)) = types::fact(info, says.symbols, made_up) {
            declared.insert(info.name().to_string(), fact);
        }
    }
    for (name, fact) in says.inferred {
        let known = declared.get(name).and_then(|f| f.shape.as_ref());
        if known.is_none_or(|dims| dims.iter().any(types::is_made_up)) {
            declared.insert(name.clone(), fact.clone());
        }
    }
    declared
}

/// Inputs, initialisers and captured values.
fn leaves<'g>(b: &'g Builder, raw: &RawGraph, symbols: &Symbols, around: Option<&Around>) -> HashMap<String, Val<'g>> {
    let data: HashMap<&str, &Tensor> = raw.initializers.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut vals = HashMap::new();
    for (i, input) in raw.inputs.iter().enumerate() {
        let name = input.name();
        let made_up = |axis| format!("{}_dim{axis}", name.replace('?', "_"));
        let default = data.get(name).copied().cloned();
        let stated = types::fact(input, symbols, made_up).ok().flatten();
        let of_default = || default.as_ref().map(|t| Fact::new(t.dtype, dims(&t.shape)));
        let stated = stated.or_else(of_default);
        let fact = match (around.and_then(|a| a.inputs.get(i).cloned()), stated) {
            // The file's names of a body's dimensions are its own.
            (Some(outer), Some(stated)) => refine(Fact { dtype: stated.dtype, ..outer }, stated),
            (Some(fact), None) | (None, Some(fact)) => fact,
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
        let fact = around.and_then(|a| (a.captured)(&free.tensor)).unwrap_or(Fact::unknown(DType::F32));
        vals.insert(free.tensor.clone(), b.captured(&free.tensor, fact));
    }
    vals
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| d.into()).collect()
}

/// Adds nodes to the builder.
struct Importer<'g, 'a> {
    builder: &'g Builder,
    says: &'a Says<'a>,
    declared: Declared,
    vals: HashMap<String, Val<'g>>,
    /// Names of sequences and optionals that are known.
    held: HashMap<String, Held<'g>>,
    /// Values whose element type is assumed, not known.
    doubtful: HashSet<ValueId>,
    /// Whether nodes come from a branch that is certainly taken.
    inlined: bool,
}

impl<'g> Importer<'g, '_> {
    fn node(&mut self, raw: &RawNode) -> Result<()> {
        if let Some(branch) = self.taken_branch(raw) {
            return self.inline(raw, branch);
        }
        if raw.domain.is_empty() && self.resolve(raw) {
            return Ok(());
        }
        self.construct(raw);
        let inputs: Vec<Option<Val>> = raw.inputs.iter().map(|n| self.vals.get(n.as_str()).copied()).collect();
        let (attrs, captures) = self.attributes(raw, &inputs)?;
        let doubtful = |(i, v): (usize, &Option<Val>)| v.filter(|v| self.doubtful.contains(&v.id())).map(|_| i);
        let mut draft = Draft {
            builder: self.builder,
            name: raw.name.clone(),
            op: raw.op.clone(),
            doubtful: inputs.iter().enumerate().filter_map(doubtful).collect(),
            inputs,
            outputs: raw.outputs.iter().map(|n| Some(n.clone()).filter(|n| !n.is_empty())).collect(),
            attrs,
            opset: raw.opset,
            metadata: raw.metadata.clone(),
            made: Vec::new(),
        };
        draft.drop_absent();
        if let Some(lowering) = fused::lowering(&raw.domain, &raw.op) {
            return self.lower(draft, lowering);
        }
        if raw.domain.is_empty() {
            normalise::normalise(&mut draft).map_err(|fault| draft.error(fault))?;
        }
        self.vals.extend(draft.made);
        let node = Node {
            name: draft.name,
            op: draft.op,
            domain: raw.domain.clone(),
            inputs: draft.inputs.iter().map(|v| v.map(Val::id)).collect(),
            outputs: Vec::new(),
            attrs: draft.attrs,
            captures,
            metadata: draft.metadata,
        };
        let types = facts::dtypes(&node, &draft.inputs);
        let known = node.domain.is_empty() && crate::ops::lookup(&node.op).is_some();
        let mut said = Vec::new();
        let mut doubt = Vec::new();
        for (k, name) in draft.outputs.iter().enumerate() {
            let stated = name.as_ref().and_then(|name| self.declared.get(name)).cloned();
            doubt.push(stated.is_none() && !types.certain && !known);
            said.push(Some(match stated {
                Some(fact) if types.certain => Fact { dtype: types.output(k), ..fact },
                Some(fact) => fact,
                None => Fact::unknown(types.output(k)),
            }));
        }
        let names: Vec<Option<String>> = match self.inlined {
            // Branches of different nodes may use the same names.
            true => draft.outputs.iter().map(|n| n.as_ref().map(|n| self.builder.fresh_name(n))).collect(),
            false => draft.outputs.clone(),
        };
        let made = self.builder.import(node, &names, &said);
        for ((name, val), doubt) in draft.outputs.iter().zip(made).zip(doubt) {
            if let (Some(name), Some(val)) = (name, val) {
                self.vals.insert(name.clone(), val);
                if doubt {
                    self.doubtful.insert(val.id());
                }
            }
        }
        Ok(())
    }

    /// Standard operators in the place of a fused one. Values keep the names that the file gives them.
    fn lower(&mut self, draft: Draft<'g>, lowering: fused::Lowering) -> Result<()> {
        let b = self.builder;
        let before = b.read(|g| g.values.len());
        b.scope(&draft.name);
        let made = lowering(&Fused::new(&draft)).map_err(|fault| draft.error(fault))?;
        b.scope("");
        let mut given = HashSet::new();
        for (name, val) in draft.outputs.iter().zip(made) {
            let Some(name) = name else { continue };
            let is_new = val.id().0 as usize >= before && b.read(|g| g.value(val.id()).producer.is_some());
            let val = if is_new && given.insert(val.id()) { val } else { b.copy(val, &format!("{name}/Identity")) };
            b.rename(val, name);
            b.set_metadata(val, &draft.metadata);
            if let Some(declared) = self.declared.get(name) {
                b.refine_fact(val, declared);
            }
            self.vals.insert(name.clone(), val);
        }
        Ok(())
    }

    /// The attributes, subgraphs built, and the values that these capture.
    fn attributes(&self, raw: &RawNode, inputs: &[Option<Val>]) -> Result<(Attrs, Vec<ValueId>)> {
        let mut attrs = Attrs::new();
        let mut captures = Vec::new();
        for (name, attr) in &raw.attrs {
            let attr = match attr {
                RawAttr::Plain(attr) => attr.clone(),
                RawAttr::Graph(inner) => {
                    let captured = |name: &str| self.vals.get(name).map(|v| v.fact());
                    for free in &inner.free {
                        let id = self.vals.get(&free.tensor).map(|v| v.id());
                        captures.extend(id.filter(|id| !captures.contains(id)));
                    }
                    let prefix = format!("{}/{name}/", raw.name);
                    let mut graph = bodies::build(raw, inputs, |inputs| {
                        let around = Around { captured: &captured, inputs, prefix: prefix.clone() };
                        build(inner, self.says, Some(&around))
                    })?;
                    qualify(&mut graph, inner, &prefix);
                    self.name_captured(&mut graph);
                    Attr::from(graph)
                }
            };
            attrs.insert(name, attr);
        }
        Ok((attrs, captures))
    }

    /// A captured value has the name that it got here.
    fn name_captured(&self, body: &mut Graph) {
        for id in body.captured() {
            if let Some(name) = self.vals.get(body.name_of(id)).map(|v| v.name()).filter(|n| n != body.name_of(id)) {
                body.rename(id, &name);
            }
        }
    }

    /// The branch of an If whose condition is known.
    fn taken_branch<'r>(&self, raw: &'r RawNode) -> Option<&'r RawGraph> {
        if raw.op != "If" || !raw.domain.is_empty() {
            return None;
        }
        let known = self.vals.get(raw.inputs.first()?)?.known_ints()?;
        let name = if *known.first()? != 0 { "then_branch" } else { "else_branch" };
        match raw.attrs.get(name)? {
            RawAttr::Graph(branch) if branch.outputs.len() >= raw.outputs.len() => Some(branch),
            _ => None,
        }
    }

    /// Puts a branch in place of the node.
    fn inline(&mut self, raw: &RawNode, branch: &RawGraph) -> Result<()> {
        self.declared.extend(declared(branch, self.says));
        for (name, tensor) in &branch.initializers {
            self.vals.insert(name.clone(), self.builder.initializer(name, tensor.clone()));
        }
        let outer = std::mem::replace(&mut self.inlined, true);
        let made = branch.nodes.iter().try_for_each(|node| self.node(node));
        self.inlined = outer;
        made?;
        for (k, (inner, name)) in branch.outputs.iter().zip(&raw.outputs).enumerate() {
            if let Some(held) = self.held.get(inner.name()).cloned() {
                self.held.insert(name.clone(), held);
            } else if let Some(&val) = self.vals.get(inner.name()).filter(|_| !name.is_empty()) {
                self.name_copy(raw, k, val, name);
            }
        }
        Ok(())
    }

    /// Output `k` of the node is a copy of a value that stands there already.
    fn name_copy(&mut self, raw: &RawNode, k: usize, val: Val<'g>, name: &str) {
        let copy = Node {
            name: format!("{}/Identity_{k}", raw.name),
            op: "Identity".to_string(),
            inputs: vec![Some(val.id())],
            ..Node::default()
        };
        let fact = self.declared.get(name).cloned();
        let own = if self.inlined { self.builder.fresh_name(name) } else { name.to_string() };
        let made = self.builder.import(copy, &[Some(own)], &[fact]).pop().flatten();
        self.vals.extend(made.map(|val| (name.to_string(), val)));
    }

    /// Whether the node is one on sequences or optionals of which everything is known: then it is gone.
    fn resolve(&mut self, raw: &RawNode) -> bool {
        let [name] = raw.outputs.as_slice() else { return false };
        let given: Option<Vec<Given>> = raw
            .inputs
            .iter()
            .map(|input| match (self.held.get(input), self.vals.get(input)) {
                _ if input.is_empty() => Some(Given::Absent),
                (Some(held), _) => Some(Given::Held(held.clone())),
                (None, Some(val)) => Some(Given::Tensor(*val)),
                (None, None) => None,
            })
            .collect();
        match given.and_then(|given| sequences::resolve(&Site { b: self.builder, node: raw }, &given)) {
            Some(Made::Held(held)) => {
                self.held.insert(name.clone(), held);
                true
            }
            Some(Made::Tensor(val)) => {
                self.name_copy(raw, 0, val, name);
                true
            }
            None => false,
        }
    }

    /// Sequences that the node reads, which only a run could take apart, are made again.
    fn construct(&mut self, raw: &RawNode) {
        let read: Vec<String> = raw.reads().filter(|name| self.held.contains_key(*name)).map(String::from).collect();
        for name in read {
            let Some(Held::Sequence(list)) = self.held.remove(&name) else { continue };
            let op = if list.is_empty() { "SequenceEmpty" } else { "SequenceConstruct" };
            let node = Node {
                name: self.builder.fresh_name(&format!("{name}/{op}")),
                op: op.to_string(),
                inputs: list.iter().map(|v| Some(v.id())).collect(),
                ..Node::default()
            };
            let own = if self.inlined { self.builder.fresh_name(&name) } else { name.clone() };
            let made = self.builder.import(node, &[Some(own)], &[]).pop().flatten();
            self.vals.extend(made.map(|val| (name, val)));
        }
    }
}

/// Values that the import adds to a subgraph are named after its node: names are unique across a model's graphs.
fn qualify(graph: &mut Graph, raw: &RawGraph, prefix: &str) {
    let made = raw.nodes.iter().flat_map(|n| &n.outputs).map(String::as_str);
    let given = raw.inputs.iter().map(|i| i.name()).chain(raw.initializers.iter().map(|(name, _)| name.as_str()));
    let captured = raw.free.iter().map(|f| f.tensor.as_str());
    let own: HashSet<&str> = made.chain(given).chain(captured).collect();
    for value in graph.values.iter_mut().filter(|v| !own.contains(v.name.as_str())) {
        value.name = format!("{prefix}{}", value.name);
    }
}
