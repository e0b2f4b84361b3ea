//! One training step of a model as values of one graph: loss, κ, objective, gradients.

use super::batch_norm::{self, Statistic};
use super::dropout::{self, Mask};
use super::manifest::LabelSpec;
use super::modes;
use super::quantized;
use super::standard::{self, Options};
use super::target::{self, Judged};
use crate::ad::{Tape, linearise};
use crate::cost::{self, Cost};
use crate::error::{Error, Result, nearest_names};
use crate::flatness::{self, Estimator, Kappa, Layer, Objective, Parameter, Probes, Purpose, Request};
use crate::ir::{Builder, DType, Dim, Fact, Graph, Model, Node, Tensor, Val, ValueId};
use crate::linear::Cotangent;
use crate::loss::Inlined;
use crate::lower;
use crate::simplify::{dead_code, rebuild};
use globset::Glob;

/// The model's graph, ready to be traced.
pub(super) struct Opened {
    /// With the parameters' data, by which layers are known.
    pub graph: Graph,
    /// The model's own inputs.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub parameters: Vec<Parameter>,
    /// Of each batch norm that trains.
    pub statistics: Vec<Statistic>,
    /// Of each dropout that trains.
    pub masks: Vec<Mask>,
    /// What a loss model has added to the graph.
    pub inlined: Option<Inlined>,
}

impl Opened {
    /// The graph with its parameters as inputs, and no outputs yet.
    pub fn parametric(&self) -> Graph {
        let mut graph = Graph { outputs: Vec::new(), ..self.graph.clone() };
        let inputs = graph.input_set();
        for parameter in &self.parameters {
            graph.value_mut(parameter.value).data = None;
            if !inputs.contains(&parameter.value) {
                graph.inputs.push(parameter.value);
            }
        }
        graph
    }
}

pub(super) struct Traced<'g> {
    pub labels: Option<Val<'g>>,
    pub label_spec: Option<LabelSpec>,
    pub predictions: Vec<(String, Val<'g>)>,
    pub loss: Val<'g>,
    pub objective: Val<'g>,
    pub layers: Vec<(Layer, Kappa<'g>)>,
    /// The input that holds λ of each layer; `None` where λ = 0.
    pub lambdas: Vec<Option<String>>,
    /// Of the objective, one for each trained parameter.
    pub gradients: Vec<(Val<'g>, Val<'g>)>,
    /// Of the loss alone.
    pub plain: Vec<Val<'g>>,
    pub statistics: Vec<(Val<'g>, Val<'g>)>,
}

/// Turns the parameters into inputs and lowers what has no derivative of its own.
pub(super) fn open(model: &Model, options: &Options, notes: &mut Vec<String>) -> Result<Opened> {
    let mut graph = model.graph.clone();
    let name = |graph: &Graph, id: ValueId| graph.name_of(id).to_string();
    let inputs: Vec<String> =
        graph.inputs.iter().filter(|&&id| graph.value(id).data.is_none()).map(|&id| name(&graph, id)).collect();
    let outputs: Vec<String> = graph.outputs.iter().map(|&id| name(&graph, id)).collect();
    modes::settle(&mut graph, !options.train_batch_norm, !options.train_dropout, notes);
    let masks = if options.train_dropout { dropout::train(&mut graph, notes)? } else { Vec::new() };
    let statistics = if options.train_batch_norm { batch_norm::train(&mut graph, notes) } else { Vec::new() };
    let (graph, inlined) = target::inline(graph, &outputs, options)?;
    let graph = lower::composites(quantized::by_axis(quantized::joined(graph)), |_: &Node| true)?;
    // Once here rather than in every graph that is cut out of the traced one.
    let graph = rebuild(&graph)?;
    // What a value is used as shows before lowering; ids change, names stay.
    let at = graph.by_name();
    let mut parameters: Vec<Parameter> = flatness::parameters(&model.graph)
        .into_iter()
        .filter_map(|p| Some(Parameter { value: *at.get(model.graph.name_of(p.value))?, ..p }))
        .collect();
    freeze(&graph, &mut parameters, &options.freeze)?;
    Ok(Opened { graph, inputs, outputs, parameters, statistics, masks, inlined })
}

/// Parameters whose name a glob matches do not train.
fn freeze(graph: &Graph, parameters: &mut [Parameter], globs: &[String]) -> Result<()> {
    for glob in globs {
        let pattern = Glob::new(glob)
            .map_err(|error| Error::Pattern { glob: glob.clone(), reason: error.kind().to_string() })?
            .compile_matcher();
        let mut any = false;
        for parameter in parameters.iter_mut().filter(|p| pattern.is_match(graph.name_of(p.value))) {
            (parameter.trainable, any) = (false, true);
        }
        if !any {
            let names = parameters.iter().map(|p| graph.name_of(p.value));
            return Err(Error::UnknownName { what: "parameter", name: glob.clone(), near: nearest_names(glob, names) });
        }
    }
    Ok(())
}

/// How κ of a layer is computed, where that is settled before its head is looked at.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub estimator: Estimator,
    pub probes: Option<Probes>,
}

impl Traced<'_> {
    /// The ways taken, one a layer: a second graph with them takes the same probes.
    pub fn ways(&self) -> Vec<Way> {
        let way = |k: &Kappa| Way { estimator: k.estimator, probes: k.kind };
        self.layers.iter().map(|(_, kappa)| way(kappa)).collect()
    }
}

/// Builds the step in `b`, which holds `opened.graph`; κ in the given ways, or as the heads allow.
pub(super) fn trace<'g>(
    b: &'g Builder,
    opened: &Opened,
    options: &Options,
    ways: &[Way],
    notes: &mut Vec<String>,
) -> Result<Traced<'g>> {
    let graph = &opened.graph;
    let predicted = target::prediction(graph, &opened.outputs, options)?;
    let Judged { on, labels, label_spec } = target::objective(b, predicted, opened, options, notes)?;
    let several = options.layers.len() > 1;
    let trained: Vec<Val> = opened.parameters.iter().filter(|p| p.trainable).map(|p| b.val(p.value)).collect();
    let plain = pull(b, on.loss, &trained)?;
    let step = plain_cost(b, on, &plain);
    let mut layers: Vec<(Layer, Kappa)> = Vec::new();
    for (k, (name, lambda)) in options.layers.iter().enumerate() {
        let layer = flatness::find(graph, name, predicted)?;
        if let Some((same, _)) = layers.iter().find(|(l, _)| l.weight == layer.weight) {
            return Err(Error::LayerTwice { first: same.name.clone(), second: name.clone() });
        }
        let request = Request {
            measure: options.measure,
            per_fan_in: options.per_fan_in,
            estimator: ways.get(k).map(|w| w.estimator).or(options.estimator),
            detach_trace: options.detach_trace,
            probes: ways.get(k).map_or(options.probes, |w| w.probes),
            samples: options.samples,
            plain: Some(step),
            // Where κ is not trained it is not in the step.
            purpose: if *lambda > 0.0 { Purpose::Training } else { Purpose::Measuring },
        };
        let kappa = flatness::build(b, &layer, on, &request)?;
        layers.push((layer, kappa));
    }
    let mut lambdas = Vec::new();
    let mut terms: Vec<Option<Val>> = Vec::new();
    for ((layer, kappa), (_, lambda)) in layers.iter().zip(&options.layers) {
        if *lambda == 0.0 {
            lambdas.push(None);
            terms.push(None);
            continue;
        }
        let stem = if several { format!("lambda.{}", layer.name) } else { "lambda".to_string() };
        let input = b.input(&stem, Fact::new(DType::F32, Vec::<Dim>::new()), Some(Tensor::scalar(DType::F32, *lambda)));
        lambdas.push(Some(input.name()));
        b.scope("objective/");
        terms.push(Some(kappa.value * input.cast(kappa.value.dtype())));
    }
    b.scope("objective/");
    let sum = terms.iter().flatten().fold(on.loss, |sum, term| sum + *term);
    let gradients = if terms.iter().all(Option::is_none) {
        plain.clone()
    } else if options.detach_trace {
        detached(b, &plain, &trained, &layers, &terms)?
    } else {
        pull(b, sum, &trained)?
    };
    let named = |name: &String| b.find(name).map(|v| (name.clone(), v));
    let mut predictions: Vec<(String, Val)> = opened.outputs.iter().filter_map(named).collect();
    let read = b.val(predicted).name();
    if let Some(first) = predictions.iter().position(|(name, _)| *name == read) {
        predictions[..=first].rotate_right(1);
    }
    let statistics = opened.statistics.iter().filter_map(|s| s.update(b)).collect();
    b.check()?;
    Ok(Traced {
        labels,
        label_spec,
        predictions,
        loss: on.loss,
        objective: sum,
        layers,
        lambdas,
        gradients: trained.into_iter().zip(gradients).collect(),
        plain,
        statistics,
    })
}

/// Elementwise operations on each parameter that a step of an optimiser takes: decay, momentum, step, and the norm.
const UPDATE: f64 = 4.0;

/// What the loss, its gradient and the update cost.
pub(super) fn plain_cost<'g>(b: &'g Builder, on: Objective<'g>, gradients: &[Val<'g>]) -> Cost {
    let update = |gradient: &Val<'g>| cost::elementwise(cost::elements_of(&gradient.shape())).repeated(UPDATE);
    let updates: Cost = gradients.iter().map(update).sum();
    let of: Vec<ValueId> = gradients.iter().chain([&on.loss]).map(|v| v.id()).collect();
    b.read(|graph| {
        let needed = graph.ancestors(&of);
        let made = |node: &&Node| node.outputs.iter().flatten().any(|id| needed.contains(id));
        cost::of_nodes(graph, graph.nodes.iter().filter(made)) + updates + cost::run()
    })
}

/// What is found of every layer of the model, and what a plain step costs.
///
/// # Errors
/// Where the model cannot be trained with that loss at all.
pub fn survey(model: &Model, options: &Options) -> Result<Surveyed> {
    let mut notes = Vec::new();
    let opened = open(model, options, &mut notes)?;
    let b = Builder::of(opened.parametric());
    let predicted = target::prediction(&opened.graph, &opened.outputs, options)?;
    let Judged { on, .. } = target::objective(&b, predicted, &opened, options, &mut notes)?;
    let trained: Vec<Val> = opened.parameters.iter().filter(|p| p.trainable).map(|p| b.val(p.value)).collect();
    let gradients = pull(&b, on.loss, &trained).ok().filter(|_| !trained.is_empty());
    let plain = gradients.as_ref().map(|gradients| plain_cost(&b, on, gradients));
    let memory = match &gradients {
        Some(gradients) => {
            let pairs: Vec<(Val, Val)> = trained.iter().copied().zip(gradients.iter().copied()).collect();
            let rate = b.input("learning_rate", Fact::new(DType::F32, Vec::<Dim>::new()), None);
            let next = standard::steps(&b, &pairs, options, rate);
            let norm = crate::optim::gradient_norm(&b, gradients).map(|v| v.id());
            let outputs: Vec<ValueId> = next.iter().map(|(_, v, _)| v.id()).chain([on.loss.id()]).chain(norm).collect();
            let step = b.read(|g| dead_code(&Graph { outputs, ..g.clone() }));
            Some((cost::memory::live(&step), cost::memory::outputs(&step)))
        }
        None => None,
    };
    let request = Request {
        measure: options.measure,
        per_fan_in: options.per_fan_in,
        estimator: options.estimator,
        detach_trace: options.detach_trace,
        probes: options.probes,
        samples: options.samples,
        plain,
        purpose: Purpose::Training,
    };
    let layers = flatness::layers(&opened.graph);
    let findings = flatness::survey(&b, &layers, on, &trained, &request);
    let weight = |layer: &Layer| opened.graph.name_of(layer.stored).to_string();
    let layers = layers.iter().map(|l| (l.clone(), weight(l))).zip(findings);
    Ok(Surveyed { plain, memory, layers: layers.map(|((layer, weight), finding)| (layer, weight, finding)).collect() })
}

/// What [`survey`] finds.
pub struct Surveyed {
    /// A plain step; `None` where a node on the way has no derivative.
    pub plain: Option<Cost>,
    /// Bytes that its tensors take at once, and its outputs.
    memory: Option<(f64, f64)>,
    /// Each layer, its weight's name, and what is found of it.
    pub layers: Vec<(Layer, String, Result<flatness::Finding>)>,
}

impl Surveyed {
    /// The predicted peak memory of a plain step, in bytes.
    pub fn plain_memory(&self) -> Option<f64> {
        self.memory.map(|(live, outputs)| cost::memory::with_live(live, outputs))
    }

    /// The same with κ of the layer at that cost. Its gradient in the weight is one more of the weight's size; of the
    /// tensors that κ makes a fifth is there at the peak of the plain step, and about half where they make the peak: many
    /// passes, which stand beside each other.
    pub fn memory(&self, layer: &Layer, estimator: Estimator, cost: &Cost) -> Option<f64> {
        let (live, outputs) = self.memory?;
        let weight = 4.0 * (layer.d * layer.m) as f64;
        let beside = match estimator {
            Estimator::Exact | Estimator::GaussNewton => 0.47 * cost.held,
            Estimator::Hutchinson => 0.0,
        };
        Some(cost::memory::with_live((live + weight + 0.2 * cost.held).max(beside), outputs))
    }
}

/// The gradient of a scalar with respect to each parameter, of the parameter's shape.
pub(super) fn pull<'g>(b: &'g Builder, of: Val<'g>, wrt: &[Val<'g>]) -> Result<Vec<Val<'g>>> {
    let tape = Tape::new(b);
    let linear = linearise(&tape, &[of], wrt)?;
    let pulled = linear.vjp(&[Some(Cotangent::new(of.like(1.0)))], None);
    let gradients = wrt
        .iter()
        .zip(pulled)
        .map(|(v, ct)| {
            b.scope(&format!("{}.grad/", v.name()));
            match ct {
                Some(ct) => b.val(ct.materialise().id()),
                None => b.zeros(v.dtype(), &v.shape()),
            }
        })
        .collect();
    Ok(gradients)
}

/// `∇L + λ ∂κ/∂W` where κ depends on `W` through its outer factors only.
fn detached<'g>(
    b: &'g Builder,
    plain: &[Val<'g>],
    trained: &[Val<'g>],
    layers: &[(Layer, Kappa<'g>)],
    terms: &[Option<Val<'g>>],
) -> Result<Vec<Val<'g>>> {
    let mut gradients = plain.to_vec();
    for ((layer, kappa), term) in layers.iter().zip(terms) {
        let (Some(outer), Some(term)) = (kappa.outer_weight, term) else { continue };
        let part = pull(b, *term, &[outer])?;
        let tape = Tape::new(b);
        let weight = linearise(&tape, &[b.val(layer.weight)], trained)?;
        let cotangents = part.into_iter().map(|p| Some(Cotangent::new(p))).collect::<Vec<_>>();
        for (at, found) in weight.vjp(&cotangents, None).into_iter().enumerate() {
            let Some(found) = found else { continue };
            b.scope(&format!("{}.grad/", trained[at].name()));
            gradients[at] = gradients[at] + b.val(found.materialise().id());
        }
    }
    Ok(gradients)
}
