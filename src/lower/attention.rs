//! Attention and RotaryEmbedding.

use super::along;
use super::normalization::working_type;
use crate::ir::{Attrs, DType, Dim, Tensor, Val};
use crate::ops::attention::{Settings, split_heads};
use crate::ops::{Cx, Fault};

/// Y = softmax(cap(Q Kᵀ · scale) + bias) V, the past's keys and values before the new ones
pub fn attention<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    match Heads::of(c) {
        Ok(heads) => heads.outputs(),
        Err(fault) => {
            c.fault(fault);
            (0..4).map(|i| c.x(i.min(2))).collect()
        }
    }
}

struct Heads<'a, 'g> {
    c: &'a Cx<'g>,
    s: Settings,
    /// `[batch, heads, length, size]`
    q: Val<'g>,
    k: Val<'g>,
    v: Val<'g>,
}

impl<'a, 'g> Heads<'a, 'g> {
    fn of(c: &'a Cx<'g>) -> Result<Heads<'a, 'g>, Fault> {
        let s = Settings::of(c.attrs());
        let q = split(c, 0, s.heads[0])?;
        let with_past = |now: Val<'g>, past: usize| match c.has(past) {
            true => c.b.op("Concat", &[c.x(past), now], Attrs::new().with("axis", 2)),
            false => now,
        };
        let (k, v) = (with_past(split(c, 1, s.heads[1])?, 4), with_past(split(c, 2, s.heads[1])?, 5));
        Ok(Heads { c, s, q, k, v })
    }

    fn outputs(&self) -> Vec<Val<'g>> {
        let (c, s) = (self.c, &self.s);
        let products = (self.q * self.scale()).matmul(self.each_query_head(self.k).transpose());
        let capped = match s.softcap > 0.0 {
            true => (products * (1.0 / s.softcap)).tanh() * s.softcap,
            false => products,
        };
        let (masked, nothing) = match self.bias() {
            None => (capped, None),
            Some((bias, false)) => (capped + bias, None),
            Some((bias, true)) => {
                // Of a query that sees no key the softmax is not defined; its row is made 0 behind it.
                let none = bias.max_keep(&[-1]).equal(bias.like(f64::NEG_INFINITY));
                (capped + none.select(bias.like(0.0), bias), Some((none, bias)))
            }
        };
        let own = self.q.dtype();
        let precise = masked.cast(s.precision.unwrap_or(own));
        let p = c.b.op("Softmax", &[precise], Attrs::new().with("axis", -1)).cast(own);
        let p = nothing.map_or(p, |(none, _)| none.select(p.like(0.0), p));
        let y = p.matmul(self.each_query_head(self.v));
        let shown = match s.shown {
            0 => products,
            1 => capped,
            2 => nothing.map_or(masked, |(_, bias)| capped + bias),
            _ => p,
        };
        vec![self.merged(y), self.k, self.v, shown]
    }

    /// The heads of `y` in the last axis, where those of the inputs are.
    fn merged(&self, y: Val<'g>) -> Val<'g> {
        if self.c.x(0).rank() == 4 {
            return y;
        }
        y.permute(&[0, 2, 1, 3]).reshape(&[y.dim(0), y.dim(2), y.dim(1) * y.dim(3)])
    }

    fn scale(&self) -> Val<'g> {
        match self.s.scale {
            Some(scale) => self.q.like(scale),
            None => match self.q.dim(3) {
                Dim::Fixed(n) => self.q.like(1.0 / (n as f64).sqrt()),
                size => self.c.b.dim_scalar(&size, self.q.dtype()).sqrt().reciprocal(),
            },
        }
    }

    /// Keys or values repeated for the query heads that share them.
    fn each_query_head(&self, x: Val<'g>) -> Val<'g> {
        let (heads, shared) = (self.q.dim(1), x.dim(1));
        match (heads.fixed(), shared.fixed()) {
            _ if heads == shared => x,
            (Some(heads), Some(shared)) if shared > 0 => along::repeat(x, &[(1, heads / shared)]),
            _ => {
                let b = self.c.b;
                along::pick(x, 1, b.range(&heads) / (b.dim_value(&heads) / b.dim_value(&shared)))
            }
        }
    }

    /// What is added to the products, and whether it may hide all keys from a query.
    fn bias(&self) -> Option<(Val<'g>, bool)> {
        let hides = self.c.has(3) || self.c.has(6) || self.s.window.iter().any(Option::is_some);
        let (mask, mut seen) = match self.mask() {
            Some(mask) if mask.dtype() == DType::Bool => (None, Some(mask)),
            mask => (mask, None),
        };
        let conditions = self.conditions();
        if mask.is_none() && seen.is_none() && conditions.is_empty() {
            return None;
        }
        for condition in conditions {
            seen = Some(seen.map_or(condition, |all| all.and(condition)));
        }
        let (none, hidden) = (self.q.like(0.0), self.q.like(f64::NEG_INFINITY));
        let bias = match (mask, seen) {
            (Some(mask), None) => mask,
            (mask, Some(seen)) => seen.select(mask.unwrap_or(none), hidden),
            (None, None) => none,
        };
        Some((bias, hides))
    }

    /// The mask, as wide as there are keys: those beyond it are hidden.
    fn mask(&self) -> Option<Val<'g>> {
        let mask = self.c.has(3).then(|| self.c.x(3))?;
        let b = self.c.b;
        let (width, total, rank) = (mask.dim(-1), self.k.dim(2), mask.rank());
        // One number is the same for all keys.
        if rank == 0 || width == total {
            return Some(mask);
        }
        let mut pads = vec![Dim::Fixed(0); 2 * rank];
        pads[2 * rank - 1] = total.clone() - width;
        let filler = match mask.dtype() {
            DType::Bool => b.scalar(DType::Bool, 0.0),
            _ => mask.like(f64::NEG_INFINITY),
        };
        let padded = b.op("Pad", &[mask, b.shape_value(&pads), filler], Attrs::new());
        let mut shape = mask.shape();
        shape[rank - 1] = total;
        b.refine_fact(padded, &crate::ir::Fact::new(mask.dtype(), shape));
        Some(padded)
    }

    /// Which keys a query may see by their positions.
    fn conditions(&self) -> Vec<Val<'g>> {
        let (b, s) = (self.c.b, &self.s);
        let int = |v: i64| b.constant(Tensor::ints(&[], &[v]));
        let keys = b.range(&self.k.dim(2));
        let lengths = self.c.has(6).then(|| self.c.x(6).cast(DType::I64).unsqueeze(&[1, 2, 3]));
        let mut all = Vec::new();
        if s.causal || s.window.iter().any(Option::is_some) {
            let length = self.q.dim(2);
            let own = b.range(&length).unsqueeze(&[1]);
            let before = match (lengths, self.c.has(4)) {
                (Some(lengths), _) => Some(lengths - b.dim_value(&length)),
                (None, true) => Some(b.dim_value(&self.c.x(4).dim(2))),
                (None, false) => None,
            };
            let own = before.map_or(own, |before| own + before);
            if s.causal {
                all.push(keys.le(own));
            }
            if let Some(left) = s.window[0] {
                all.push((own - keys).le(int(left)));
            }
            if let Some(right) = s.window[1] {
                all.push((keys - own).le(int(right)));
            }
        }
        all.extend(lengths.map(|lengths| keys.lt(lengths)));
        all
    }
}

/// Input `i` as `[batch, heads, length, size]`.
fn split<'g>(c: &Cx<'g>, i: usize, heads: Option<i64>) -> Result<Val<'g>, Fault> {
    let x = c.x(i);
    let [batch, heads, length, size] = split_heads(&x.shape(), heads, i)?;
    match x.rank() {
        3 => Ok(x.reshape(&[batch, length, heads, size]).permute(&[0, 2, 1, 3])),
        _ => Ok(x),
    }
}

/// Pairs (x₁, x₂) turned by the angle of their position: (x₁ cos − x₂ sin, x₁ sin + x₂ cos)
pub fn rotary_embedding<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let x = c.x(0);
    let work = working_type(x.dtype());
    let heads = c.attrs().int("num_heads").filter(|&n| n > 0);
    let [batch, heads, length, size] = match split_heads(&x.shape(), heads, 0) {
        Ok(shape) => shape,
        Err(fault) => {
            c.fault(fault);
            return vec![x];
        }
    };
    // Heads behind the positions, or before them: where the input has them.
    let flat = x.rank() == 3;
    let lead = if flat { [batch, length, heads] } else { [batch, heads, length] };
    let each = x.cast(work).reshape(&[&lead[..], std::slice::from_ref(&size)].concat());
    let turned = c.int("rotary_embedding_dim", 0);
    let (turning, rest) = match turned {
        0 => (each, None),
        n => (each.slice(3, 0, n), Some(each.slice(3, n, i64::MAX))),
    };
    let angle = |i: usize| {
        let cache = c.x(i).cast(work);
        let of_position = if c.has(3) { along::pick(cache, 0, c.x(3)) } else { cache };
        of_position.unsqueeze(&[if flat { 2 } else { 1 }])
    };
    let (cos, sin) = (angle(1), angle(2));
    let half = turning.dim(3).div_exact(&Dim::Fixed(2)).unwrap_or_else(|| turning.dim(3).div_floor(2));
    let (pairs, axis) = match c.int("interleaved", 0) {
        0 => ([Dim::Fixed(2), half], 3),
        _ => ([half, Dim::Fixed(2)], 4),
    };
    let pairs = turning.reshape(&[&lead[..], &pairs].concat());
    let part = |k: i64| pairs.slice(axis, k, k + 1).squeeze(&[axis]);
    let (first, second) = (part(0), part(1));
    let both = [first * cos - second * sin, first * sin + second * cos].map(|v| v.unsqueeze(&[axis]));
    let both = c.b.op("Concat", &both, Attrs::new().with("axis", axis)).reshape(&turning.shape());
    let whole = match rest {
        Some(rest) => c.b.op("Concat", &[both, rest], Attrs::new().with("axis", 3)),
        None => both,
    };
    vec![whole.reshape(&x.shape()).cast(x.dtype())]
}
