//! [`Model`] → bytes: deterministic, in the lowest opset that can say what the graph says.

use super::encoded::Encoded;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataLocation;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use super::since::{self, Form};
use super::{tensor, types};
use crate::error::{Error, Result};
use crate::files;
use crate::ir::Bytes as Weights;
use crate::ir::{Attr, Attrs, DType, Graph, MappedFile, Model, Tensor, ValueId, ValueSet};
use prost::bytes::Bytes;
use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Protobuf messages end at 2 GB; some room is left for what is not weights.
pub(super) const INLINE_LIMIT: usize = (2 << 30) - (16 << 20);
/// Smaller tensors stay in the model file.
const EXTERNAL_FROM: usize = 1024;
/// Offsets of external tensors are multiples of a page, so that runtimes can map them.
const PAGE: u64 = 4096;

/// Where weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum External {
    /// Beside the model, in `NAME.onnx.data`, if they take more than 2 GB, or are in such a file already and that can be
    /// linked: then they are not copied.
    #[default]
    Auto,
    Always,
}

/// The opset in which the model is written.
pub fn opset(model: &Model) -> i64 {
    model.opset.max(since::graph(&model.graph))
}

pub(super) fn ir_version(model: &Model, opset: i64) -> i64 {
    let needed = match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    };
    let version = model.ir_version.max(needed);
    if opset <= 21 { version.min(10) } else { version }
}

/// The model file's bytes, weights inside.
pub fn to_bytes(model: &Model) -> Vec<u8> {
    message(model, &mut tensor::encode).into_bytes()
}

/// Writes the model under a temporary name and renames it, so that `path` is complete or untouched.
pub fn write(model: &Model, path: &Path) -> Result<()> {
    write_with(model, path, External::Auto)
}

pub fn write_with(model: &Model, path: &Path, external: External) -> Result<()> {
    if external == External::Auto {
        let (location, data) = beside_names(path);
        if let Some(file) = linked(&model.graph, &data) {
            let message = message(model, &mut |name, tensor| refer(&file, &location, name, tensor));
            return replace(path, |file| message.write_to(file));
        }
        if weights(&model.graph) <= INLINE_LIMIT {
            return replace(path, |file| message(model, &mut tensor::encode).write_to(file));
        }
    }
    beside(path, |put| message(model, put))
}

/// `NAME.onnx.data` beside the model: as the model names it, and its path.
fn beside_names(path: &Path) -> (String, PathBuf) {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".data");
    (name.to_string_lossy().into_owned(), path.with_file_name(&name))
}

/// Writes the message that `make` builds, with the tensors that it puts in `NAME.onnx.data`.
pub(super) fn beside(path: &Path, make: impl FnOnce(&mut Put) -> Encoded) -> Result<()> {
    let (location, data) = beside_names(path);
    let mut message = Encoded::default();
    // The data comes first: a model file never refers to data that is not there.
    replace(&data, |file| {
        let mut fault = None;
        let made = make(&mut |name, tensor| match put(file, &location, name, tensor) {
            Ok(proto) => proto,
            Err(error) => {
                fault.get_or_insert(error);
                TensorProto::default()
            }
        });
        message = made;
        fault.map_or(Ok(()), Err)
    })?;
    replace(path, |file| message.write_to(file))
}

fn weights(graph: &Graph) -> usize {
    graph.values.iter().filter_map(|v| v.data.as_ref()).map(|t| t.bytes.len()).sum()
}

/// The file that the weights are mapped from, if it is one and now has the name `data` too. A file of weights is replaced
/// and never changed, so that two models may share one.
fn linked(graph: &Graph, data: &Path) -> Option<Arc<MappedFile>> {
    let large = graph.values.iter().filter_map(|v| v.data.as_ref()).filter(|t| t.bytes.len() >= EXTERNAL_FROM);
    let (mut shared, mut inline) = (None, 0);
    for tensor in large {
        match (&tensor.bytes, &shared) {
            (Weights::Mapped { file, .. }, _) if file.is_model => inline += tensor.bytes.len(),
            (Weights::Mapped { file, .. }, None) => shared = Some(file.clone()),
            (Weights::Mapped { file, .. }, Some(first)) if Arc::ptr_eq(file, first) => {}
            (Weights::Mapped { .. }, _) => return None,
            (Weights::Owned(bytes), _) => inline += bytes.len(),
        }
    }
    let file = shared.filter(|_| inline <= INLINE_LIMIT)?;
    let source = file.path.canonicalize().ok()?;
    if data.canonicalize().is_ok_and(|data| data == source) {
        return Some(file);
    }
    // A new name for the file, moved over the old one: `data` is complete or untouched.
    let temporary = files::draft_beside(data, files::UNFINISHED).ok()?;
    let link = temporary.path().join("data");
    std::fs::hard_link(&source, &link).ok()?;
    std::fs::rename(&link, data).ok()?;
    Some(file)
}

/// A tensor of that file by its place, any other with its data.
fn refer(file: &Arc<MappedFile>, location: &str, name: &str, tensor: &Tensor) -> TensorProto {
    match &tensor.bytes {
        Weights::Mapped { file: of, offset, .. } if Arc::ptr_eq(of, file) => {
            place(location, *offset as u64, name, tensor)
        }
        _ => tensor::encode(name, tensor),
    }
}

/// A tensor by its place in a data file.
fn place(location: &str, offset: u64, name: &str, tensor: &Tensor) -> TensorProto {
    let entries = [
        ("location", location.to_string()),
        ("offset", offset.to_string()),
        ("length", tensor.bytes.len().to_string()),
    ];
    TensorProto {
        external_data: entries.into_iter().map(|(k, v)| entry(k, &v)).collect(),
        data_location: Some(DataLocation::External as i32),
        ..tensor::header(name, tensor)
    }
}

/// Writes through a temporary file in the same folder.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> Result<()> {
    files::write_with(path, fill).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// Appends a tensor's data to the data file.
fn put(file: &mut std::fs::File, location: &str, name: &str, tensor: &Tensor) -> std::io::Result<TensorProto> {
    if tensor.dtype == DType::Str || tensor.bytes.len() < EXTERNAL_FROM {
        return Ok(tensor::encode(name, tensor));
    }
    let at = file.stream_position()?;
    let offset = at.next_multiple_of(PAGE);
    file.write_all(&vec![0; (offset - at) as usize])?;
    tensor.bytes.write_to(file)?;
    Ok(place(location, offset, name, tensor))
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_string()), value: Some(value.to_string()) }
}

fn text(value: &str) -> Option<String> {
    Some(value.to_string()).filter(|v| !v.is_empty())
}

/// How an initialiser is written: inside the message or beside it.
pub(super) type Put<'p> = dyn FnMut(&str, &Tensor) -> TensorProto + 'p;

/// Fields of a ModelProto and of a GraphProto that hold messages.
pub(super) const GRAPH: u32 = 7;
const NODE: u32 = 1;
pub(super) const INITIALIZER: u32 = 5;
const VALUE_INFO: u32 = 13;

/// Fields stand in the order of their numbers.
fn message(model: &Model, put: &mut Put) -> Encoded {
    let opset = opset(model);
    let mut used = BTreeSet::new();
    domains(&model.graph, &mut used);
    let import =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) };
    let others = model.domains.iter().filter(|(domain, _)| used.contains(domain.as_str()));
    let mut message = Encoded::default();
    message.fields(&ModelProto {
        ir_version: Some(ir_version(model, opset)),
        producer_name: text(&model.producer.0),
        producer_version: text(&model.producer.1),
        doc_string: text(&model.doc),
        ..ModelProto::default()
    });
    message.nested(GRAPH, outer_graph(&model.graph, opset, put));
    message.fields(&ModelProto {
        opset_import: [import("", opset)].into_iter().chain(others.map(|(d, v)| import(d, *v))).collect(),
        metadata_props: model.metadata.iter().map(|(k, v)| entry(k, v)).collect(),
        ..ModelProto::default()
    });
    message
}

/// The domains that some node is of.
fn domains<'g>(graph: &'g Graph, used: &mut BTreeSet<&'g str>) {
    for node in &graph.nodes {
        used.insert(&node.domain);
        node.attrs.graphs().for_each(|body| domains(body, used));
    }
}

/// As [`graph`], a node and a tensor at a time: as messages they are much larger than what they say.
fn outer_graph(g: &Graph, opset: i64, put: &mut Put) -> Encoded {
    let forms = since::forms(g, Some(opset));
    let mut stored = Encoded::default();
    for id in stored_values(g, &forms) {
        let value = g.value(id);
        value.data.iter().for_each(|tensor| stored.tensor(INITIALIZER, put(&value.name, tensor), tensor));
    }
    let mut message = Encoded::default();
    forms.iter().for_each(|form| message.message(NODE, &node(g, form, opset, put)));
    message.fields(&GraphProto { name: graph_name(g), ..GraphProto::default() });
    message.append(stored);
    message.fields(&GraphProto { input: infos(g, &g.inputs), output: infos(g, &g.outputs), ..GraphProto::default() });
    intermediates(g).iter().for_each(|&id| message.message(VALUE_INFO, &info(g, id)));
    message
}

fn graph(g: &Graph, opset: i64, put: &mut Put) -> GraphProto {
    let forms = since::forms(g, Some(opset));
    let mut data = |id: ValueId| g.value(id).data.as_ref().map(|t| put(g.name_of(id), t));
    let initializer = stored_values(g, &forms).into_iter().filter_map(&mut data).collect();
    GraphProto {
        node: forms.iter().map(|form| node(g, form, opset, put)).collect(),
        name: graph_name(g),
        initializer,
        input: infos(g, &g.inputs),
        output: infos(g, &g.outputs),
        value_info: infos(g, &intermediates(g)),
        ..GraphProto::default()
    }
}

/// The values whose data is written.
fn stored_values(g: &Graph, forms: &[Form]) -> Vec<ValueId> {
    let defaults = g.inputs.iter().copied().filter(|&id| g.value(id).data.is_some());
    defaults.chain(since::initializers(g, forms)).collect()
}

fn graph_name(g: &Graph) -> Option<String> {
    Some(if g.name.is_empty() { "graph".to_string() } else { g.name.clone() })
}

fn info(g: &Graph, id: ValueId) -> ValueInfoProto {
    types::value_info(g.name_of(id), &g.value(id).fact)
}

fn infos(g: &Graph, ids: &[ValueId]) -> Vec<ValueInfoProto> {
    ids.iter().map(|&id| info(g, id)).collect()
}

fn node(g: &Graph, form: &Form, opset: i64, put: &mut Put) -> NodeProto {
    NodeProto {
        name: text(&form.node.name),
        op_type: text(&form.node.op),
        domain: text(&form.node.domain),
        input: names(g, &form.inputs),
        output: names(g, &form.node.outputs),
        attribute: form.attrs.iter().map(|(name, attr)| attribute(name, attr, opset, put)).collect(),
        metadata_props: form.node.metadata.iter().map(|(k, v)| entry(k, v)).collect(),
        ..NodeProto::default()
    }
}

/// The float values between inputs and outputs of which something is known.
fn intermediates(g: &Graph) -> Vec<ValueId> {
    let outputs: ValueSet = g.outputs.iter().copied().collect();
    let made = g.nodes.iter().flat_map(|n| n.outputs.iter().flatten().copied());
    let known = |id: &ValueId| g.value(*id).fact.dtype.is_float() && g.value(*id).fact.shape.is_some();
    made.filter(|id| !outputs.contains(id)).filter(known).collect()
}

/// `""` for what is left out.
fn names(g: &Graph, ids: &[Option<ValueId>]) -> Vec<String> {
    ids.iter().map(|id| id.map_or(String::new(), |id| g.name_of(id).to_string())).collect()
}

/// Attributes that hold no graph.
pub(super) fn attributes(attrs: &Attrs, opset: i64) -> Vec<AttributeProto> {
    attrs.iter().map(|(name, attr)| attribute(name, attr, opset, &mut tensor::encode)).collect()
}

fn attribute(name: &str, attr: &Attr, opset: i64, put: &mut Put) -> AttributeProto {
    let bytes = |s: &String| Bytes::copy_from_slice(s.as_bytes());
    let mut proto = AttributeProto { name: Some(name.to_string()), ..AttributeProto::default() };
    let kind = match attr {
        Attr::Int(v) => {
            proto.i = Some(*v);
            AttributeType::Int
        }
        Attr::Float(v) => {
            proto.f = Some(*v);
            AttributeType::Float
        }
        Attr::Str(v) => {
            proto.s = Some(bytes(v));
            AttributeType::String
        }
        Attr::Tensor(v) => {
            proto.t = Some(tensor::encode("", v));
            AttributeType::Tensor
        }
        Attr::Graph(v) => {
            proto.g = Some(graph(v, opset, put));
            AttributeType::Graph
        }
        Attr::Ints(v) => {
            proto.ints = v.clone();
            AttributeType::Ints
        }
        Attr::Floats(v) => {
            proto.floats = v.clone();
            AttributeType::Floats
        }
        Attr::Strs(v) => {
            proto.strings = v.iter().map(bytes).collect();
            AttributeType::Strings
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}
