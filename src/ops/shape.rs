//! Shape and Size: dimensions as integers.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact, count};
use std::ops::Range;

/// The attributes `start` and `end`, counted from the front and clamped.
fn range(attrs: &Attrs, rank: usize) -> Range<usize> {
    let at = |v: i64| {
        let v = if v < 0 { v.saturating_add(rank as i64) } else { v };
        v.clamp(0, rank as i64) as usize
    };
    let (start, end) = (at(attrs.int("start").unwrap_or(0)), at(attrs.int("end").unwrap_or(i64::MAX)));
    start..end.max(start)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::new(DType::I64, [c.unknown(0)])]) };
    let dims = x[range(c.attrs, x.len())].to_vec();
    Ok(vec![Fact::new(DType::I64, [Dim::from(dims.len())]).with_ints(Some(dims))])
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let shape = c.input(0)?.shape();
    let dims: Vec<f64> = shape[range(c.attrs, shape.len())].iter().map(|&n| n as f64).collect();
    Ok(vec![Array::from_vec(DType::I64, &[dims.len()], dims)?])
}

pub static SHAPE: Op = Op {
    name: "Shape",
    facts,
    tangent: Tangent::Zero,
    eval,
    cases: || {
        let x = || Case::new().real(&[2, 3, 0]);
        vec![x(), x().attr("start", 1), x().attr("start", -2).attr("end", -1), x().attr("start", 2).attr("end", 1)]
    },
};

pub static SIZE: Op = Op {
    name: "Size",
    facts: |c| {
        let ints = c.input(0)?.shape.as_deref().map(|x| vec![count(x)]);
        Ok(vec![Fact::new(DType::I64, []).with_ints(ints)])
    },
    tangent: Tangent::Zero,
    eval: |c| Ok(vec![Array::from_vec(DType::I64, &[], vec![c.data(0)?.len() as f64])?]),
    cases: || vec![Case::new().real(&[2, 3]), Case::new().real(&[])],
};

#[cfg(test)]
mod tests {
    use crate::ir::{Attrs, Builder, DType, Dim, Fact, Val};

    fn batch_of_images(b: &Builder) -> Val<'_> {
        let shape: Vec<Dim> = vec![Dim::symbol("N"), Dim::Fixed(16), Dim::symbol("H"), Dim::symbol("H")];
        b.input("x", Fact::new(DType::F32, shape), None)
    }

    fn op<'g>(b: &'g Builder, name: &str, inputs: &[Val<'g>], axis: i64) -> Val<'g> {
        b.op(name, inputs, Attrs::new().with("axis", axis))
    }

    /// `x.view(x.size(0), 4, -1)` as exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape.
    #[test]
    fn a_view_by_sizes_keeps_its_symbols() {
        let b = Builder::new();
        let x = batch_of_images(&b);
        let shape = b.op("Shape", &[x], Attrs::new());
        let n = op(&b, "Gather", &[shape, b.constant(crate::ir::Tensor::ints(&[], &[0]))], 0);
        let target = op(&b, "Concat", &[n.unsqueeze(&[0]), b.ints(&[4]), b.ints(&[-1])], 0);
        let y = b.op("Reshape", &[x, target], Attrs::new());
        assert_eq!(y.fact().to_string(), "float[N,4,4*H*H]");
        b.finish().unwrap();
    }

    /// `x.flatten(2).expand(…)` and products of sizes: Shape, Slice, ReduceProd, Split, Range.
    #[test]
    fn arithmetic_on_sizes_keeps_its_symbols() {
        let b = Builder::new();
        let x = batch_of_images(&b);
        let shape = b.op("Shape", &[x], Attrs::new());
        let space = shape.slice(0, 2, i64::MAX);
        let area = b.op("ReduceProd", &[space], Attrs::new().with("keepdims", 1));
        let front = shape.slice(0, -4, -2);
        let y = b.op("Reshape", &[x, op(&b, "Concat", &[front, area], 0)], Attrs::new());
        assert_eq!(y.fact().to_string(), "float[N,16,H*H]");
        let halves = b.node("Split", &[Some(y)], Attrs::new().with("axis", 1), 2);
        assert_eq!(halves[1].fact().to_string(), "float[N,8,H*H]");
        let positions = b.range(&Dim::symbol("H"));
        assert_eq!(positions.fact().to_string(), "int64[H]");
        let tail = y.slice(2, 1, i64::MAX).slice(0, -1, i64::MAX);
        assert_eq!(tail.fact().to_string(), "float[1,16,H*H - 1]");
        b.finish().unwrap();
    }

    /// A copied and an inferred dimension need no arithmetic on shapes at run time.
    #[test]
    fn a_reshape_of_symbols_has_a_constant_target() {
        let b = Builder::new();
        let x = b.input("x", Fact::new(DType::F32, [Dim::symbol("N"), Dim::symbol("S"), Dim::Fixed(768)]), None);
        let y = x.reshape(&[Dim::symbol("N"), Dim::symbol("S"), Dim::Fixed(12), Dim::Fixed(64)]);
        assert_eq!(y.fact().to_string(), "float[N,S,12,64]");
        assert_eq!(b.read(|g| g.nodes.len()), 1);
        b.finish().unwrap();
    }
}
