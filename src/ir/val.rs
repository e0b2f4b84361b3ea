//! A handle on a value, with the operators that formulas are written in.

use super::{Attrs, Builder, DType, Dim, Fact, ValueId};
use crate::error::Error;
use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy)]
pub struct Val<'g> {
    builder: &'g Builder,
    id: ValueId,
}

impl<'g> Val<'g> {
    pub(super) fn new(builder: &'g Builder, id: ValueId) -> Val<'g> {
        Val { builder, id }
    }

    pub fn id(self) -> ValueId {
        self.id
    }

    pub fn builder(self) -> &'g Builder {
        self.builder
    }

    pub fn fact(self) -> Fact {
        self.builder.read(|g| g.value(self.id).fact.clone())
    }

    pub fn name(self) -> String {
        self.builder.read(|g| g.name_of(self.id).to_string())
    }

    pub fn dtype(self) -> DType {
        self.builder.read(|g| g.value(self.id).fact.dtype)
    }

    /// The shape; of unknown rank a fault of the builder, and empty.
    pub fn shape(self) -> Vec<Dim> {
        match self.builder.read(|g| g.value(self.id).fact.shape.clone()) {
            Some(shape) => shape,
            None => {
                self.builder.fault(Error::UnknownRank { tensor: self.name() });
                Vec::new()
            }
        }
    }

    pub fn rank(self) -> usize {
        self.shape().len()
    }

    pub fn dim(self, axis: i64) -> Dim {
        let shape = self.shape();
        let at = if axis < 0 { axis + shape.len() as i64 } else { axis };
        usize::try_from(at).ok().and_then(|i| shape.get(i).cloned()).unwrap_or(Dim::Fixed(1))
    }

    /// The elements of an integer tensor, where they are all known.
    pub fn known_ints(self) -> Option<Vec<i64>> {
        let fact = self.fact();
        if let Some(ints) = &fact.ints {
            return super::fixed(ints);
        }
        self.builder.constant_data(self).and_then(|t| t.to_i64())
    }

    fn op1(self, op: &str) -> Val<'g> {
        self.builder.op(op, &[self], Attrs::new())
    }

    fn op2(self, op: &str, other: Val<'g>) -> Val<'g> {
        self.builder.op(op, &[self, other], Attrs::new())
    }

    /// A constant of this value's type.
    pub fn like(self, value: f64) -> Val<'g> {
        self.builder.scalar(self.dtype(), value)
    }

    pub fn exp(self) -> Val<'g> {
        self.op1("Exp")
    }
    pub fn log(self) -> Val<'g> {
        self.op1("Log")
    }
    pub fn sqrt(self) -> Val<'g> {
        self.op1("Sqrt")
    }
    pub fn sin(self) -> Val<'g> {
        self.op1("Sin")
    }
    pub fn cos(self) -> Val<'g> {
        self.op1("Cos")
    }
    pub fn sinh(self) -> Val<'g> {
        self.op1("Sinh")
    }
    pub fn cosh(self) -> Val<'g> {
        self.op1("Cosh")
    }
    pub fn tanh(self) -> Val<'g> {
        self.op1("Tanh")
    }
    pub fn sigmoid(self) -> Val<'g> {
        self.op1("Sigmoid")
    }
    pub fn abs(self) -> Val<'g> {
        self.op1("Abs")
    }
    pub fn sign(self) -> Val<'g> {
        self.op1("Sign")
    }
    pub fn floor(self) -> Val<'g> {
        self.op1("Floor")
    }
    pub fn reciprocal(self) -> Val<'g> {
        self.op1("Reciprocal")
    }
    pub fn not(self) -> Val<'g> {
        self.op1("Not")
    }
    pub fn square(self) -> Val<'g> {
        self * self
    }
    pub fn pow(self, e: Val<'g>) -> Val<'g> {
        self.op2("Pow", e)
    }
    pub fn gt(self, other: Val<'g>) -> Val<'g> {
        self.op2("Greater", other)
    }
    pub fn lt(self, other: Val<'g>) -> Val<'g> {
        self.op2("Less", other)
    }
    pub fn ge(self, other: Val<'g>) -> Val<'g> {
        self.op2("GreaterOrEqual", other)
    }
    pub fn le(self, other: Val<'g>) -> Val<'g> {
        self.op2("LessOrEqual", other)
    }
    pub fn equal(self, other: Val<'g>) -> Val<'g> {
        self.op2("Equal", other)
    }
    pub fn and(self, other: Val<'g>) -> Val<'g> {
        self.op2("And", other)
    }
    pub fn or(self, other: Val<'g>) -> Val<'g> {
        self.op2("Or", other)
    }
    pub fn matmul(self, other: Val<'g>) -> Val<'g> {
        self.op2("MatMul", other)
    }

    /// `self ? yes : no`, elementwise.
    pub fn select(self, yes: Val<'g>, no: Val<'g>) -> Val<'g> {
        self.builder.op("Where", &[self, yes, no], Attrs::new())
    }

    pub fn cast(self, to: DType) -> Val<'g> {
        if self.dtype() == to {
            return self;
        }
        self.builder.op("Cast", &[self], Attrs::new().with("to", i64::from(to.code())))
    }

    fn reduce(self, op: &str, axes: &[i64], keep: bool) -> Val<'g> {
        let axes = self.builder.ints(axes);
        self.builder.op(op, &[self, axes], Attrs::new().with("keepdims", i64::from(keep)))
    }

    /// `Σ` over the axes; no axes: the value itself.
    pub fn sum(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() { self } else { self.reduce("ReduceSum", axes, false) }
    }

    pub fn sum_keep(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() { self } else { self.reduce("ReduceSum", axes, true) }
    }

    pub fn mean(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() { self } else { self.reduce("ReduceMean", axes, false) }
    }

    pub fn mean_keep(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() { self } else { self.reduce("ReduceMean", axes, true) }
    }

    pub fn max_keep(self, axes: &[i64]) -> Val<'g> {
        self.reduce("ReduceMax", axes, true)
    }

    /// `Σ` over everything, rank 0.
    pub fn sum_all(self) -> Val<'g> {
        let axes: Vec<i64> = (0..self.rank() as i64).collect();
        self.sum(&axes)
    }

    /// The mean over everything, rank 0.
    pub fn mean_all(self) -> Val<'g> {
        let axes: Vec<i64> = (0..self.rank() as i64).collect();
        self.mean(&axes)
    }

    pub fn reshape(self, shape: &[Dim]) -> Val<'g> {
        if self.fact().shape.as_deref() == Some(shape) {
            return self;
        }
        let constant = reshape_target(&self.fact().shape.unwrap_or_default(), shape);
        let mut attrs = Attrs::new();
        // Where every entry is a size, a 0 is one too.
        if constant.is_none() || shape.contains(&Dim::Fixed(0)) {
            attrs = attrs.with("allowzero", 1);
        }
        let target = match constant {
            Some(target) => self.builder.ints(&target),
            None => self.builder.shape_value(shape),
        };
        let out = self.builder.op("Reshape", &[self, target], attrs);
        self.builder.refine_fact(out, &Fact::new(self.dtype(), shape));
        out
    }

    pub fn expand(self, shape: &[Dim]) -> Val<'g> {
        if self.fact().shape.as_deref() == Some(shape) {
            return self;
        }
        let out = self.builder.op("Expand", &[self, self.builder.shape_value(shape)], Attrs::new());
        self.builder.refine_fact(out, &Fact::new(self.dtype(), shape));
        out
    }

    pub fn permute(self, perm: &[i64]) -> Val<'g> {
        self.builder.op("Transpose", &[self], Attrs::new().with("perm", perm))
    }

    /// The last two axes exchanged.
    pub fn transpose(self) -> Val<'g> {
        let rank = self.rank() as i64;
        if rank < 2 {
            return self;
        }
        let mut perm: Vec<i64> = (0..rank).collect();
        perm.swap(rank as usize - 1, rank as usize - 2);
        self.permute(&perm)
    }

    /// New axes of size 1 at the given places of the result.
    pub fn unsqueeze(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() {
            self
        } else {
            self.builder.op("Unsqueeze", &[self, self.builder.ints(axes)], Attrs::new())
        }
    }

    pub fn squeeze(self, axes: &[i64]) -> Val<'g> {
        if axes.is_empty() { self } else { self.builder.op("Squeeze", &[self, self.builder.ints(axes)], Attrs::new()) }
    }

    /// A per-channel vector (`[C]`) as seen by an image of `rank` axes: `[C, 1, …]`.
    pub fn along_channel(self, rank: usize) -> Val<'g> {
        let axes: Vec<i64> = (1..rank as i64 - 1).collect();
        self.unsqueeze(&axes)
    }

    /// `self[start:end]` along one axis, step 1.
    pub fn slice(self, axis: i64, start: i64, end: i64) -> Val<'g> {
        let b = self.builder;
        b.op("Slice", &[self, b.ints(&[start]), b.ints(&[end]), b.ints(&[axis])], Attrs::new())
    }

    /// Dimensions `start..end` of the shape at run time, 1-D int64.
    pub fn dims(self, start: usize, end: usize) -> Val<'g> {
        let mut attrs = Attrs::new();
        if start > 0 {
            attrs = attrs.with("start", start as i64);
        }
        if end < self.rank() {
            attrs = attrs.with("end", end as i64);
        }
        self.builder.op("Shape", &[self], attrs)
    }
}

/// A constant target of a Reshape, where one open dimension may be -1 and others are copied by 0: no arithmetic on
/// shapes at run time.
fn reshape_target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let open = to.iter().filter(|d| d.fixed().is_none()).count();
    if open > 0 && to.contains(&Dim::Fixed(0)) {
        return None;
    }
    let copied = |i: usize| open > 1 && from.get(i) == to.get(i);
    let entries = to.iter().enumerate().map(|(i, d)| match d.fixed() {
        Some(n) => n,
        None if copied(i) => 0,
        None => -1,
    });
    let target: Vec<i64> = entries.collect();
    (target.iter().filter(|&&n| n == -1).count() <= 1).then_some(target)
}

impl std::fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name(), self.fact())
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:literal)*) => {$(
        impl<'g> $trait for Val<'g> {
            type Output = Val<'g>;
            fn $method(self, other: Val<'g>) -> Val<'g> {
                self.op2($op, other)
            }
        }

        impl<'g> $trait<f64> for Val<'g> {
            type Output = Val<'g>;
            fn $method(self, other: f64) -> Val<'g> {
                self.op2($op, self.like(other))
            }
        }

        impl<'g> $trait<Val<'g>> for f64 {
            type Output = Val<'g>;
            fn $method(self, other: Val<'g>) -> Val<'g> {
                other.like(self).op2($op, other)
            }
        }
    )*};
}

operator!(Add add "Add" Sub sub "Sub" Mul mul "Mul" Div div "Div");

impl<'g> Neg for Val<'g> {
    type Output = Val<'g>;
    fn neg(self) -> Val<'g> {
        self.op1("Neg")
    }
}
