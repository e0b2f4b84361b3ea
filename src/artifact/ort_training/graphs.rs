//! `training_model.onnx` and `eval_model.onnx`.

use super::super::manifest::Manifest;
use super::{NEWEST_OPSET, Plan, Roles};
use crate::ir::{Attrs, DType, Dim, Fact, Graph, Model, Node, NodeId, Tensor, Value, ValueId};
use crate::simplify;
use std::collections::HashMap;

const DOMAIN: &str = "com.microsoft";
/// The input that says whether this step's gradients replace what is accumulated.
const RESET: &str = "lazy_reset_grad";

/// The loss, κ of each layer and the objective, and for each trainable parameter the accumulation of its gradient.
///
/// One operator serves twice. `InPlaceAccumulatorV2(buffer, value, reset)` adds `value` to `buffer`, or with `reset` writes it
/// there, in the memory of `buffer` itself. With the gradient's buffer that is the accumulation that the API's optimiser
/// expects; with a running statistic as the buffer and `reset` always true it is an assignment, which the API's parameters
/// have no other way to get.
pub(super) fn training(plan: &Plan, roles: &Roles) -> Model {
    let (mut model, mut graph) = taken(plan, &plan.manifest.graphs.gradient.path);
    let (outputs, _) = outputs(&plan.manifest);
    let assigned = plan.manifest.graphs.gradient.updates.clone();
    let gradients = plan.manifest.graphs.gradient.gradients.clone();
    arrange(&mut graph, &[&roles.fed, &roles.trainable, &roles.frozen]);
    graph.outputs = outputs.iter().filter_map(|name| graph.find(name)).collect();
    let known: HashMap<String, ValueId> =
        graph.by_name().into_iter().map(|(name, id)| (name.to_string(), id)).collect();
    let find = |name: &str| known.get(name).copied();
    let flag = || Fact::new(DType::Bool, [Dim::Fixed(1)]);
    let mut buffers = Vec::new();
    let reset = add(&mut graph, RESET.to_owned(), flag(), None);
    for parameter in &roles.trainable {
        let gradient = gradients.get(parameter).and_then(|name| find(name));
        let (Some(gradient), Some(weight)) = (gradient, find(parameter)) else { continue };
        let fact = graph.value(weight).fact.clone();
        let buffer = add(&mut graph, format!("{parameter}_grad.accumulation.buffer"), fact, None);
        buffers.push(buffer);
        accumulate(&mut graph, buffer, gradient, reset, format!("{parameter}_grad.accumulation.out"));
    }
    if !assigned.is_empty() {
        let always = Tensor::from_bytes(DType::Bool, vec![1], vec![1]);
        let always = add(&mut graph, "const/always".to_owned(), flag(), Some(always));
        for (statistic, next) in &assigned {
            if let (Some(statistic), Some(next)) = (find(statistic), find(next)) {
                let name = format!("{}.updated", graph.name_of(statistic));
                accumulate(&mut graph, statistic, next, always, name);
            }
        }
    }
    graph.inputs.extend(buffers);
    graph.inputs.push(reset);
    if !model.domains.iter().any(|(domain, _)| domain == DOMAIN) {
        model.domains.push((DOMAIN.to_owned(), 1));
    }
    graph.name = "training".to_owned();
    Model { graph, ..model }
}

/// The loss and the predictions.
pub(super) fn eval(plan: &Plan, roles: &Roles) -> Model {
    let (model, mut graph) = taken(plan, &plan.manifest.graphs.evaluate.path);
    let (_, outputs) = outputs(&plan.manifest);
    graph.outputs = outputs.iter().filter_map(|name| graph.find(name)).collect();
    // The API hands every parameter to both graphs, λ too, which nothing reads here.
    for name in roles.lambdas.keys() {
        if graph.find(name).is_none() {
            add(&mut graph, name.clone(), Fact::new(DType::F32, Vec::<Dim>::new()), None);
        }
    }
    arrange(&mut graph, &[&roles.fed_to_eval, &roles.trainable, &roles.frozen]);
    let graph = Graph { name: "eval".to_owned(), ..simplify::dead_code(&graph) };
    Model { graph, ..model }
}

/// What a caller reads of the two graphs, in order.
pub(super) fn outputs(manifest: &Manifest) -> (Vec<String>, Vec<String>) {
    let (gradient, evaluate) = (&manifest.graphs.gradient, &manifest.graphs.evaluate);
    let training = std::iter::once(&gradient.loss).chain(&gradient.kappa).chain([&gradient.objective]);
    let eval = std::iter::once(&evaluate.loss).chain(&evaluate.predictions);
    (training.cloned().collect(), eval.cloned().collect())
}

/// Names of the training graph that stand twice in it: the model had one of the API's own.
pub(super) fn taken_names(model: &Model) -> Vec<String> {
    let mut names: Vec<&str> = model.graph.values.iter().map(|v| v.name.as_str()).collect();
    names.sort_unstable();
    let mut twice: Vec<String> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0].to_owned()).collect();
    twice.dedup();
    twice
}

/// A graph of the standard artifact and the model around it, in no newer an opset than the API reads if it can be said so.
fn taken(plan: &Plan, path: &str) -> (Model, Graph) {
    let found = plan.graphs.iter().find(|(name, _)| *name == path);
    let mut model = found.map(|(_, model)| model.clone()).unwrap_or_default();
    let graph = std::mem::take(&mut model.graph);
    (Model { opset: model.opset.min(NEWEST_OPSET), ir_version: model.ir_version.min(10), ..model }, graph)
}

/// Makes these the inputs, in this order and without defaults.
fn arrange(graph: &mut Graph, names: &[&[String]]) {
    let known = graph.by_name();
    let inputs = names.iter().copied().flatten().filter_map(|name| known.get(name.as_str()).copied()).collect();
    graph.inputs = inputs;
    for id in graph.inputs.clone() {
        graph.value_mut(id).data = None;
    }
}

fn add(graph: &mut Graph, name: String, fact: Fact, data: Option<Tensor>) -> ValueId {
    graph.add_value(Value { name, fact, data, producer: None })
}

/// Adds `InPlaceAccumulatorV2(buffer, value, reset)` with its flag as an output of the graph.
fn accumulate(graph: &mut Graph, buffer: ValueId, value: ValueId, reset: ValueId, flag: String) {
    let node = NodeId(graph.nodes.len() as u32);
    let name = format!("{flag}/accumulate");
    let fact = Fact::new(DType::Bool, [Dim::Fixed(1)]);
    let output = graph.add_value(Value { name: flag, fact, data: None, producer: Some(node) });
    graph.nodes.push(Node {
        name,
        op: "InPlaceAccumulatorV2".to_owned(),
        domain: DOMAIN.to_owned(),
        inputs: vec![Some(buffer), Some(value), Some(reset)],
        outputs: vec![Some(output)],
        attrs: Attrs::new(),
        ..Node::default()
    });
    graph.outputs.push(output);
}
