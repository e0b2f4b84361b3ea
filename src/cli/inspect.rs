use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::limits::ModelLimitArgs;
use super::loss::LossArgs;
use super::table::{metric, table};
use super::{Output, Result};
use crate::artifact::{self, Options, Surveyed};
use crate::cost::Cost;
use crate::flatness::{self, Finding, Layer, Offer};
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
    #[command(flatten)]
    limits: ModelLimitArgs,
}

/// A layer and what can be said of κ there.
struct Row {
    layer: Layer,
    weight: String,
    found: std::result::Result<Finding, String>,
    plain: Option<Cost>,
    /// Predicted bytes of a step with κ, by estimator.
    memory: Vec<Option<f64>>,
}

impl Inspect {
    pub fn run(&self, output: &Output) -> Result<()> {
        let model = onnx::read_within(&self.model, &self.limits.limits())?;
        let graph = &model.graph;
        let (rows, plain_memory) = self.rows(&model)?;
        let operators = operators(graph);
        let text = [
            header(&model, plain_memory),
            section("Inputs", &["name", "type"], ports(graph, &graph.inputs)),
            section("Outputs", &["name", "type"], ports(graph, &graph.outputs)),
            section("Parameters", &["name", "type", "trains"], parameters(graph)),
            section(
                "Layers",
                &["name", "W", "head", "estimator", "weight", "why"],
                rows.iter().map(Row::cells).collect(),
            ),
            section(
                "Cost of κ and its gradient",
                &["layer", "estimator", "FLOPs", "memory", "plain steps", "how"],
                rows.iter().flat_map(Row::offers).collect(),
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
                "memory": plain_memory,
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

    /// What `inject` would do for each layer, and the predicted bytes of a step without κ; a parameter that acts at several
    /// places is one.
    fn rows(&self, model: &Model) -> Result<(Vec<Row>, Option<f64>)> {
        let float = |id: &&ValueId| model.graph.value(**id).fact.dtype.is_float();
        let first = model.graph.outputs.iter().find(float).map(|&id| model.graph.name_of(id).to_string());
        let target = self.loss.target()?;
        let options = Options { output_name: self.loss.output_name().or(first), ..Options::of(target) };
        let surveyed = artifact::survey(model, &options);
        let memory = surveyed.as_ref().ok().and_then(|s| s.plain_memory());
        let mut rows: Vec<Row> = match surveyed {
            Ok(mut surveyed) => {
                let layers = std::mem::take(&mut surveyed.layers);
                layers.into_iter().map(|row| Row::of(&surveyed, row)).collect()
            }
            Err(error) => flatness::layers(&model.graph)
                .into_iter()
                .map(|layer| Row {
                    weight: model.graph.name_of(layer.stored).to_string(),
                    layer,
                    found: Err(first_line(&error)),
                    plain: None,
                    memory: Vec::new(),
                })
                .collect(),
        };
        let mut seen = HashSet::new();
        rows.retain(|row| seen.insert(row.layer.weight));
        Ok((rows, memory))
    }
}

fn first_line(error: &crate::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

impl Row {
    fn of(surveyed: &Surveyed, (layer, weight, found): (Layer, String, crate::Result<Finding>)) -> Row {
        let memory =
            |offer: &Offer| offer.cost.as_ref().and_then(|cost| surveyed.memory(&layer, offer.estimator, cost));
        let memory = found.iter().flat_map(|f| &f.offers).map(memory).collect();
        Row { layer, weight, found: found.map_err(|e| first_line(&e)), plain: surveyed.plain, memory }
    }

    fn cells(&self) -> Vec<String> {
        let (head, estimator, why) = match &self.found {
            Ok(found) => (head(found), found.estimator.name(), self.why(found)),
            Err(reason) => ("-".to_string(), "-", reason.clone()),
        };
        let size = format!("{}×{}", self.layer.d, self.layer.m);
        vec![self.layer.name.clone(), size, head, estimator.to_string(), self.weight.clone(), why]
    }

    fn why(&self, found: &Finding) -> String {
        let mut parts = vec![found.why.clone()];
        if self.layer.is_tied() {
            parts.push(format!("the weight acts at {} places", self.layer.uses));
        }
        if self.layer.is_quantised() {
            parts.push("the weight is quantised".to_string());
        }
        parts.extend(found.positions_meet.iter().map(|at| format!("positions meet at {at}")));
        parts.join("; ")
    }

    /// A row an estimator.
    fn offers(&self) -> Vec<Vec<String>> {
        let Ok(found) = &self.found else { return Vec::new() };
        let steps = |cost: &Cost| match self.plain {
            Some(plain) => format!("{:.2}", 1.0 + cost.time() / plain.time()),
            None => "-".to_string(),
        };
        let row = |(offer, memory): (&Offer, &Option<f64>)| {
            let cost = offer.cost.as_ref();
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_string());
            vec![
                self.layer.name.clone(),
                offer.estimator.name().to_string(),
                or_dash(cost.map(|c| metric(c.flops))),
                or_dash(memory.map(|bytes| format!("{}B", metric(bytes)))),
                or_dash(cost.map(steps)),
                offer.note.clone(),
            ]
        };
        found.offers.iter().zip(&self.memory).map(row).collect()
    }

    fn json(&self) -> Value {
        let found = self.found.as_ref().ok();
        let overhead = |offer: &Offer| Some(offer.cost?.time() / self.plain?.time());
        let offers = found.map(|f| {
            let offer = |(offer, memory): (&Offer, &Option<f64>)| {
                json!({
                    "estimator": offer.estimator.name(), "flops": offer.cost.map(|c| c.flops), "memory": memory,
                    "overhead": overhead(offer), "how": offer.note,
                })
            };
            f.offers.iter().zip(&self.memory).map(offer).collect::<Vec<_>>()
        });
        let chosen = found.and_then(|f| f.offers.iter().find(|o| o.estimator == f.estimator));
        json!({
            "name": self.layer.name, "weight": self.weight, "d": self.layer.d, "m": self.layer.m, "aliases": self.layer.aliases,
            "uses": self.layer.uses, "head": found.map(|f| f.class.name()), "decided_by": found.and_then(|f| f.class.decided_by()),
            "positions_meet_at": found.and_then(|f| f.positions_meet.clone()),
            "estimator": found.map(|f| f.estimator.name()), "overhead": chosen.and_then(overhead),
            "why": found.map_or_else(|| self.found.as_ref().err().cloned().unwrap_or_default(), |f| f.why.clone()),
            "estimators": offers,
        })
    }
}

/// The class, and the node that decides.
fn head(found: &Finding) -> String {
    match found.class.decided_by() {
        Some(node) => format!("{} ({node})", found.class.name()),
        None => found.class.name().to_string(),
    }
}

fn header(model: &Model, memory: Option<f64>) -> String {
    let producer = format!("{} {}", model.producer.0, model.producer.1);
    format!(
        "opset {}, {} nodes, {}FLOP a forward pass at a batch of {}{}{}\n",
        model.opset,
        model.graph.nodes.len(),
        metric(cost::flops(&model.graph)),
        cost::ASSUMED_BATCH,
        memory.map(|bytes| format!(", {}B of memory a training step", metric(bytes))).unwrap_or_default(),
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
        Some(Tangent::StraightThrough(_)) => "rule, rounding passed straight through".to_string(),
        Some(Tangent::Lower(_) | Tangent::Select(_)) => "by lowering".to_string(),
        Some(Tangent::Zero) => "zero".to_string(),
        Some(Tangent::Blocked(reason)) => format!("none: {reason}"),
        None => "none: there is no rule for this operator".to_string(),
    }
}
