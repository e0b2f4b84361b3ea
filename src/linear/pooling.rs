//! Average pooling and its transpose.

use super::ConvGeometry;
use crate::ir::{Attrs, DType, Dim, Fact, Tensor, Val};

/// Elements of the largest filter of ones with a group a channel.
const GROUPED_LIMIT: i64 = 1 << 19;

#[derive(Clone)]
pub struct AveragePool<'g> {
    /// Of the ONNX node.
    pub attrs: Attrs,
    /// The convolution with ones that sums the same windows.
    pub g: ConvGeometry,
    /// Spatial sizes of the result.
    pub windows: Vec<Dim>,
    pub divisor: Divisor<'g>,
}

/// How many elements the windows average.
#[derive(Clone)]
pub enum Divisor<'g> {
    Same(i64),
    /// One number a window, of the windows' shape.
    Each(Val<'g>),
}

impl<'g> AveragePool<'g> {
    pub(super) fn shape(&self, x: &[Dim]) -> Vec<Dim> {
        x.iter().take(2).chain(&self.windows).cloned().collect()
    }

    pub(super) fn emit(&self, x: Val<'g>) -> Val<'g> {
        let b = x.builder();
        let y = b.op("AveragePool", &[x], self.attrs.clone());
        b.refine_fact(y, &Fact::new(x.dtype(), self.shape(&x.shape())));
        y
    }

    /// Every element of a window gets an equal share of the window's cotangent.
    pub(super) fn transpose(&self, ct: Val<'g>, to: &[Dim]) -> Val<'g> {
        let (share, weight) = match self.divisor {
            Divisor::Same(n) => (ct, 1.0 / n as f64),
            Divisor::Each(counts) => (ct / counts, 1.0),
        };
        if self.g.tiles() && can_upsample(share) {
            return upsampled(share * weight, &self.g.kernel);
        }
        let taps: i64 = self.g.kernel.iter().product();
        match share.shape().get(1).and_then(Dim::fixed) {
            Some(channels) if channels.saturating_mul(taps) <= GROUPED_LIMIT => {
                let g = ConvGeometry { group: channels, ..self.g.clone() };
                g.conv_transpose(share, self.filter(share, channels, weight), to)
            }
            _ => self.one_channel_each(share, weight, to),
        }
    }

    fn one_channel_each(&self, share: Val<'g>, weight: f64, to: &[Dim]) -> Val<'g> {
        let shape = share.shape();
        let [n, c, windows @ ..] = shape.as_slice() else { return share };
        let single: Vec<Dim> =
            [n.clone() * c.clone(), Dim::Fixed(1)].into_iter().chain(windows.iter().cloned()).collect();
        let g = ConvGeometry { group: 1, ..self.g.clone() };
        let image = g.conv_transpose(share.reshape(&single), self.filter(share, 1, weight), to);
        let whole: Vec<Dim> = [n.clone(), c.clone()].into_iter().chain(self.g.image.iter().cloned()).collect();
        image.reshape(&whole)
    }

    /// `[channels, 1, k…]`, all of it `weight`.
    fn filter(&self, like: Val<'g>, channels: i64, weight: f64) -> Val<'g> {
        let shape: Vec<usize> = [channels, 1].iter().chain(&self.g.kernel).map(|&k| k.max(0) as usize).collect();
        like.builder().tabulated(like.dtype(), &shape, |_| weight)
    }
}

/// Whether [`upsampled`] takes such images: where it has been measured.
pub(crate) fn can_upsample(v: Val<'_>) -> bool {
    v.dtype() == DType::F32 && v.fact().rank() == Some(4)
}

/// Each element of `[N, C, H, W]` in so many rows and columns.
pub(crate) fn upsampled<'g>(v: Val<'g>, times: &[i64]) -> Val<'g> {
    let b = v.builder();
    let scales: Vec<f64> = [1, 1].iter().chain(times).map(|&n| n as f64).collect();
    let scales = b.constant(Tensor::from_f64(DType::F32, &[scales.len()], scales));
    let attrs = Attrs::new()
        .with("mode", "nearest")
        .with("coordinate_transformation_mode", "asymmetric")
        .with("nearest_mode", "floor");
    b.node("Resize", &[Some(v), None, Some(scales)], attrs, 1)[0]
}
