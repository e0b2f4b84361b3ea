//! Deterministic randomness: every stream is a function of the seed, what it is for, and a position, so that a resumed run
//! draws the same numbers without carrying a generator's state.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// What random numbers are for; each purpose has its own streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The order of the samples in an epoch.
    Order,
    /// Which samples are set apart for validation.
    Split,
    /// Probes of a training step.
    TrainProbes,
    /// Probes of a batch in an evaluation.
    EvaluateProbes,
    /// Changes of a sample in an epoch.
    Augment,
}

/// The generator for a purpose, a position (an epoch, a step) and an index within it.
pub(super) fn generator(seed: u64, purpose: Purpose, position: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    key[16..24].copy_from_slice(&index.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(position);
    generator
}

/// The samples `0 … samples − 1` in the order of an epoch.
pub fn epoch_order(seed: u64, epoch: u64, samples: usize) -> Vec<usize> {
    shuffled(generator(seed, Purpose::Order, epoch, 0), samples)
}

/// Sets `held_out` of the samples apart; both parts are in ascending order.
pub fn split(seed: u64, samples: usize, held_out: usize) -> (Vec<usize>, Vec<usize>) {
    let mut order = shuffled(generator(seed, Purpose::Split, 0, 0), samples);
    let mut rest = order.split_off(held_out.min(samples));
    rest.sort_unstable();
    order.sort_unstable();
    (rest, order)
}

/// Fisher and Yates.
fn shuffled(mut generator: ChaCha8Rng, samples: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    for last in (1..samples).rev() {
        order.swap(last, below(&mut generator, last as u64 + 1) as usize);
    }
    order
}

/// A uniform number below `bound` (Lemire's method; exact, not nearly uniform).
pub(super) fn below(generator: &mut ChaCha8Rng, bound: u64) -> u64 {
    let mut product = u128::from(generator.next_u64()) * u128::from(bound);
    if (product as u64) < bound {
        let threshold = bound.wrapping_neg() % bound;
        while (product as u64) < threshold {
            product = u128::from(generator.next_u64()) * u128::from(bound);
        }
    }
    (product >> 64) as u64
}
