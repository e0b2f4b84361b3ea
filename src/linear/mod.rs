//! The linear maps: each emits itself on tangents, and its transpose on cotangents.
//!
//! Both take `lead`, an optional further first axis over which the map is applied independently; so C reverse passes
//! of a network head are one. Parameters of the maps never have that axis.

mod bilinear;
mod convolution;
mod exchanged;
mod fourier;
mod index;
mod pooling;
mod product;
mod reshape;

pub use convolution::ConvGeometry;
pub use pooling::{AveragePool, Divisor};
pub(crate) use pooling::{can_upsample, upsampled};
pub use reshape::{align, with_lead};

use crate::ir::{DType, Dim, Val, broadcast, count};
use crate::lower::normalization::working_type;

#[derive(Clone)]
pub enum Linear<'g> {
    /// `−t`
    Neg,
    /// `t ⊙ v`
    Scale(Val<'g>),
    /// `t / v`
    Quotient(Val<'g>),
    /// `t` where `cond == keep`, else 0
    Mask {
        cond: Val<'g>,
        keep: bool,
        /// Of a function that is zero there, not of a choice: what is finite by its formula may be multiplied by zero.
        gate: bool,
    },
    /// `t · v`
    MatMulRight(Val<'g>),
    /// `v · t`
    MatMulLeft(Val<'g>),
    /// `Σ t` over axes; transposed: Expand
    Sum {
        axes: Vec<i64>,
        keep: bool,
    },
    /// `Σ t` over axes only known at run time, to the given shape; no axes: `noop`, or all
    SumAt {
        axes: Val<'g>,
        keep: bool,
        noop: bool,
        shape: Vec<Dim>,
    },
    Expand(Vec<Dim>),
    Reshape(Vec<Dim>),
    Permute(Vec<i64>),
    /// Zeros before and after each axis, negative numbers cut; transposed: the negated pads
    Pad(Vec<(Dim, Dim)>),
    /// transposed: scatter with addition
    Gather {
        indices: Val<'g>,
        axis: usize,
    },
    /// `flat(t)[indices]` of a pooling: an index never leaves its sample
    PoolPick {
        indices: Val<'g>,
    },
    /// `t[indices[i, j, …], j, …]`; transposed: the same scatter with addition
    GatherElements {
        indices: Val<'g>,
        axis: usize,
    },
    ScatterElements {
        indices: Val<'g>,
        axis: usize,
        shape: Vec<Dim>,
    },
    GatherNd {
        indices: Val<'g>,
    },
    ScatterNd {
        indices: Val<'g>,
        shape: Vec<Dim>,
    },
    /// `t ⋆ w`; transposed: ConvTranspose
    Conv {
        w: Val<'g>,
        g: ConvGeometry,
    },
    /// `x ⋆ t`
    ConvFilter {
        x: Val<'g>,
        g: ConvGeometry,
    },
    ConvTranspose {
        w: Val<'g>,
        g: ConvGeometry,
    },
    ConvTransposeFilter {
        x: Val<'g>,
        g: ConvGeometry,
    },
    /// Transposed: ConvTranspose of each window's share with ones
    AveragePool(Box<AveragePool<'g>>),
    Cast {
        from: DType,
        to: DType,
    },
    CumSum {
        axis: usize,
        exclusive: bool,
        reverse: bool,
    },
    /// The discrete Fourier transform of pairs in the last axis, `Σ t e^{−2πikn/N}`, or its inverse; transposed: the
    /// other one, `N` times the inverse or the forward one divided by `N`
    Dft {
        axis: usize,
        inverse: bool,
    },
}

/// A cotangent whose expansion is delayed: `value` broadcasts to `shape`.
#[derive(Clone, Debug)]
pub struct Cotangent<'g> {
    pub value: Val<'g>,
    pub shape: Vec<Dim>,
}

impl<'g> Cotangent<'g> {
    pub fn new(value: Val<'g>) -> Cotangent<'g> {
        Cotangent { shape: value.shape(), value }
    }

    /// The cotangent as a tensor of its whole shape.
    pub fn materialise(&self) -> Val<'g> {
        self.value.expand(&self.shape)
    }

    /// The same with an axis of size 1 for each that the value lacks, so that maps can name axes.
    pub(crate) fn of_whole_rank(self) -> Cotangent<'g> {
        let missing = self.shape.len().saturating_sub(self.value.rank());
        let axes: Vec<i64> = (0..missing as i64).collect();
        Cotangent { value: self.value.unsqueeze(&axes), shape: self.shape }
    }

    /// The same with one axis at its whole size, the other expansions still delayed.
    pub(crate) fn with_whole_axis(self, axis: usize) -> Cotangent<'g> {
        let whole = product::whole_axis(&self, self.shape.len() - axis);
        Cotangent { value: whole, shape: self.shape }
    }

    fn map(self, f: impl FnOnce(Val<'g>) -> Val<'g>) -> Cotangent<'g> {
        Cotangent { value: f(self.value), shape: self.shape }
    }
}

impl<'g> Linear<'g> {
    /// What a tangent is multiplied with.
    pub(crate) fn factor(&self) -> Option<Val<'g>> {
        match self {
            Linear::Scale(v) | Linear::Quotient(v) | Linear::MatMulRight(v) | Linear::MatMulLeft(v) => Some(*v),
            Linear::Conv { w: v, .. } | Linear::ConvTranspose { w: v, .. } => Some(*v),
            Linear::ConvFilter { x: v, .. } | Linear::ConvTransposeFilter { x: v, .. } => Some(*v),
            _ => None,
        }
    }

    /// Shape and type of the image of a tangent.
    pub fn image(&self, t: &[Dim], dtype: DType) -> (Vec<Dim>, DType) {
        let grown = |v: Val| v.builder().broadcast(t, &v.shape()).unwrap_or_else(|| t.to_vec());
        let shape = match self {
            Linear::Neg => t.to_vec(),
            Linear::Scale(v) | Linear::Quotient(v) | Linear::Mask { cond: v, .. } => grown(*v),
            Linear::MatMulRight(v) => product::matmul_shape(v.builder(), t, &v.shape()),
            Linear::MatMulLeft(v) => product::matmul_shape(v.builder(), &v.shape(), t),
            Linear::Sum { axes, keep } => reshape::summed(t, axes, *keep),
            Linear::Expand(shape) => {
                let target = |axis: usize| shape.get(axis).cloned().unwrap_or(Dim::Fixed(1));
                broadcast(t, shape, &target).unwrap_or_else(|| shape.clone())
            }
            Linear::Reshape(shape)
            | Linear::SumAt { shape, .. }
            | Linear::ScatterElements { shape, .. }
            | Linear::ScatterNd { shape, .. } => shape.clone(),
            Linear::Permute(perm) => {
                perm.iter().map(|&p| t.get(p as usize).cloned().unwrap_or(Dim::Fixed(1))).collect()
            }
            Linear::Pad(pads) => t.iter().zip(pads).map(|(d, (a, b))| d.clone() + a.clone() + b.clone()).collect(),
            Linear::Gather { indices, axis } => index::gather_shape(t, &indices.shape(), *axis),
            Linear::PoolPick { indices } => indices.shape(),
            Linear::GatherElements { indices, .. } => indices.shape(),
            Linear::GatherNd { indices } => index::gather_nd_shape(t, &indices.shape()),
            Linear::Conv { w, g } => g.conv_shape(t, &w.shape()),
            Linear::ConvFilter { x, g } => g.conv_shape(&x.shape(), t),
            Linear::ConvTranspose { w, g } => g.image_shape(t, &w.shape()),
            Linear::ConvTransposeFilter { x, g } => g.image_shape(&x.shape(), t),
            Linear::AveragePool(pool) => pool.shape(t),
            Linear::Cast { to, .. } => return (t.to_vec(), *to),
            Linear::CumSum { .. } | Linear::Dft { .. } => t.to_vec(),
        };
        (shape, dtype)
    }

    /// The map applied to a tangent of shape `from`; the result has shape `to`.
    pub fn emit(&self, t: Val<'g>, from: &[Dim], to: &[Dim], lead: Option<&Dim>) -> Val<'g> {
        let aligned = || align(t, from.len(), to.len(), lead);
        let skip = usize::from(lead.is_some());
        match self {
            Linear::Neg => -t,
            Linear::Scale(v) => aligned() * *v,
            Linear::Quotient(v) => aligned() / *v,
            Linear::Mask { cond, keep, gate } => product::mask(*cond, *keep, *gate, aligned()),
            Linear::MatMulRight(v) => aligned().matmul(*v),
            Linear::MatMulLeft(v) => v.matmul(aligned()),
            Linear::Sum { axes, keep } => {
                let axes = reshape::shifted(axes, skip);
                widened(t, |t| if *keep { t.sum_keep(&axes) } else { t.sum(&axes) })
            }
            Linear::SumAt { axes, keep, noop, .. } => reshape::sum_at(t, *axes, *keep, *noop, to, lead),
            Linear::Expand(_) => aligned().expand(&with_lead(to, lead)),
            Linear::Reshape(shape) => t.reshape(&with_lead(shape, lead)),
            Linear::Permute(perm) => t.permute(&reshape::permutation(perm, lead)),
            Linear::Pad(pads) => reshape::pad(t, &reshape::pads_with_lead(pads, lead)),
            Linear::Gather { indices, axis } => index::gather(t, *indices, axis + skip),
            Linear::PoolPick { indices } => index::gather(t.reshape(&with_lead(&[count(from)], lead)), *indices, skip),
            Linear::GatherElements { indices, axis } => index::gather_elements(t, *indices, *axis, lead),
            Linear::ScatterElements { indices, axis, shape } => {
                index::scatter_elements(t, *indices, *axis, shape, lead)
            }
            Linear::GatherNd { indices } => index::gather_nd(t, *indices, lead),
            Linear::ScatterNd { indices, shape } => index::scatter_nd(t, *indices, shape, lead),
            Linear::Conv { w, g } => convolution::over_lead(t, lead, |t| g.conv(t, *w)),
            Linear::ConvFilter { x, g } => convolution::filters(*x, t, g, lead),
            Linear::ConvTranspose { w, g } => convolution::over_lead(t, lead, |t| g.conv_transpose(t, *w, to)),
            Linear::ConvTransposeFilter { x, g } => convolution::transposed_filters(*x, t, g, to, lead),
            Linear::AveragePool(pool) => convolution::over_lead(t, lead, |t| pool.emit(t)),
            Linear::Cast { to: dtype, .. } => t.cast(*dtype),
            Linear::CumSum { axis, exclusive, reverse } => index::cumsum(t, axis + skip, *exclusive, *reverse),
            Linear::Dft { axis, inverse } => fourier::dft(t, axis + skip, *inverse),
        }
    }

    /// The transposed map applied to a cotangent; `from` is the shape of the tangent that the map takes.
    pub fn transpose(&self, ct: Cotangent<'g>, from: &[Dim], lead: Option<&Dim>) -> Cotangent<'g> {
        let skip = usize::from(lead.is_some());
        match self {
            Linear::Neg => ct.map(|v| -v),
            Linear::Scale(v) => ct.map(|c| c * *v).unbroadcast(from, lead),
            Linear::Quotient(v) => ct.map(|c| c / *v).unbroadcast(from, lead),
            Linear::Mask { cond, keep, gate } => {
                ct.map(|c| product::mask(*cond, *keep, *gate, c)).unbroadcast(from, lead)
            }
            Linear::MatMulRight(v) => product::matmul_right_transposed(ct, *v, from, lead),
            Linear::MatMulLeft(v) => product::matmul_left_transposed(ct, *v, from, lead),
            Linear::Sum { axes, keep } => {
                let axes = reshape::shifted(axes, skip);
                let value = if *keep { ct.value } else { ct.value.unsqueeze(&axes) };
                Cotangent { value, shape: with_lead(from, lead) }
            }
            Linear::SumAt { axes, keep, .. } => {
                Cotangent::new(reshape::sum_at_transposed(ct.materialise(), *axes, *keep, &with_lead(from, lead), lead))
            }
            Linear::Expand(_) => ct.unbroadcast(from, lead),
            Linear::Reshape(_) => reshape::reshape_transposed(ct, &with_lead(from, lead)),
            Linear::Permute(perm) => {
                let perm = reshape::permutation(perm, lead);
                let mut inverse = vec![0; perm.len()];
                perm.iter().enumerate().for_each(|(i, &p)| inverse[p as usize] = i as i64);
                let value = ct.value.permute(&inverse);
                Cotangent { value, shape: with_lead(from, lead) }
            }
            Linear::Pad(pads) => {
                let zero = Dim::Fixed(0);
                let back: Vec<_> =
                    pads.iter().map(|(a, b)| (zero.clone() - a.clone(), zero.clone() - b.clone())).collect();
                Cotangent::new(reshape::pad(ct.materialise(), &reshape::pads_with_lead(&back, lead)))
            }
            Linear::PoolPick { indices } => {
                let flat = with_lead(&[count(from)], lead);
                let back = index::gather_transposed(ct.materialise(), *indices, skip, &flat);
                Cotangent::new(back.reshape(&with_lead(from, lead)))
            }
            Linear::Gather { indices, axis } => Cotangent::new(index::gather_transposed(
                ct.materialise(),
                *indices,
                axis + skip,
                &with_lead(from, lead),
            )),
            Linear::GatherElements { indices, axis } => {
                Cotangent::new(index::scatter_elements(ct.materialise(), *indices, *axis, from, lead))
            }
            Linear::ScatterElements { indices, axis, .. } => {
                Cotangent::new(index::gather_elements(ct.materialise(), *indices, *axis, lead))
            }
            Linear::GatherNd { indices } => Cotangent::new(index::scatter_nd(ct.materialise(), *indices, from, lead)),
            Linear::ScatterNd { indices, .. } => Cotangent::new(index::gather_nd(ct.materialise(), *indices, lead)),
            Linear::Conv { w, g } => {
                Cotangent::new(convolution::over_lead(ct.materialise(), lead, |c| g.conv_transpose(c, *w, from)))
            }
            Linear::ConvTranspose { w, g } => {
                Cotangent::new(convolution::over_lead(ct.materialise(), lead, |c| g.conv(c, *w)))
            }
            Linear::ConvFilter { x, g } => Cotangent::new(g.filter_gradient(*x, ct.materialise(), from, lead)),
            Linear::ConvTransposeFilter { x, g } => {
                Cotangent::new(g.transposed_filter_gradient(*x, ct.materialise(), from, lead))
            }
            Linear::AveragePool(pool) => {
                Cotangent::new(convolution::over_lead(ct.materialise(), lead, |c| pool.transpose(c, from)))
            }
            Linear::Cast { from: dtype, .. } => ct.map(|c| c.cast(*dtype)),
            Linear::CumSum { axis, exclusive, reverse } => {
                Cotangent::new(index::cumsum(ct.materialise(), axis + skip, *exclusive, !*reverse))
            }
            Linear::Dft { axis, inverse } => {
                Cotangent::new(fourier::dft_transposed(ct.materialise(), axis + skip, *inverse))
            }
        }
    }
}

/// A sum, of halves in single precision: it keeps its small terms, and runtimes have kernels for it.
fn widened<'g>(v: Val<'g>, sum: impl FnOnce(Val<'g>) -> Val<'g>) -> Val<'g> {
    let dtype = v.dtype();
    sum(v.cast(working_type(dtype))).cast(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ad::{Tape, linearise};
    use crate::ir::{Attrs, Builder, Fact, Tensor};

    /// The types that each sum of the gradient of a graph in `dtype` is taken in.
    fn sums(dtype: DType) -> Vec<DType> {
        let b = Builder::new();
        let shape = [Dim::symbol("N"), Dim::Fixed(3)];
        let (x, scale) =
            (b.input("x", Fact::new(dtype, shape), None), b.input("s", Fact::new(dtype, [Dim::Fixed(3)]), None));
        let rows = b.op("Gather", &[x * scale, b.ints(&[2, 0, 2])], Attrs::new());
        let axis = b.constant(Tensor::ints(&[], &[0]));
        let y = b.op("CumSum", &[rows, axis], Attrs::new()).sum(&[1]);
        let tape = Tape::new(&b);
        let pulled = linearise(&tape, &[y], &[x, scale]).expect("rules").vjp(&[Some(Cotangent::new(y))], None);
        assert!(pulled.iter().flatten().all(|ct| ct.value.dtype() == dtype));
        b.read(|g| {
            let cotangents = g.nodes.iter().filter(|n| n.name.contains(".cotangent"));
            let summing = cotangents.filter(|n| matches!(n.op.as_str(), "ReduceSum" | "CumSum" | "ScatterND"));
            summing.filter_map(|n| n.input(0)).map(|id| g.value(id).fact.dtype).collect()
        })
    }

    #[test]
    fn halves_are_summed_in_single_precision() {
        for half in [DType::F16, DType::BF16] {
            assert_eq!(sums(half), [DType::F32; 3]);
        }
        assert_eq!(sums(DType::F64), [DType::F64; 3]);
    }
}
