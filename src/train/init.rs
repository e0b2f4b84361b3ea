//! Initial weights.

use std::{collections::BTreeMap, path::Path};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    artifact::manifest::{MODEL, Manifest},
    flatness,
    ir::{Graph, Tensor},
    onnx, tensor,
    tensor::Tensors,
};

/// What a run begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// The artifact's parameters
    #[default]
    Artifact,
    /// Weights and biases of linear layers drawn by the seed from U(−1/√m, 1/√m), m the fan-in, as PyTorch does; all else as
    /// the artifact has it
    Random,
}

/// Weight and bias of every layer from U(−1/√m, 1/√m), `m` its fan-in: what PyTorch does by default.
pub fn random_weights(graph: &Graph, seed: u64) -> BTreeMap<String, Tensor> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = |bound: f64| {
        let unit = f64::from(generator.next_u32()) / f64::from(u32::MAX);
        bound * (2.0 * unit - 1.0)
    };
    let mut weights = BTreeMap::new();
    for layer in flatness::layers(graph) {
        let bound = 1.0 / (layer.m.max(1) as f64).sqrt();
        let bias = graph.node(layer.node).input(2);
        for id in std::iter::once(layer.stored).chain(bias) {
            if let Some(stored) = &graph.value(id).data {
                let values: Vec<f64> = (0..stored.len()).map(|_| uniform(bound)).collect();
                // What is stored as integers trains as the floats that they stand for.
                let dtype = graph.value(if id == layer.stored { layer.weight } else { id }).fact.dtype;
                let tensor = Tensor::from_f64(dtype, &stored.shape, values);
                weights.insert(graph.name_of(id).to_owned(), tensor);
            }
        }
    }
    weights
}

/// What a run of the artifact in `directory` begins with.
pub(super) fn initial(
    init: Init,
    seed: u64,
    manifest: &Manifest,
    directory: &Path,
    tensors: Tensors,
) -> Result<Tensors, Error> {
    if init == Init::Artifact {
        return Ok(tensors);
    }
    let path = directory.join(MODEL);
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let broken = |error: crate::Error| Error::Graph { why: error.to_string() };
    let stored = |t: &tensor::Tensor| Tensor::from_bytes(t.dtype(), t.shape().to_vec(), t.data().to_vec());
    let parameters = manifest.parameters.iter();
    let parameters: BTreeMap<String, Tensor> =
        parameters.filter_map(|p| Some((p.name.clone(), stored(tensors.get(&p.name)?)))).collect();
    let filled = onnx::with_weights(&bytes, &path, parameters).map_err(broken)?.to_bytes();
    let model = onnx::read_bytes(&filled, Some(directory)).map_err(broken)?;
    let mut tensors = tensors;
    for (name, drawn) in random_weights(&model.graph, seed) {
        if let Some(stored) = tensors.get_mut(&name) {
            *stored = tensor::Tensor::new(drawn.dtype, drawn.shape.clone(), drawn.bytes.to_vec())?;
        }
    }
    Ok(tensors)
}
