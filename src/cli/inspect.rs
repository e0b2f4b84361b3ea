use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::loss::LossArgs;
use super::table::{metric, table};
use super::{Output, Result};
use crate::artifact::{self, Options, Target};
use crate::flatness::{self, Layer};
use crate::ir::{Graph, Model, ValueId};
use crate::ops::{self, Tangent};
use crate::{cost, onnx};

/// What a model is made of: inputs and outputs, parameters, layers with head class and estimator, operators with derivative
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx inspect model.onnx
  fam-onnx inspect model.onnx --loss mse
  fam-onnx inspect model.onnx --json | jq '.layers[].name'")]
pub(super) struct Inspect {
    /// The model, an .onnx file
    model: PathBuf,
    #[command(flatten)]
    loss: LossArgs,
}

/// A layer and what can be said of κ there.
struct Row {
    layer: Layer,
    weight: String,
    class: Option<&'static str>,
    estimator: Option<&'static str>,
    /// κ and its gradient, in plain steps beyond one.
    overhead: Option<f64>,
    note: String,
}

impl Inspect {
    pub fn run(&self, output: &Output) -> Result<()> {
        let model = onnx::read(&self.model)?;
        let graph = &model.graph;
        let target = self.loss.target()?;
        let rows: Vec<Row> =
            flatness::layers(graph).into_iter().map(|layer| self.row(&model, &target, layer)).collect();
        let operators = operators(graph);
        let text = [
            header(&model),
            section("Inputs", &["name", "type"], ports(graph, &graph.inputs)),
            section("Outputs", &["name", "type"], ports(graph, &graph.outputs)),
            section("Parameters", &["name", "type", "trains"], parameters(graph)),
            section(
                "Layers",
                &["name", "W", "head", "estimator", "cost", "weight", "why"],
                rows.iter().map(Row::cells).collect(),
            ),
            section(
                "Operators",
                &["operator", "nodes", "derivative"],
                operators.iter().map(|o| vec![o.0.clone(), o.1.to_string(), o.2.clone()]).collect(),
            ),
        ]
        .join("\n");
        output.result(&text, || {
            json!({
                "version": 1,
                "opset": model.opset,
                "producer": format!("{} {}", model.producer.0, model.producer.1).trim(),
                "nodes": graph.nodes.len(),
                "flops": cost::flops(graph),
                "inputs": ports_json(graph, &graph.inputs),
                "outputs": ports_json(graph, &graph.outputs),
                "parameters": flatness::parameters(graph).iter().map(|p| json!({
                    "name": graph.name_of(p.value), "type": graph.value(p.value).fact.to_string(), "trainable": p.trainable,
                })).collect::<Vec<_>>(),
                "layers": rows.iter().map(Row::json).collect::<Vec<_>>(),
                "operators": operators.iter().map(|(name, nodes, kind)| json!({"name": name, "nodes": nodes, "derivative": kind})).collect::<Vec<_>>(),
            })
        })
    }

    /// What `inject` would do for this layer.
    fn row(&self, model: &Model, target: &Target, layer: Layer) -> Row {
        let float = |id: &&ValueId| model.graph.value(**id).fact.dtype.is_float();
        let first = model.graph.outputs.iter().find(float).map(|&id| model.graph.name_of(id).to_string());
        let options = Options {
            layers: vec![(model.graph.node(layer.node).name.clone(), 1.0)],
            output_name: self.loss.output_name().or(first),
            ..Options::of(target.clone())
        };
        let weight = model.graph.name_of(layer.weight).to_string();
        match artifact::report(model, &options) {
            Ok(report) => {
                let step = report.forward.flops + report.plain.flops;
                let of = report.layers.first();
                Row {
                    class: of.map(|l| l.class),
                    estimator: of.map(|l| l.estimator.name()),
                    overhead: Some(report.fam.flops / step.max(1.0)),
                    note: of.map(|l| l.why.clone()).unwrap_or_default(),
                    layer,
                    weight,
                }
            }
            Err(error) => {
                let note = error.to_string().lines().next().unwrap_or_default().to_string();
                Row { layer, weight, class: None, estimator: None, overhead: None, note }
            }
        }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let dash = |s: Option<&str>| s.unwrap_or("-").to_string();
        vec![
            self.layer.name.clone(),
            format!("{}×{}", self.layer.d, self.layer.m),
            dash(self.class),
            dash(self.estimator),
            self.overhead.map_or("-".to_string(), |c| format!("+{:.1} %", 100.0 * c)),
            self.weight.clone(),
            self.note.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.layer.name, "weight": self.weight, "d": self.layer.d, "m": self.layer.m, "aliases": self.layer.aliases,
            "uses": self.layer.uses, "head": self.class, "estimator": self.estimator, "overhead": self.overhead, "why": self.note,
        })
    }
}

fn header(model: &Model) -> String {
    let producer = format!("{} {}", model.producer.0, model.producer.1);
    format!(
        "opset {}, {} nodes, {}FLOP a forward pass at a batch of {}{}\n",
        model.opset,
        model.graph.nodes.len(),
        metric(cost::flops(&model.graph)),
        cost::ASSUMED_BATCH,
        if producer.trim().is_empty() { String::new() } else { format!(", made by {}", producer.trim()) },
    )
}

fn section(title: &str, header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { format!("{title}: none\n") } else { format!("{title}\n{}", table(header, &rows)) }
}

fn ports(graph: &Graph, ids: &[ValueId]) -> Vec<Vec<String>> {
    ids.iter().map(|&id| vec![graph.name_of(id).to_string(), graph.value(id).fact.to_string()]).collect()
}

fn ports_json(graph: &Graph, ids: &[ValueId]) -> Vec<Value> {
    ids.iter().map(|&id| json!({"name": graph.name_of(id), "type": graph.value(id).fact.to_string()})).collect()
}

fn parameters(graph: &Graph) -> Vec<Vec<String>> {
    let trains = |yes: bool| if yes { "yes" } else { "no (running statistic)" }.to_string();
    flatness::parameters(graph)
        .iter()
        .map(|p| vec![graph.name_of(p.value).to_string(), graph.value(p.value).fact.to_string(), trains(p.trainable)])
        .collect()
}

/// Each operator with its number of nodes and the kind of its derivative.
fn operators(graph: &Graph) -> Vec<(String, usize, String)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.nodes {
        let name = if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) };
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().map(|(name, n)| (name.clone(), n, derivative(&name))).collect()
}

fn derivative(operator: &str) -> String {
    match ops::lookup(operator).map(|op| &op.tangent) {
        Some(Tangent::Rule(_) | Tangent::Joint(_)) => "rule".to_string(),
        Some(Tangent::Lower(_) | Tangent::Select(_)) => "by lowering".to_string(),
        Some(Tangent::Zero) => "zero".to_string(),
        Some(Tangent::Blocked(reason)) => format!("none: {reason}"),
        None => "none: there is no rule for this operator".to_string(),
    }
}
