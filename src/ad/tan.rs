//! Tangents: handles on a tape of linear maps. Only linear operations exist, so a non-linear rule does not type-check.

use crate::control::Joint;
use crate::error::Unsupported;
use crate::ir::{Builder, DType, Dim, Val, ValueId};
use crate::linear::{AveragePool, ConvGeometry, Linear};
use foldhash::HashMap;
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::rc::Rc;

/// The linear maps between the tangents of values, in the order they are applied.
pub struct Tape<'g> {
    pub builder: &'g Builder,
    nodes: RefCell<Vec<Rc<TanNode<'g>>>>,
    /// The tangents of values, as far as they are known.
    known: RefCell<HashMap<ValueId, Tan<'g>>>,
    scope: RefCell<String>,
    blocked: RefCell<Vec<Unsupported>>,
}

#[derive(Clone)]
pub struct TanNode<'g> {
    pub kind: Kind<'g>,
    pub shape: Vec<Dim>,
    pub dtype: DType,
    /// The forward node whose rule made it.
    pub scope: String,
}

impl TanNode<'_> {
    /// Whether it multiplies with integers.
    pub(super) fn by_integer(&self) -> bool {
        matches!(&self.kind, Kind::Apply(map, _) if map.factor().is_some_and(|v| !v.dtype().is_float()))
    }
}

#[derive(Clone)]
pub enum Kind<'g> {
    /// The tangent of the `k`-th value differentiated with respect to.
    Source(usize),
    Sum(usize, usize),
    Apply(Linear<'g>, usize),
    /// A map of several tangents to several, which follow as its parts.
    Joint(Rc<Joint<'g>>, Vec<Option<usize>>),
    /// Output `1` of the joint map at `0`.
    Part(usize, usize),
}

/// A tangent. Zero is a state, never a tensor.
#[derive(Clone, Copy)]
pub struct Tan<'g> {
    tape: &'g Tape<'g>,
    id: Option<usize>,
}

impl<'g> Tape<'g> {
    pub fn new(builder: &'g Builder) -> Tape<'g> {
        Tape {
            builder,
            nodes: RefCell::default(),
            known: RefCell::default(),
            scope: RefCell::default(),
            blocked: RefCell::default(),
        }
    }

    pub fn zero(&'g self) -> Tan<'g> {
        Tan { tape: self, id: None }
    }

    pub(super) fn source(&'g self, k: usize, of: Val<'g>) -> Tan<'g> {
        self.push(Kind::Source(k), of.shape(), of.dtype())
    }

    /// The tangents of `outputs`, which one map computes from `inputs`; zero where there is no output.
    pub(crate) fn joint(&'g self, joint: Joint<'g>, inputs: &[Tan<'g>], outputs: &[Option<Val<'g>>]) -> Vec<Tan<'g>> {
        let inputs = inputs.iter().map(|t| t.id).collect();
        let map = self.push(Kind::Joint(Rc::new(joint), inputs), Vec::new(), DType::F32);
        let part = |(k, out): (usize, &Option<Val<'g>>)| match (map.id, out) {
            (Some(id), Some(out)) => self.push(Kind::Part(id, k), out.shape(), out.dtype()),
            _ => self.zero(),
        };
        outputs.iter().enumerate().map(part).collect()
    }

    pub(super) fn note(&self, value: ValueId, tangent: Tan<'g>) {
        self.known.borrow_mut().insert(value, tangent);
    }

    pub(super) fn known(&self, value: ValueId) -> Option<Tan<'g>> {
        self.known.borrow().get(&value).copied()
    }

    pub(super) fn set_scope(&self, scope: &str) {
        *self.scope.borrow_mut() = scope.to_string();
    }

    pub(super) fn scope(&self) -> String {
        self.scope.borrow().clone()
    }

    /// Notes a node that turned out to have no derivative.
    pub(crate) fn block(&self, node: Unsupported) {
        let mut blocked = self.blocked.borrow_mut();
        if !blocked.contains(&node) {
            blocked.push(node);
        }
    }

    pub(super) fn take_blocked(&self) -> Vec<Unsupported> {
        self.blocked.take()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.borrow().len()
    }

    pub fn node(&self, id: usize) -> Rc<TanNode<'g>> {
        self.nodes.borrow()[id].clone()
    }

    fn push(&'g self, kind: Kind<'g>, shape: Vec<Dim>, dtype: DType) -> Tan<'g> {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Rc::new(TanNode { kind, shape, dtype, scope: self.scope.borrow().clone() }));
        Tan { tape: self, id: Some(nodes.len() - 1) }
    }
}

impl<'g> Tan<'g> {
    /// Its place on the tape; `None` if it is zero.
    pub fn id(self) -> Option<usize> {
        self.id
    }

    pub fn is_zero(self) -> bool {
        self.id.is_none()
    }

    /// The shape; empty if it is zero.
    pub fn shape(self) -> Vec<Dim> {
        self.id.map(|id| self.tape.nodes.borrow()[id].shape.clone()).unwrap_or_default()
    }

    pub fn rank(self) -> usize {
        self.shape().len()
    }

    pub fn dtype(self) -> DType {
        self.id.map_or(DType::F32, |id| self.tape.nodes.borrow()[id].dtype)
    }

    fn apply(self, map: impl FnOnce(&'g Builder) -> Linear<'g>) -> Tan<'g> {
        let Some(id) = self.id else { return self };
        let map = map(self.tape.builder);
        let (shape, dtype) = map.image(&self.shape(), self.dtype());
        self.tape.push(Kind::Apply(map, id), shape, dtype)
    }

    /// Where `cond` holds the tangent, elsewhere zero. Never `0 · ∞`.
    pub fn mask(self, cond: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::Mask { cond, keep: true, gate: false })
    }

    /// The same for a function that is constant where `cond` does not hold: a product where the tangent has no pole.
    pub fn gate(self, cond: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::Mask { cond, keep: true, gate: true })
    }

    /// Where `cond` does not hold the tangent, elsewhere zero.
    pub fn mask_not(self, cond: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::Mask { cond, keep: false, gate: false })
    }

    /// `self · v`, numpy's matmul.
    pub fn matmul(self, v: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::MatMulRight(v))
    }

    /// `v · self`
    pub fn matmul_left(self, v: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::MatMulLeft(v))
    }

    fn sum_axes(self, axes: &[i64], keep: bool) -> Tan<'g> {
        if axes.is_empty() || self.is_zero() {
            return self;
        }
        let rank = self.rank() as i64;
        let mut axes: Vec<i64> = axes.iter().map(|&a| if a < 0 { a + rank } else { a }).collect();
        axes.sort_unstable();
        self.apply(|_| Linear::Sum { axes, keep })
    }

    pub fn sum(self, axes: &[i64]) -> Tan<'g> {
        self.sum_axes(axes, false)
    }

    pub fn sum_keep(self, axes: &[i64]) -> Tan<'g> {
        self.sum_axes(axes, true)
    }

    /// The sum over axes only known at run time, of the given shape. No axes sum nothing if `noop`, else everything.
    pub fn sum_at(self, axes: Val<'g>, keep: bool, noop: bool, shape: &[Dim]) -> Tan<'g> {
        let shape = shape.to_vec();
        self.apply(|_| Linear::SumAt { axes, keep, noop, shape })
    }

    pub fn expand(self, shape: &[Dim]) -> Tan<'g> {
        if self.is_zero() || self.shape() == shape {
            return self;
        }
        let shape = shape.to_vec();
        self.apply(|_| Linear::Expand(shape))
    }

    pub fn reshape(self, shape: &[Dim]) -> Tan<'g> {
        if self.is_zero() || self.shape() == shape {
            return self;
        }
        let shape = shape.to_vec();
        self.apply(|_| Linear::Reshape(shape))
    }

    pub fn permute(self, perm: &[i64]) -> Tan<'g> {
        let perm = perm.to_vec();
        self.apply(|_| Linear::Permute(perm))
    }

    /// The last two axes exchanged.
    pub fn transpose(self) -> Tan<'g> {
        let rank = self.rank() as i64;
        if rank < 2 {
            return self;
        }
        let mut perm: Vec<i64> = (0..rank).collect();
        perm.swap(rank as usize - 1, rank as usize - 2);
        self.permute(&perm)
    }

    pub fn unsqueeze(self, axes: &[i64]) -> Tan<'g> {
        if self.is_zero() {
            return self;
        }
        let rank = (self.rank() + axes.len()) as i64;
        let axes: Vec<i64> = axes.iter().map(|&a| if a < 0 { a + rank } else { a }).collect();
        let mut rest = self.shape().into_iter();
        let shape: Vec<Dim> = (0..rank)
            .map(|i| if axes.contains(&i) { Dim::Fixed(1) } else { rest.next().unwrap_or(Dim::Fixed(1)) })
            .collect();
        self.reshape(&shape)
    }

    /// `self[…, start:start+size, …]` along one axis, step 1.
    pub fn slice(self, axis: i64, start: &Dim, size: &Dim) -> Tan<'g> {
        if self.is_zero() {
            return self;
        }
        let mut pads = vec![(Dim::Fixed(0), Dim::Fixed(0)); self.rank()];
        if let (Some(pad), Some(whole)) = (pads.get_mut(axis as usize), self.shape().get(axis as usize)) {
            let end = start.clone() + size.clone() - whole.clone();
            *pad = (Dim::Fixed(0) - start.clone(), end);
        }
        self.pad(pads)
    }

    /// Zeros before and after, an axis each; negative numbers cut.
    pub fn pad(self, pads: Vec<(Dim, Dim)>) -> Tan<'g> {
        if self.is_zero() || pads.iter().all(|(a, b)| *a == Dim::Fixed(0) && *b == Dim::Fixed(0)) {
            return self;
        }
        self.apply(|_| Linear::Pad(pads))
    }

    /// ONNX's Gather: `self` indexed along `axis` (from the front).
    pub fn gather(self, indices: Val<'g>, axis: i64) -> Tan<'g> {
        self.apply(|_| Linear::Gather { indices, axis: axis as usize })
    }

    /// ONNX's GatherElements along `axis` (from the front).
    pub fn gather_elements(self, indices: Val<'g>, axis: i64) -> Tan<'g> {
        self.apply(|_| Linear::GatherElements { indices, axis: axis as usize })
    }

    /// Zeros of `shape` with the tangent added, as ScatterElements with reduction `add`.
    pub fn scatter_elements(self, indices: Val<'g>, axis: i64, shape: &[Dim]) -> Tan<'g> {
        let shape = shape.to_vec();
        self.apply(|_| Linear::ScatterElements { indices, axis: axis as usize, shape })
    }

    /// The elements of the flat tangent at `indices`, which a pooling of samples made.
    pub fn pool_pick(self, indices: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::PoolPick { indices })
    }

    /// ONNX's GatherND without batch axes.
    pub fn gather_nd(self, indices: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::GatherNd { indices })
    }

    /// Zeros of `shape` with the tangent added at `indices`, as ScatterND with reduction `add`.
    pub fn scatter_nd(self, indices: Val<'g>, shape: &[Dim]) -> Tan<'g> {
        let shape = shape.to_vec();
        self.apply(|_| Linear::ScatterNd { indices, shape })
    }

    /// `self ⋆ w`: the tangent is the image.
    pub fn conv(self, w: Val<'g>, g: ConvGeometry) -> Tan<'g> {
        self.apply(|_| Linear::Conv { w, g })
    }

    /// `x ⋆ self`: the tangent is the filter.
    pub fn conv_filter(self, x: Val<'g>, g: ConvGeometry) -> Tan<'g> {
        self.apply(|_| Linear::ConvFilter { x, g })
    }

    /// The transpose of `conv` with the same geometry, onto images of spatial sizes `g.image`.
    pub fn conv_transpose(self, w: Val<'g>, g: ConvGeometry) -> Tan<'g> {
        self.apply(|_| Linear::ConvTranspose { w, g })
    }

    /// `conv_transpose(x, self)`: the tangent is the filter.
    pub fn conv_transpose_filter(self, x: Val<'g>, g: ConvGeometry) -> Tan<'g> {
        self.apply(|_| Linear::ConvTransposeFilter { x, g })
    }

    pub fn average_pool(self, pool: AveragePool<'g>) -> Tan<'g> {
        self.apply(|_| Linear::AveragePool(Box::new(pool)))
    }

    /// A per-channel vector (`[C]`) as seen by an image of `rank` axes: `[C, 1, …]`.
    pub fn along_channel(self, rank: usize) -> Tan<'g> {
        let axes: Vec<i64> = (1..rank as i64 - 1).collect();
        self.unsqueeze(&axes)
    }

    pub fn cast(self, to: DType) -> Tan<'g> {
        if self.dtype() == to {
            return self;
        }
        if !to.is_float() {
            return self.tape.zero();
        }
        let from = self.dtype();
        self.apply(|_| Linear::Cast { from, to })
    }

    /// The discrete Fourier transform along an axis of pairs in the last one, or its inverse.
    pub fn dft(self, axis: i64, inverse: bool) -> Tan<'g> {
        self.apply(|_| Linear::Dft { axis: axis as usize, inverse })
    }

    /// Running sums along an axis, with ONNX's `exclusive` and `reverse`.
    pub fn cumsum(self, axis: i64, exclusive: bool, reverse: bool) -> Tan<'g> {
        self.apply(|_| Linear::CumSum { axis: axis as usize, exclusive, reverse })
    }
}

impl<'g> Add for Tan<'g> {
    type Output = Tan<'g>;
    fn add(self, other: Tan<'g>) -> Tan<'g> {
        let (Some(a), Some(b)) = (self.id, other.id) else {
            return if self.is_zero() { other } else { self };
        };
        let shape = self.tape.builder.broadcast(&self.shape(), &other.shape()).unwrap_or_else(|| self.shape());
        self.tape.push(Kind::Sum(a, b), shape, self.dtype())
    }
}

impl<'g> Neg for Tan<'g> {
    type Output = Tan<'g>;
    fn neg(self) -> Tan<'g> {
        self.apply(|_| Linear::Neg)
    }
}

impl<'g> Sub for Tan<'g> {
    type Output = Tan<'g>;
    fn sub(self, other: Tan<'g>) -> Tan<'g> {
        self + -other
    }
}

impl<'g> Mul<Val<'g>> for Tan<'g> {
    type Output = Tan<'g>;
    fn mul(self, v: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::Scale(v))
    }
}

impl<'g> Mul<f64> for Tan<'g> {
    type Output = Tan<'g>;
    fn mul(self, v: f64) -> Tan<'g> {
        if v == 1.0 {
            return self;
        }
        let dtype = self.dtype();
        self.apply(|b| Linear::Scale(b.scalar(dtype, v)))
    }
}

impl<'g> Div<Val<'g>> for Tan<'g> {
    type Output = Tan<'g>;
    fn div(self, v: Val<'g>) -> Tan<'g> {
        self.apply(|_| Linear::Quotient(v))
    }
}
