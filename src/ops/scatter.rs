//! ScatterElements and ScatterND.

use super::eval_cx::wrapped;
use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Fact, Val};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    if let (Some(x), Some(indices)) = (&c.input(0)?.shape, &c.input(1)?.shape) {
        if c.op == "ScatterElements" {
            c.axis(c.int("axis", 0), x.len())?;
            c.has_shape(2, indices)?;
        } else if let Some((deep, places)) = indices.split_last()
            && let Some(deep) = deep.fixed()
        {
            let rest = usize::try_from(deep).ok().and_then(|deep| x.get(deep..)).ok_or_else(|| Fault::Shape {
                what: "indices",
                found: show(indices),
                expected: format!("at most {} numbers in the last axis", x.len()),
            })?;
            c.has_shape(2, &[places, rest].concat())?;
        }
    }
    Ok(vec![Fact { ints: None, ..c.input(0)?.clone() }])
}

/// What the two operators do alike: put updates at places, and take what is there.
struct Places<'a, 'g> {
    c: &'a Cx<'g>,
    indices: Val<'g>,
    /// Of ScatterElements.
    axis: Option<i64>,
}

impl<'a, 'g> Places<'a, 'g> {
    fn of(c: &'a Cx<'g>) -> Places<'a, 'g> {
        let axis = (c.op() == "ScatterElements").then(|| c.axis(0));
        Places { c, indices: c.x(1), axis }
    }

    fn attrs(&self) -> Attrs {
        self.axis.map_or(Attrs::new(), |axis| Attrs::new().with("axis", axis))
    }

    fn put(&self, onto: Val<'g>, updates: Val<'g>, reduction: &str) -> Val<'g> {
        let attrs = self.attrs().with("reduction", reduction);
        self.c.b.op(self.c.op(), &[onto, self.indices, updates], attrs)
    }

    fn put_tangent(&self, updates: Tan<'g>) -> Tan<'g> {
        let shape = self.c.x(0).shape();
        match self.axis {
            Some(axis) => updates.scatter_elements(self.indices, axis, &shape),
            None => updates.scatter_nd(self.indices, &shape),
        }
    }

    fn take(&self, from: Val<'g>) -> Val<'g> {
        let op = if self.axis.is_some() { "GatherElements" } else { "GatherND" };
        self.c.b.op(op, &[from, self.indices], self.attrs())
    }
}

/// y = x with updates u put at places            dy = dx elsewhere + du there
/// y = x with u added                            dy = dx + du there
/// y = x multiplied by u                         dy = dx ⊙ Πu + x ⊙ Σ du Π(other u there)
/// y = max or min of x and u                     dy = dx + du of those that are y, in equal shares
fn scatter<'g>(c: &Cx<'g>) -> Tan<'g> {
    let places = Places::of(c);
    let ([x, _, u], [dx, _, du]) = c.args();
    let full = |like: Val<'g>, dtype: DType, v: f64| c.b.scalar(dtype, v).expand(&like.shape());
    match c.attrs().str("reduction") {
        Some("add") => dx + places.put_tangent(du),
        Some("mul") => {
            let ones = full(x, x.dtype(), 1.0);
            if du.is_zero() {
                return dx * places.put(ones, u, "mul");
            }
            let zeros = u.equal(u.like(0.0));
            let count = places.put(full(x, x.dtype(), 0.0), zeros.cast(x.dtype()), "add");
            let nonzero = places.put(ones, zeros.select(u.like(1.0), u), "mul");
            let all = count.equal(count.like(0.0)).select(nonzero, count.like(0.0));
            let others = super::reduce::product_of_others(u, places.take(nonzero), places.take(count));
            dx * all + places.put_tangent(du * others) * x
        }
        Some("max" | "min") => {
            let y = c.out(0);
            let (kept, won) = (x.equal(y), u.equal(places.take(y)));
            let count = places.put(kept.cast(x.dtype()), won.cast(x.dtype()), "add");
            (dx.mask(kept) + places.put_tangent(du.mask(won))) / count
        }
        _ => {
            let hit = places.put(full(x, DType::Bool, 0.0), full(u, DType::Bool, 1.0), "none");
            dx.mask_not(hit) + places.put_tangent(du)
        }
    }
}

/// `x` with `u` reduced into it at the places `at(index of u)`, one after the other.
fn scattered(
    c: &EvalCx,
    mut at: impl FnMut(&[usize]) -> Result<Vec<usize>, Fault>,
) -> Result<Vec<Array>, Fault> {
    let (mut y, u) = (c.input(0)?.clone(), c.input(2)?);
    let reduction = c.attrs.str("reduction").unwrap_or("none");
    for index in ndarray::indices(u.data.raw_dim()) {
        use ndarray::Dimension;
        let (place, v) = (at(index.slice())?, u.at(index.slice())?);
        let old = y.at(&place)?;
        if let Some(slot) = y.data.get_mut(&place[..]) {
            *slot = match reduction {
                "add" => old + v,
                "mul" => old * v,
                "max" => old.max(v),
                "min" => old.min(v),
                _ => v,
            };
        }
    }
    Ok(vec![y])
}

pub static SCATTER_ELEMENTS: Op = Op {
    name: "ScatterElements",
    facts,
    tangent: Tangent::Rule(scatter),
    eval: |c| {
        let (x, indices) = (c.input(0)?, c.input(1)?);
        let axis = c.axis(c.int("axis", 0), x.shape().len())?;
        scattered(c, |at| {
            let mut place = at.to_vec();
            if let Some(k) = place.get_mut(axis) {
                *k = wrapped(indices.at(at)? as i64, x.shape()[axis])?;
            }
            Ok(place)
        })
    },
    cases: || {
        let unique = || Case::new().distinct(&[3, 2]).ints(&[2, 2], &[0, -1, 1, 0]).distinct(&[2, 2]);
        let equal = || Case::new().distinct(&[2, 3]).ints(&[2, 2], &[0, 0, 2, -1]).distinct(&[2, 2]).attr("axis", -1);
        vec![
            unique(),
            unique().attr("reduction", "add"),
            equal().attr("reduction", "add"),
            equal().attr("reduction", "max"),
            equal().attr("reduction", "min"),
            Case::new().real(&[3]).ints(&[2], &[1, 1]).data(halves(&[2])).attr("reduction", "mul"),
            equal().attr("reduction", "mul"),
            Case::new().real(&[3]).ints(&[0], &[]).real(&[0]).attr("reduction", "add"),
        ]
    },
};

fn halves(shape: &[usize]) -> crate::ir::Tensor {
    let n = shape.iter().product();
    crate::ir::Tensor::from_f64(DType::F64, shape, (0..n).map(|k: usize| 0.5 + k as f64))
}

pub static SCATTER_ND: Op = Op {
    name: "ScatterND",
    facts,
    tangent: Tangent::Rule(scatter),
    eval: |c| {
        let (x, indices) = (c.input(0)?, c.input(1)?);
        let missing = || Fault::Rank { index: 1, found: 0, expected: "at least 1".into() };
        let (&depth, places) = indices.shape().split_last().ok_or_else(missing)?;
        scattered(c, |at| {
            let (place, rest) = at.split_at(places.len().min(at.len()));
            let mut to = Vec::with_capacity(x.shape().len());
            for k in 0..depth {
                let size = x.shape().get(k).copied().unwrap_or(0);
                to.push(wrapped(indices.at(&[place, &[k]].concat())? as i64, size)?);
            }
            to.extend(rest);
            Ok(to)
        })
    },
    cases: || {
        let rows = |u: &[usize]| Case::new().distinct(&[3, 2]).ints(&[2, 1], &[2, 0]).distinct(u);
        let equal = || Case::new().distinct(&[2, 3]).ints(&[3, 2], &[0, 1, 0, 1, 1, -1]).distinct(&[3]);
        vec![
            rows(&[2, 2]),
            equal().attr("reduction", "add"),
            equal().attr("reduction", "max"),
            equal().attr("reduction", "min"),
            equal().attr("reduction", "mul"),
            Case::new().real(&[3]).ints(&[2, 1], &[1, 1]).data(halves(&[2])).attr("reduction", "mul"),
            Case::new().real(&[3]).ints(&[2, 2, 1], &[0, 1, 1, -1]).real(&[2, 2]).attr("reduction", "add"),
        ]
    },
};
