//! What the graphs are fed: a batch of data, or random numbers that fit.

use crate::artifact::manifest::{Dim, Distribution, LabelSpec, Manifest, Probe};
use crate::error::Result;
use crate::ir::{DType, Model};
use crate::tensor::{Tensor, Tensors, elements};
use crate::train::data::Dataset;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What an axis of unknown size gets, but for the first, which is the batch.
const OPEN_AXIS: usize = 8;

/// The first samples of a set.
pub(super) fn first_of(data: &Dataset, samples: usize) -> Result<Tensors> {
    let indices: Vec<usize> = (0..data.samples().min(samples)).collect();
    let columns = data.columns().iter().map(|column| {
        let tensor = data.gather(column, &indices).map_err(crate::train::Error::from)?;
        Ok((column.name.clone(), tensor))
    });
    columns.collect()
}

/// Random numbers, reproducibly.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    /// From 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// +1 or −1.
    pub fn sign(&mut self) -> f64 {
        if self.0.next_u64() & 1 == 0 { 1.0 } else { -1.0 }
    }

    /// Values for the model's inputs and the labels that `model`, a graph of the artifact, takes: floats are normal, integers
    /// 0 or 1, labels what the loss takes.
    pub fn samples(&mut self, manifest: &Manifest, model: &Model, batch: usize) -> Result<Tensors> {
        let graph = &model.graph;
        let mut fed = Tensors::new();
        for name in manifest.inputs.iter().chain(&manifest.labels) {
            let Some(id) = graph.find(name).filter(|id| graph.inputs.contains(id)) else { continue };
            let fact = &graph.value(id).fact;
            let dims = fact.shape.iter().flatten().enumerate();
            let open = |axis| if axis == 0 { batch } else { OPEN_AXIS };
            let shape: Vec<usize> = dims
                .map(|(axis, d)| d.fixed().and_then(|n| usize::try_from(n).ok()).unwrap_or_else(|| open(axis)))
                .collect();
            let labels = manifest.label_spec.as_ref().filter(|_| manifest.labels.as_ref() == Some(name));
            let values: Vec<f64> = (0..elements(&shape)).map(|_| self.element(fact.dtype, labels)).collect();
            let data = crate::ir::Tensor::from_f64(fact.dtype, &shape, values);
            fed.insert(name.clone(), Tensor::new(fact.dtype, shape, data.bytes.to_vec())?);
        }
        Ok(fed)
    }

    fn element(&mut self, dtype: DType, labels: Option<&LabelSpec>) -> f64 {
        match labels.map(|labels| (labels.classes, labels.range)) {
            Some((Some(classes), _)) => (self.uniform() * classes as f64).floor(),
            Some((None, Some([low, high]))) => low + (high - low) * self.uniform(),
            _ if dtype.is_float() => self.normal(),
            _ => f64::from(self.sign() > 0.0),
        }
    }

    /// Values for inputs that are drawn at random: signs for probes, ones and zeros for masks.
    pub fn draws<'p>(&mut self, probes: impl Iterator<Item = &'p Probe>, batch: usize) -> Result<Tensors> {
        let mut fed = Tensors::new();
        for probe in probes {
            let size = |d: &Dim| match d {
                Dim::Fixed(n) => *n,
                Dim::Symbol(_) => batch,
            };
            let shape: Vec<usize> = probe.shape.iter().map(size).collect();
            let one = |_| match probe.distribution {
                Distribution::Rademacher => self.sign(),
                Distribution::Bernoulli => f64::from(self.uniform() < probe.probability.unwrap_or(0.5)),
            };
            let values: Vec<f64> = (0..elements(&shape)).map(one).collect();
            fed.insert(probe.name.clone(), float64(shape, values)?);
        }
        Ok(fed)
    }
}

pub(super) fn float64(shape: Vec<usize>, values: Vec<f64>) -> Result<Tensor> {
    Ok(Tensor::new(DType::F64, shape, values.into_iter().flat_map(f64::to_le_bytes).collect())?)
}
