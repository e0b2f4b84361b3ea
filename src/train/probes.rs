//! Probes: graph inputs of random signs, fresh each step.

use half::{bf16, f16};
use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

use super::sampler::{Purpose, generator};
use crate::{
    artifact::manifest::{Dim, Distribution, Manifest, Probe},
    runtime::{self, Bound, Session, Step},
    tensor::DType,
};

/// The probes that a graph reads, with the element types it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// Draws the probes of `position` (a step or a batch) for a batch of `batch` samples and feeds them to a step.
    pub fn feed_step(&self, step: &mut Step, position: u64, batch: usize) -> Result<(), runtime::Error> {
        self.each(position, batch, |name, dtype, shape, generator| {
            step.feed(name, dtype, shape, |bytes| signs(generator, dtype, bytes))
        })
    }

    /// As [`Probes::feed_step`], for an evaluation.
    pub fn feed_bound(&self, bound: &mut Bound, position: u64, batch: usize) -> Result<(), runtime::Error> {
        self.each(position, batch, |name, dtype, shape, generator| {
            bound.feed(name, dtype, shape, |bytes| signs(generator, dtype, bytes))
        })
    }

    fn each(
        &self,
        position: u64,
        batch: usize,
        mut feed: impl FnMut(&str, DType, &[usize], &mut ChaCha8Rng) -> Result<(), runtime::Error>,
    ) -> Result<(), runtime::Error> {
        for (index, (probe, dtype)) in self.probes.iter().enumerate() {
            let Distribution::Rademacher = probe.distribution;
            let shape: Vec<usize> = probe
                .shape
                .iter()
                .map(|dim| match dim {
                    Dim::Fixed(size) => *size,
                    Dim::Symbol(_) => batch,
                })
                .collect();
            feed(&probe.name, *dtype, &shape, &mut generator(self.seed, self.purpose, position, index as u64))?;
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
