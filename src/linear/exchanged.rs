//! The filter gradient of a convolution as one more convolution, in which batch and channels have changed places:
//! `w̄[m, c, t] = Σ_{n,o} ȳ[n, m, o] · x[n, c, o·s + t·δ − p]` reads the image at `t` apart by `δ`, with the cotangent as
//! its filter, `s` between taps. Nothing of the size of the image's columns is written.
//!
//! Channels are one more spatial axis, the last: rows of a window then lie next to each other in memory.

use super::{ConvGeometry, with_lead};
use crate::ir::{Attrs, Dim, Val, fixed};

/// Columns of the product inside, `C · Πk`, from which on this is faster than writing the image's columns and multiplying by
/// them; with a channel a group it always is. Fitted by benches/convolution.py.
const COLUMNS: i64 = 64;

/// Spatial axes that runtimes have fast convolutions for.
const AXES: usize = 3;

/// An image or its cotangent `[…, N, G·K, …]`, with the leading axis it may have.
#[derive(Clone, Copy)]
pub(super) struct Side<'g, 'a> {
    pub v: Val<'g>,
    pub lead: Option<&'a Dim>,
}

impl Side<'_, '_> {
    fn lead(&self) -> Dim {
        self.lead.cloned().unwrap_or(Dim::Fixed(1))
    }

    fn skip(&self) -> usize {
        usize::from(self.lead.is_some())
    }

    /// `N`
    fn samples(&self) -> Dim {
        self.v.dim(self.skip() as i64)
    }

    /// The sizes behind the channels.
    fn spatial(&self) -> Vec<Dim> {
        self.v.shape()[self.skip() + 2..].to_vec()
    }
}

/// Sizes of an exchanged convolution, an entry a spatial axis of the image.
struct Plan {
    /// `C/group`
    channels: i64,
    /// Whether there is an axis of channels behind the image's.
    columns: bool,
    windows: Vec<i64>,
    /// Begin, and end: less than nothing where rows at the end belong to no window.
    pads: Vec<(i64, i64)>,
}

impl Plan {
    /// Where all sizes are known and it pays.
    fn of(g: &ConvGeometry, channels: &Dim, lead: Option<&Dim>) -> Option<Plan> {
        let channels = channels.fixed()?;
        let (image, windows) = (fixed(&g.image)?, fixed(&g.windows())?);
        let taps: i64 = g.kernel.iter().product();
        let depthwise = channels == 1 && g.group > 1;
        let pays = depthwise || (g.group == 1 && channels.saturating_mul(taps) >= COLUMNS);
        let columns = channels > 1 || lead.is_some();
        let axes = g.kernel.len() + usize::from(columns);
        if !pays || taps <= 1 || axes > AXES || image.iter().chain(&windows).any(|&n| n < 1) {
            return None;
        }
        // The image reaches from the first tap of the first window to the last tap of the last one.
        let pads = (0..image.len())
            .map(|i| {
                let last_window = (windows[i] - 1).saturating_mul(g.strides[i]);
                let last_tap = (g.kernel[i] - 1).saturating_mul(g.dilations[i]);
                let reach = last_window.saturating_add(last_tap).saturating_add(1);
                (g.pads[i].0, reach.saturating_sub(image[i]).saturating_sub(g.pads[i].0))
            })
            .collect();
        Some(Plan { channels, columns, windows, pads })
    }

    fn attrs(&self, g: &ConvGeometry) -> Attrs {
        let with_channels =
            |list: &[i64], n: i64| -> Vec<i64> { list.iter().copied().chain(self.columns.then_some(n)).collect() };
        let begin: Vec<i64> = self.pads.iter().map(|p| p.0).collect();
        let end: Vec<i64> = self.pads.iter().map(|p| p.1.max(0)).collect();
        Attrs::new()
            .with("kernel_shape", with_channels(&self.windows, 1))
            .with("strides", with_channels(&g.dilations, 1))
            .with("dilations", with_channels(&g.strides, 1))
            .with("pads", [with_channels(&begin, 0), with_channels(&end, 0)].concat())
            .with("group", g.group)
    }
}

/// `w̄` of shape `[…, M, C/group, k…]` from the image and the cotangent of its convolution, one of which may have the
/// leading axis; `None` where another way is to be taken.
pub(super) fn filter_gradient<'g>(
    g: &ConvGeometry,
    image: Side<'g, '_>,
    windows: Side<'g, '_>,
    to: &[Dim],
    lead: Option<&Dim>,
) -> Option<Val<'g>> {
    let plan = Plan::of(g, to.get(1)?, image.lead)?;
    let (group, spatial) = (Dim::Fixed(g.group), g.kernel.len());
    let each = to.first()?.div_exact(&group)?;
    let y = image.v.builder().op("Conv", &[plan.image(g, image), plan.filter(g, windows, &each)], plan.attrs(g));
    // [1, G·L·M/G, k…, L'·C/G] → [G, L, M/G, k…, L', C/G] → [L, L', G, M/G, C/G, k…]
    let taps: Vec<Dim> = g.kernel.iter().map(|&k| Dim::Fixed(k)).collect();
    let mut split = vec![group, windows.lead(), each];
    split.extend(taps);
    split.extend([image.lead(), Dim::Fixed(plan.channels)]);
    let k = spatial as i64;
    let mut order = vec![1, 3 + k, 0, 2, 4 + k];
    order.extend(3..3 + k);
    Some(arranged(y, &split, &order, &with_lead(to, lead)))
}

impl Plan {
    /// `[L, N, G·C, H…] → [1, G·N, H…, L·C]`, without the rows that belong to no window; the last axis only where it is one of
    /// columns.
    fn image<'g>(&self, g: &ConvGeometry, image: Side<'g, '_>) -> Val<'g> {
        let (lead, samples, spatial) = (image.lead(), image.samples(), image.spatial());
        let (group, channels) = (Dim::Fixed(g.group), Dim::Fixed(self.channels));
        let mut split = vec![lead.clone(), samples.clone(), group.clone(), channels.clone()];
        split.extend(spatial.iter().cloned());
        let mut order = vec![2, 1];
        order.extend(4..4 + spatial.len() as i64);
        order.extend([0, 3]);
        let mut to = vec![Dim::Fixed(1), group * samples];
        to.extend(spatial);
        if self.columns {
            to.push(lead * channels);
        }
        let mut v = arranged(image.v, &split, &order, &to);
        for (i, &(_, end)) in self.pads.iter().enumerate().filter(|(_, pad)| pad.1 < 0) {
            v = v.slice(2 + i as i64, 0, end);
        }
        v
    }

    /// `[L, N, G·M, O…] → [G·L·M, N, O…, 1]`
    fn filter<'g>(&self, g: &ConvGeometry, windows: Side<'g, '_>, each: &Dim) -> Val<'g> {
        let (lead, samples, spatial) = (windows.lead(), windows.samples(), windows.spatial());
        let group = Dim::Fixed(g.group);
        let mut split = vec![lead.clone(), samples.clone(), group.clone(), each.clone()];
        split.extend(spatial.iter().cloned());
        let mut order = vec![2, 0, 3, 1];
        order.extend(4..4 + spatial.len() as i64);
        let mut to = vec![group * lead * each.clone(), samples];
        to.extend(spatial);
        if self.columns {
            to.push(Dim::Fixed(1));
        }
        arranged(windows.v, &split, &order, &to)
    }
}

/// Reshaped to `split`, its axes put in that order, reshaped to `to`. Axes of size 1 take part in neither step.
fn arranged<'g>(v: Val<'g>, split: &[Dim], order: &[i64], to: &[Dim]) -> Val<'g> {
    let kept: Vec<i64> = (0..split.len() as i64).filter(|&i| !split[i as usize].is_one()).collect();
    let sizes: Vec<Dim> = kept.iter().map(|&i| split[i as usize].clone()).collect();
    let moved: Vec<i64> = order.iter().filter_map(|i| kept.binary_search(i).ok()).map(|i| i as i64).collect();
    v.reshape(&sizes).permute(&moved).reshape(to)
}
