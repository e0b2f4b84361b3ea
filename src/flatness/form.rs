//! How a layer's weight acts, and how the graph stores it.

use super::layer::Layer;
use crate::ir::{Dim, Val, count};
use crate::linear::{ConvGeometry, with_lead};

/// How a layer's weight `W[d, m]` acts on its activations.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// `z[…, d] = α · a[…, m] · Wᵀ`; `turned`: the node reads `aᵀ`.
    Rows { alpha: f32, turned: bool },
    /// `z[…, d, p] = α · W · a[…, m, p]`; `turned`: the node reads `aᵀ`.
    Columns { alpha: f32, turned: bool },
    /// A convolution, `[N, Cin, H…] → [N, d, P…]`.
    Conv(ConvGeometry),
    /// The transpose of that convolution, `[N, Cin, P…] → [N, d, H…]`.
    ConvTranspose(ConvGeometry),
    /// A matrix of its own for each place of the leading axes: `W` is all of them, one below the other.
    Stack,
}

/// How the node's operand stores `W[d, m]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// `[d, m]`
    Rows,
    /// `[m, d]`
    Columns,
    /// `[d, Cin/g, k…]`
    Filter,
    /// `[Cin, d/g, k…]`
    TransposedFilter { group: i64 },
    /// `[…, d, m]`
    StackedRows,
    /// `[…, m, d]`
    StackedColumns,
}

impl Form {
    /// The axis of the layer's output that counts neurons; `None` where there is more than one.
    pub fn feature_axis(&self, rank: usize) -> Option<usize> {
        match self {
            Form::Rows { .. } => rank.checked_sub(1),
            Form::Columns { .. } => rank.checked_sub(2),
            Form::Conv(_) | Form::ConvTranspose(_) => Some(1),
            Form::Stack => None,
        }
    }

    /// Every neuron reads the same activations, up to its weights.
    pub fn shares_activations(&self) -> bool {
        match self {
            Form::Rows { .. } | Form::Columns { .. } => true,
            Form::Conv(g) | Form::ConvTranspose(g) => g.group == 1,
            Form::Stack => false,
        }
    }

    fn alpha(&self) -> f64 {
        match self {
            Form::Rows { alpha, .. } | Form::Columns { alpha, .. } => f64::from(*alpha),
            _ => 1.0,
        }
    }
}

fn scaled(v: Val<'_>, by: f64) -> Val<'_> {
    if by == 1.0 { v } else { v * by }
}

impl Layer {
    /// The weight as `W[d, m]`, from the value that stands for [`Layer::weight`].
    pub fn view<'g>(&self, root: Val<'g>) -> Val<'g> {
        let b = root.builder();
        let mut operand = root;
        for node in &self.chain {
            let others = node.inputs.iter().skip(1).map(|id| id.map(|id| b.val(id)));
            let inputs: Vec<Option<Val<'g>>> = std::iter::once(Some(operand)).chain(others).collect();
            operand = b.node(&node.op, &inputs, node.attrs.clone(), 1)[0];
        }
        let whole = [Dim::Fixed(self.d), Dim::Fixed(self.m)];
        match self.layout {
            Stored::Rows => operand,
            Stored::Columns => operand.transpose(),
            Stored::Filter | Stored::StackedRows => operand.reshape(&whole),
            Stored::StackedColumns => operand.transpose().reshape(&whole),
            Stored::TransposedFilter { group } => {
                let shape = operand.shape();
                let (g, taps) = (Dim::Fixed(group), count(&shape[2..]));
                let split = [g, Dim::Fixed(shape[0].fixed().unwrap_or(1) / group.max(1)), shape[1].clone(), taps];
                operand.reshape(&split).permute(&[0, 2, 1, 3]).reshape(&whole)
            }
        }
    }

    /// The activations as the form's formula has them.
    fn upright<'g>(&self, a: Val<'g>) -> Val<'g> {
        match self.form {
            Form::Rows { turned: true, .. } | Form::Columns { turned: true, .. } => a.transpose(),
            _ => a,
        }
    }

    /// `‖a_r‖²` at every position: the output's shape with one neuron. For forms that share their activations.
    pub fn squared_norms<'g>(&self, a: Val<'g>) -> Val<'g> {
        let x = scaled(self.upright(a), self.form.alpha());
        let rank = x.rank() as i64;
        match &self.form {
            Form::Rows { .. } | Form::Stack => x.square().sum_keep(&[rank - 1]),
            Form::Columns { .. } => x.square().sum_keep(&[rank - 2]),
            Form::Conv(g) => {
                let summed = x.square().sum_keep(&[1]);
                if g.is_pointwise() { summed } else { g.conv(summed, ones(x, g)) }
            }
            Form::ConvTranspose(g) => {
                let summed = x.square().sum_keep(&[1]);
                if g.is_pointwise() { summed } else { g.conv_transpose(summed, ones(x, g), &g.image) }
            }
        }
    }

    /// `G[…, d, m] = Σ_p J[…, p, d] a[p, m]` of each sample on the first axis, from cotangents `[…, N, …]` of the
    /// layer's output, with or without a leading axis.
    pub fn sample_gradients<'g>(&self, a: Val<'g>, ct: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
        let n = ct.shape()[usize::from(lead.is_some())].clone();
        let (d, m) = (Dim::Fixed(self.d), Dim::Fixed(self.m));
        let with = |rest: &[Dim]| with_lead(&[std::slice::from_ref(&n), rest].concat(), lead);
        match &self.form {
            Form::Rows { .. } | Form::Stack => {
                let a = scaled(self.upright(a), self.form.alpha());
                let shape = a.shape();
                let positions = count(&shape[1..shape.len() - 1]);
                let rows = ct.reshape(&with(&[positions.clone(), d]));
                rows.transpose().matmul(a.reshape(&[n.clone(), positions, m]))
            }
            Form::Columns { .. } => {
                let a = scaled(self.upright(a), self.form.alpha()).transpose();
                let shape = a.shape();
                let positions = count(&shape[1..shape.len() - 1]);
                let rows = ct.transpose().reshape(&with(&[positions.clone(), d]));
                rows.transpose().matmul(a.reshape(&[n.clone(), positions, m]))
            }
            Form::Conv(g) => {
                let columns = g.columns(a);
                let positions = columns.shape()[2].clone();
                let (group, each) = (Dim::Fixed(g.group), Dim::Fixed(self.d / g.group.max(1)));
                let columns = columns.reshape(&[n.clone(), group.clone(), m.clone(), positions.clone()]);
                let product = ct.reshape(&with(&[group, each, positions])).matmul(columns.permute(&[0, 1, 3, 2]));
                product.reshape(&with(&[d, m]))
            }
            Form::ConvTranspose(g) => {
                let shape = ct.shape();
                let skip = usize::from(lead.is_some());
                let merged: Vec<Dim> =
                    std::iter::once(count(&shape[..=skip])).chain(shape[skip + 1..].iter().cloned()).collect();
                let columns = g.columns(ct.reshape(&merged));
                let positions = columns.shape()[2].clone();
                let taps: i64 = g.kernel.iter().product();
                let (group, each) = (Dim::Fixed(g.group), self.d / g.group.max(1));
                let inner = Dim::Fixed(self.m / taps.max(1));
                let columns = columns.reshape(&with(&[group.clone(), Dim::Fixed(each * taps), positions.clone()]));
                let x = a.reshape(&[n.clone(), group.clone(), inner.clone(), positions]);
                let product = columns.matmul(x.transpose());
                let split = product.reshape(&with(&[group, Dim::Fixed(each), Dim::Fixed(taps), inner]));
                split.transpose().reshape(&with(&[d, m]))
            }
        }
    }

    /// `δz` for `V = p qᵀ`: `(q·a_r) p`, for `p[d]` and `q[m]` behind the leading axis, if there is one. `None` for forms
    /// whose neurons read different activations.
    pub fn rank_one<'g>(&self, a: Val<'g>, p: Val<'g>, q: Val<'g>, lead: Option<&Dim>) -> Option<Val<'g>> {
        let b = a.builder();
        let rank = b.val(self.output).rank();
        let feature = self.form.feature_axis(rank).filter(|_| self.form.shares_activations())?;
        let q = if lead.is_some() { q } else { q.unsqueeze(&[0]) };
        let x = scaled(self.upright(a), self.form.alpha());
        // [S, …] with the samples behind, one neuron.
        let along = match &self.form {
            Form::Rows { .. } | Form::Stack => {
                let products = x.matmul(q.transpose());
                let last = products.rank() as i64 - 1;
                let perm: Vec<i64> = std::iter::once(last).chain(0..last).collect();
                products.permute(&perm).unsqueeze(&[last + 1])
            }
            Form::Columns { .. } => {
                let products = q.matmul(x);
                let at = products.rank() as i64 - 2;
                let perm: Vec<i64> = std::iter::once(at).chain((0..=at + 1).filter(|&i| i != at)).collect();
                products.permute(&perm).unsqueeze(&[at + 1])
            }
            Form::Conv(g) => {
                let y = g.conv(x, q.reshape(&filter_shape(q, self.m, g)));
                front_channel(y)
            }
            Form::ConvTranspose(g) => {
                let spread = q.reshape(&filter_shape(q, self.m, g));
                let perm: Vec<i64> = [1, 0].into_iter().chain(2..spread.rank() as i64).collect();
                front_channel(g.conv_transpose(x, spread.permute(&perm), &g.image))
            }
        };
        let mut neurons = vec![Dim::Fixed(1); rank + 1];
        neurons[0] = lead.cloned().unwrap_or(Dim::Fixed(1));
        neurons[feature + 1] = Dim::Fixed(self.d);
        let product = along * p.reshape(&neurons);
        Some(if lead.is_some() { product } else { product.squeeze(&[0]) })
    }
}

/// `[S, m]` as filters `[S, Cin, k…]`.
fn filter_shape(q: Val<'_>, m: i64, g: &ConvGeometry) -> Vec<Dim> {
    let taps: i64 = g.kernel.iter().product();
    let kernel = g.kernel.iter().map(|&k| Dim::Fixed(k));
    [q.dim(0), Dim::Fixed(m / taps.max(1))].into_iter().chain(kernel).collect()
}

/// `[N, S, P…] → [S, N, 1, P…]`
fn front_channel(y: Val<'_>) -> Val<'_> {
    let perm: Vec<i64> = [1, 0].into_iter().chain(2..y.rank() as i64).collect();
    y.permute(&perm).unsqueeze(&[2])
}

/// A filter of ones for one channel.
fn ones<'g>(x: Val<'g>, g: &ConvGeometry) -> Val<'g> {
    let shape: Vec<usize> = [1, 1].into_iter().chain(g.kernel.iter().map(|&k| k.max(0) as usize)).collect();
    x.builder().tabulated(x.dtype(), &shape, |_| 1.0)
}
