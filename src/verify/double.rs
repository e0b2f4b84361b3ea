//! A graph in float64: every float in it cast, its shapes fixed, rounding passed straight through, run by ONNX Runtime where that has all the kernels, else by the
//! interpreter.

use super::{kernels, straight};
use crate::error::{Error, Result};
use crate::eval;
use crate::ir::{Attr, Attrs, Builder, DType, Dim, Fact, Graph, Model, Node, Tensor as Constant, Val, ValueId};
use crate::onnx;
use crate::ops::{self, Array};
use crate::runtime::{self, Device, Runtime, Session};
use crate::simplify;
use crate::tensor::{Tensor, Tensors};
use std::collections::HashMap;

pub(super) struct Double {
    graph: Graph,
    /// `None`: the interpreter.
    session: Option<Session>,
    outputs: Vec<String>,
}

/// The values a graph starts from, and those that replace some of them.
#[derive(Clone, Copy)]
pub(super) struct Feeds<'a> {
    pub base: &'a Tensors,
    pub changed: &'a Tensors,
}

impl<'a> Feeds<'a> {
    fn get(&self, name: &str) -> Option<&'a Tensor> {
        self.changed.get(name).or_else(|| self.base.get(name))
    }
}

impl Double {
    /// The graph of these outputs in float64, for feeds of the shapes that `feeds` have.
    pub fn new(runtime: &Runtime, model: &Model, outputs: &[String], feeds: &Tensors) -> Result<Double> {
        let mut graph = model.graph.clone();
        let known = graph.by_name();
        let missing = |name: &String| Error::MissingInput { tensor: name.clone() };
        let wanted: Vec<ValueId> =
            outputs.iter().map(|n| known.get(n.as_str()).copied().ok_or_else(|| missing(n))).collect::<Result<_>>()?;
        graph.outputs = wanted;
        let live = graph.ancestors(&graph.outputs);
        graph.inputs.retain(|id| live.contains(id));
        let graph = in_double(&simplify::dead_code(&graph), feeds)?;
        let graph = straight::through(graph, Feeds { base: feeds, changed: &Tensors::new() })?;
        let whole = Model { graph, ..model.clone() };
        let options = runtime::Options { device: Device::Cpu, threads: None, spin: false };
        // A kernel that is not there is no fault of the graph.
        let session = Session::from_bytes(runtime, "the graph in float64", &onnx::to_bytes(&whole), &options).ok();
        Ok(Double { graph: whole.graph, session, outputs: outputs.to_vec() })
    }

    /// What runs it.
    pub fn engine(&self) -> &'static str {
        if self.session.is_some() { "ONNX Runtime" } else { "the interpreter" }
    }

    /// Every output, flattened.
    pub fn run(&mut self, feeds: Feeds<'_>) -> Result<Vec<Vec<f64>>> {
        match &mut self.session {
            Some(session) => {
                let names: Vec<String> = session.inputs().iter().map(|port| port.name.clone()).collect();
                let given = names.iter().filter_map(|name| Some((name.as_str(), feeds.get(name)?)));
                let given: Vec<(&str, &Tensor)> = given.collect();
                let wanted: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
                let results = session.run(&given, &wanted)?;
                Ok(results.iter().map(|t| t.iter_f64().collect()).collect())
            }
            None => interpret(&self.graph, feeds),
        }
    }

    /// The first output, which is a scalar.
    pub fn scalar(&mut self, feeds: Feeds<'_>) -> Result<f64> {
        Ok(self.run(feeds)?.first().and_then(|v| v.first().copied()).unwrap_or(f64::NAN))
    }
}

/// What the inputs are fed, by name.
pub(super) fn wide_arrays(graph: &Graph, feeds: Feeds<'_>) -> HashMap<String, Array> {
    let inputs = graph.inputs.iter().filter_map(|&id| {
        let (name, dtype) = (graph.name_of(id), graph.value(id).fact.dtype);
        let tensor = feeds.get(name)?;
        let array = Array::from_vec(dtype, tensor.shape(), tensor.iter_f64().collect()).ok()?;
        Some((name.to_string(), array))
    });
    inputs.collect()
}

fn interpret(graph: &Graph, feeds: Feeds<'_>) -> Result<Vec<Vec<f64>>> {
    let values = eval::evaluate(graph, &wide_arrays(graph, feeds))?;
    let flat = |id: &ValueId| values.get(id).map(|a| a.data.iter().copied().collect()).unwrap_or_default();
    Ok(graph.outputs.iter().map(flat).collect())
}

/// A copy with float64 elements, where they are floats.
pub(super) fn widened(tensor: &Tensor) -> Result<Tensor> {
    if !tensor.dtype().is_float() {
        return Ok(tensor.clone());
    }
    let data = tensor.iter_f64().flat_map(f64::to_le_bytes).collect();
    Ok(Tensor::new(DType::F64, tensor.shape().to_vec(), data)?)
}

fn wide(dtype: DType) -> DType {
    if dtype.is_float() { DType::F64 } else { dtype }
}

fn wide_constant(data: &Constant) -> Constant {
    match data.dtype.is_float() {
        true => Constant::from_f64(DType::F64, &data.shape, data.to_f64()),
        false => data.clone(),
    }
}

/// `to = float` and the like, and tensors in attributes.
fn wide_attrs(node: &Node) -> Attrs {
    let is_type = |name: &str| matches!(name, "to" | "dtype" | "stash_type");
    let wide_one = |(name, attr): (&str, &Attr)| {
        let attr = match attr {
            Attr::Int(code) if is_type(name) => match i32::try_from(*code).ok().and_then(DType::from_code) {
                Some(dtype) => Attr::Int(i64::from(wide(dtype).code())),
                None => attr.clone(),
            },
            Attr::Tensor(data) => Attr::Tensor(wide_constant(data)),
            other => other.clone(),
        };
        (name.to_string(), attr)
    };
    node.attrs.iter().map(wide_one).collect()
}

/// The same graph on float64, with the inputs' shapes as fed.
fn in_double(graph: &Graph, feeds: &Tensors) -> Result<Graph> {
    let b = Builder::new();
    let inputs = graph.input_set();
    let mut values: HashMap<ValueId, Val> = HashMap::new();
    for id in graph.value_ids().filter(|&id| graph.value(id).producer.is_none()) {
        let value = graph.value(id);
        let made = match &value.data {
            Some(data) if !inputs.contains(&id) => match value.name.starts_with("const/") {
                true => b.constant(wide_constant(data)),
                false => b.initializer(&value.name, wide_constant(data)),
            },
            data => {
                let fed = feeds.get(&value.name).map(|t| t.shape().iter().map(|&n| Dim::from(n)).collect::<Vec<_>>());
                let shape = fed.or_else(|| value.fact.shape.clone());
                let fact = Fact { dtype: wide(value.fact.dtype), shape, ints: None };
                b.input(&value.name, fact, data.as_ref().map(wide_constant))
            }
        };
        values.insert(id, made);
    }
    for node in &graph.nodes {
        let known = ops::lookup(&node.op).is_some() && node.domain.is_empty();
        let subgraph = node.attrs.values().any(|a| matches!(a, Attr::Graph(_)));
        if !known || subgraph || node.outputs.iter().any(Option::is_none) {
            return Err(Error::UnknownOperator { op: node.op.clone() });
        }
        b.scope(&node.name);
        let read: Vec<Option<Val>> = node.inputs.iter().map(|id| id.and_then(|id| values.get(&id).copied())).collect();
        let made = match kernels::instead(&b, node, &read).filter(|_| node.outputs.len() == 1) {
            Some(value) => vec![value],
            None => b.node(&node.op, &read, wide_attrs(node), node.outputs.len()),
        };
        values.extend(node.outputs.iter().flatten().copied().zip(made));
        b.check()?;
    }
    for id in &graph.outputs {
        if let Some(&value) = values.get(id) {
            let given = b.output(value, graph.name_of(*id));
            if given != graph.name_of(*id) {
                return Err(Error::BrokenGraph { what: format!("two values are called {:?}", graph.name_of(*id)) });
            }
        }
    }
    Ok(simplify::dead_code(&b.finish()?))
}
