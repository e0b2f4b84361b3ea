//! A loss that is an ONNX model of its own: prediction and target in, one scalar out; inlined into the graph that it judges.

use crate::error::{Error, Result};
use crate::ir::{Attr, Builder, Dim, Fact, Graph, Model, Node, Val, ValueId};
use std::collections::HashMap;

#[derive(Clone, Debug)]
pub struct LossModel {
    /// The file that it comes from.
    pub file: String,
    graph: Graph,
    prediction: ValueId,
    target: ValueId,
    output: ValueId,
}

/// Why a model is no loss of this prediction.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LossModelFault {
    #[error("its inputs are {}; expected two, the prediction and the target", or_none(found))]
    Inputs { found: Vec<String> },
    #[error("its outputs are {}; expected one, the loss", or_none(found))]
    Outputs { found: Vec<String> },
    #[error("its output {name:?} is {fact}; expected a float of one element")]
    NotScalar { name: String, fact: String },
    #[error("its input {name:?} is {expected}, but the prediction {tensor:?} is {found}")]
    Prediction { name: String, expected: String, tensor: String, found: String },
    #[error("its input {name:?} is {fact}; expected a declared shape whose first axis counts the samples")]
    TargetShape { name: String, fact: String },
    #[error("node {node:?} ({op}) holds a subgraph, which is not inlined")]
    Subgraph { node: String, op: String },
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}

/// What the graph has gained, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inlined {
    pub labels: String,
    pub loss: String,
}

impl LossModel {
    /// The loss in `model`, read from `file`. Inputs called `prediction` and `target` are these; else the first is the
    /// prediction.
    ///
    /// # Errors
    /// [`Error::LossModel`].
    pub fn new(file: &str, model: Model) -> Result<LossModel> {
        let graph = model.graph;
        let names = |ids: &[ValueId]| ids.iter().map(|&id| graph.name_of(id).to_string()).collect::<Vec<_>>();
        let fault = |fault| Error::LossModel { file: file.to_string(), fault };
        let inputs: Vec<ValueId> = graph.inputs.iter().copied().filter(|&id| graph.value(id).data.is_none()).collect();
        let &[first, second] = inputs.as_slice() else {
            return Err(fault(LossModelFault::Inputs { found: names(&inputs) }));
        };
        let &[output] = graph.outputs.as_slice() else {
            return Err(fault(LossModelFault::Outputs { found: names(&graph.outputs) }));
        };
        let swapped = graph.name_of(first) == "target" || graph.name_of(second) == "prediction";
        let (prediction, target) = if swapped { (second, first) } else { (first, second) };
        if graph.value(target).fact.rank().is_none_or(|rank| rank == 0) {
            let (name, fact) = (graph.name_of(target).to_string(), graph.value(target).fact.to_string());
            return Err(fault(LossModelFault::TargetShape { name, fact }));
        }
        let subgraph = |node: &&Node| node.attrs.values().any(|a| matches!(a, Attr::Graph(_)));
        if let Some(node) = graph.nodes.iter().find(subgraph) {
            return Err(fault(LossModelFault::Subgraph { node: node.name.clone(), op: node.op.clone() }));
        }
        Ok(LossModel { file: file.to_string(), graph, prediction, target, output })
    }

    /// `graph` with the loss of its tensor `predicted` and an input for the labels. What comes from the loss model is
    /// named `loss/…`.
    ///
    /// # Errors
    /// [`Error::LossModel`] if it cannot read `predicted`; faults of its nodes.
    pub fn inline(&self, graph: Graph, predicted: &str) -> Result<(Graph, Inlined)> {
        let name = graph.name.clone();
        let b = Builder::of(graph);
        let inlined = self.inline_into(&b, predicted)?;
        Ok((Graph { name, ..b.finish()? }, inlined))
    }

    fn inline_into(&self, b: &Builder, predicted: &str) -> Result<Inlined> {
        let Some(prediction) = b.find(predicted) else {
            return Err(Error::MissingInput { tensor: predicted.to_string() });
        };
        let symbols = self.symbols(prediction)?;
        let labels = b.input("labels", self.label_fact(&symbols, prediction), None);
        let mut made: HashMap<ValueId, Val> = HashMap::from([(self.prediction, prediction), (self.target, labels)]);
        for id in self.graph.initializers() {
            let value = self.graph.value(id);
            if let Some(data) = &value.data {
                made.insert(id, b.initializer(&format!("loss/{}", value.name), data.clone()));
            }
        }
        for node in &self.graph.nodes {
            let fresh = |id: Option<ValueId>| id.map(|id| b.fresh_name(&format!("loss/{}", self.graph.name_of(id))));
            let names: Vec<Option<String>> = node.outputs.iter().map(|id| fresh(*id)).collect();
            let inputs = node.inputs.iter().map(|id| id.and_then(|id| made.get(&id)).map(|v| v.id())).collect();
            let name = b.fresh_name(&format!("loss/{}", if node.name.is_empty() { &node.op } else { &node.name }));
            let copy = Node { name, inputs, outputs: Vec::new(), ..node.clone() };
            let outputs = b.import(copy, &names, &[]);
            b.check()?;
            made.extend(node.outputs.iter().zip(outputs).filter_map(|(id, val)| (*id).zip(val)));
        }
        let loss = made.get(&self.output).copied().unwrap_or(prediction);
        let fact = loss.fact();
        let scalar = fact.shape.as_ref().is_some_and(|shape| shape.iter().all(Dim::is_one));
        if !scalar || !fact.dtype.is_float() {
            let name = self.graph.name_of(self.output).to_string();
            return Err(self.fault(LossModelFault::NotScalar { name, fact: fact.to_string() }));
        }
        Ok(Inlined { labels: labels.name(), loss: loss.name() })
    }

    /// What the symbols in the loss model's declared prediction are in the graph.
    fn symbols(&self, prediction: Val<'_>) -> Result<HashMap<String, Dim>> {
        let (declared, found) = (&self.graph.value(self.prediction).fact, prediction.fact());
        let Some(shape) = &declared.shape else { return Ok(HashMap::new()) };
        let actual = prediction.shape();
        let fits = |(d, a): (&Dim, &Dim)| d.fixed().zip(a.fixed()).is_none_or(|(d, a)| d == a);
        let matches = shape.len() == actual.len() && shape.iter().zip(&actual).all(fits);
        if declared.dtype != found.dtype || !matches {
            return Err(self.fault(LossModelFault::Prediction {
                name: self.graph.name_of(self.prediction).to_string(),
                expected: declared.to_string(),
                tensor: prediction.name(),
                found: found.to_string(),
            }));
        }
        let named = |(d, a): (&Dim, Dim)| Some((d.as_symbol()?.to_string(), a));
        Ok(shape.iter().zip(actual).filter_map(named).collect())
    }

    /// The labels: of the declared type and rank, as many as there are predictions.
    fn label_fact(&self, symbols: &HashMap<String, Dim>, prediction: Val<'_>) -> Fact {
        let declared = &self.graph.value(self.target).fact;
        let dim = |(axis, d): (usize, &Dim)| match d.as_symbol().map(|s| (s, symbols.get(s))) {
            Some((_, Some(known))) => known.clone(),
            _ if axis == 0 => prediction.dim(0),
            Some((symbol, None)) => Dim::symbol(&format!("loss.{symbol}")),
            None => d.clone(),
        };
        let shape: Vec<Dim> = declared.shape.iter().flatten().enumerate().map(dim).collect();
        Fact::new(declared.dtype, shape)
    }

    fn fault(&self, fault: LossModelFault) -> Error {
        Error::LossModel { file: self.file.clone(), fault }
    }
}
