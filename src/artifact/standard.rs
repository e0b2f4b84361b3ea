//! The standard artifact: one traced step, cut into the graphs that people run.

use super::dropout::Mask;
use super::manifest::{self, Manifest};
use super::quantized;
use super::trace::{self, Opened, Traced, Way};
use crate::cost;
use crate::error::{Error, Result};
use crate::flatness::{Estimator, Measure, Probes};
use crate::ir::{Builder, Bytes, DType, Dim, Fact, Graph, Model, Node, Tensor, Val, ValueId, ValueSet, fixed};
use crate::loss::{LossModel, Settings};
use crate::optim::{self, Optimizer, Sgd, Step};
use crate::simplify;
use foldhash::HashMap;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Which scalar is trained.
#[derive(Clone, Debug)]
pub enum Target {
    /// A loss of the model's prediction and labels.
    Loss(Settings),
    /// The same, where the loss is a model of its own.
    Model(LossModel),
    /// The model computes its own loss as the output of that name.
    Output(String),
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Layers by name, each with its λ.
    pub layers: Vec<(String, f64)>,
    pub target: Target,
    /// The output that the loss reads, if the model has several.
    pub output_name: Option<String>,
    pub measure: Measure,
    /// κ/m, the scale of the published code.
    pub per_fan_in: bool,
    /// `None`: by predicted cost.
    pub estimator: Option<Estimator>,
    /// `None`: the kind with the least noise for its cost.
    pub probes: Option<Probes>,
    /// Probes a step.
    pub samples: i64,
    pub detach_trace: bool,
    pub optimizer: Optimizer,
    /// Limit of the gradients' joint norm.
    pub clip_norm: Option<f64>,
    /// Globs over parameter names that stay as they are.
    pub freeze: Vec<String>,
    /// Batch norm normalises by the batch and updates its running statistics.
    pub train_batch_norm: bool,
    /// Dropout drops, by masks that are inputs of the graphs.
    pub train_dropout: bool,
    /// Weights stored as integers train as floats that each step rounds.
    pub train_quantized: bool,
}

impl Target {
    /// The loss's kind, the file of the loss model, or the output that is the loss.
    pub fn name(&self) -> &str {
        match self {
            Target::Loss(settings) => settings.kind.name(),
            Target::Model(model) => &model.file,
            Target::Output(name) => name,
        }
    }
}

impl Options {
    /// No layer, and what `inject` takes by default.
    pub fn of(target: Target) -> Options {
        Options {
            layers: Vec::new(),
            target,
            output_name: None,
            measure: Measure::Neuronwise,
            per_fan_in: false,
            estimator: None,
            probes: None,
            samples: 1,
            detach_trace: false,
            optimizer: Optimizer::Sgd(Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
            clip_norm: None,
            freeze: Vec::new(),
            train_batch_norm: false,
            train_dropout: false,
            train_quantized: false,
        }
    }

    /// The options as the manifest keeps them.
    fn record(&self) -> Map<String, Value> {
        let layers: Vec<Value> =
            self.layers.iter().map(|(name, lambda)| json!({"layer": name, "lambda": lambda})).collect();
        let settings = match &self.target {
            Target::Loss(settings) => Some(settings),
            Target::Model(_) | Target::Output(_) => None,
        };
        let entries = [
            ("layers", json!(layers)),
            ("loss", json!(self.target.name())),
            ("label_smoothing", json!(settings.map_or(0.0, |s| s.label_smoothing))),
            ("class_weights", json!(settings.and_then(|s| s.class_weights.as_ref()))),
            ("ignore_index", json!(settings.and_then(|s| s.ignore_index))),
            ("soft_labels", json!(settings.is_some_and(|s| s.soft_labels))),
            ("normalize", json!(if self.per_fan_in { "fan-in" } else { "none" })),
            ("estimator", json!(self.estimator.map_or("auto", Estimator::name))),
            ("probes", json!(self.probes.map_or("auto", Probes::name))),
            ("samples", json!(self.samples)),
            ("detach_trace", json!(self.detach_trace)),
            ("optimizer", self.optimizer.record()),
            ("clip_norm", json!(self.clip_norm)),
            ("freeze", json!(self.freeze)),
            ("batch_norm", json!(if self.train_batch_norm { "train" } else { "frozen" })),
            ("dropout", json!(if self.train_dropout { "train" } else { "off" })),
            ("quantized", json!(if self.train_quantized { "train" } else { "frozen" })),
        ];
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// How κ of one layer is computed, for the closing table.
#[derive(Clone, Debug)]
pub struct LayerReport {
    pub name: String,
    pub weight: String,
    pub d: i64,
    pub m: i64,
    pub lambda: f64,
    pub class: &'static str,
    pub decided_by: Option<String>,
    pub estimator: Estimator,
    pub why: String,
}

/// Nodes and floating-point operations (at a batch of [`cost::ASSUMED_BATCH`]) of a part of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    pub nodes: usize,
    pub flops: f64,
}

impl Size {
    /// What is left when a part is taken away.
    fn beyond(self, part: Size) -> Size {
        Size { nodes: self.nodes.saturating_sub(part.nodes), flops: (self.flops - part.flops).max(0.0) }
    }
}

/// Bytes that a step takes at its peak, as [`cost::memory`] predicts them: without κ and with it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub plain: f64,
    pub whole: f64,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub layers: Vec<LayerReport>,
    pub forward: Size,
    /// What the gradient of the loss takes beyond the forward pass.
    pub plain: Size,
    /// What κ and its gradient take beyond that.
    pub fam: Size,
    pub memory: Memory,
    /// What the user should know: a Softmax that is read before, batch norm that is not there.
    pub notes: Vec<String>,
}

/// Everything that an artifact holds, before anything is written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Without the files' digests.
    pub manifest: Manifest,
    /// File name and model; the inference graph, which is the source file without weights, is not among them.
    pub graphs: Vec<(&'static str, Model)>,
    /// Initial parameters and state by name.
    pub tensors: BTreeMap<String, Tensor>,
    pub report: Report,
}

/// Everything that the artifact of `model` holds; `source` names the file that the model comes from.
///
/// # Errors
/// Unknown names with the nearest ones, losses that do not fit the prediction, nodes without derivative, and all that
/// [`crate::flatness::build`] says.
pub fn plan(model: &Model, options: &Options, source: manifest::Source) -> Result<Plan> {
    let mut plan = assemble(model, options)?;
    plan.manifest.source = source;
    plan.manifest.options = options.record();
    Ok(plan)
}

fn assemble(model: &Model, options: &Options) -> Result<Plan> {
    let mut notes = Vec::new();
    let floats = options.train_quantized.then(|| quantized::as_floats(model, &mut notes));
    let model = floats.as_ref().unwrap_or(model);
    let mut opened = trace::open(model, options, &mut notes)?;
    if !opened.parameters.iter().any(|p| p.trainable) {
        return Err(Error::NothingToTrain);
    }
    let b = Builder::of(opened.parametric());
    let traced = trace::trace(&b, &opened, options, &[], &mut notes)?;
    let learning_rate = b.input("learning_rate", Fact::new(DType::F32, Vec::<Dim>::new()), None);
    let names = name_outputs(&b, &traced, options, learning_rate);
    let layers = layer_reports(&b, &traced, options);
    let manifest = describe(&b, &opened, &traced, &names, &layers, options)?;
    let ways = traced.ways();
    drop(traced);
    // Nobody differentiates these graphs again, which convolutions written as products would make dearer.
    let whole = simplify::small_images(simplify::emitted(b.finish()?));
    // What follows reads the traced graph only, and graphs are large.
    opened.graph = Graph::default();
    let of = |map: &BTreeMap<String, String>| map.values().cloned().collect::<Vec<_>>();
    let scalars: Vec<String> = std::iter::once(names.loss.clone())
        .chain(names.trained_kappa.clone())
        .chain([names.objective.clone()])
        .collect();
    let loss = std::slice::from_ref(&names.loss);
    let known = whole.by_name();
    let size = |outputs: &[&[String]]| size(&whole, &known, outputs);
    let memory = |model: Model| cost::memory::of_graph(&model.graph);
    let cutter = Cutter { model, whole: &whole, known: &known, opened: &opened };
    let sizes = || {
        let forward = size(&[loss]);
        let plain = size(&[loss, &names.plain, &of(&names.statistics)]);
        let with_kappa = size(&[&scalars, &of(&names.gradients), &of(&names.statistics)]);
        (forward, plain.beyond(forward), with_kappa.beyond(plain))
    };
    let plain_memory =
        || Ok(memory(cutter.cut("plain", &[loss, &names.plain_steps, &of(&names.statistics)])?)) as Result<f64>;
    let evaluate = || match options.train_batch_norm || options.train_dropout {
        true => evaluation(model, options, &ways),
        false => cutter.evaluate(&names),
    };
    let gradient = || cutter.cut("gradient", &[&scalars, &of(&names.gradients), &of(&names.statistics)]);
    let optimizer = || optimizer(model, &whole, &known, &names, options);
    let ((optimizer, evaluate), (gradient, (plain_memory, (forward, plain, fam)))) =
        rayon::join(|| rayon::join(optimizer, evaluate), || rayon::join(gradient, || rayon::join(plain_memory, sizes)));
    let (optimizer, evaluate, gradient, plain_memory) = (optimizer?, evaluate?, gradient?, plain_memory?);
    let norm: Vec<String> = names.gradient_norm.iter().cloned().collect();
    let outputs = [&scalars[..], &norm, &of(&names.steps), &of(&names.statistics)].concat();
    let keep = cutter.keep();
    let outline = Outline::of(&whole, &known, &outputs, &|id| keep.contains(&id));
    drop(known);
    let train = simplify::into_part(whole, &outline.inputs, &outline.outputs, &outline.live);
    let train = named(model, "train", train);
    let memory = Memory { plain: plain_memory, whole: cost::memory::of_graph(&train.graph) };
    let report = Report { layers, forward, plain, fam, memory, notes };
    let opset = crate::onnx::opset(&train);
    let graphs = vec![
        ("gradient.onnx", gradient),
        ("optimizer.onnx", optimizer),
        ("train.onnx", train),
        ("evaluate.onnx", evaluate),
    ];
    let manifest = Manifest { opset: u32::try_from(opset).unwrap_or_default(), ..manifest };
    let tensors = initial_tensors(model, &manifest);
    Ok(Plan { manifest, graphs, tensors, report })
}

/// What `evaluate.onnx` computes where batch norm or dropout train: the model as it will be used, by its running statistics
/// and with nothing dropped.
fn evaluation(model: &Model, options: &Options, ways: &[Way]) -> Result<Model> {
    let options = Options { train_batch_norm: false, train_dropout: false, ..options.clone() };
    let mut notes = Vec::new();
    let opened = trace::open(model, &options, &mut notes)?;
    let b = Builder::of(opened.parametric());
    let traced = trace::trace(&b, &opened, &options, ways, &mut notes)?;
    let learning_rate = b.input("learning_rate", Fact::new(DType::F32, Vec::<Dim>::new()), None);
    let names = name_outputs(&b, &traced, &options, learning_rate);
    drop(traced);
    let whole = simplify::emitted(b.finish()?);
    Cutter { model, whole: &whole, known: &whole.by_name(), opened: &opened }.evaluate(&names)
}

/// The names that inputs and outputs got in the traced graph.
struct Names {
    learning_rate: String,
    predictions: Vec<String>,
    loss: String,
    objective: String,
    /// One a layer.
    kappa: Vec<String>,
    /// The same where κ is trained; empty where every λ is 0.
    trained_kappa: Vec<String>,
    /// Trained parameter → gradient of the objective.
    gradients: BTreeMap<String, String>,
    /// Their joint norm.
    gradient_norm: Option<String>,
    /// Gradients of the loss alone, and what a step by them gives.
    plain: Vec<String>,
    plain_steps: Vec<String>,
    /// Trained parameter or optimiser state → new value.
    steps: BTreeMap<String, String>,
    /// Running statistic → new value.
    statistics: BTreeMap<String, String>,
    /// Optimiser state, then running statistics.
    state: Vec<(String, Fact)>,
}

fn name_outputs<'g>(b: &'g Builder, traced: &Traced<'g>, options: &Options, rate: Val<'g>) -> Names {
    let several = traced.layers.len() > 1;
    let predictions = traced.predictions.iter().map(|(name, v)| b.output(*v, name)).collect();
    let loss = b.output(traced.loss, "loss");
    let kappa: Vec<String> = traced
        .layers
        .iter()
        .map(|(layer, k)| {
            b.output(k.value, &if several { format!("kappa.{}", layer.name) } else { "kappa".to_string() })
        })
        .collect();
    let objective = b.output(traced.objective, "objective");
    let mut names = Names {
        learning_rate: rate.name(),
        predictions,
        loss,
        objective,
        trained_kappa: if traced.lambdas.iter().any(Option::is_some) { kappa.clone() } else { Vec::new() },
        kappa,
        gradients: BTreeMap::new(),
        gradient_norm: None,
        plain: Vec::new(),
        plain_steps: Vec::new(),
        steps: BTreeMap::new(),
        statistics: BTreeMap::new(),
        state: Vec::new(),
    };
    for (parameter, gradient) in &traced.gradients {
        let name = parameter.name();
        names.gradients.insert(name.clone(), b.output(*gradient, &format!("{name}.grad")));
    }
    let gradients: Vec<Val> = traced.gradients.iter().map(|(_, gradient)| *gradient).collect();
    names.gradient_norm = optim::gradient_norm(b, &gradients).map(|norm| b.output(norm, "gradient_norm"));
    for (name, next, state) in steps(b, &traced.gradients, options, rate) {
        names.steps.insert(name.clone(), b.output(next, &format!("{name}.next")));
        names.state.extend(state.map(|fact| (name, fact)));
    }
    names.plain = traced.plain.iter().map(|v| b.output(*v, "plain.grad")).collect();
    names.plain_steps = match traced.lambdas.iter().any(Option::is_some) {
        true => {
            let pairs: Vec<(Val, Val)> =
                traced.gradients.iter().map(|g| g.0).zip(traced.plain.iter().copied()).collect();
            steps(b, &pairs, options, rate).iter().map(|(_, next, _)| b.output(*next, "plain.next")).collect()
        }
        false => names.steps.values().cloned().collect(),
    };
    for (old, new) in &traced.statistics {
        let name = old.name();
        names.statistics.insert(name.clone(), b.output(*new, &format!("{name}.next")));
        names.state.push((name, old.fact()));
    }
    names
}

/// The optimiser's step by the gradients: every parameter and state tensor by name, with its new value and, if it is state,
/// its type.
pub(super) fn steps<'g>(
    b: &'g Builder,
    pairs: &[(Val<'g>, Val<'g>)],
    options: &Options,
    rate: Val<'g>,
) -> Vec<(String, Val<'g>, Option<Fact>)> {
    let (parameters, gradients): (Vec<Val>, Vec<Val>) = pairs.iter().copied().unzip();
    let gradients = match options.clip_norm {
        Some(limit) => optim::clip_by_norm(b, &gradients, limit),
        None => gradients,
    };
    let pairs: Vec<(Val, Val)> = parameters.into_iter().zip(gradients).collect();
    let Step { parameters, state } = options.optimizer.step(b, &pairs, rate);
    let parameters = parameters.into_iter().map(|(parameter, next)| (parameter.name(), next, None));
    parameters.chain(state.into_iter().map(|s| (s.name, s.next, Some(s.fact)))).collect()
}

fn layer_reports(b: &Builder, traced: &Traced<'_>, options: &Options) -> Vec<LayerReport> {
    let report =
        |((layer, kappa), (_, lambda)): (&(crate::flatness::Layer, crate::flatness::Kappa<'_>), &(String, f64))| {
            LayerReport {
                name: layer.name.clone(),
                weight: b.val(layer.stored).name(),
                d: layer.d,
                m: layer.m,
                lambda: *lambda,
                class: kappa.class.name(),
                decided_by: kappa.class.decided_by().map(str::to_string),
                estimator: kappa.estimator,
                why: kappa.why.clone(),
            }
        };
    traced.layers.iter().zip(&options.layers).map(report).collect()
}

/// Values by their names.
type Known<'a> = HashMap<&'a str, ValueId>;

/// Cuts graphs out of the traced one.
struct Cutter<'a> {
    model: &'a Model,
    whole: &'a Graph,
    known: &'a Known<'a>,
    opened: &'a Opened,
}

impl Cutter<'_> {
    fn evaluate(&self, names: &Names) -> Result<Model> {
        let (loss, objective) = (std::slice::from_ref(&names.loss), std::slice::from_ref(&names.objective));
        self.cut("evaluate", &[&names.predictions, loss, &names.kappa, objective])
    }

    /// The graph of these outputs, with the model's inputs, every parameter, and whatever else it reads.
    fn cut(&self, name: &str, outputs: &[&[String]]) -> Result<Model> {
        let keep = self.keep();
        let outline = Outline::of(self.whole, self.known, &outputs.concat(), &|id| keep.contains(&id));
        Ok(outline.cut(self.model, self.whole, name))
    }

    /// The model's inputs and parameters.
    fn keep(&self) -> ValueSet {
        let own = self.opened.inputs.iter().filter_map(|n| self.known.get(n.as_str()).copied());
        own.chain(self.opened.parameters.iter().map(|p| p.value)).collect()
    }
}

/// What is cut out of a graph.
struct Outline {
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    live: ValueSet,
}

impl Outline {
    fn of(whole: &Graph, known: &Known<'_>, outputs: &[String], keep: &dyn Fn(ValueId) -> bool) -> Outline {
        let outputs: Vec<ValueId> = outputs.iter().filter_map(|n| known.get(n.as_str()).copied()).collect();
        let live = whole.ancestors(&outputs);
        let inputs = whole.inputs.iter().copied().filter(|id| live.contains(id) || keep(*id)).collect();
        Outline { inputs, outputs, live }
    }

    fn cut(&self, model: &Model, whole: &Graph, name: &str) -> Model {
        named(model, name, simplify::part(whole, &self.inputs, &self.outputs, &self.live))
    }
}

pub(super) fn cut(
    model: &Model,
    whole: &Graph,
    name: &str,
    outputs: &[String],
    keep: &dyn Fn(ValueId) -> bool,
) -> Result<Model> {
    Ok(Outline::of(whole, &whole.by_name(), outputs, keep).cut(model, whole, name))
}

fn named(model: &Model, name: &str, part: Graph) -> Model {
    let graph = Graph { name: name.to_string(), ..simplify::direct_outputs(part) };
    Model { graph, metadata: Vec::new(), doc: String::new(), ..model.around() }
}

/// Parameters, gradients, state and the learning rate → new parameters and state, and the gradients' norm.
fn optimizer(model: &Model, whole: &Graph, known: &Known<'_>, names: &Names, options: &Options) -> Result<Model> {
    let b = Builder::new();
    let mut inputs: Vec<(Val, Val)> = Vec::new();
    for (parameter, gradient) in &names.gradients {
        let fact =
            known.get(parameter.as_str()).map(|&id| whole.value(id).fact.clone()).unwrap_or(Fact::unknown(DType::F32));
        inputs.push((b.input(parameter, fact.clone(), None), b.input(gradient, fact, None)));
    }
    let rate = b.input(&names.learning_rate, Fact::new(DType::F32, Vec::<Dim>::new()), None);
    for (name, next, _) in steps(&b, &inputs, options, rate) {
        b.output(next, &format!("{name}.next"));
    }
    let gradients: Vec<Val> = inputs.iter().map(|(_, gradient)| *gradient).collect();
    if let (Some(name), Some(norm)) = (&names.gradient_norm, optim::gradient_norm(&b, &gradients)) {
        b.output(norm, name);
    }
    let graph = Graph { name: "optimizer".to_string(), ..b.finish()? };
    let graph = simplify::emitted(simplify::without_dead_code(graph));
    Ok(Model { graph, metadata: Vec::new(), doc: String::new(), ..model.around() })
}

/// The manifest, but for the source, the options and the digests.
fn describe(
    b: &Builder,
    opened: &Opened,
    traced: &Traced<'_>,
    names: &Names,
    layers: &[LayerReport],
    options: &Options,
) -> Result<Manifest> {
    let parameters = opened.parameters.iter().map(|p| {
        let value = b.val(p.value);
        let (dtype, shape) = tensor_type(&value.name(), &value.fact())?;
        Ok(manifest::Parameter { name: value.name(), dtype, shape, trainable: p.trainable })
    });
    let state = names.state.iter().map(|(name, fact)| {
        let (dtype, shape) = tensor_type(name, fact)?;
        Ok(manifest::State { name: name.clone(), dtype, shape })
    });
    let layers =
        layers.iter().zip(&traced.layers).zip(&traced.lambdas).map(|((report, (_, kappa)), lambda)| manifest::Layer {
            name: report.name.clone(),
            weight: report.weight.clone(),
            constant: !opened.parameters.iter().any(|p| b.val(p.value).name() == report.weight),
            d: report.d.max(0) as usize,
            m: report.m.max(0) as usize,
            lambda: report.lambda,
            lambda_input: lambda.clone(),
            measure: match options.measure {
                Measure::Neuronwise => "neuronwise".to_string(),
                Measure::Layerwise => "layerwise".to_string(),
            },
            estimator: report.estimator.name().to_string(),
            probes: kappa.probes.iter().map(probe).collect(),
        });
    let updates: BTreeMap<String, String> = names.steps.clone().into_iter().chain(names.statistics.clone()).collect();
    Ok(Manifest {
        layers: layers.collect(),
        masks: opened.masks.iter().map(mask).collect(),
        inputs: opened.inputs.clone(),
        labels: traced.labels.map(|v| v.name()),
        label_spec: traced.label_spec.clone(),
        loss: options.target.name().to_string(),
        parameters: parameters.collect::<Result<_>>()?,
        state: state.collect::<Result<_>>()?,
        graphs: manifest::Graphs {
            gradient: manifest::GradientGraph {
                path: "gradient.onnx".to_string(),
                loss: names.loss.clone(),
                kappa: names.trained_kappa.clone(),
                objective: names.objective.clone(),
                gradients: names.gradients.clone(),
                updates: names.statistics.clone(),
            },
            optimizer: manifest::OptimizerGraph {
                path: "optimizer.onnx".to_string(),
                learning_rate: names.learning_rate.clone(),
                gradients: names.gradients.clone(),
                gradient_norm: names.gradient_norm.clone(),
                updates: names.steps.clone(),
            },
            train: manifest::TrainGraph {
                path: "train.onnx".to_string(),
                learning_rate: names.learning_rate.clone(),
                loss: names.loss.clone(),
                kappa: names.trained_kappa.clone(),
                objective: names.objective.clone(),
                gradient_norm: names.gradient_norm.clone(),
                updates,
            },
            evaluate: manifest::EvaluateGraph {
                path: "evaluate.onnx".to_string(),
                predictions: names.predictions.clone(),
                loss: names.loss.clone(),
                kappa: names.kappa.clone(),
                objective: names.objective.clone(),
            },
        },
        ..Manifest::empty()
    })
}

pub(super) fn probe(probe: &crate::flatness::Probe) -> manifest::Probe {
    let dim = |d: &Dim| match d.fixed() {
        Some(n) => manifest::Dim::Fixed(n.max(0) as usize),
        None => manifest::Dim::Symbol(manifest::BATCH.to_string()),
    };
    manifest::Probe {
        name: probe.name.clone(),
        shape: probe.shape.iter().map(dim).collect(),
        distribution: manifest::Distribution::Rademacher,
        probability: None,
    }
}

fn mask(mask: &Mask) -> manifest::Probe {
    let drawn = probe(&crate::flatness::Probe { name: mask.name.clone(), shape: mask.shape.clone() });
    manifest::Probe { distribution: manifest::Distribution::Bernoulli, probability: Some(mask.keep), ..drawn }
}

/// Type and shape of something whose data is stored.
fn tensor_type(name: &str, fact: &Fact) -> Result<(DType, Vec<usize>)> {
    let shape = fact.shape.as_deref().and_then(fixed);
    match shape {
        Some(shape) if fact.dtype != DType::Str => Ok((fact.dtype, shape.iter().map(|&n| n.max(0) as usize).collect())),
        _ => Err(Error::NotStored { tensor: name.to_string(), fact: fact.to_string() }),
    }
}

/// Parameters as the model has them, optimiser state at zero.
fn initial_tensors(model: &Model, manifest: &Manifest) -> BTreeMap<String, Tensor> {
    let known = model.graph.by_name();
    let data = |name: &str| known.get(name).and_then(|&id| model.graph.value(id).data.clone());
    let parameters = manifest.parameters.iter().filter_map(|p| Some((p.name.clone(), data(&p.name)?)));
    let state = manifest.state.iter().filter(|s| data(&s.name).is_none()).map(|s| {
        let count: usize = s.shape.iter().product();
        let bytes = Bytes::zeros(count * s.dtype.size());
        (s.name.clone(), Tensor { dtype: s.dtype, shape: s.shape.clone(), bytes, strings: Vec::new() })
    });
    parameters.chain(state).collect()
}

/// Of the nodes that these outputs need.
fn size(whole: &Graph, known: &Known<'_>, outputs: &[&[String]]) -> Size {
    let of: Vec<ValueId> = outputs.concat().iter().filter_map(|name| known.get(name.as_str()).copied()).collect();
    let live = whole.ancestors(&of);
    let needed = |node: &&Node| node.outputs.iter().flatten().any(|id| live.contains(id));
    let nodes = whole.nodes.iter().filter(needed);
    Size { nodes: nodes.clone().count(), flops: cost::of_nodes(whole, nodes).flops }
}
