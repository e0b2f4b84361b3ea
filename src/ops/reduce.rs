//! The reductions. Every rule is `dy = Σ dx ⊙ w` over the reduced axes, so axes only known at run time cost nothing
//! but a weight `w` spread over the input's shape.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Val, count};

/// The reduced axes from the front, in order. No list and an empty one mean all axes, or with `noop` none.
fn normal(axes: &[i64], rank: usize, noop: bool) -> Result<Vec<usize>, Fault> {
    if axes.is_empty() {
        return Ok(if noop { Vec::new() } else { (0..rank).collect() });
    }
    let mut axes = axes.iter().map(|&a| super::eval_cx::wrapped(a, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    Ok(axes)
}

fn flag(attrs: &Attrs, name: &str, default: i64) -> bool {
    attrs.int(name).unwrap_or(default) != 0
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, dtype) = (c.shape(0)?, c.dtype(0)?);
    let keep = flag(c.attrs, "keepdims", 1);
    if c.has(1) && c.fixed_ints(1).is_none() {
        // Each axis of size above 1 may or may not be reduced.
        let open = |(i, d): (usize, &Dim)| if d.is_one() { d.clone() } else { c.unknown(i) };
        let kept: Vec<Dim> = x.iter().enumerate().map(open).collect();
        let gone = c.unknown_dims(1).map(|axes| axes.len()).filter(|&k| k > 0);
        return Ok(vec![match (keep, gone.and_then(|k| x.len().checked_sub(k))) {
            (true, _) => Fact::new(dtype, kept),
            (false, Some(rank)) => Fact::new(dtype, (0..rank).map(|i| c.unknown(i)).collect::<Vec<_>>()),
            (false, None) => Fact::unknown(dtype),
        }]);
    }
    let axes = normal(&c.fixed_ints(1).unwrap_or_default(), x.len(), flag(c.attrs, "noop_with_empty_axes", 0))?;
    let mut shape = Vec::new();
    for (i, d) in x.iter().enumerate() {
        match (axes.contains(&i), keep) {
            (false, _) => shape.push(d.clone()),
            (true, true) => shape.push(Dim::Fixed(1)),
            (true, false) => {}
        }
    }
    let ints = c.ints(0).filter(|_| axes.len() == 1 && x.len() == 1).and_then(|v| reduced_ints(c.op, v));
    Ok(vec![Fact::new(dtype, shape).with_ints(ints.map(|n| vec![n]))])
}

/// The reduction of a shape.
fn reduced_ints(op: &str, v: &[Dim]) -> Option<Dim> {
    match op {
        "ReduceProd" => Some(count(v)),
        "ReduceSum" => Some(v.iter().cloned().fold(Dim::Fixed(0), |a, d| a + d)),
        "ReduceMax" => crate::ir::fixed(v)?.into_iter().max().map(Dim::Fixed),
        "ReduceMin" => crate::ir::fixed(v)?.into_iter().min().map(Dim::Fixed),
        _ => None,
    }
}

/// One node's reduction, as its rule needs it.
struct Reduction<'a, 'g> {
    c: &'a Cx<'g>,
    /// `None`: only known at run time.
    axes: Option<Vec<i64>>,
    keep: bool,
    noop: bool,
}

impl<'a, 'g> Reduction<'a, 'g> {
    fn of(c: &'a Cx<'g>) -> Reduction<'a, 'g> {
        let (keep, noop) = (flag(c.attrs(), "keepdims", 1), flag(c.attrs(), "noop_with_empty_axes", 0));
        let given = if c.has(1) { c.ints(1) } else { Some(Vec::new()) };
        let axes = given.and_then(|axes| normal(&axes, c.x(0).rank(), noop).ok());
        Reduction { c, axes: axes.map(|axes| axes.into_iter().map(|a| a as i64).collect()), keep, noop }
    }

    /// `Σ t` over the axes.
    fn sum(&self, t: Tan<'g>) -> Tan<'g> {
        match (&self.axes, self.keep) {
            (Some(axes), true) => t.sum_keep(axes),
            (Some(axes), false) => t.sum(axes),
            (None, _) => t.sum_at(self.c.x(1), self.keep, self.noop, &self.c.out(0).shape()),
        }
    }

    /// The same for a value.
    fn sum_val(&self, v: Val<'g>) -> Val<'g> {
        match (&self.axes, self.keep) {
            (Some(axes), true) => v.sum_keep(axes),
            (Some(axes), false) => v.sum(axes),
            (None, _) => {
                let sum = self.c.b.op("ReduceSum", &[v, self.c.x(1)], self.c.attrs().clone());
                self.c.b.refine_fact(sum, &Fact { dtype: v.dtype(), ..self.c.out(0).fact() });
                sum
            }
        }
    }

    /// The output, to stand beside the elements that it came from.
    fn spread(&self) -> Val<'g> {
        let (c, y) = (self.c, self.c.out(0));
        match &self.axes {
            Some(_) if self.keep => y,
            Some(axes) => y.unsqueeze(axes),
            None => {
                let attrs = c.attrs().clone().with("keepdims", 1);
                c.b.op(c.op(), &[c.x(0), c.x(1)], attrs).expand(&c.x(0).shape())
            }
        }
    }

    /// How many elements make one of the output.
    fn count(&self) -> Val<'g> {
        let (c, x) = (self.c, self.c.x(0));
        match &self.axes {
            Some(axes) => {
                let dims: Vec<Dim> = axes.iter().map(|&a| x.dim(a)).collect();
                c.b.dim_scalar(&count(&dims), x.dtype())
            }
            None => {
                let size = |v: Val<'g>| c.b.op("Size", &[v], Attrs::new()).cast(x.dtype());
                size(x) / size(c.out(0))
            }
        }
    }
}

/// y = Σ x            dy = Σ dx
fn sum<'g>(c: &Cx<'g>) -> Tan<'g> {
    Reduction::of(c).sum(c.dx(0))
}

/// y = Σ x / n            dy = Σ dx / n
fn mean<'g>(c: &Cx<'g>) -> Tan<'g> {
    let r = Reduction::of(c);
    r.sum(c.dx(0)) / r.count()
}

/// y = max x, min x            dy = the mean of dx where x = y: ties share equally
fn extreme<'g>(c: &Cx<'g>) -> Tan<'g> {
    let r = Reduction::of(c);
    let best = c.x(0).equal(r.spread());
    r.sum(c.dx(0).mask(best)) / r.sum_val(best.cast(c.x(0).dtype()))
}

/// y = Σ |x|            dy = Σ dx ⊙ sign x
fn l1<'g>(c: &Cx<'g>) -> Tan<'g> {
    Reduction::of(c).sum(c.dx(0) * c.x(0).sign())
}

/// y = √Σ x²            dy = (Σ dx ⊙ x)/y, 0 where y = 0
fn l2<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0);
    let zero = y.equal(y.like(0.0));
    let divisor = zero.select(y.like(1.0), y);
    (Reduction::of(c).sum(c.dx(0) * c.x(0)) / divisor).mask_not(zero)
}

/// y = log Σ x            dy = Σ dx / Σ x
fn log_sum<'g>(c: &Cx<'g>) -> Tan<'g> {
    let r = Reduction::of(c);
    r.sum(c.dx(0)) / r.sum_val(c.x(0))
}

/// y = log Σ exp x            dy = Σ dx ⊙ exp(x − y)
fn log_sum_exp<'g>(c: &Cx<'g>) -> Tan<'g> {
    let r = Reduction::of(c);
    r.sum(c.dx(0) * (c.x(0) - r.spread()).exp())
}

/// y = Σ x²            dy = Σ dx ⊙ 2x
fn sum_square<'g>(c: &Cx<'g>) -> Tan<'g> {
    Reduction::of(c).sum(c.dx(0) * (c.x(0) * 2.0))
}

/// y = Π x            dy = Σᵢ dxᵢ Πⱼ xⱼ, j ≠ i: without a division, so that zeros are no exception
fn prod<'g>(c: &Cx<'g>) -> Tan<'g> {
    let r = Reduction::of(c);
    let Some(axes) = &r.axes else { return over_any_axes(&r) };
    let (mut x, mut t) = (c.x(0), c.dx(0));
    for &axis in axes {
        (x, t) = match x.dim(axis).fixed() {
            Some(_) => halved(c, x, t, axis),
            None => without_each(c, x, t, axis),
        };
    }
    t.reshape(&c.out(0).shape())
}

/// The same where the axes are only known at run time: the product of the others by division, zeros counted.
fn over_any_axes<'g>(r: &Reduction<'_, 'g>) -> Tan<'g> {
    let (c, x) = (r.c, r.c.x(0));
    let zeros = x.equal(x.like(0.0));
    let whole = |op: &str, v: Val<'g>| {
        c.b.op(op, &[v, c.x(1)], c.attrs().clone().with("keepdims", 1)).expand(&x.shape())
    };
    let nonzero = whole("ReduceProd", zeros.select(x.like(1.0), x));
    let count = whole("ReduceSum", zeros.cast(x.dtype()));
    r.sum(c.dx(0) * product_of_others(x, nonzero, count))
}

/// For each factor of a product that of the others, where `nonzero` is the product of the factors that are not 0 and
/// `zeros` is the number of those that are.
pub(super) fn product_of_others<'g>(own: Val<'g>, nonzero: Val<'g>, zeros: Val<'g>) -> Val<'g> {
    let none = own.like(0.0);
    let is_zero = own.equal(none);
    let beside_zero = zeros.equal(zeros.like(1.0)).select(nonzero, none);
    let beside_others = zeros.equal(none).select(nonzero / is_zero.select(own.like(1.0), own), none);
    is_zero.select(beside_zero, beside_others)
}

/// The product along an axis and its tangent, both halves multiplied until one element is left.
fn halved<'g>(c: &Cx<'g>, x: Val<'g>, t: Tan<'g>, axis: i64) -> (Val<'g>, Tan<'g>) {
    let (mut x, mut t) = (x, t);
    let zero = Dim::Fixed(0);
    while let Some(n) = x.dim(axis).fixed().filter(|&n| n > 1) {
        let half = (n + 1) / 2;
        let (a, mut b) = (x.slice(axis, 0, half), x.slice(axis, half, n));
        let (da, mut db) = (
            t.slice(axis, &zero, &Dim::Fixed(half)),
            t.slice(axis, &Dim::Fixed(half), &Dim::Fixed(n - half)),
        );
        if n - half < half {
            let rank = x.rank();
            let mut pads = vec![0; 2 * rank];
            pads[rank + axis as usize] = 1;
            b = c.b.op("Pad", &[b, c.b.ints(&pads), b.like(1.0)], Attrs::new());
            db = db.pad((0..rank).map(|i| (zero.clone(), Dim::Fixed(i64::from(i == axis as usize)))).collect());
        }
        (x, t) = (a * b, da * b + db * a);
    }
    // The empty product is 1, whatever the rest.
    if x.dim(axis) == zero { (c.b.op("ReduceProd", &[x, c.b.ints(&[axis])], Attrs::new()), c.zero()) } else { (x, t) }
}

/// The same for an axis of symbolic size: for each element the product of the others, as rows of a square.
fn without_each<'g>(c: &Cx<'g>, x: Val<'g>, t: Tan<'g>, axis: i64) -> (Val<'g>, Tan<'g>) {
    let positions = c.b.range(&x.dim(axis));
    let behind: Vec<i64> = (2..=x.rank() as i64 - axis).collect();
    let own = positions.unsqueeze(&[1]).equal(positions.unsqueeze(&[0])).unsqueeze(&behind);
    let others = own.select(x.like(1.0), x.unsqueeze(&[axis]));
    let reduce = |v: Val<'g>, axis: i64, keep: i64| {
        c.b.op("ReduceProd", &[v, c.b.ints(&[axis])], Attrs::new().with("keepdims", keep))
    };
    let rest = reduce(others, axis + 1, 0);
    (reduce(x, axis, 1), (t * rest).sum_keep(&[axis]))
}

/// Log Σ exp, the largest taken out first.
fn stable_log_sum_exp(v: &[f64]) -> f64 {
    let top = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() { top } else { top + v.iter().map(|x| (x - top).exp()).sum::<f64>().ln() }
}

fn reduced(op: &str, v: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| v.iter().map(|&x| f(x)).sum::<f64>();
    match op {
        "ReduceMean" => sum(|x| x) / v.len() as f64,
        "ReduceMax" => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "ReduceMin" => v.iter().copied().fold(f64::INFINITY, f64::min),
        "ReduceProd" => v.iter().product(),
        "ReduceL1" => sum(f64::abs),
        "ReduceL2" => sum(|x| x * x).sqrt(),
        "ReduceLogSum" => sum(|x| x).ln(),
        "ReduceLogSumExp" => stable_log_sum_exp(v),
        "ReduceSumSquare" => sum(|x| x * x),
        _ => sum(|x| x),
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let rank = x.shape().len();
    let axes = normal(&c.ints(1).unwrap_or_default(), rank, flag(c.attrs, "noop_with_empty_axes", 0))?;
    let kept: Vec<usize> = (0..rank).map(|i| if axes.contains(&i) { 1 } else { x.shape()[i] }).collect();
    let mut groups: Vec<Vec<f64>> = vec![Vec::new(); kept.iter().product()];
    for (at, &v) in x.data.indexed_iter() {
        let place = (0..rank).fold(0, |place, i| place * kept[i] + if axes.contains(&i) { 0 } else { at[i] });
        groups[place].push(v);
    }
    let keep = flag(c.attrs, "keepdims", 1);
    let shape: Vec<usize> = (0..rank).filter(|i| keep || !axes.contains(i)).map(|i| kept[i]).collect();
    let exact = |v: f64| if x.dtype.is_int() { v.trunc() } else { v };
    let y = groups.iter().map(|group| exact(reduced(c.op, group))).collect();
    Ok(vec![Array::from_vec(x.dtype, &shape, y)?])
}

/// Axes in every form, on data that stays off the operator's kinks.
fn cases(make: fn(&[usize]) -> Case) -> Vec<Case> {
    vec![
        make(&[2, 3, 2]).const_ints(&[1], &[1]),
        make(&[2, 3, 2]).const_ints(&[2], &[-1, 0]).attr("keepdims", 0),
        make(&[2, 3]),
        make(&[2, 3]).attr("keepdims", 0),
        make(&[2, 3]).const_ints(&[0], &[]).attr("noop_with_empty_axes", 1),
        make(&[2, 1]).const_ints(&[1], &[-1]),
        make(&[0, 3]).const_ints(&[1], &[1]).attr("keepdims", 0),
        make(&[]),
    ]
}

fn with_run_time_axes(make: fn(&[usize]) -> Case) -> Vec<Case> {
    let mut all = cases(make);
    all.push(make(&[2, 3, 2]).ints(&[2], &[0, -1]));
    all.push(make(&[2, 3]).ints(&[1], &[1]).attr("keepdims", 0));
    all
}

macro_rules! reduction {
    ($($const:ident $name:literal $rule:ident $cases:ident $make:expr;)+) => {$(
        pub static $const: Op = Op {
            name: $name,
            facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
            tangent: Tangent::Rule($rule),
            eval,
            cases: || $cases($make),
        };
    )+};
}

reduction! {
    REDUCE_SUM "ReduceSum" sum with_run_time_axes |shape| Case::new().real(shape);
    REDUCE_MEAN "ReduceMean" mean with_run_time_axes |shape| Case::new().real(shape);
    REDUCE_MAX "ReduceMax" extreme with_run_time_axes |shape| Case::new().distinct(shape);
    REDUCE_MIN "ReduceMin" extreme with_run_time_axes |shape| Case::new().distinct(shape);
    REDUCE_PROD "ReduceProd" prod with_run_time_axes |shape| Case::new().real(shape);
    REDUCE_L1 "ReduceL1" l1 with_run_time_axes |shape| Case::new().distinct(shape);
    REDUCE_L2 "ReduceL2" l2 with_run_time_axes |shape| Case::new().within(shape, -1.5, -0.4);
    REDUCE_LOG_SUM "ReduceLogSum" log_sum with_run_time_axes |shape| Case::new().within(shape, 0.5, 1.5);
    REDUCE_LOG_SUM_EXP "ReduceLogSumExp" log_sum_exp with_run_time_axes |shape| Case::new().real(shape);
    REDUCE_SUM_SQUARE "ReduceSumSquare" sum_square with_run_time_axes |shape| Case::new().real(shape);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ad::{Tape, linearise};
    use crate::eval::evaluate;
    use crate::ir::{Builder, DType};
    use crate::linear::Cotangent;
    use std::collections::HashMap;

    /// The gradient of the sum of `op(x)` over all axes.
    fn gradient(op: &str, x: &[f64]) -> Vec<f64> {
        let b = Builder::new();
        let input = b.input("x", Fact::new(DType::F64, [Dim::from(x.len())]), None);
        let y = b.op(op, &[input], Attrs::new().with("keepdims", 0));
        let tape = Tape::new(&b);
        let linear = linearise(&tape, &[y], &[input]).unwrap();
        let seed = Cotangent::new(b.scalar(DType::F64, 1.0));
        let pulled = linear.vjp(&[Some(seed)], None).remove(0).map(|ct| ct.materialise().id()).unwrap();
        let graph = b.read(|g| g.clone());
        let x = Array::from_vec(DType::F64, &[x.len()], x.to_vec()).unwrap();
        let values = evaluate(&graph, &HashMap::from([("x".to_string(), x)])).unwrap();
        values[&pulled].data.iter().copied().collect()
    }

    #[test]
    fn products_with_zeros_have_gradients() {
        assert_eq!(gradient("ReduceProd", &[2.0, 0.0, 3.0]), [0.0, 6.0, 0.0]);
        assert_eq!(gradient("ReduceProd", &[0.0, 5.0, 0.0, 1.0]), [0.0, 0.0, 0.0, 0.0]);
    }
}
