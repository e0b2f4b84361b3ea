//! The scalar that is trained: a loss of a prediction and labels, a loss model, or an output of the model itself.

use super::manifest::{self, LabelSpec};
use super::standard::{Options, Target};
use super::trace::Opened;
use crate::error::{Error, Result, nearest_names};
use crate::flatness::Objective;
use crate::ir::{Attrs, Builder, Dim, Graph, Node, Val, ValueId};
use crate::loss::{Inlined, Loss, Settings};

/// The scalar in the graph, and the labels that it is a function of.
pub(super) struct Judged<'g> {
    pub on: Objective<'g>,
    pub labels: Option<Val<'g>>,
    pub label_spec: Option<LabelSpec>,
}

/// The output that the loss reads, or that is the loss.
pub(super) fn prediction(graph: &Graph, outputs: &[String], options: &Options) -> Result<ValueId> {
    let wanted = match (&options.target, &options.output_name) {
        (Target::Output(name), _) | (_, Some(name)) => Some(name),
        _ => None,
    };
    let name = match (wanted, outputs) {
        (Some(name), _) => name,
        (None, [one]) => one,
        (None, several) => return Err(Error::SeveralOutputs { outputs: several.to_vec() }),
    };
    let unknown = || {
        let near = nearest_names(name, outputs.iter().map(String::as_str));
        Error::UnknownName { what: "output", name: name.clone(), near }
    };
    graph.find(name).ok_or_else(unknown)
}

/// The graph with the loss model in it, where the target is one.
pub(super) fn inline(graph: Graph, outputs: &[String], options: &Options) -> Result<(Graph, Option<Inlined>)> {
    let Target::Model(loss) = &options.target else { return Ok((graph, None)) };
    let predicted = prediction(&graph, outputs, options)?;
    let name = graph.name_of(predicted).to_string();
    let (graph, inlined) = loss.inline(graph, &name)?;
    Ok((graph, Some(inlined)))
}

/// The scalar, as values of `b`, which holds the opened graph.
pub(super) fn objective<'g>(
    b: &'g Builder,
    predicted: ValueId,
    opened: &Opened,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Judged<'g>> {
    let output = b.val(predicted);
    let judged = match (&options.target, &opened.inlined) {
        (Target::Loss(settings), _) => labelled(b, output, settings, notes)?,
        (_, Some(inlined)) => {
            let missing = |name: &str| Error::MissingInput { tensor: name.to_string() };
            let labels = b.find(&inlined.labels).ok_or_else(|| missing(&inlined.labels))?;
            let scalar = b.find(&inlined.loss).ok_or_else(|| missing(&inlined.loss))?;
            Judged { on: whole(scalar), labels: Some(labels), label_spec: label_spec(labels) }
        }
        (Target::Output(_) | Target::Model(_), None) => {
            if !output.shape().iter().all(Dim::is_one) {
                return Err(Error::LossNotScalar { output: output.name(), fact: output.fact().to_string() });
            }
            Judged { on: whole(output), labels: None, label_spec: None }
        }
    };
    b.check()?;
    Ok(judged)
}

/// A scalar of which nothing is known: the head reaches down to it, so that nothing is assumed of how samples meet there.
fn whole(scalar: Val<'_>) -> Objective<'_> {
    Objective { loss: scalar.reshape(&[]), prediction: scalar, curvature: None }
}

/// A loss of `output`, or of the input of the activation that computes it.
fn labelled<'g>(b: &'g Builder, output: Val<'g>, settings: &Settings, notes: &mut Vec<String>) -> Result<Judged<'g>> {
    let mut settings = settings.clone();
    let mut read = output;
    if let Some((node, loss)) = b.read(|g| ending(g, output.id(), settings.kind))
        && let Some(input) = node.input(0)
    {
        read = b.val(input);
        let (op, before, after) = (&node.op, settings.kind.name(), loss.name());
        let (from, to) = (output.name(), read.name());
        notes.push(match loss == settings.kind {
            true => format!("the model ends in {op}: {before} reads its input {to:?} instead of {from:?}"),
            false => format!("the model ends in {op}: {before} of {from:?} is taken as {after} of its input {to:?}"),
        });
        settings.kind = loss;
    } else if settings.kind == Loss::SoftmaxCrossEntropy
        && let Some(z) = b.read(|g| complement(g, output.id()))
    {
        let z = b.val(z);
        b.scope("loss/logits/");
        read = b.op("Concat", &[z.like(0.0).expand(&z.shape()), z], Attrs::new().with("axis", 1));
        notes.push(format!(
            "the model ends in 1 − p and p of a Sigmoid: softmax-cross-entropy reads 0 and its input {:?} instead of {:?}",
            z.name(),
            output.name()
        ));
    } else if settings.kind == Loss::Nll
        && b.read(|g| last_computation(g, output.id()).is_some_and(|n| n.op == "Softmax"))
    {
        return Err(Error::NotLogProbabilities { tensor: output.name() });
    }
    settings.check(&read.fact(), &read.name())?;
    let built = settings.build(b, read);
    b.check()?;
    let classes = read.dim(1).fixed().and_then(|n| usize::try_from(n).ok());
    let label_spec = label_spec(built.labels).map(|spec| LabelSpec {
        classes: classes.filter(|_| settings.class_indices()),
        ignore_index: settings.ignore_index,
        range: settings.label_range(),
        ..spec
    });
    let on = Objective { loss: built.loss, prediction: read, curvature: built.curvature };
    Ok(Judged { on, labels: Some(built.labels), label_spec })
}

/// Type and shape of the labels; `None` where they are not known.
fn label_spec(labels: Val<'_>) -> Option<LabelSpec> {
    let fact = labels.fact();
    let dim = |d: &Dim| match d.fixed() {
        Some(n) => manifest::Dim::Fixed(n.max(0) as usize),
        None => manifest::Dim::Symbol(d.to_string()),
    };
    let shape = fact.shape?.iter().map(dim).collect();
    Some(LabelSpec { dtype: fact.dtype, shape, classes: None, ignore_index: None, range: None })
}

/// The activation that computes `id`, if the loss has another form that reads its input, and that form.
fn ending(graph: &Graph, id: ValueId, loss: Loss) -> Option<(Node, Loss)> {
    let node = last_computation(graph, id)?;
    let rank = node.input(0).and_then(|id| graph.value(id).fact.rank()).unwrap_or(0) as i64;
    // Sigmoid has no axis; the others must normalise over the classes.
    let over_classes = node.attrs.int("axis").unwrap_or(-1).rem_euclid(rank.max(1)) == 1;
    let absorbed = loss.absorbing(&node.op).filter(|_| over_classes || node.op == "Sigmoid")?;
    Some((node.clone(), absorbed))
}

/// `z` where `id` is `[1 − σ(z), σ(z)]` along the classes, as scikit-learn's binary classifiers end: the softmax of `[0, z]`.
fn complement(graph: &Graph, id: ValueId) -> Option<ValueId> {
    let made_by = |id: ValueId, op: &str| graph.value(id).producer.map(|n| graph.node(n)).filter(|n| n.op == op);
    let concat = last_computation(graph, id).filter(|node| node.op == "Concat")?;
    let (&[Some(first), Some(second)], Some(1 | -1)) = (concat.inputs.as_slice(), concat.attrs.int("axis")) else {
        return None;
    };
    let (sub, sigmoid) = (made_by(first, "Sub")?, made_by(second, "Sigmoid")?);
    let one = graph.value(sub.input(0)?).data.as_ref()?.to_f64().iter().all(|&v| v == 1.0);
    let single = graph.value(second).fact.shape.as_ref().is_some_and(|s| s.len() == 2 && s[1].is_one());
    (one && single && sub.input(1) == Some(second)).then(|| sigmoid.input(0)).flatten()
}

/// The node that computes `id`, behind what only passes it on.
fn last_computation(graph: &Graph, id: ValueId) -> Option<&Node> {
    let mut node = graph.node(graph.value(id).producer?);
    while matches!(node.op.as_str(), "Identity" | "Dropout") {
        node = graph.node(graph.value(node.input(0)?).producer?);
    }
    Some(node)
}
