//! What a step has summed up, as one row of numbers on the host: the form in which processes exchange it.

use half::{bf16, f16};

use crate::tensor::DType;

/// Numbers in the narrower of the two types that holds all of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Row {
    /// An empty row for numbers of these types.
    pub fn of(mut types: impl Iterator<Item = DType>) -> Row {
        if types.any(|dtype| dtype == DType::F64) { Row::F64(Vec::new()) } else { Row::F32(Vec::new()) }
    }

    pub fn len(&self) -> usize {
        match self {
            Row::F32(row) => row.len(),
            Row::F64(row) => row.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes it `length` zeros.
    pub fn reset(&mut self, length: usize) {
        match self {
            Row::F32(row) => {
                row.clear();
                row.resize(length, 0.0);
            }
            Row::F64(row) => {
                row.clear();
                row.resize(length, 0.0);
            }
        }
    }

    pub fn get(&self, at: usize) -> f64 {
        match self {
            Row::F32(row) => row.get(at).map_or(f64::NAN, |&x| x.into()),
            Row::F64(row) => row.get(at).copied().unwrap_or(f64::NAN),
        }
    }

    pub fn set(&mut self, at: usize, value: f64) {
        match self {
            Row::F32(row) => row[at..].iter_mut().take(1).for_each(|x| *x = value as f32),
            Row::F64(row) => row[at..].iter_mut().take(1).for_each(|x| *x = value),
        }
    }

    /// Puts `weight` times the elements of a float tensor at `at`; gives the place behind them.
    pub(super) fn put(&mut self, at: usize, dtype: DType, bytes: &[u8], weight: f64) -> usize {
        let end = at + bytes.len() / dtype.size();
        match self {
            Row::F32(row) => {
                let weight = weight as f32;
                let to = row[at..end].iter_mut();
                match dtype {
                    DType::F16 => each(bytes, to, |b, x| *x = f16::from_le_bytes(b).to_f32() * weight),
                    DType::BF16 => each(bytes, to, |b, x| *x = bf16::from_le_bytes(b).to_f32() * weight),
                    _ => each(bytes, to, |b, x| *x = f32::from_le_bytes(b) * weight),
                }
            }
            Row::F64(row) => {
                let to = row[at..end].iter_mut();
                match dtype {
                    DType::F16 => each(bytes, to, |b, x| *x = f16::from_le_bytes(b).to_f64() * weight),
                    DType::BF16 => each(bytes, to, |b, x| *x = bf16::from_le_bytes(b).to_f64() * weight),
                    DType::F64 => each(bytes, to, |b, x| *x = f64::from_le_bytes(b) * weight),
                    _ => each(bytes, to, |b, x| *x = f64::from(f32::from_le_bytes(b)) * weight),
                }
            }
        }
        end
    }

    /// Takes the elements of a float tensor from `at` on; gives the place behind them.
    pub(super) fn take(&self, at: usize, dtype: DType, bytes: &mut [u8]) -> usize {
        let end = at + bytes.len() / dtype.size();
        match self {
            Row::F32(row) => {
                let from = row[at..end].iter();
                match dtype {
                    DType::F16 => back(bytes, from, |x| f16::from_f32(*x).to_le_bytes()),
                    DType::BF16 => back(bytes, from, |x| bf16::from_f32(*x).to_le_bytes()),
                    _ => back(bytes, from, |x| x.to_le_bytes()),
                }
            }
            Row::F64(row) => {
                let from = row[at..end].iter();
                match dtype {
                    DType::F16 => back(bytes, from, |x| f16::from_f64(*x).to_le_bytes()),
                    DType::BF16 => back(bytes, from, |x| bf16::from_f64(*x).to_le_bytes()),
                    DType::F64 => back(bytes, from, |x| x.to_le_bytes()),
                    _ => back(bytes, from, |x| (*x as f32).to_le_bytes()),
                }
            }
        }
        end
    }
}

fn each<'a, const N: usize, T: 'a>(bytes: &[u8], to: impl Iterator<Item = &'a mut T>, set: impl Fn([u8; N], &mut T)) {
    bytes.as_chunks().0.iter().zip(to).for_each(|(chunk, x)| set(*chunk, x));
}

fn back<'a, const N: usize, T: 'a>(bytes: &mut [u8], from: impl Iterator<Item = &'a T>, of: impl Fn(&T) -> [u8; N]) {
    bytes.as_chunks_mut().0.iter_mut().zip(from).for_each(|(chunk, x)| *chunk = of(x));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(types: &[DType], dtype: DType, bytes: &[u8]) -> (Row, Vec<u8>) {
        let mut row = Row::of(types.iter().copied());
        row.reset(bytes.len() / dtype.size() + 1);
        assert_eq!(row.put(1, dtype, bytes, 0.5), row.len());
        let mut back = vec![0; bytes.len()];
        assert_eq!(row.take(1, dtype, &mut back), row.len());
        (row, back)
    }

    #[test]
    fn half_of_a_tensor_of_any_float_type() {
        let (row, back) = round_trip(&[DType::F32], DType::F32, &[3f32, -0.1].map(f32::to_le_bytes).concat());
        assert_eq!(row, Row::F32(vec![0.0, 1.5, -0.05]));
        assert_eq!(back, [1.5f32, -0.05].map(f32::to_le_bytes).concat());
        let halves = [f16::from_f32(3.0), f16::from_f32(-8.0)].map(f16::to_le_bytes).concat();
        let (row, back) = round_trip(&[DType::F16], DType::F16, &halves);
        assert_eq!(row, Row::F32(vec![0.0, 1.5, -4.0]));
        assert_eq!(back, [f16::from_f32(1.5), f16::from_f32(-4.0)].map(f16::to_le_bytes).concat());
        let (row, _) = round_trip(&[DType::BF16], DType::BF16, &bf16::from_f32(3.0).to_le_bytes());
        assert_eq!(row, Row::F32(vec![0.0, 1.5]));
        // One double makes all double, and its digits stay.
        let types = [DType::F32, DType::F64];
        let (row, back) = round_trip(&types, DType::F64, &0.1f64.to_le_bytes());
        assert_eq!((row, back), (Row::F64(vec![0.0, 0.05]), 0.05f64.to_le_bytes().to_vec()));
        let (row, _) = round_trip(&types, DType::F32, &3f32.to_le_bytes());
        assert_eq!(row, Row::F64(vec![0.0, 1.5]));
    }
}
