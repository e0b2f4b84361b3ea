//! Probes and dropout's masks: graph inputs of random signs, or of ones and zeros, fresh each step.

use half::{bf16, f16};
use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

use super::sampler::{Purpose, generator};
use crate::{
    artifact::manifest::{Dim, Distribution, Manifest, Probe},
    runtime::{self, Feed, Session},
    tensor::DType,
};

/// The probes that a graph reads, with the element types it wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    seed: u64,
    purpose: Purpose,
    probes: Vec<(Probe, DType)>,
}

impl Probes {
    /// Probes of a training step.
    pub fn for_training(manifest: &Manifest, session: &Session, seed: u64) -> Result<Probes, runtime::Error> {
        Probes::new(manifest, session, seed, Purpose::TrainProbes)
    }

    /// Probes of an evaluation: the same for the same batch, at whatever step the evaluation takes place.
    pub fn for_evaluation(manifest: &Manifest, session: &Session, seed: u64) -> Result<Probes, runtime::Error> {
        Probes::new(manifest, session, seed, Purpose::EvaluateProbes)
    }

    fn new(manifest: &Manifest, session: &Session, seed: u64, purpose: Purpose) -> Result<Probes, runtime::Error> {
        let mut probes = Vec::new();
        for probe in manifest.probes().filter(|probe| session.has_input(&probe.name)) {
            let dtype = session.input(&probe.name)?.dtype.unwrap_or(DType::F32);
            probes.push((probe.clone(), dtype));
        }
        Ok(Probes { seed, purpose, probes })
    }

    /// Draws the probes of `position` (a micro-batch of a step, or a batch) for `batch` samples and feeds them to a graph.
    pub fn feed(&self, graph: &mut impl Feed, position: u64, batch: usize) -> Result<(), runtime::Error> {
        for (index, (probe, dtype)) in self.probes.iter().enumerate() {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(_) => batch,
            };
            let shape: Vec<usize> = probe.shape.iter().map(size).collect();
            let mut generator = generator(self.seed, self.purpose, position, index as u64);
            graph.feed(&probe.name, *dtype, &shape, |bytes| match probe.distribution {
                Distribution::Rademacher => signs(&mut generator, *dtype, bytes),
                Distribution::Bernoulli => ones(&mut generator, *dtype, probe.probability.unwrap_or(0.5), bytes),
            })?;
        }
        Ok(())
    }
}

/// Fills a buffer with +1 and −1, a random bit an element.
fn signs(generator: &mut ChaCha8Rng, dtype: DType, bytes: &mut [u8]) {
    let (plus, minus) = one(dtype);
    let (mut bits, mut left) = (0, 0);
    for element in bytes.chunks_exact_mut(dtype.size()) {
        if left == 0 {
            (bits, left) = (generator.next_u64(), u64::BITS);
        }
        element.copy_from_slice(if bits & 1 == 0 { &plus } else { &minus });
        bits >>= 1;
        left -= 1;
    }
}

/// Fills a buffer with 1, each with this probability, and 0.
fn ones(generator: &mut ChaCha8Rng, dtype: DType, probability: f64, bytes: &mut [u8]) {
    let (one, _) = one(dtype);
    let below = (probability * 2f64.powi(32)).round() as u64;
    for element in bytes.chunks_exact_mut(dtype.size()) {
        match u64::from(generator.next_u32()) < below {
            true => element.copy_from_slice(&one),
            false => element.fill(0),
        }
    }
}

/// The bytes of +1 and −1.
fn one(dtype: DType) -> (Vec<u8>, Vec<u8>) {
    match dtype {
        DType::F16 => (f16::ONE.to_le_bytes().to_vec(), f16::NEG_ONE.to_le_bytes().to_vec()),
        DType::BF16 => (bf16::ONE.to_le_bytes().to_vec(), bf16::NEG_ONE.to_le_bytes().to_vec()),
        DType::F32 => (1f32.to_le_bytes().to_vec(), (-1f32).to_le_bytes().to_vec()),
        DType::F64 => (1f64.to_le_bytes().to_vec(), (-1f64).to_le_bytes().to_vec()),
        _ => (1i64.to_le_bytes()[..dtype.size()].to_vec(), (-1i64).to_le_bytes()[..dtype.size()].to_vec()),
    }
}
