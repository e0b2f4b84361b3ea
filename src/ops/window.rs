//! Sliding windows: what convolutions and pools have in common.

use super::Fault;
use super::fact_cx::show;
use crate::ir::{Attrs, Dim};
use crate::linear::ConvGeometry;
use ndarray::{Dimension, IxDyn};

/// Bounds attributes, so that arithmetic on them cannot overflow.
const LARGEST: i64 = 1 << 24;
/// Elements of the largest kernel.
const MOST_TAPS: i64 = 1 << 24;

/// Windows over the spatial axes of `[N, C, H…]`, an entry a spatial axis.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// Begin and end.
    pub pads: Vec<(i64, i64)>,
    /// A last window that hangs over the end counts, if it starts before the end padding.
    pub ceil: bool,
}

impl Windows {
    pub fn of(attrs: &Attrs, kernel: Vec<i64>) -> Result<Windows, Fault> {
        let spatial = kernel.len();
        let auto_pad = attrs.str("auto_pad").unwrap_or("NOTSET");
        if !matches!(auto_pad, "" | "NOTSET" | "VALID") {
            return Err(Fault::Attribute {
                name: "auto_pad",
                found: auto_pad.into(),
                expected: "explicit pads".into(),
            });
        }
        let pads = list(attrs, "pads", 2 * spatial, 0, 0)?;
        let (begin, end) = pads.split_at(spatial);
        let kernel = within("kernel_shape", kernel, 1)?;
        if kernel.iter().fold(1i64, |taps, &k| taps.saturating_mul(k)) > MOST_TAPS {
            let expected = format!("at most {MOST_TAPS} elements");
            return Err(Fault::Attribute { name: "kernel_shape", found: format!("{kernel:?}"), expected });
        }
        Ok(Windows {
            kernel,
            strides: list(attrs, "strides", spatial, 1, 1)?,
            dilations: list(attrs, "dilations", spatial, 1, 1)?,
            pads: begin.iter().copied().zip(end.iter().copied()).collect(),
            ceil: attrs.int("ceil_mode") == Some(1),
        })
    }

    /// Of a pool over `x`, whose kernel is the attribute.
    pub fn of_pool(attrs: &Attrs, x: &[Dim]) -> Result<Windows, Fault> {
        let kernel = attrs.ints("kernel_shape").unwrap_or(&[]).to_vec();
        if kernel.is_empty() || kernel.len() + 2 != x.len() {
            return Err(Fault::Attribute {
                name: "kernel_shape",
                found: format!("{kernel:?}"),
                expected: format!("an entry a spatial axis of {}", show(x)),
            });
        }
        Windows::of(attrs, kernel)
    }

    pub fn spatial(&self) -> usize {
        self.kernel.len()
    }

    pub fn taps(&self) -> i64 {
        self.kernel.iter().fold(1, |product: i64, &k| product.saturating_mul(k))
    }

    /// What a window covers, holes included.
    pub fn span(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// How many windows fit along each axis of an image of these sizes.
    pub fn counts(&self, image: &[Dim], unknown: impl Fn(usize) -> Dim) -> Result<Vec<Dim>, Fault> {
        (0..self.spatial())
            .map(|i| {
                let count = self.count(i, &image[i], &unknown);
                match count.fixed() {
                    Some(n) if n < 1 && image[i].fixed() != Some(0) => Err(Fault::Shape {
                        what: "window",
                        found: format!("one of size {} with pads {:?}", self.span(i), self.pads[i]),
                        expected: format!("axis {} of size {}", i + 2, image[i]),
                    }),
                    Some(n) => Ok(Dim::Fixed(n.max(0))),
                    None => Ok(count),
                }
            })
            .collect()
    }

    fn count(&self, i: usize, size: &Dim, unknown: &impl Fn(usize) -> Dim) -> Dim {
        let (stride, (begin, end)) = (self.strides[i], self.pads[i]);
        let room = size.clone() + Dim::Fixed(begin + end - self.span(i));
        if !self.ceil {
            return room.div_floor(stride) + Dim::Fixed(1);
        }
        let count = room.div_ceil(stride) + Dim::Fixed(1);
        match (count.fixed(), size.fixed()) {
            (Some(n), Some(size)) if (n - 1) * stride >= size + begin => Dim::Fixed(n - 1),
            (None, _) if end + stride > self.span(i) => unknown(i + 2),
            _ => count,
        }
    }

    /// The convolution with these windows on an image of these sizes. The end pads reach as far as the last window.
    pub fn geometry(&self, image: &[Dim], windows: &[Dim], group: i64) -> ConvGeometry {
        let end = |i: usize| match (windows[i].fixed(), image[i].fixed()) {
            _ if !self.ceil => self.pads[i].1,
            (Some(n), Some(size)) => ((n - 1) * self.strides[i] + self.span(i) - size - self.pads[i].0).max(0),
            _ => self.pads[i].1 + self.strides[i] - 1,
        };
        ConvGeometry {
            kernel: self.kernel.clone(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: (0..self.spatial()).map(|i| (self.pads[i].0, end(i))).collect(),
            group,
            image: image.to_vec(),
        }
    }

    /// Where tap `tap` of window `window` reads along each axis, counted from the image's first element.
    pub fn position(&self, window: &[usize], tap: &[usize]) -> Vec<i64> {
        (0..self.spatial())
            .map(|i| window[i] as i64 * self.strides[i] + tap[i] as i64 * self.dilations[i] - self.pads[i].0)
            .collect()
    }

    /// The positions of the kernel's taps.
    pub fn each_tap(&self) -> impl Iterator<Item = Vec<usize>> + use<> {
        positions(&self.kernel.iter().map(|&k| k as usize).collect::<Vec<_>>())
    }
}

/// Every index of an array of this shape, in row-major order.
pub(crate) fn positions(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    ndarray::indices(IxDyn(shape)).into_iter().map(|at| at.as_array_view().to_vec())
}

/// The position as indices into an image of these sizes; `None` in the padding.
pub(crate) fn inside(at: &[i64], image: &[usize]) -> Option<Vec<usize>> {
    at.iter().zip(image).map(|(&p, &n)| usize::try_from(p).ok().filter(|&p| p < n)).collect()
}

pub(super) fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::from(n)).collect()
}

/// Sizes as numbers, of shapes that are fixed.
pub(super) fn sizes(shape: &[Dim]) -> Vec<usize> {
    shape.iter().map(|d| d.fixed().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)).collect()
}

/// An integer attribute of `len` entries, each at least `least`.
pub(super) fn list(attrs: &Attrs, name: &'static str, len: usize, default: i64, least: i64) -> Result<Vec<i64>, Fault> {
    match attrs.ints(name) {
        None => Ok(vec![default; len]),
        Some(values) if values.len() == len => within(name, values.to_vec(), least),
        Some(values) => {
            Err(Fault::Attribute { name, found: format!("{values:?}"), expected: format!("{len} entries") })
        }
    }
}

fn within(name: &'static str, values: Vec<i64>, least: i64) -> Result<Vec<i64>, Fault> {
    match values.iter().all(|v| (least..=LARGEST).contains(v)) {
        true => Ok(values),
        false => Err(Fault::Attribute {
            name,
            found: format!("{values:?}"),
            expected: format!("entries from {least} to {LARGEST}"),
        }),
    }
}
