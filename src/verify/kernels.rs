//! Operators that ONNX Runtime computes in float32 only, in terms of others that it has for float64 too. Shapes are fixed.

use crate::ir::{Attrs, Builder, DType, Dim, Node, Tensor, Val, fixed};

/// What the node computes; `None` where it can stay as it is, or nothing else is known.
pub(super) fn instead<'g>(b: &'g Builder, node: &Node, read: &[Option<Val<'g>>]) -> Option<Val<'g>> {
    let x = read.first().copied().flatten()?;
    let zero = x.like(0.0);
    let alpha = |default: f32| f64::from(node.attrs.float("alpha").unwrap_or(default));
    let max = |x: Val<'g>, y: Val<'g>| b.op("Max", &[x, y], Attrs::new());
    match node.op.as_str() {
        "Conv" => conv(b, node, x, read.get(1).copied().flatten()?, read.get(2).copied().flatten()),
        "ConvTranspose" => conv_transpose(b, node, x, read.get(1).copied().flatten()?, read.get(2).copied().flatten()),
        "AveragePool" => average_pool(b, node, x),
        "GlobalAveragePool" => Some(x.mean_keep(&(2..x.rank() as i64).collect::<Vec<_>>())),
        "GlobalMaxPool" => Some(x.max_keep(&(2..x.rank() as i64).collect::<Vec<_>>())),
        "Softplus" => Some(max(x, zero) + ((-x.abs()).exp() + 1.0).log()),
        "Softsign" => Some(x / (x.abs() + 1.0)),
        "LeakyRelu" => Some(x.ge(zero).select(x, x * alpha(0.01))),
        "PRelu" => Some(x.ge(zero).select(x, x * read.get(1).copied().flatten()?)),
        "Elu" => Some(x.gt(zero).select(x, ((-x.abs()).exp() - 1.0) * alpha(1.0))),
        "HardSigmoid" => {
            let line = x * alpha(0.2) + f64::from(node.attrs.float("beta").unwrap_or(0.5));
            let min = b.op("Min", &[max(line, zero), x.like(1.0)], Attrs::new());
            Some(min)
        }
        "Sinh" => Some((x.exp() - (-x).exp()) * 0.5),
        "Cosh" => Some((x.exp() + (-x).exp()) * 0.5),
        _ => None,
    }
}

/// The windows of a convolution or a pooling along the spatial axes.
struct Windows {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Before and behind each axis.
    pads: Vec<(i64, i64)>,
}

impl Windows {
    fn of(attrs: &Attrs, kernel: &[i64]) -> Option<Windows> {
        let rank = kernel.len();
        let each = |name: &str| attrs.ints(name).map_or(vec![1; rank], <[i64]>::to_vec);
        let pads = attrs.ints("pads").map_or(vec![0; 2 * rank], <[i64]>::to_vec);
        if attrs.str("auto_pad").is_some_and(|pad| pad != "NOTSET") || pads.len() != 2 * rank {
            return None;
        }
        let pads = (0..rank).map(|i| (pads[i], pads[rank + i])).collect();
        let windows = Windows { kernel: kernel.to_vec(), strides: each("strides"), dilations: each("dilations"), pads };
        (windows.strides.len() == rank && windows.dilations.len() == rank).then_some(windows)
    }

    fn span(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// How many windows an image has along each axis.
    fn counts(&self, image: &[i64]) -> Vec<i64> {
        let count = |(i, h): (usize, &i64)| (h + self.pads[i].0 + self.pads[i].1 - self.span(i)) / self.strides[i] + 1;
        image.iter().enumerate().map(count).collect()
    }

    /// The flat place in a padded image of each tap of each window: taps outside, windows inside.
    fn places(&self, counts: &[i64], padded: &[i64]) -> Vec<i64> {
        let mut all = Vec::new();
        for tap in grid(&self.kernel) {
            for window in grid(counts) {
                let at = |i: usize| window[i] * self.strides[i] + tap[i] * self.dilations[i];
                all.push((0..padded.len()).fold(0, |flat, i| flat * padded[i] + at(i)));
            }
        }
        all
    }

    /// `[N, C, H…] → [N, C, Πk, P]`; what is padded is 0.
    fn columns<'g>(&self, b: &'g Builder, x: Val<'g>) -> Option<(Val<'g>, Vec<i64>)> {
        let shape = fixed(&x.shape())?;
        let (head, image) = shape.split_at_checked(2)?;
        let counts = self.counts(image);
        let padded: Vec<i64> = image.iter().zip(&self.pads).map(|(h, (p, q))| h + p + q).collect();
        if padded.iter().chain(&counts).any(|&n| n <= 0) || self.pads.iter().any(|&(p, q)| p < 0 || q < 0) {
            return None;
        }
        let mut pads = vec![0, 0];
        pads.extend(self.pads.iter().map(|p| p.0));
        pads.extend([0, 0]);
        pads.extend(self.pads.iter().map(|p| p.1));
        let wide = match pads.iter().all(|&p| p == 0) {
            true => x,
            false => b.op("Pad", &[x, b.ints(&pads), x.like(0.0)], Attrs::new()),
        };
        let flat = wide.reshape(&dims(&[head[0], head[1], padded.iter().product()]));
        let places = b.ints(&self.places(&counts, &padded));
        let picked = b.op("Gather", &[flat, places], Attrs::new().with("axis", 2));
        let taps: i64 = self.kernel.iter().product();
        Some((picked.reshape(&dims(&[head[0], head[1], taps, counts.iter().product()])), counts))
    }
}

/// Every index of a grid, the last axis fastest.
fn grid(sizes: &[i64]) -> Vec<Vec<i64>> {
    sizes.iter().fold(vec![Vec::new()], |all, &n| {
        all.iter().flat_map(|at| (0..n).map(move |i| [at.as_slice(), &[i]].concat())).collect()
    })
}

fn dims(sizes: &[i64]) -> Vec<Dim> {
    sizes.iter().map(|&n| Dim::Fixed(n)).collect()
}

fn conv<'g>(b: &'g Builder, node: &Node, x: Val<'g>, w: Val<'g>, bias: Option<Val<'g>>) -> Option<Val<'g>> {
    let filter = fixed(&w.shape())?;
    let windows = Windows::of(&node.attrs, filter.get(2..)?)?;
    let group = node.attrs.int("group").unwrap_or(1).max(1);
    let (columns, counts) = windows.columns(b, x)?;
    let shape = fixed(&columns.shape())?;
    let (samples, outputs, taps, positions) = (shape[0], filter[0], shape[1] / group * shape[2], shape[3]);
    let product = w
        .reshape(&dims(&[group, outputs / group, taps]))
        .matmul(columns.reshape(&dims(&[samples, group, taps, positions])));
    Some(biased(product.reshape(&dims(&[&[samples, outputs], counts.as_slice()].concat())), bias))
}

/// The transpose of a convolution: every window adds its taps to the image.
fn conv_transpose<'g>(b: &'g Builder, node: &Node, x: Val<'g>, w: Val<'g>, bias: Option<Val<'g>>) -> Option<Val<'g>> {
    let (filter, shape) = (fixed(&w.shape())?, fixed(&x.shape())?);
    let windows = Windows::of(&node.attrs, filter.get(2..)?)?;
    let group = node.attrs.int("group").unwrap_or(1).max(1);
    let (samples, inputs, counts) = (shape[0], shape[1], shape.get(2..)?);
    let extra = node.attrs.ints("output_padding").map_or(vec![0; counts.len()], <[i64]>::to_vec);
    let covered = |(i, n): (usize, &i64)| windows.strides[i] * (n - 1) + windows.span(i) + extra[i];
    let covered: Vec<i64> = counts.iter().enumerate().map(covered).collect();
    if extra.len() != counts.len() || node.attrs.get("output_shape").is_some() {
        return None;
    }
    let positions: i64 = counts.iter().product();
    let (outputs, taps) = (filter[1] * group, windows.kernel.iter().product::<i64>());
    let products = w
        .reshape(&dims(&[group, inputs / group, filter[1] * taps]))
        .transpose()
        .matmul(x.reshape(&dims(&[samples, group, inputs / group, positions])))
        .reshape(&dims(&[samples, outputs, taps * positions]));
    let places = windows.places(counts, &covered);
    let places = b.constant(Tensor::ints(&[1, 1, places.len()], &places));
    let places = places.expand(&dims(&[samples, outputs, taps * positions]));
    let image = b.zeros(x.dtype(), &dims(&[samples, outputs, covered.iter().product()]));
    let attrs = Attrs::new().with("axis", 2).with("reduction", "add");
    let mut image = b
        .op("ScatterElements", &[image, places, products], attrs)
        .reshape(&dims(&[&[samples, outputs], covered.as_slice()].concat()));
    for (i, (&size, &(before, behind))) in covered.iter().zip(&windows.pads).enumerate() {
        if (before, behind) != (0, 0) {
            image = image.slice(i as i64 + 2, before, size - behind);
        }
    }
    Some(biased(image, bias))
}

fn biased<'g>(z: Val<'g>, bias: Option<Val<'g>>) -> Val<'g> {
    bias.map_or(z, |bias| z + bias.along_channel(z.rank()))
}

/// A mean over whole windows; padding that does not count is left to the operator.
fn average_pool<'g>(b: &'g Builder, node: &Node, x: Val<'g>) -> Option<Val<'g>> {
    let windows = Windows::of(&node.attrs, node.attrs.ints("kernel_shape")?)?;
    let padded = windows.pads.iter().any(|&p| p != (0, 0));
    let counted = node.attrs.int("count_include_pad").unwrap_or(0) != 0;
    if (padded && !counted) || node.attrs.int("ceil_mode").unwrap_or(0) != 0 || x.dtype() != DType::F64 {
        return None;
    }
    let (columns, counts) = windows.columns(b, x)?;
    let shape = fixed(&columns.shape())?;
    Some(columns.mean(&[2]).reshape(&dims(&[&shape[..2], counts.as_slice()].concat())))
}
