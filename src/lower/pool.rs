//! p-norm pools.

use crate::ir::{Dim, Val};
use crate::ops::{Cx, Windows};

/// `|x|^p`
fn power(x: Val<'_>, p: i64) -> Val<'_> {
    match p {
        1 => x.abs(),
        2 => x * x,
        _ => x.abs().pow(x.like(p as f64)),
    }
}

/// `s^(1/p)`
fn root(s: Val<'_>, p: i64) -> Val<'_> {
    match p {
        1 => s,
        2 => s.sqrt(),
        _ => s.pow(s.like(1.0 / p as f64)),
    }
}

/// y = (Σ |x|^p)^(1/p) over each window, the sum as a convolution of each channel with ones
pub fn lp_pool<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, p) = (c.x(0), c.int("p", 2));
    let shape = x.shape();
    let windows = match Windows::of_pool(c.attrs(), &shape) {
        Ok(windows) => windows,
        Err(fault) => {
            c.fault(fault);
            return vec![x];
        }
    };
    let image = &shape[2..];
    let counts = windows.counts(image, |axis| Dim::symbol(&format!("?windows.{axis}"))).unwrap_or_default();
    let g = windows.geometry(image, &counts, 1);
    let single: Vec<Dim> = [shape[0].clone() * shape[1].clone(), Dim::Fixed(1)].iter().chain(image).cloned().collect();
    let kernel: Vec<usize> = [1, 1].iter().chain(&g.kernel).map(|&k| k as usize).collect();
    let sums = g.conv(power(x, p).reshape(&single), c.b.tabulated(x.dtype(), &kernel, |_| 1.0));
    let whole: Vec<Dim> = shape[..2].iter().chain(sums.shape().get(2..).unwrap_or_default()).cloned().collect();
    vec![root(sums.reshape(&whole), p)]
}

/// y = (Σ |x|^p)^(1/p) over all spatial axes
pub fn global_lp_pool<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, p) = (c.x(0), c.int("p", 2));
    let axes: Vec<i64> = (2..x.rank() as i64).collect();
    vec![root(power(x, p).sum_keep(&axes), p)]
}
