//! p-norm pools.

use crate::ir::{Attrs, Dim, Val};
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
    let sums = started(sums, &windows, image, &counts);
    let whole: Vec<Dim> = shape[..2].iter().chain(sums.shape().get(2..).unwrap_or_default()).cloned().collect();
    vec![root(sums.reshape(&whole), p)]
}

/// The windows that start before the end padding, where their number is not known: the convolution has one more then.
fn started<'g>(sums: Val<'g>, windows: &Windows, image: &[Dim], counts: &[Dim]) -> Val<'g> {
    let b = sums.builder();
    let open = (0..counts.len()).filter(|&i| windows.ceil && counts[i].fixed().is_none());
    open.fold(sums, |sums, i| {
        let stride = windows.strides[i];
        let end = b.dim_value(&(image[i].clone() + Dim::Fixed(windows.pads[i].0 + stride - 1))) / b.ints(&[stride]);
        b.op("Slice", &[sums, b.ints(&[0]), end, b.ints(&[i as i64 + 2])], Attrs::new())
    })
}

/// y = (Σ |x|^p)^(1/p) over all spatial axes
pub fn global_lp_pool<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, p) = (c.x(0), c.int("p", 2));
    let axes: Vec<i64> = (2..x.rank() as i64).collect();
    vec![root(power(x, p).sum_keep(&axes), p)]
}
