//! `grad` and `jvp` of models: whole models in, whole models out.

use super::{Tape, linearise};
use crate::error::{Error, Result, nearest_names};
use crate::ir::{Builder, Fact, Graph, Model, Val, ValueId};
use crate::linear::Cotangent;
use crate::{lower, simplify};

/// A differentiated model, and the names of what it gained.
#[derive(Clone, Debug)]
pub struct Differentiated {
    pub model: Model,
    /// Names of the inputs added: the cotangent, or one tangent for each NAME.
    pub inputs: Vec<String>,
    /// Names of the outputs added.
    pub outputs: Vec<String>,
}

/// Reverse mode: gains `OF.cotangent` (unless OF has one element) and one output `NAME.grad` for each of `wrt`.
///
/// `wrt` holds names of inputs, initialisers or intermediate tensors, or `parameters`, or `inputs` for all of them.
pub fn grad_model(model: &Model, of: &str, wrt: &[String]) -> Result<Differentiated> {
    let (graph, of_id, wrt_ids) = prepare(model, of, wrt)?;
    let b = Builder::of(graph);
    let (output, wrt): (Val, Vec<Val>) = (b.val(of_id), wrt_ids.iter().map(|&id| b.val(id)).collect());
    check_path(output, &wrt)?;
    let mut inputs = Vec::new();
    let one_element = output.shape().iter().all(|d| d.is_one());
    let seed = if one_element {
        output.like(1.0).reshape(&output.shape())
    } else {
        let seed = b.input(&format!("{of}.cotangent"), Fact::new(output.dtype(), output.shape()), None);
        inputs.push(seed.name());
        seed
    };
    let tape = Tape::new(&b);
    let pulled = linearise(&tape, &[output], &wrt)?.vjp(&[Some(Cotangent::new(seed))], None);
    let mut outputs = Vec::new();
    for (value, ct) in wrt.iter().zip(pulled) {
        b.scope(&format!("{}.grad/", value.name()));
        let shape = value.shape();
        let grad = match ct {
            Some(ct) => Cotangent { shape, ..ct }.materialise(),
            None => b.zeros(value.dtype(), &shape),
        };
        outputs.push(b.output(grad, &format!("{}.grad", value.name())));
    }
    finish(model, b.finish()?, inputs, outputs)
}

/// Forward mode: gains `NAME.tangent` for each of `wrt` and the output `OF.tangent`.
pub fn jvp_model(model: &Model, of: &str, wrt: &[String]) -> Result<Differentiated> {
    let (graph, of_id, wrt_ids) = prepare(model, of, wrt)?;
    let b = Builder::of(graph);
    let (output, wrt): (Val, Vec<Val>) = (b.val(of_id), wrt_ids.iter().map(|&id| b.val(id)).collect());
    check_path(output, &wrt)?;
    let tangents: Vec<Option<Val>> = wrt
        .iter()
        .map(|v| Some(b.input(&format!("{}.tangent", v.name()), Fact::new(v.dtype(), v.shape()), None)))
        .collect();
    let inputs = tangents.iter().flatten().map(|v| v.name()).collect();
    let tape = Tape::new(&b);
    let pushed = linearise(&tape, &[output], &wrt)?.jvp(&tangents, None);
    b.scope(&format!("{of}.tangent/"));
    let tangent = match pushed.into_iter().next().flatten() {
        Some(t) => t.expand(&output.shape()),
        None => b.zeros(output.dtype(), &output.shape()),
    };
    let name = b.output(tangent, &format!("{of}.tangent"));
    finish(model, b.finish()?, inputs, vec![name])
}

/// Nodes without derivative say more than the rank that they leave unknown.
fn check_path<'g>(output: Val<'g>, wrt: &[Val<'g>]) -> Result<()> {
    match output.fact().shape {
        Some(_) => Ok(()),
        None => linearise(&Tape::new(output.builder()), &[output], wrt).map(|_| ()),
    }
}

fn finish(model: &Model, graph: Graph, inputs: Vec<String>, outputs: Vec<String>) -> Result<Differentiated> {
    let graph = simplify::dead_code(&simplify::emitted(graph));
    Ok(Differentiated { model: Model { graph, ..model.around() }, inputs, outputs })
}

/// The graph with composites on the path lowered, and what the names mean in it.
fn prepare(model: &Model, of: &str, wrt: &[String]) -> Result<(Graph, ValueId, Vec<ValueId>)> {
    let names: Vec<String> = wrt.iter().flat_map(|name| expand_name(&model.graph, name)).collect();
    let of_id = find(&model.graph, "output", of)?;
    let wrt_ids = find_all(&model.graph, &names)?;
    let dtype = model.graph.value(of_id).fact.dtype;
    if !dtype.is_float() {
        return Err(Error::NotFloat { tensor: of.to_string(), dtype });
    }
    let graph = lower::on_path(&model.graph, &[of_id], &wrt_ids)?;
    let (of_id, wrt_ids) = (find(&graph, "output", of)?, find_all(&graph, &names)?);
    Ok((graph, of_id, wrt_ids))
}

/// `parameters` and `inputs` stand for all of them, unless a tensor has that name.
fn expand_name(graph: &Graph, name: &str) -> Vec<String> {
    if graph.find(name).is_some() {
        return vec![name.to_string()];
    }
    let float = |id: &ValueId| graph.value(*id).fact.dtype.is_float();
    match name {
        "inputs" => graph.inputs.iter().filter(|id| float(id)).map(|&id| graph.name_of(id).to_string()).collect(),
        "parameters" => crate::flatness::parameters(graph)
            .into_iter()
            .filter(|p| p.trainable)
            .map(|p| graph.name_of(p.value).to_string())
            .collect(),
        _ => vec![name.to_string()],
    }
}

fn find_all(graph: &Graph, names: &[String]) -> Result<Vec<ValueId>> {
    let known = graph.by_name();
    names
        .iter()
        .map(|name| known.get(name.as_str()).map_or_else(|| find(graph, "tensor", name), |&id| Ok(id)))
        .collect()
}

fn find(graph: &Graph, what: &'static str, name: &str) -> Result<ValueId> {
    graph.find(name).ok_or_else(|| Error::UnknownName {
        what,
        name: name.to_string(),
        near: nearest_names(name, graph.values.iter().map(|v| v.name.as_str())),
    })
}
