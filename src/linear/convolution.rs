//! Convolution, its transpose and its filter gradient, for any number of spatial axes, groups, strides, dilations, pads.
//!
//! Images are `[N, C, H…]`, filters `[M, C/group, k…]`, as in ONNX.

use super::exchanged::{self, Side};
use super::with_lead;
use crate::ir::{Attrs, Dim, Val, count};

/// Elements of the largest filter made to pick the taps of a window.
const IDENTITY_LIMIT: i64 = 1 << 19;

/// A convolution's geometry, an entry a spatial axis.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvGeometry {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// Begin and end.
    pub pads: Vec<(i64, i64)>,
    pub group: i64,
    /// Spatial sizes of the image that is convolved.
    pub image: Vec<Dim>,
}

impl ConvGeometry {
    pub fn attrs(&self) -> Attrs {
        let pads: Vec<i64> = self.pads.iter().map(|p| p.0).chain(self.pads.iter().map(|p| p.1)).collect();
        Attrs::new()
            .with("kernel_shape", self.kernel.clone())
            .with("strides", self.strides.clone())
            .with("dilations", self.dilations.clone())
            .with("pads", pads)
            .with("group", self.group)
    }

    /// One tap that reads every position once.
    pub fn is_pointwise(&self) -> bool {
        let once = self.kernel.iter().chain(&self.strides).all(|&n| n == 1);
        once && self.pads.iter().all(|p| *p == (0, 0))
    }

    /// Whether every element of the image stands in exactly one window.
    pub fn tiles(&self) -> bool {
        let apart =
            self.kernel == self.strides && self.kernel.iter().zip(&self.dilations).all(|(&k, &d)| k == 1 || d == 1);
        let whole = |(size, &k): (&Dim, &i64)| size.fixed().is_some_and(|n| n > 0 && n % k.max(1) == 0);
        apart && self.pads.iter().all(|p| *p == (0, 0)) && self.image.iter().zip(&self.kernel).all(whole)
    }

    /// `⌊(H + p − ((k−1)·δ + 1)) / s⌋ + 1` of each spatial axis.
    pub fn windows(&self) -> Vec<Dim> {
        (0..self.kernel.len())
            .map(|i| {
                let span = (self.kernel[i] - 1) * self.dilations[i] + 1;
                let room = self.image[i].clone() + Dim::Fixed(self.pads[i].0 + self.pads[i].1 - span);
                room.div_floor(self.strides[i].max(1)) + Dim::Fixed(1)
            })
            .collect()
    }

    /// The shape of `x ⋆ w`.
    pub fn conv_shape(&self, x: &[Dim], w: &[Dim]) -> Vec<Dim> {
        let head = [x.first(), w.first()].into_iter().flatten().cloned();
        head.chain(self.windows()).collect()
    }

    /// The shape of the image that `y` is a convolution of.
    pub fn image_shape(&self, y: &[Dim], w: &[Dim]) -> Vec<Dim> {
        let channels = w.get(1).cloned().unwrap_or(Dim::Fixed(1)) * Dim::Fixed(self.group);
        y.first().cloned().into_iter().chain([channels]).chain(self.image.iter().cloned()).collect()
    }

    pub(crate) fn conv<'g>(&self, x: Val<'g>, w: Val<'g>) -> Val<'g> {
        x.builder().op("Conv", &[x, w], self.attrs())
    }

    /// The transpose of `conv`, onto images whose spatial sizes end the shape `to`.
    pub(crate) fn conv_transpose<'g>(&self, y: Val<'g>, w: Val<'g>, to: &[Dim]) -> Val<'g> {
        let b = y.builder();
        let spatial = self.kernel.len();
        let (windows, image) = (&y.shape()[2..], &to[to.len() - spatial..]);
        // What the windows cover, of which the image is `pads.0 .. pads.0 + H`.
        let covered: Vec<Dim> = (0..spatial)
            .map(|i| {
                (windows[i].clone() - Dim::Fixed(1)) * Dim::Fixed(self.strides[i])
                    + Dim::Fixed((self.kernel[i] - 1) * self.dilations[i] + 1)
            })
            .collect();
        let beyond: Vec<Dim> = (0..spatial)
            .map(|i| image[i].clone() + Dim::Fixed(self.pads[i].0 + self.pads[i].1) - covered[i].clone())
            .collect();
        let simple =
            beyond.iter().zip(&self.strides).all(|(d, &s)| d.fixed().is_some_and(|n| (0..s.max(1)).contains(&n)));
        if simple {
            let output_padding: Vec<i64> = beyond.iter().filter_map(Dim::fixed).collect();
            let mut attrs = self.attrs();
            if output_padding.iter().any(|&n| n != 0) {
                attrs = attrs.with("output_padding", output_padding);
            }
            return b.op("ConvTranspose", &[y, w], attrs);
        }
        let bare = ConvGeometry { pads: vec![(0, 0); spatial], ..self.clone() };
        let whole = b.op("ConvTranspose", &[y, w], bare.attrs());
        let none = (Dim::Fixed(0), Dim::Fixed(0));
        let mut pads = vec![none.clone(), none];
        pads.extend((0..spatial).map(|i| {
            let end = image[i].clone() + Dim::Fixed(self.pads[i].0) - covered[i].clone();
            (Dim::Fixed(-self.pads[i].0), end)
        }));
        super::reshape::pad(whole, &pads)
    }

    /// `[N, C, H…] → [N, C·Πk, P]`: the windows of the image as columns, `P` of them.
    pub fn columns<'g>(&self, x: Val<'g>) -> Val<'g> {
        let shape = x.shape();
        let (n, c) = (shape[0].clone(), shape[1].clone());
        let taps: i64 = self.kernel.iter().product();
        let positions = count(&self.windows());
        if self.is_pointwise() {
            return x.reshape(&[n, c, positions]);
        }
        // A convolution of every channel alone with the identity: one output channel a tap. A group a channel is faster
        // than a batch entry a channel, as long as the filter stays small.
        let picked = match c.fixed() {
            Some(channels) if channels.saturating_mul(taps.saturating_mul(taps)) <= IDENTITY_LIMIT => {
                ConvGeometry { group: channels, ..self.clone() }.conv(x, self.identity(x, channels))
            }
            _ => {
                let single: Vec<Dim> =
                    [n.clone() * c.clone(), Dim::Fixed(1)].into_iter().chain(shape[2..].iter().cloned()).collect();
                ConvGeometry { group: 1, ..self.clone() }.conv(x.reshape(&single), self.identity(x, 1))
            }
        };
        picked.reshape(&[n, c * Dim::Fixed(taps), positions])
    }

    /// The filter `[channels·Πk, 1, k…]` whose `t`-th output of each channel is tap `t`.
    fn identity<'g>(&self, x: Val<'g>, channels: i64) -> Val<'g> {
        let taps: usize = self.kernel.iter().product::<i64>().max(0) as usize;
        let rows = taps.saturating_mul(channels.max(0) as usize);
        let shape: Vec<usize> = [rows, 1].into_iter().chain(self.kernel.iter().map(|&k| k.max(0) as usize)).collect();
        x.builder().tabulated(x.dtype(), &shape, |i| f64::from(u8::from(i / taps % taps == i % taps)))
    }

    /// `w̄` of `y = x ⋆ w`, of shape `to`; the leading axis belongs to `ct`.
    pub(super) fn filter_gradient<'g>(&self, x: Val<'g>, ct: Val<'g>, to: &[Dim], lead: Option<&Dim>) -> Val<'g> {
        let exchanged = exchanged::filter_gradient(self, Side { v: x, lead: None }, Side { v: ct, lead }, to, lead);
        if let Some(gradient) = exchanged {
            return gradient;
        }
        let columns = self.grouped(self.columns(x), None);
        let rows = self.grouped(flat_positions(ct, lead), lead);
        let product = contract(rows, lead, columns, None);
        product.reshape(&with_lead(to, lead))
    }

    /// `w̄` of `y = x ⋆ᵀ w`: the roles of image and cotangent are exchanged.
    pub(super) fn transposed_filter_gradient<'g>(
        &self,
        x: Val<'g>,
        ct: Val<'g>,
        to: &[Dim],
        lead: Option<&Dim>,
    ) -> Val<'g> {
        let exchanged = exchanged::filter_gradient(self, Side { v: ct, lead }, Side { v: x, lead: None }, to, lead);
        if let Some(gradient) = exchanged {
            return gradient;
        }
        let shape = ct.shape();
        let columns = match lead {
            None => self.columns(ct),
            Some(l) => {
                let inner = &shape[1..];
                let merged: Vec<Dim> =
                    std::iter::once(l.clone() * inner[0].clone()).chain(inner[1..].iter().cloned()).collect();
                let columns = self.columns(ct.reshape(&merged));
                let c = columns.shape();
                columns.reshape(&[l.clone(), inner[0].clone(), c[1].clone(), c[2].clone()])
            }
        };
        let columns = self.grouped(columns, lead);
        let rows = self.grouped(flat_positions(x, None), None);
        let product = contract(rows, None, columns, lead);
        product.reshape(&with_lead(to, lead))
    }

    /// `[…, N, G·K, P] → […, N, G, K, P]`
    fn grouped<'g>(&self, x: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
        let shape = x.shape();
        let skip = usize::from(lead.is_some());
        let group = Dim::Fixed(self.group);
        let each = shape[skip + 1].div_exact(&group).unwrap_or_else(|| shape[skip + 1].div_floor(self.group));
        let mut to = shape[..=skip].to_vec();
        to.extend([group, each, shape[skip + 2].clone()]);
        x.reshape(&to)
    }
}

/// `[…, N, C, H…] → […, N, C, P]`
fn flat_positions<'g>(x: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
    let shape = x.shape();
    let keep = 2 + usize::from(lead.is_some());
    let to: Vec<Dim> = shape[..keep].iter().cloned().chain([count(&shape[keep..])]).collect();
    x.reshape(&to)
}

/// `Σ_{n,p} a[n,g,i,p]·b[n,g,j,p] → [g, i, j]`, with the leading axis of whichever has one.
fn contract<'g>(a: Val<'g>, lead_a: Option<&Dim>, b: Val<'g>, lead_b: Option<&Dim>) -> Val<'g> {
    let (sa, sb) = (a.shape(), b.shape());
    let (ka, kb) = (usize::from(lead_a.is_some()), usize::from(lead_b.is_some()));
    let axes = |k: usize, order: [usize; 4]| -> Vec<i64> {
        (0..k).chain(order.into_iter().map(|i| i + k)).map(|i| i as i64).collect()
    };
    // A product an image, then their sum, moves `I·J` numbers an image; one long product has to transpose `J·P`.
    let few_rows = match (sa[ka + 2].fixed(), sa[ka + 3].fixed()) {
        (Some(rows), Some(positions)) => rows <= positions,
        _ => true,
    };
    if few_rows {
        let images = ka.max(kb) as i64;
        return b.matmul(a.transpose()).sum(&[images]).transpose();
    }
    let inner = sa[ka].clone() * sa[ka + 3].clone();
    let single = sa[ka + 1].is_one();
    let groups = |s: &[Dim], k: usize| if single { Vec::new() } else { vec![s[k + 1].clone()] };
    // [G, I, N·P] and [G, N·P, J]
    let rows: Vec<Dim> =
        sa[..ka].iter().cloned().chain(groups(&sa, ka)).chain([sa[ka + 2].clone(), inner.clone()]).collect();
    let columns: Vec<Dim> =
        sb[..kb].iter().cloned().chain(groups(&sb, kb)).chain([inner, sb[kb + 2].clone()]).collect();
    let left = a.permute(&axes(ka, [1, 2, 0, 3])).reshape(&rows);
    let right = b.permute(&axes(kb, [1, 0, 3, 2])).reshape(&columns);
    left.matmul(right)
}

/// Applies an image map to `[L, N, …]` by merging the first two axes.
pub(super) fn over_lead<'g>(t: Val<'g>, lead: Option<&Dim>, f: impl Fn(Val<'g>) -> Val<'g>) -> Val<'g> {
    let Some(lead) = lead else { return f(t) };
    let shape = t.shape();
    let merged: Vec<Dim> =
        std::iter::once(shape[0].clone() * shape[1].clone()).chain(shape[2..].iter().cloned()).collect();
    let y = f(t.reshape(&merged));
    let out: Vec<Dim> = [lead.clone(), shape[1].clone()].into_iter().chain(y.shape()[1..].iter().cloned()).collect();
    y.reshape(&out)
}

/// `x ⋆ t` for filters `t[L, M, C/g, k…]`: their outputs are channels of one convolution.
pub(super) fn filters<'g>(x: Val<'g>, t: Val<'g>, g: &ConvGeometry, lead: Option<&Dim>) -> Val<'g> {
    let Some(lead) = lead else { return g.conv(x, t) };
    let shape = t.shape();
    let group = Dim::Fixed(g.group);
    let each = shape[1].div_exact(&group).unwrap_or_else(|| shape[1].div_floor(g.group.max(1)));
    let split: Vec<Dim> =
        [lead.clone(), group.clone(), each.clone()].into_iter().chain(shape[2..].iter().cloned()).collect();
    let order: Vec<i64> = [1, 0].into_iter().chain(2..split.len() as i64).collect();
    let merged: Vec<Dim> = std::iter::once(lead.clone() * shape[1].clone()).chain(shape[2..].iter().cloned()).collect();
    let y = g.conv(x, t.reshape(&split).permute(&order).reshape(&merged));
    leading(y, lead, &group, &each)
}

/// The transpose of `x ⋆ t` for filters `t[L, C, M/g, k…]`, onto images whose spatial sizes end the shape `to`.
pub(super) fn transposed_filters<'g>(
    x: Val<'g>,
    t: Val<'g>,
    g: &ConvGeometry,
    to: &[Dim],
    lead: Option<&Dim>,
) -> Val<'g> {
    let Some(lead) = lead else { return g.conv_transpose(x, t, to) };
    let shape = t.shape();
    let order: Vec<i64> = [1, 0].into_iter().chain(2..shape.len() as i64).collect();
    let merged: Vec<Dim> =
        [shape[1].clone(), lead.clone() * shape[2].clone()].into_iter().chain(shape[3..].iter().cloned()).collect();
    let y = g.conv_transpose(x, t.permute(&order).reshape(&merged), to);
    leading(y, lead, &Dim::Fixed(g.group), &shape[2])
}

/// `[N, G·L·M/G, P…] → [L, N, M, P…]`
fn leading<'g>(y: Val<'g>, lead: &Dim, group: &Dim, each: &Dim) -> Val<'g> {
    let shape = y.shape();
    let (n, behind) = (shape[0].clone(), &shape[2..]);
    let split: Vec<Dim> =
        [n.clone(), group.clone(), lead.clone(), each.clone()].into_iter().chain(behind.iter().cloned()).collect();
    let order: Vec<i64> = [2, 0, 1, 3].into_iter().chain(4..split.len() as i64).collect();
    let to: Vec<Dim> =
        [lead.clone(), n, group.clone() * each.clone()].into_iter().chain(behind.iter().cloned()).collect();
    y.reshape(&split).permute(&order).reshape(&to)
}

/// An image map of `[L, N, C, H…]` and filters `[L, M, C/g, k…]`, pair by pair: the pairs are groups of one convolution.
pub(super) fn pairwise<'g>(
    x: Val<'g>,
    w: Val<'g>,
    g: &ConvGeometry,
    lead: Option<&Dim>,
    f: impl Fn(&ConvGeometry, Val<'g>, Val<'g>) -> Val<'g>,
) -> Val<'g> {
    let Some(count) = lead else { return f(g, x, w) };
    let Some(pairs) = count.fixed() else {
        x.builder().fault(crate::error::Error::UnknownDimension { dim: count.to_string() });
        return x;
    };
    let front = |v: Val<'g>| -> Vec<i64> { [1, 0].into_iter().chain(2..v.rank() as i64).collect() };
    let (image, filter) = (x.permute(&front(x)), w.shape());
    let shape = image.shape();
    let channels: Vec<Dim> =
        [shape[0].clone(), shape[1].clone() * shape[2].clone()].into_iter().chain(shape[3..].iter().cloned()).collect();
    let rows: Vec<Dim> =
        std::iter::once(filter[0].clone() * filter[1].clone()).chain(filter[2..].iter().cloned()).collect();
    let grouped = ConvGeometry { group: g.group * pairs, ..g.clone() };
    let y = f(&grouped, image.reshape(&channels), w.reshape(&rows));
    let out = y.shape();
    let each = out[1].div_exact(count).unwrap_or_else(|| out[1].div_floor(pairs));
    let split: Vec<Dim> = [out[0].clone(), count.clone(), each].into_iter().chain(out[2..].iter().cloned()).collect();
    let y = y.reshape(&split);
    y.permute(&front(y))
}
