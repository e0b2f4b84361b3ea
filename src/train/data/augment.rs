//! Random changes of training images. What happens to a sample follows from the seed, the epoch and the sample alone, so that
//! a resumed run sees the same images.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Dataset, Draw, Error, Role};
use crate::train::sampler::{Purpose, below, generator};

/// No image has a longer side than so.
const MOST_PIXELS: usize = 65_535;

/// Which changes are made, in this order: crop, flip, cutout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augment {
    /// Mirror left and right, half of the time.
    pub flip: bool,
    /// Pad each side by so many black pixels and crop to the size before, anywhere.
    pub crop: usize,
    /// Zero a square of this side around any pixel, cut off at the edges (T. DeVries, G. W. Taylor: *Improved Regularization of
    /// Convolutional Neural Networks with Cutout*, 2017).
    pub cutout: usize,
}

impl Augment {
    pub fn is_none(&self) -> bool {
        *self == Augment::default()
    }
}

impl FromStr for Augment {
    type Err = String;

    /// `flip,crop:4,cutout:8`, or a part of it.
    fn from_str(text: &str) -> Result<Augment, String> {
        let mut augment = Augment::default();
        for part in text.split(',').map(str::trim) {
            let (name, pixels) = part.split_once(':').map_or((part, None), |(name, n)| (name, n.parse().ok()));
            match (name, pixels) {
                ("flip", None) if part == "flip" => augment.flip = true,
                ("crop" | "cutout", Some(pixels)) if pixels > MOST_PIXELS => {
                    return Err(format!("`{part}` has more than {MOST_PIXELS} pixels"));
                }
                ("crop", Some(pixels @ 1..)) => augment.crop = pixels,
                ("cutout", Some(pixels @ 1..)) => augment.cutout = pixels,
                _ => return Err(format!("`{part}` is none of flip, crop:PIXELS and cutout:PIXELS")),
            }
        }
        Ok(augment)
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pixels = |name: &str, pixels: usize| (pixels > 0).then(|| format!("{name}:{pixels}"));
        let flip = self.flip.then(|| "flip".to_owned());
        let parts: Vec<String> =
            [flip, pixels("crop", self.crop), pixels("cutout", self.cutout)].into_iter().flatten().collect();
        f.write_str(&parts.join(","))
    }
}

impl Serialize for Augment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Augment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Augment, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Augmentations of the first input of a dataset.
#[derive(Debug, Clone)]
pub struct Augmenter {
    pub(super) input: String,
    augment: Augment,
    seed: u64,
    height: usize,
    width: usize,
    /// Bytes of an element.
    size: usize,
    /// An element of a black pixel, for each channel.
    black: Vec<Vec<u8>>,
}

impl Augmenter {
    /// `None` if nothing is to be done.
    ///
    /// # Errors
    /// [`Error::NoImages`] if the first input takes no images.
    pub fn new(augment: Augment, seed: u64, data: &Dataset) -> Result<Option<Augmenter>, Error> {
        let Some(column) = data.columns().iter().find(|column| column.role == Role::Input && !augment.is_none()) else {
            return Ok(None);
        };
        let &[channels, height, width] = column.shape.as_slice() else {
            return Err(Error::NoImages { input: column.name.clone(), found: column.shape.clone() });
        };
        let size = column.dtype.size();
        let black = |channel: usize| {
            let mut element = vec![0; size];
            column.conversion.zero(channel * height * width, &mut element);
            element
        };
        let black = (0..channels).map(black).collect();
        Ok(Some(Augmenter { input: column.name.clone(), augment, seed, height, width, size, black }))
    }

    /// Changes the samples of a draw.
    pub(super) fn apply(&self, draw: &Draw, bytes: &mut [u8]) {
        let row = self.black.len() * self.height * self.width * self.size;
        let mut before = vec![0; row];
        for (&index, image) in draw.indices.iter().zip(bytes.chunks_exact_mut(row.max(1))) {
            before.copy_from_slice(image);
            self.one(draw.epoch, index, &before, image);
        }
    }

    fn one(&self, epoch: u64, index: usize, before: &[u8], image: &mut [u8]) {
        let mut random = generator(self.seed, Purpose::Augment, epoch, index as u64);
        let mut any = |bound: usize| below(&mut random, bound as u64) as usize;
        let padding = self.augment.crop;
        let (down, right) = (any(2 * padding + 1), any(2 * padding + 1));
        let flipped = self.augment.flip && any(2) == 1;
        if flipped || (down, right) != (padding, padding) {
            let mut out = image.chunks_exact_mut(self.size);
            for (channel, black) in self.black.iter().enumerate() {
                for y in 0..self.height {
                    let row = (y + down).checked_sub(padding).filter(|&y| y < self.height);
                    for x in 0..self.width {
                        let x = if flipped { self.width - 1 - x } else { x };
                        let column = (x + right).checked_sub(padding).filter(|&x| x < self.width);
                        let from = row.zip(column).map(|(y, x)| self.at(channel, y, x));
                        let element = from.map_or(black.as_slice(), |at| &before[at..at + self.size]);
                        if let Some(out) = out.next() {
                            out.copy_from_slice(element);
                        }
                    }
                }
            }
        }
        let side = self.augment.cutout;
        if side > 0 {
            let (y, x) = (any(self.height), any(self.width));
            let span = |centre: usize, end: usize| {
                let first = centre as i64 - (side / 2) as i64;
                (first.max(0) as usize, ((first + side as i64) as usize).min(end))
            };
            let ((top, bottom), (left, right)) = (span(y, self.height), span(x, self.width));
            for channel in 0..self.black.len() {
                for y in top..bottom {
                    image[self.at(channel, y, left)..self.at(channel, y, left) + (right - left) * self.size].fill(0);
                }
            }
        }
    }

    /// The byte at which an element begins.
    fn at(&self, channel: usize, y: usize, x: usize) -> usize {
        ((channel * self.height + y) * self.width + x) * self.size
    }
}
