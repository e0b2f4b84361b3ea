//! Attention in ONNX Runtime's three forms.

use super::rotary::rotate;
use super::{Fused, unsupported, without};
use crate::ir::{Attrs, DType, Dim, Fact, Val};
use crate::ops::Fault;

type Made<'g> = Result<Vec<Val<'g>>, Fault>;

/// What is added to scores that a mask takes out.
const MASKED: f32 = -10000.0;

/// `[batch, length, heads·size]` → `[batch, heads, length, size]`
pub(super) fn split_heads<'g>(x: Val<'g>, heads: i64) -> Result<Val<'g>, Fault> {
    let shape = x.shape();
    match &shape[..] {
        [batch, length, Dim::Fixed(width)] if heads > 0 && width % heads == 0 => {
            let split = [batch.clone(), length.clone(), Dim::Fixed(heads), Dim::Fixed(width / heads)];
            Ok(x.reshape(&split).permute(&[0, 2, 1, 3]))
        }
        _ => Err(unsupported(&format!("{heads} heads do not divide an input of shape {shape:?}"))),
    }
}

/// `[batch, heads, length, size]` → `[batch, length, heads·size]`
pub(super) fn merge_heads(x: Val<'_>) -> Val<'_> {
    let merged = x.permute(&[0, 2, 1, 3]);
    match &merged.shape()[..] {
        [batch, length, heads, size] => merged.reshape(&[batch.clone(), length.clone(), heads.clone() * size.clone()]),
        _ => merged,
    }
}

/// Queries, keys and values by heads, and what their scores are changed by.
struct Heads<'g> {
    query: Val<'g>,
    key: Val<'g>,
    value: Val<'g>,
    scale: f64,
    /// Added to the scores.
    biases: Vec<Val<'g>>,
    /// Each query sees the keys up to its own place alone; of a window, so many before it.
    causal: bool,
    window: Option<i64>,
    softcap: f64,
    /// The places of the queries, `[batch, 1, length, 1]`; else they are the last ones.
    places: Option<Val<'g>>,
    /// A score of each head that no key has, `[1, heads, 1, 1]`.
    sink: Option<Val<'g>>,
}

impl<'g> Heads<'g> {
    /// softmax(s·QKᵀ + biases)·V
    fn attend(self) -> Val<'g> {
        let b = self.query.builder();
        let scaled = if self.scale == 1.0 { self.query } else { self.query * self.scale };
        let mut scores = scaled.matmul(self.key.permute(&[0, 1, 3, 2]));
        if self.softcap != 0.0 {
            scores = (scores / self.softcap).tanh() * self.softcap;
        }
        scores = self.biases.iter().fold(scores, |scores, &bias| scores + bias);
        if self.causal {
            scores = self.seen().select(scores, scores.like(lowest(scores.dtype())));
        }
        let softmax = |scores: Val<'g>| b.op("Softmax", &[scores], Attrs::new().with("axis", 3));
        let weights = match self.sink {
            None => softmax(scores),
            Some(sink) => {
                let mut shape = scores.shape();
                let keys = shape[3].clone();
                shape[3] = Dim::Fixed(1);
                let all = b.op("Concat", &[scores, sink.expand(&shape)], Attrs::new().with("axis", 3));
                let shown = softmax(all).slice(3, 0, -1);
                shape[3] = keys;
                b.refine_fact(shown, &Fact::new(shown.dtype(), shape));
                shown
            }
        };
        weights.matmul(self.value)
    }

    /// Whether the query of a row may see the key of a column, as `[length, keys]`.
    fn seen(&self) -> Val<'g> {
        let b = self.query.builder();
        let (length, keys) = (self.query.dim(2), self.key.dim(2));
        let columns = b.range(&keys).unsqueeze(&[0]);
        let rows = self.places.unwrap_or_else(|| {
            let before = b.dim_scalar(&(keys - length.clone()), DType::I64);
            (b.range(&length) + before).unsqueeze(&[1])
        });
        let seen = columns.le(rows);
        match self.window {
            Some(window) => seen.and(columns.ge(rows - b.scalar(DType::I64, window as f64))),
            None => seen,
        }
    }
}

fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => -65504.0,
        _ => f64::from(f32::MIN),
    }
}

/// `1/√size`, unless the node says otherwise.
fn scale(f: &Fused, query: Val) -> Result<f64, Fault> {
    let size = query.dim(3).fixed().ok_or_else(|| unsupported("the size of a head must be known"))?;
    let stated = f.float("scale", 0.0);
    Ok(if stated == 0.0 { 1.0 / (size as f64).sqrt() } else { stated })
}

/// What a mask adds to the scores, which it broadcasts to. `[batch]`: how many keys count; `[batch, keys]` and
/// `[batch, length, keys]`: not 0 where a key counts.
fn mask_bias<'g>(f: &Fused<'g, '_>, mask: Val<'g>, key: Val<'g>) -> Result<Val<'g>, Fault> {
    let fact = mask.fact();
    let shape = fact.shape.ok_or_else(|| unsupported("the rank of the mask is not known"))?;
    let counts = match &shape[..] {
        [samples] if *samples == key.dim(0) => {
            f.b.range(&key.dim(2)).unsqueeze(&[0]).cast(mask.dtype()).lt(mask.unsqueeze(&[1]))
        }
        [_, _] | [_, _, _] => mask.gt(mask.like(0.0)),
        _ => return Err(unsupported(&format!("a mask of shape {shape:?} is not known"))),
    };
    let counts = if shape.len() == 3 { counts.unsqueeze(&[1]) } else { counts.unsqueeze(&[1, 2]) };
    Ok(counts.select(key.like(0.0), key.like(f.float("mask_filter_value", MASKED))))
}

/// The keys or values of former calls with the new ones behind.
fn behind<'g>(past: Val<'g>, new: Val<'g>) -> Val<'g> {
    new.builder().op("Concat", &[past, new], Attrs::new().with("axis", 2))
}

/// Attention of one input with the weights of query, key and value side by side.
pub fn attention<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    without(f, &[(6, "past_sequence_length")])?;
    if f.int("do_rotary", 0) != 0 {
        return Err(unsupported("do_rotary is not known"));
    }
    let heads = f.int("num_heads", 0);
    f.ranked::<3>(0)?;
    let (weights, [_, width]) = f.ranked(1)?;
    let product = f.x(0)?.matmul(weights);
    let all = f.get(2).map_or(product, |bias| product + bias);
    let width = width.fixed().ok_or_else(|| unsupported("the width of the weights must be known"))?;
    let sizes = f.draft.attrs.ints("qkv_hidden_sizes").map_or(vec![width / 3; 3], <[i64]>::to_vec);
    let [queries, keys, values] = sizes[..] else { return Err(unsupported("qkv_hidden_sizes has three numbers")) };
    let part = |start: i64, size: i64| split_heads(all.slice(2, start, start + size), heads);
    let query = part(0, queries)?;
    let (mut key, mut value) = (part(queries, keys)?, part(queries + keys, values)?);
    if let Some(past) = f.get(4) {
        f.ranked::<5>(4)?;
        let of = |k: i64| past.slice(0, k, k + 1).squeeze(&[0]);
        (key, value) = (behind(of(0), key), behind(of(1), value));
    }
    let mut biases = Vec::new();
    if let Some(mask) = f.get(3) {
        biases.push(mask_bias(f, mask, key)?);
    }
    biases.extend(f.get(5));
    let (scale, causal) = (scale(f, query)?, f.int("unidirectional", 0) != 0);
    let y = Heads { query, key, value, scale, biases, causal, window: None, softcap: 0.0, places: None, sink: None }
        .attend();
    let mut outputs = vec![merge_heads(y)];
    if f.has_out(1) {
        let both = [key.unsqueeze(&[0]), value.unsqueeze(&[0])];
        outputs.push(f.b.op("Concat", &both, Attrs::new().with("axis", 0)));
    }
    Ok(outputs)
}

/// Attention of projected queries, keys and values.
pub fn multi_head<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    without(f, &[(8, "past_sequence_length"), (9, "cache_indirection")])?;
    if f.get(1).is_none() || f.get(2).is_none() || f.has_out(3) {
        return Err(unsupported("packed queries, keys and values and the output qk are not known"));
    }
    let heads = f.int("num_heads", 0);
    let (_, [_, _, width]) = f.ranked(0)?;
    let width = width.fixed().ok_or_else(|| unsupported("the width of the query must be known"))?;
    let biased = |i: usize, start: i64, size: Option<i64>| -> Result<Val<'g>, Fault> {
        let (x, shape) = f.shaped(i)?;
        if shape.len() == 4 {
            return Ok(x);
        }
        let size = size.or(shape.last().and_then(Dim::fixed)).unwrap_or(width);
        let x = f.get(3).map_or(x, |bias| x + bias.slice(0, start, start + size));
        split_heads(x, heads)
    };
    let query = biased(0, 0, Some(width))?;
    let (mut key, mut value) = (biased(1, width, Some(width))?, biased(2, 2 * width, None)?);
    if let (Some(past_key), Some(past_value)) = (f.get(6), f.get(7)) {
        (key, value) = (behind(past_key, key), behind(past_value, value));
    }
    let mut biases = Vec::new();
    if let Some(mask) = f.get(4) {
        biases.push(mask_bias(f, mask, key)?);
    }
    biases.extend(f.get(5));
    let (scale, causal) = (scale(f, query)?, f.int("unidirectional", 0) != 0);
    let y = Heads { query, key, value, scale, biases, causal, window: None, softcap: 0.0, places: None, sink: None }
        .attend();
    Ok(vec![merge_heads(y), key, value])
}

/// A cache of former calls: a buffer of which each sample has filled some places.
struct Cache<'g> {
    key: Val<'g>,
    value: Val<'g>,
    /// How many places each sample has filled, `[batch, 1, 1, 1]`.
    filled: Val<'g>,
}

impl<'g> Cache<'g> {
    /// Inputs 3 to 5, where the buffer has places.
    fn of(f: &Fused<'g, '_>, length: &Dim) -> Result<Option<Cache<'g>>, Fault> {
        let (Some(key), Some(value)) = (f.get(3), f.get(4)) else { return Ok(None) };
        let (_, [_, _, places, _]) = f.ranked(3)?;
        f.ranked::<4>(4)?;
        if places == Dim::Fixed(0) {
            return Ok(None);
        }
        // Input 5 is the last place of each sample in this call.
        let last = f.b.op("Reshape", &[f.x(5)?.cast(DType::I64), f.b.ints(&[-1, 1, 1, 1])], Attrs::new());
        let filled = last + 1.0 - f.b.dim_scalar(length, DType::I64);
        let filled = f.b.op("Max", &[filled, filled.like(0.0)], Attrs::new());
        Ok(Some(Cache { key, value, filled }))
    }

    /// The new keys or values written behind what each sample has filled; further places hold no meaning.
    fn with(&self, past: Val<'g>, new: Val<'g>) -> Val<'g> {
        let (b, all) = (past.builder(), behind(past, new));
        let (places, whole) = (all.shape(), all.dim(2));
        let at = b.range(&whole).unsqueeze(&[0, 1, 3]);
        let behind = at - self.filled + b.dim_scalar(&past.dim(2), DType::I64);
        let last = b.dim_scalar(&(whole - Dim::Fixed(1)), DType::I64);
        let source = at.lt(self.filled).select(at, b.op("Min", &[behind, last], Attrs::new()));
        let taken = b.op("GatherElements", &[all, source.expand(&places)], Attrs::new().with("axis", 2));
        b.refine_fact(taken, &Fact::new(all.dtype(), places));
        taken
    }

    /// As many places as the buffer has, or this call needs.
    fn kept(&self, f: &Fused<'g, '_>, all: Val<'g>) -> Result<Val<'g>, Fault> {
        let (b, places) = (f.b, self.key.dim(2));
        let total = b.op("Reshape", &[f.x(6)?.cast(DType::I64), b.ints(&[1])], Attrs::new());
        let end = b.op("Max", &[total, b.shape_value(&[places])], Attrs::new());
        Ok(b.op("Slice", &[all, b.ints(&[0]), end, b.ints(&[2])], Attrs::new()))
    }
}

/// Attention in which several heads share a key and a value.
pub fn group_query<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    without(
        f,
        &[(12, "k_scale"), (13, "v_scale"), (14, "q_norm_weight"), (15, "k_norm_weight"), (16, "query_seqlens")],
    )?;
    let (heads, shared) = (f.int("num_heads", 0), f.int("kv_num_heads", 0));
    let (_, [_, length, width]) = f.ranked(0)?;
    let size = width.fixed().filter(|_| heads > 0 && shared > 0).map(|width| width / (heads + 2 * shared));
    let (query, key, value) = match (f.get(1), f.get(2), size) {
        (Some(key), Some(value), _) => {
            f.ranked::<3>(1)?;
            f.ranked::<3>(2)?;
            (f.x(0)?, key, value)
        }
        (None, None, Some(size)) => {
            let (x, keys, values) = (f.x(0)?, heads * size, (heads + shared) * size);
            (x.slice(2, 0, keys), x.slice(2, keys, values), x.slice(2, values, values + shared * size))
        }
        _ => return Err(unsupported("it has a key without a value, or heads whose number is not known")),
    };
    let (mut query, mut key) = (split_heads(query, heads)?, split_heads(key, shared)?);
    let mut value = split_heads(value, shared)?;
    let cache = Cache::of(f, &length)?;
    // The place of each query: behind what its sample has filled.
    let places = cache.as_ref().map(|cache| f.b.range(&length).unsqueeze(&[0, 1, 3]) + cache.filled);
    if f.int("do_rotary", 0) != 0 {
        let rows = |i: usize| -> Result<Val<'g>, Fault> {
            let behind = || places.map(|places| places.squeeze(&[1, 3]));
            let places = f.get(9).or_else(behind).unwrap_or_else(|| f.b.range(&length).unsqueeze(&[0]));
            Ok(f.b.op("Gather", &[f.x(i)?, places], Attrs::new().with("axis", 0)))
        };
        let (cos, sin, interleaved) = (rows(7)?, rows(8)?, f.int("rotary_interleaved", 0) != 0);
        (query, key) = (rotate(query, cos, sin, interleaved)?, rotate(key, cos, sin, interleaved)?);
    }
    let (causal, biases) = (f.int("causal", 1) != 0, f.get(10).into_iter().collect::<Vec<_>>());
    let mut present = [key, value];
    if let Some(cache) = &cache {
        if !causal || !biases.is_empty() {
            return Err(unsupported("with a cache of former calls it is causal and has no bias"));
        }
        (key, value) = (cache.with(cache.key, key), cache.with(cache.value, value));
        present = [cache.kept(f, key)?, cache.kept(f, value)?];
    }
    let window = Some(f.int("local_window_size", -1)).filter(|&w| w > 0);
    let (scale, softcap) = (scale(f, query)?, f.float("softcap", 0.0));
    let sink = match f.get(11) {
        Some(sink) => Some(sink.reshape(&[1, heads, 1, 1].map(Dim::Fixed))),
        None => (f.int("smooth_softmax", 0) == 1).then(|| query.like(0.0).reshape(&[1, 1, 1, 1].map(Dim::Fixed))),
    };
    let (key, value) = (repeated(key, heads / shared), repeated(value, heads / shared));
    let y = Heads { query, key, value, scale, biases, causal, window, softcap, places, sink }.attend();
    Ok([merge_heads(y)].into_iter().chain(present).collect())
}

/// Each head so many times in a row.
fn repeated(x: Val<'_>, times: i64) -> Val<'_> {
    let shape = x.shape();
    match &shape[..] {
        [batch, heads, length, size] if times > 1 => {
            let wide = [batch.clone(), heads.clone(), Dim::Fixed(times), length.clone(), size.clone()];
            let flat = [batch.clone(), heads.clone() * Dim::Fixed(times), length.clone(), size.clone()];
            x.unsqueeze(&[2]).expand(&wide).reshape(&flat)
        }
        _ => x,
    }
}
