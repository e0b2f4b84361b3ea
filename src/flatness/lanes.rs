//! Sets of layers that are looked at together, a bit a layer.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

const WORDS: usize = 8;

/// Some of at most [`Lanes::MOST`] layers, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lanes([u64; WORDS]);

impl Lanes {
    pub const MOST: usize = 64 * WORDS;

    pub const NONE: Lanes = Lanes([0; WORDS]);

    pub fn one(lane: usize) -> Lanes {
        let mut lanes = Lanes::NONE;
        lanes.0[lane / 64] = 1 << (lane % 64);
        lanes
    }

    /// The first `n`.
    pub fn first(n: usize) -> Lanes {
        (0..n).map(Lanes::one).fold(Lanes::NONE, BitOr::bitor)
    }

    pub fn is_empty(&self) -> bool {
        *self == Lanes::NONE
    }

    pub fn contains(&self, lane: usize) -> bool {
        self.0[lane / 64] >> (lane % 64) & 1 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(k, mut word)| {
            std::iter::from_fn(move || {
                let at = word.trailing_zeros() as usize;
                word &= word.wrapping_sub(1);
                (at < 64).then_some(64 * k + at)
            })
        })
    }

    fn with(self, other: Lanes, each: impl Fn(u64, u64) -> u64) -> Lanes {
        Lanes(std::array::from_fn(|k| each(self.0[k], other.0[k])))
    }
}

impl BitAnd for Lanes {
    type Output = Lanes;
    fn bitand(self, other: Lanes) -> Lanes {
        self.with(other, |a, b| a & b)
    }
}

impl BitOr for Lanes {
    type Output = Lanes;
    fn bitor(self, other: Lanes) -> Lanes {
        self.with(other, |a, b| a | b)
    }
}

impl BitOrAssign for Lanes {
    fn bitor_assign(&mut self, other: Lanes) {
        *self = *self | other;
    }
}

impl Not for Lanes {
    type Output = Lanes;
    fn not(self) -> Lanes {
        Lanes(self.0.map(|word| !word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_sets_of_numbers() {
        let some = Lanes::one(3) | Lanes::one(64) | Lanes::one(Lanes::MOST - 1);
        assert_eq!(some.iter().collect::<Vec<_>>(), [3, 64, Lanes::MOST - 1]);
        assert_eq!((some & !Lanes::one(64)).iter().collect::<Vec<_>>(), [3, Lanes::MOST - 1]);
        assert_eq!((some & Lanes::first(65)).iter().collect::<Vec<_>>(), [3, 64]);
        assert!(some.contains(64) && !some.contains(65) && (some & Lanes::first(3)).is_empty());
        assert_eq!(Lanes::first(Lanes::MOST).iter().count(), Lanes::MOST);
    }
}
