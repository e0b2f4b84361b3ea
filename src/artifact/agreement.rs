//! Whether an artifact's graphs are those that its manifest speaks of: every name, type and size.

use super::manifest::{self, Fault, Manifest, Probe};
use crate::ir::{Dim, Fact};
use crate::onnx::{self, Signature};
use crate::tensor::{DType, Tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every disagreement between the manifest and the graphs called `files` in `directory`; other files are not looked at.
pub(super) fn faults(manifest: &Manifest, directory: &Path, files: &[&str]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (graph, path) in manifest.graph_paths().into_iter().filter(|(_, path)| files.contains(path)) {
        match onnx::signature(&directory.join(path)) {
            Ok(signature) => Roles::of(manifest, graph).check(&signature, path, &mut faults),
            Err(error) => faults.push(Fault::Unreadable { graph: path.to_owned(), why: error.to_string() }),
        }
    }
    faults
}

/// Every parameter, and every state tensor where asked for, that is not among `tensors` as the manifest has it.
pub(super) fn tensor_faults(manifest: &Manifest, tensors: &Tensors, with_state: bool) -> Vec<Fault> {
    let parameters = manifest.parameters.iter().map(|p| ("parameter", &p.name, p.dtype, &p.shape));
    let state = manifest.state.iter().filter(|_| with_state).map(|s| ("state", &s.name, s.dtype, &s.shape));
    let statistics = |role: &str, name: &String| role == "state" && manifest.parameters.iter().any(|p| p.name == *name);
    let fact = |dtype, shape: &[usize]| Fact::new(dtype, shape.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>());
    let check = |(role, name, dtype, shape): (&'static str, &String, DType, &Vec<usize>)| match tensors.get(name) {
        None => Some(Fault::NoTensor { role, name: name.clone() }),
        Some(tensor) if tensor.dtype() == dtype && tensor.shape() == *shape => None,
        Some(tensor) => Some(Fault::TensorType {
            role,
            name: name.clone(),
            found: fact(tensor.dtype(), tensor.shape()).to_string(),
            expected: fact(dtype, shape).to_string(),
        }),
    };
    parameters.chain(state).filter(|(role, name, ..)| !statistics(role, name)).filter_map(check).collect()
}

/// What a tensor is; the shape where the manifest says it.
type Kind = (DType, Option<Vec<usize>>);

/// What the manifest says of one graph.
#[derive(Default)]
struct Roles {
    /// Inputs that may be there.
    fed: BTreeMap<String, Option<Kind>>,
    /// Inputs that must be there.
    needed: BTreeSet<String>,
    outputs: BTreeMap<String, Option<Kind>>,
    /// Shapes of probes, which may have the batch in them.
    probes: BTreeMap<String, Vec<Dim>>,
}

impl Roles {
    fn of(manifest: &Manifest, graph: &str) -> Roles {
        let mut roles = Roles::default();
        let (g, scalar) = (&manifest.graphs, Some((DType::F32, Some(Vec::new()))));
        let carried = carried(manifest);
        let kind = |name: &str| carried.get(name).cloned();
        roles.fed.extend(carried.iter().map(|(name, kind)| (name.clone(), Some(kind.clone()))));
        let updates = |roles: &mut Roles, map: &BTreeMap<String, String>| {
            roles.outputs.extend(map.iter().map(|(name, output)| (output.clone(), kind(name))));
        };
        match graph {
            "optimizer" => {
                roles.need(&g.optimizer.learning_rate, scalar.clone());
                g.optimizer.gradients.iter().for_each(|(name, input)| roles.need(input, kind(name)));
                updates(&mut roles, &g.optimizer.updates);
                roles.outputs.extend(g.optimizer.gradient_norm.iter().map(|name| (name.clone(), scalar.clone())));
                return roles;
            }
            "gradient" => {
                updates(&mut roles, &g.gradient.gradients);
                updates(&mut roles, &g.gradient.updates);
                roles.figures(&g.gradient.loss, &g.gradient.kappa, &g.gradient.objective);
            }
            "train" => {
                roles.need(&g.train.learning_rate, scalar.clone());
                updates(&mut roles, &g.train.updates);
                roles.outputs.extend(g.train.gradient_norm.iter().map(|name| (name.clone(), scalar.clone())));
                roles.figures(&g.train.loss, &g.train.kappa, &g.train.objective);
            }
            _ => {
                roles.outputs.extend(g.evaluate.predictions.iter().map(|name| (name.clone(), None)));
                roles.figures(&g.evaluate.loss, &g.evaluate.kappa, &g.evaluate.objective);
            }
        }
        let lambdas = manifest.layers.iter().filter_map(|layer| layer.lambda_input.as_ref());
        roles.fed.extend(lambdas.map(|name| (name.clone(), scalar.clone())));
        for Probe { name, shape, .. } in manifest.probes() {
            let dim = |dim: &manifest::Dim| match dim {
                manifest::Dim::Fixed(n) => Dim::from(*n),
                manifest::Dim::Symbol(symbol) => Dim::symbol(symbol),
            };
            roles.fed.insert(name.clone(), None);
            roles.probes.insert(name.clone(), shape.iter().map(dim).collect());
        }
        let samples = manifest.inputs.iter().chain(&manifest.labels);
        roles.fed.extend(samples.map(|name| (name.clone(), None)));
        roles
    }

    fn need(&mut self, name: &str, kind: Option<Kind>) {
        self.needed.insert(name.to_owned());
        self.fed.insert(name.to_owned(), kind);
    }

    /// Loss, κ and objective: their sizes are the model's.
    fn figures(&mut self, loss: &str, kappa: &[String], objective: &str) {
        let names = [loss, objective].into_iter().chain(kappa.iter().map(String::as_str));
        self.outputs.extend(names.map(|name| (name.to_owned(), None)));
    }

    fn check(&self, signature: &Signature, graph: &str, faults: &mut Vec<Fault>) {
        let owned = || graph.to_owned();
        for (name, fact, has_default) in &signature.inputs {
            match self.fed.get(name) {
                None if !has_default => faults.push(Fault::NoRole { graph: owned(), name: name.clone() }),
                None => {}
                Some(kind) => faults.extend(misfit(graph, name, fact, kind.as_ref())),
            }
            let probe = self.probes.get(name).zip(fact.as_ref());
            faults.extend(probe.and_then(|(shape, fact)| other_shape(graph, name, fact, shape)));
        }
        let listed = |name: &String| signature.inputs.iter().any(|(input, ..)| input == name);
        let missing = self.needed.iter().filter(|name| !listed(name));
        faults.extend(missing.map(|name| Fault::NoPort { graph: owned(), what: "input", name: name.clone() }));
        for (name, kind) in &self.outputs {
            match signature.outputs.iter().find(|(output, _)| output == name) {
                None => faults.push(Fault::NoPort { graph: owned(), what: "output", name: name.clone() }),
                Some((_, fact)) => faults.extend(misfit(graph, name, fact, kind.as_ref())),
            }
        }
    }
}

/// Parameters and state, and what they are.
fn carried(manifest: &Manifest) -> BTreeMap<String, Kind> {
    let state = manifest.state.iter().map(|s| (s.name.clone(), (s.dtype, Some(s.shape.clone()))));
    state.chain(manifest.parameters.iter().map(|p| (p.name.clone(), (p.dtype, Some(p.shape.clone()))))).collect()
}

fn other_shape(graph: &str, name: &str, fact: &Fact, shape: &[Dim]) -> Option<Fault> {
    let fits = |(a, b): (&Dim, &Dim)| a.fixed().zip(b.fixed()).is_none_or(|(a, b)| a == b);
    let dims = fact.shape.as_ref()?;
    if dims.len() == shape.len() && dims.iter().zip(shape).all(fits) {
        return None;
    }
    let expected = Fact::new(fact.dtype, shape).to_string();
    Some(Fault::PortType { graph: graph.to_owned(), name: name.to_owned(), found: fact.to_string(), expected })
}

fn misfit(graph: &str, name: &str, fact: &Option<Fact>, kind: Option<&Kind>) -> Option<Fault> {
    let (fact, (dtype, shape)) = (fact.as_ref()?, kind?);
    let fits = |dims: &Vec<Dim>, shape: &Vec<usize>| {
        let one = |(dim, size): (&Dim, &usize)| dim.fixed().is_none_or(|n| n == *size as i64);
        dims.len() == shape.len() && dims.iter().zip(shape).all(one)
    };
    let shapes = fact.shape.as_ref().zip(shape.as_ref());
    if fact.dtype == *dtype && shapes.is_none_or(|(dims, shape)| fits(dims, shape)) {
        return None;
    }
    let dims: Vec<Dim> = shape.iter().flatten().map(|&n| Dim::from(n)).collect();
    let (found, expected) = (fact.to_string(), Fact::new(*dtype, dims).to_string());
    Some(Fault::PortType { graph: graph.to_owned(), name: name.to_owned(), found, expected })
}
