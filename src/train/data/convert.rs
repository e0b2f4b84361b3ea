//! Elements as a file stores them become those that the graph takes.

use half::{bf16, f16};

use crate::tensor::{DType, element_f64, element_i64};

/// The conversion of one array's elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conversion {
    pub from: DType,
    pub big_endian: bool,
    pub to: DType,
    /// Image bytes become 0 … 1 where the graph takes floats.
    pub image: bool,
    pub normalisation: Option<Normalisation>,
}

/// `(x − mean) / std`, each for all channels or one a channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Normalisation {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// Elements of a channel; what follows one another in a sample changes channel after so many.
    pub plane: usize,
}

impl Normalisation {
    /// The value of element `at`, counted from the beginning of any sample.
    fn apply(&self, at: usize, value: f64) -> f64 {
        let channel = at / self.plane.max(1);
        let of = |values: &[f64], neutral: f64| match values {
            [] => neutral,
            _ => values[channel % values.len()],
        };
        (value - of(&self.mean, 0.0)) / of(&self.std, 1.0)
    }
}

/// An element that does not become a finite number of the type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Misfit {
    NotFinite(f64),
    Overflow(String),
}

/// Any number becomes a float; whole numbers and `bool` become integers.
pub(super) fn convertible(from: DType, to: DType) -> bool {
    from == to || to.is_float() || (to.is_int() && !from.is_float())
}

impl Conversion {
    /// Whether the bytes stay as they are.
    fn is_copy(&self) -> bool {
        self.from == self.to && self.normalisation.is_none()
    }

    /// Whether every element of the type has a place in the other: then there is nothing to look for.
    pub fn is_total(&self) -> bool {
        let whole = !self.from.is_float();
        whole && (self.from == self.to || matches!(self.to, DType::F32 | DType::F64))
    }

    /// Converts `stored`, whole samples, into `out`.
    ///
    /// # Errors
    /// The position of the first element that does not fit, and what it is.
    pub fn apply(&self, stored: &[u8], out: &mut [u8]) -> Result<(), (usize, Misfit)> {
        let (from, to) = (self.from.size(), self.to.size());
        if self.is_copy() {
            out.copy_from_slice(stored);
            if self.big_endian {
                out.chunks_exact_mut(to).for_each(<[u8]>::reverse);
            }
            return match self.to.is_float().then(|| first_non_finite(self.to, out)).flatten() {
                Some((at, value)) => Err((at, Misfit::NotFinite(value))),
                None => Ok(()),
            };
        }
        let mut element = [0; 8];
        let element = &mut element[..from];
        for (at, (bytes, out)) in stored.chunks_exact(from).zip(out.chunks_exact_mut(to)).enumerate() {
            element.copy_from_slice(bytes);
            if self.big_endian {
                element.reverse();
            }
            self.one(at, element, out).map_err(|misfit| (at, misfit))?;
        }
        Ok(())
    }

    fn one(&self, at: usize, element: &[u8], out: &mut [u8]) -> Result<(), Misfit> {
        if !self.to.is_float() {
            let value = integer(self.from, element);
            let (low, high) = self.to.int_range().unwrap_or((0, 1));
            out.copy_from_slice(&value.to_le_bytes()[..out.len()]);
            return if (low..=high).contains(&value) { Ok(()) } else { Err(Misfit::Overflow(value.to_string())) };
        }
        let value = element_f64(self.from, element);
        if !value.is_finite() {
            return Err(Misfit::NotFinite(value));
        }
        write_float(self.to, self.float(at, value), out);
        if element_f64(self.to, out).is_finite() {
            return Ok(());
        }
        let whole = !self.from.is_float();
        Err(Misfit::Overflow(if whole { integer(self.from, element).to_string() } else { format!("{value:?}") }))
    }

    fn float(&self, at: usize, value: f64) -> f64 {
        let value = if self.image { value * (1.0 / 255.0) } else { value };
        self.normalisation.as_ref().map_or(value, |normalisation| normalisation.apply(at, value))
    }

    /// What a stored zero becomes as element `at` of a sample, the black of an image.
    pub fn zero(&self, at: usize, out: &mut [u8]) {
        if self.to.is_float() {
            write_float(self.to, self.float(at, 0.0), out);
        } else {
            out.fill(0);
        }
    }
}

fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f64)> {
    let at = match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite()),
        DType::F64 => bytes.as_chunks::<8>().0.iter().position(|b| !f64::from_le_bytes(*b).is_finite()),
        _ => bytes.chunks_exact(dtype.size()).position(|b| !element_f64(dtype, b).is_finite()),
    }?;
    let size = dtype.size();
    Some((at, element_f64(dtype, &bytes[at * size..(at + 1) * size])))
}

fn integer(dtype: DType, bytes: &[u8]) -> i128 {
    match (dtype, bytes.first_chunk::<8>()) {
        (DType::U64, Some(bytes)) => u64::from_le_bytes(*bytes).into(),
        _ => element_i64(dtype, bytes).into(),
    }
}

fn write_float(dtype: DType, value: f64, out: &mut [u8]) {
    match dtype {
        DType::F16 => out.copy_from_slice(&f16::from_f64(value).to_le_bytes()),
        DType::BF16 => out.copy_from_slice(&bf16::from_f64(value).to_le_bytes()),
        DType::F32 => out.copy_from_slice(&(value as f32).to_le_bytes()),
        _ => out.copy_from_slice(&value.to_le_bytes()),
    }
}
