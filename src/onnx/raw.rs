//! The graph between file and [`Builder`](crate::ir::Builder): functions inlined, constants read, names still strings.

use super::external::Folder;
use super::fault::ModelFault;
use super::functions::Call;
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto};
use super::tensor;
use crate::ir::{Attr, DType, Tensor};
use crate::limits::Limits;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Clone, Debug, Default)]
pub(super) struct RawGraph {
    pub name: String,
    pub nodes: Vec<RawNode>,
    pub initializers: Vec<(String, Tensor)>,
    pub inputs: Vec<ValueInfoProto>,
    pub outputs: Vec<ValueInfoProto>,
    pub value_info: Vec<ValueInfoProto>,
    /// Names of outer graphs that the graph reads; filled by `check`.
    pub free: Vec<Free>,
}

/// A name read but not defined in a graph, and the node that reads it.
#[derive(Clone, Debug)]
pub(super) struct Free {
    pub tensor: String,
    pub node: String,
    pub op: String,
}

#[derive(Clone, Debug)]
pub(super) struct RawNode {
    pub name: String,
    pub op: String,
    /// `""` for the standard domain.
    pub domain: String,
    /// `""`: an optional one left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attrs: BTreeMap<String, RawAttr>,
    pub metadata: Vec<(String, String)>,
    /// The version of the standard operators that this node is written in: a function has its own.
    pub opset: i64,
}

#[derive(Clone, Debug)]
pub(super) enum RawAttr {
    Plain(Attr),
    Graph(Box<RawGraph>),
}

impl RawNode {
    pub fn graphs(&self) -> impl Iterator<Item = &RawGraph> {
        self.attrs.values().filter_map(|a| match a {
            RawAttr::Graph(graph) => Some(&**graph),
            RawAttr::Plain(_) => None,
        })
    }

    /// Every name the node reads, those of its subgraphs included.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        let inner = self.graphs().flat_map(|g| g.free.iter().map(|f| f.tensor.as_str()));
        self.inputs.iter().map(String::as_str).filter(|n| !n.is_empty()).chain(inner)
    }
}

/// What is needed to turn messages into a [`RawGraph`].
pub(super) struct Expander<'a> {
    pub functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    pub folder: &'a Folder,
    /// Domains that the file imports, with their versions; those of inlined functions are added.
    pub domains: RefCell<BTreeMap<String, i64>>,
    /// Every value name there is, so that inlined names are new.
    pub names: RefCell<HashSet<String>>,
    pub limits: Limits,
    /// Nodes so far. Functions that call functions can grow exponentially, and so can the names of what is inlined.
    pub count: Cell<usize>,
    pub faults: RefCell<Vec<ModelFault>>,
}

/// `ai.onnx` is another spelling of the standard domain.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl<'a> Expander<'a> {
    pub fn fault(&self, fault: ModelFault) {
        self.faults.borrow_mut().push(fault);
    }

    /// `call`: the function call whose body the graph stands in.
    pub fn graph(&self, proto: &'a GraphProto, call: Option<&Call>, opset: i64, depth: usize) -> RawGraph {
        let mut graph = RawGraph { name: proto.name().to_string(), ..RawGraph::default() };
        let infos = |infos: &[ValueInfoProto]| -> Vec<ValueInfoProto> {
            let renamed =
                |info: &ValueInfoProto| ValueInfoProto { name: Some(self.rename(info.name(), call)), ..info.clone() };
            infos.iter().map(renamed).collect()
        };
        graph.inputs = infos(&proto.input);
        graph.outputs = infos(&proto.output);
        graph.value_info = infos(&proto.value_info);
        for tensor in &proto.initializer {
            let name = self.rename(tensor.name(), call);
            self.initializer(&mut graph, name.clone(), tensor::decode(tensor, &name, self.folder));
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map(|v| v.name()).unwrap_or_default();
            let name = self.rename(name, call);
            self.initializer(&mut graph, name.clone(), tensor::decode_sparse(sparse, &name, self.folder));
        }
        self.nodes(&proto.node, call, opset, depth, &mut graph);
        graph
    }

    fn rename(&self, name: &str, call: Option<&Call>) -> String {
        call.map_or_else(|| name.to_string(), |call| call.rename(name, &self.names))
    }

    fn initializer(&self, graph: &mut RawGraph, name: String, tensor: Result<Tensor, ModelFault>) {
        match tensor {
            Ok(_) if name.is_empty() => {
                self.fault(ModelFault::Unnamed { graph: graph.name.clone(), what: "initializer" });
            }
            Ok(tensor) => graph.initializers.push((name, tensor)),
            Err(fault) => {
                self.fault(fault);
                graph.initializers.push((name, placeholder()));
            }
        }
    }

    /// Whether there are more nodes than are read.
    pub fn too_many(&self) -> bool {
        self.count.get() > self.limits.nodes
    }

    pub fn nodes(&self, nodes: &'a [NodeProto], call: Option<&Call>, opset: i64, depth: usize, into: &mut RawGraph) {
        for proto in nodes {
            self.count.set(self.count.get() + 1 + call.map_or(0, |call| call.name.len() / 64));
            if self.too_many() {
                return;
            }
            self.node(proto, call, opset, depth, into);
        }
    }

    fn node(&self, proto: &'a NodeProto, call: Option<&Call>, opset: i64, depth: usize, into: &mut RawGraph) {
        let mut node = RawNode {
            name: self.node_name(proto, call),
            op: proto.op_type().to_string(),
            domain: domain(proto.domain()).to_string(),
            inputs: proto.input.iter().map(|n| self.rename(n, call)).collect(),
            outputs: proto.output.iter().map(|n| self.rename(n, call)).collect(),
            attrs: BTreeMap::new(),
            metadata: proto.metadata_props.iter().map(|e| (e.key().to_string(), e.value().to_string())).collect(),
            opset,
        };
        let limit = self.limits.depth.min(Limits::DEEPEST);
        if depth >= limit {
            self.fault(ModelFault::TooDeep { op: node.op.clone(), limit });
            return into.nodes.push(node);
        }
        let function = self.functions.get(&(node.domain.as_str(), proto.op_type(), proto.overload())).copied();
        for attribute in &proto.attribute {
            match self.bound(attribute, &node, call, opset, depth) {
                Ok(Some(value)) => {
                    node.attrs.insert(attribute.name().to_string(), value);
                }
                Ok(None) => {}
                Err(fault) => self.fault(fault),
            }
        }
        match function {
            Some(function) => self.inline(node, function, call, depth, into),
            None if node.op == "Constant" && node.domain.is_empty() => self.constant(node, into),
            None => into.nodes.push(node),
        }
    }

    fn node_name(&self, proto: &NodeProto, call: Option<&Call>) -> String {
        let name = match proto.name() {
            "" => {
                let out = proto.output.iter().find(|o| !o.is_empty()).map(String::as_str).unwrap_or("nothing");
                format!("{}_{out}", proto.op_type())
            }
            name => name.to_string(),
        };
        call.map_or(name.clone(), |call| format!("{}/{name}", call.name))
    }

    /// The attribute's value; one that refers to an attribute of the function takes what the call gives.
    fn bound(
        &self,
        proto: &'a AttributeProto,
        node: &RawNode,
        call: Option<&Call>,
        opset: i64,
        depth: usize,
    ) -> Result<Option<RawAttr>, ModelFault> {
        if !proto.ref_attr_name().is_empty()
            && let Some(call) = call
        {
            return Ok(call.attrs.get(proto.ref_attr_name()).cloned());
        }
        self.attribute(proto, node, call, opset, depth).map(Some)
    }

    pub fn attribute(
        &self,
        proto: &'a AttributeProto,
        node: &RawNode,
        call: Option<&Call>,
        opset: i64,
        depth: usize,
    ) -> Result<RawAttr, ModelFault> {
        let unsupported = |kind: String| ModelFault::UnsupportedAttribute {
            node: node.name.clone(),
            op: node.op.clone(),
            attribute: proto.name().to_string(),
            kind,
        };
        let place = || format!("attribute {:?} of node {:?}", proto.name(), node.name);
        let string =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| ModelFault::NotUtf8 { place: place() });
        let missing = || unsupported("GRAPH or TENSOR without a value".to_string());
        let kind = kind_of(proto).ok_or_else(|| unsupported(format!("number {}", proto.r#type.unwrap_or_default())))?;
        Ok(RawAttr::Plain(match kind {
            AttributeType::Float => Attr::Float(proto.f()),
            AttributeType::Int => Attr::Int(proto.i()),
            AttributeType::String => Attr::Str(string(proto.s())?),
            AttributeType::Floats => Attr::Floats(proto.floats.clone()),
            AttributeType::Ints => Attr::Ints(proto.ints.clone()),
            AttributeType::Strings => Attr::Strs(proto.strings.iter().map(|s| string(s)).collect::<Result<_, _>>()?),
            AttributeType::Tensor => {
                let name = format!("{}.{}", node.name, proto.name());
                Attr::Tensor(tensor::decode(proto.t.as_ref().ok_or_else(missing)?, &name, self.folder)?)
            }
            AttributeType::SparseTensor => {
                let name = format!("{}.{}", node.name, proto.name());
                let sparse = proto.sparse_tensor.as_ref().ok_or_else(missing)?;
                Attr::Tensor(tensor::decode_sparse(sparse, &name, self.folder)?)
            }
            AttributeType::Graph => {
                let graph = proto.g.as_ref().ok_or_else(missing)?;
                return Ok(RawAttr::Graph(Box::new(self.graph(graph, call, opset, depth + 1))));
            }
            other => return Err(unsupported(other.as_str_name().to_string())),
        }))
    }

    /// A `Constant` node is an initialiser called as its output.
    fn constant(&self, node: RawNode, into: &mut RawGraph) {
        let RawNode { name, outputs, attrs, .. } = node;
        let value = attrs.into_iter().find_map(|(key, value)| match (key.as_str(), value) {
            ("value" | "sparse_value", RawAttr::Plain(Attr::Tensor(tensor))) => Some(tensor),
            ("value_int", RawAttr::Plain(Attr::Int(v))) => Some(Tensor::ints(&[], &[v])),
            ("value_ints", RawAttr::Plain(Attr::Ints(v))) => Some(Tensor::ints(&[v.len()], &v)),
            ("value_float", RawAttr::Plain(Attr::Float(v))) => Some(floats(&[], &[v])),
            ("value_floats", RawAttr::Plain(Attr::Floats(v))) => Some(floats(&[v.len()], &v)),
            ("value_string", RawAttr::Plain(Attr::Str(v))) => Some(strings(&[], vec![v])),
            ("value_strings", RawAttr::Plain(Attr::Strs(v))) => Some(strings(&[v.len()], v)),
            _ => None,
        });
        if value.is_none() {
            self.fault(ModelFault::EmptyConstant { node: name });
        }
        if let Some(output) = outputs.into_iter().next().filter(|o| !o.is_empty()) {
            into.initializers.push((output, value.unwrap_or_else(placeholder)));
        }
    }
}

/// In the place of a tensor at fault, so that its readers are not called faulty as well.
fn placeholder() -> Tensor {
    Tensor::from_bytes(DType::F32, vec![0], Vec::new())
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_bytes(DType::F32, shape.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn strings(shape: &[usize], strings: Vec<String>) -> Tensor {
    Tensor { strings, ..Tensor::from_bytes(DType::Str, shape.to_vec(), Vec::new()) }
}

/// The declared kind; old files declare none, there the field that is set tells.
fn kind_of(proto: &AttributeProto) -> Option<AttributeType> {
    match proto.r#type.map(AttributeType::try_from) {
        Some(Ok(AttributeType::Undefined)) | None => {}
        Some(kind) => return kind.ok(),
    }
    let set = [
        (proto.f.is_some(), AttributeType::Float),
        (proto.i.is_some(), AttributeType::Int),
        (proto.s.is_some(), AttributeType::String),
        (proto.t.is_some(), AttributeType::Tensor),
        (proto.g.is_some(), AttributeType::Graph),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.ints.is_empty(), AttributeType::Ints),
        (!proto.strings.is_empty(), AttributeType::Strings),
    ];
    set.into_iter().find(|(set, _)| *set).map(|(_, kind)| kind)
}
