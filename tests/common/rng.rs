//! Random numbers for tests.
#![allow(dead_code)]

use super::step::f32s;
use fam_onnx::tensor::Tensor;

/// splitmix64: the same numbers on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }

    pub fn signs(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let signs: Vec<f64> = (0..n).map(|_| if self.next() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        f32s(shape, &signs)
    }
}
