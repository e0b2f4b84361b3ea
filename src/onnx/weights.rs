//! A model file without its weights, and with others: everything else in the file stays as it is.

use super::encoded::Encoded;
use super::external::Folder;
use super::fault::ModelFault;
use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use super::read::ModelFile;
use super::write::{GRAPH, INITIALIZER};
use super::{proto, tensor};
use crate::error::{Error, Result};
use crate::ir::{DType, Tensor};
use crate::limits::Limits;
use prost::Message;
use prost::bytes::Buf;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// How an input that stands for a weight is marked, so that filling the weights in again takes it away.
const MARK: &str = "a weight of the model, kept apart";
/// The same of a weight that stands in a file beside the model.
const MARK_EXTERNAL: &str = "a weight of the model, kept apart; it was external data";

/// The file at `path` with the tensors called `names` as inputs instead of data. Other external data comes inside.
///
/// # Errors
/// What [`super::read`] says of the file.
pub fn without_weights(path: &Path, names: &[String]) -> Result<Vec<u8>> {
    let ModelFile { bytes, map } = super::read::file_bytes(path)?;
    let mut model = decode(bytes.clone(), path)?;
    let folder = Folder::around(map, path.parent(), Limits::default().unpacked);
    let apart: HashSet<&str> = names.iter().map(String::as_str).collect();
    let Some(graph) = &mut model.graph else { return Ok(bytes.into()) };
    let listed: HashSet<String> = graph.input.iter().map(|i| i.name().to_string()).collect();
    let mut inputs = Vec::new();
    for initializer in std::mem::take(&mut graph.initializer) {
        if !apart.contains(initializer.name()) {
            let file = || path.display().to_string();
            let inside = inside(initializer, &folder);
            graph.initializer.push(inside.map_err(|f| Error::InvalidModel { file: file(), faults: vec![f] })?);
        } else if !listed.contains(initializer.name()) {
            let external = initializer.data_location() == DataLocation::External;
            let mark = if external { MARK_EXTERNAL } else { MARK };
            inputs.push(placeholder(initializer.name(), initializer.data_type(), &initializer.dims, mark));
        }
    }
    let is_weight =
        |node: &NodeProto| node.op_type() == "Constant" && node.output.iter().any(|o| apart.contains(o.as_str()));
    for node in graph.node.iter().filter(|n| is_weight(n)) {
        let value = node.attribute.iter().find_map(|a| a.t.as_ref());
        if let (Some(t), Some(name)) = (value, node.output.first()) {
            inputs.push(placeholder(name, t.data_type(), &t.dims, MARK));
        }
    }
    graph.node.retain(|node| !is_weight(node));
    graph.input.extend(inputs);
    Ok(model.encode_to_vec())
}

/// A model file and the weights that go into it.
pub struct Filled {
    /// Without the weights.
    model: ModelProto,
    weights: Vec<(String, Tensor)>,
    /// The weights stood in a file beside the model.
    was_external: bool,
}

/// The model in `bytes` with `weights` as initialisers; `path` only names it in errors.
///
/// # Errors
/// [`Error::MissingInput`] for a weight that the model keeps apart and `weights` lacks.
pub fn with_weights(bytes: &[u8], path: &Path, weights: BTreeMap<String, Tensor>) -> Result<Filled> {
    let mut model = decode(bytes, path)?;
    let was_external = had_external_weights(&model);
    let mut graph = model.graph.take().unwrap_or_default();
    for input in &graph.input {
        if marked(input) && !weights.contains_key(input.name()) {
            return Err(Error::MissingInput { tensor: input.name().to_string() });
        }
    }
    let names: HashSet<String> = graph.input.iter().map(|i| i.name().to_string()).collect();
    let weights = weights.into_iter().filter(|(name, _)| names.contains(name)).collect();
    graph.input.retain(|input| !marked(input));
    Ok(Filled { model: ModelProto { graph: Some(graph), ..model }, weights, was_external })
}

impl Filled {
    /// The whole model.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inside().into_bytes()
    }

    fn inside(&self) -> Encoded {
        message(&self.model, |graph| {
            self.weights.iter().for_each(|(name, t)| graph.tensor(INITIALIZER, tensor::encode(name, t), t));
        })
    }

    /// Writes the model: where its weights stood in a file beside it, or take more than 2 GB, with the large ones in
    /// `NAME.onnx.data` beside it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidModel`] where a tensor of the model is broken.
    pub fn save(&self, path: &Path) -> Result<()> {
        let inside = self.inside();
        if !self.was_external && inside.len() <= super::write::INLINE_LIMIT {
            return super::write::replace(path, |file| inside.write_to(file));
        }
        let mut model = self.model.clone();
        let there = model.graph.as_mut().map(|graph| std::mem::take(&mut graph.initializer)).unwrap_or_default();
        let folder = Folder::new(None, 0);
        let decoded = |proto: TensorProto| {
            let name = proto.name().to_string();
            tensor::decode(&proto, &name, &folder).map(|tensor| (name, tensor))
        };
        let fault = |fault| Error::InvalidModel { file: path.display().to_string(), faults: vec![fault] };
        let there = there.into_iter().map(decoded).collect::<Result<Vec<_>, _>>().map_err(fault)?;
        super::write::beside(path, |put| {
            message(&model, |graph| {
                there.iter().chain(&self.weights).for_each(|(name, t)| graph.tensor(INITIALIZER, put(name, t), t));
            })
        })
    }
}

/// The model with what `add` says in its graph.
fn message(model: &ModelProto, add: impl FnOnce(&mut Encoded)) -> Encoded {
    let (mut graph, mut message) = (Encoded::default(), Encoded::default());
    model.graph.iter().for_each(|said| graph.fields(said));
    add(&mut graph);
    message.fields(&ModelProto { graph: None, ..model.clone() });
    message.nested(GRAPH, graph);
    message
}

/// A tensor whose data stands in another file, with the data inside.
fn inside(proto: TensorProto, folder: &Folder) -> Result<TensorProto, ModelFault> {
    if proto.data_location() != DataLocation::External {
        return Ok(proto);
    }
    let name = proto.name().to_string();
    Ok(tensor::encode(&name, &tensor::decode(&proto, &name, folder)?))
}

/// Writes a finished file: whole or not at all.
pub fn save(bytes: &[u8], path: &Path) -> Result<()> {
    super::write::replace(path, |file| std::io::Write::write_all(file, bytes))
}

fn decode(bytes: impl Buf, path: &Path) -> Result<ModelProto> {
    let reason = |e: prost::DecodeError| super::NotOnnx::Protobuf { reason: e.to_string() };
    ModelProto::decode(bytes).map_err(|e| Error::NotOnnx { file: path.display().to_string(), reason: reason(e) })
}

fn marked(input: &ValueInfoProto) -> bool {
    [MARK, MARK_EXTERNAL].contains(&input.doc_string())
}

/// Whether the model that [`without_weights`] gave had weights in a file beside it.
fn had_external_weights(model: &ModelProto) -> bool {
    let inputs = model.graph.iter().flat_map(|graph| &graph.input);
    inputs.into_iter().any(|input| input.doc_string() == MARK_EXTERNAL)
}

/// The weights that [`without_weights`] left places for that hold integers.
pub fn integer_weights(bytes: &[u8]) -> Vec<String> {
    let model = ModelProto::decode(bytes).ok();
    let inputs = model.as_ref().and_then(|model| model.graph.as_ref()).map(|graph| graph.input.iter());
    let is_integer = |input: &&ValueInfoProto| {
        let value = input.r#type.as_ref().and_then(|t| t.value.as_ref());
        let Some(proto::type_proto::Value::TensorType(tensor)) = value else { return false };
        DType::from_code(tensor.elem_type()).is_some_and(DType::is_int)
    };
    let integers = inputs.into_iter().flatten().filter(|input| marked(input)).filter(is_integer);
    integers.map(|input| input.name().to_string()).collect()
}

fn placeholder(name: &str, data_type: i32, dims: &[i64], mark: &str) -> ValueInfoProto {
    use proto::tensor_shape_proto::{Dimension, dimension};
    let dim = dims.iter().map(|&n| Dimension { value: Some(dimension::Value::DimValue(n)), ..Dimension::default() });
    let shape = proto::TensorShapeProto { dim: dim.collect() };
    let tensor_type = proto::type_proto::Tensor { elem_type: Some(data_type), shape: Some(shape) };
    let value = proto::type_proto::Value::TensorType(tensor_type);
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto { value: Some(value), ..TypeProto::default() }),
        doc_string: Some(mark.to_string()),
        ..ValueInfoProto::default()
    }
}
