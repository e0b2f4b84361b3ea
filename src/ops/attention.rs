//! Attention: scaled dot products of queries and keys, masked, normalised, and values averaged with them.

use super::fact_cx::show;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact, Tensor};
use crate::lower;

/// The attributes of an Attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub scale: Option<f64>,
    /// 0: none. The mask is added behind the cap, as onnx 1.23's text of Attention-23 and ONNX Runtime 1.32 have it; those
    /// of onnx 1.20 and ONNX Runtime 1.23 add it before.
    pub softcap: f64,
    pub causal: bool,
    /// How many keys before and after its own position a query sees.
    pub window: [Option<i64>; 2],
    /// Of inputs whose heads are not an axis of their own.
    pub heads: [Option<i64>; 2],
    /// What the fourth output is: the products, those capped, those masked, or the probabilities.
    pub shown: i64,
    pub precision: Option<DType>,
}

impl Settings {
    pub fn of(attrs: &Attrs) -> Settings {
        let bound = |name| attrs.int(name).filter(|&n| n >= 0);
        Settings {
            scale: attrs.float("scale").map(f64::from),
            softcap: f64::from(attrs.float("softcap").unwrap_or(0.0)),
            causal: attrs.int("is_causal") == Some(1),
            window: [bound("left_window_size"), bound("right_window_size")],
            heads: ["q_num_heads", "kv_num_heads"].map(|name| attrs.int(name).filter(|&n| n > 0)),
            shown: attrs.int("qk_matmul_output_mode").unwrap_or(0),
            precision: attrs.int("softmax_precision").and_then(|code| DType::from_code(i32::try_from(code).ok()?)),
        }
    }
}

/// `[batch, heads, length, size]` of an input, which may have its heads in the last axis.
pub(crate) fn split_heads(shape: &[Dim], heads: Option<i64>, index: usize) -> Result<[Dim; 4], Fault> {
    match (shape, heads) {
        ([batch, heads, length, size], _) => Ok([batch.clone(), heads.clone(), length.clone(), size.clone()]),
        ([batch, length, hidden], Some(heads)) => match hidden.div_exact(&Dim::Fixed(heads)) {
            Some(size) => Ok([batch.clone(), Dim::Fixed(heads), length.clone(), size]),
            None if hidden.fixed().is_none() => {
                Ok([batch.clone(), Dim::Fixed(heads), length.clone(), hidden.div_floor(heads)])
            }
            None => Err(Fault::Shape { what: "heads", found: show(shape), expected: format!("{heads} heads of one size") }),
        },
        ([_, _, _], None) => {
            let expected = "a number of heads for inputs of rank 3".to_string();
            Err(Fault::Attribute { name: "q_num_heads and kv_num_heads", found: "absent".into(), expected })
        }
        _ => Err(Fault::Rank { index, found: shape.len(), expected: "3 or 4".into() }),
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let s = Settings::of(c.attrs);
    let [batch, heads, length, size] = split_heads(c.shape(0)?, s.heads[0], 0)?;
    let [_, kv_heads, added, _] = split_heads(c.shape(1)?, s.heads[1], 1)?;
    let [_, _, _, value_size] = split_heads(c.shape(2)?, s.heads[1], 2)?;
    if let (Some(q), Some(k)) = (heads.fixed(), kv_heads.fixed())
        && (k == 0 || q % k != 0)
    {
        let expected = format!("a multiple of {k} heads of keys");
        return Err(Fault::Shape { what: "heads", found: q.to_string(), expected });
    }
    let past = match c.get(4).and_then(|past| past.shape.as_deref()) {
        Some([_, _, past, _]) => past.clone(),
        _ if c.has(4) => c.unknown(2),
        _ => Dim::Fixed(0),
    };
    let total = past + added;
    let (dtype, kv, v) = (c.dtype(0)?, c.dtype(1)?, c.dtype(2)?);
    let y = match c.shape(0)?.len() {
        3 => vec![batch.clone(), length.clone(), heads.clone() * value_size.clone()],
        _ => vec![batch.clone(), heads.clone(), length.clone(), value_size.clone()],
    };
    Ok(vec![
        Fact::new(dtype, y),
        Fact::new(kv, [batch.clone(), kv_heads.clone(), total.clone(), size]),
        Fact::new(v, [batch.clone(), kv_heads, total.clone(), value_size]),
        Fact::new(dtype, [batch, heads, length, total]),
    ])
}

/// `[batch, heads, length, size]`, the past before it.
fn heads_of(c: &EvalCx, i: usize, heads: Option<i64>, past: Option<usize>) -> Result<Array, Fault> {
    let x = c.input(i)?;
    let dims: Vec<Dim> = x.shape().iter().map(|&n| Dim::from(n)).collect();
    let shape = super::window::sizes(&split_heads(&dims, heads, i)?);
    let before = past.and_then(|past| c.get(past));
    let skip = before.map_or(0, |before| before.shape().get(2).copied().unwrap_or(0));
    let whole = [shape[0], shape[1], shape[2] + skip, shape[3]];
    Array::tabulate(x.dtype, &whole, |at| {
        if let (true, Some(before)) = (at[2] < skip, before) {
            return before.at(at);
        }
        let row = at[2] - skip;
        match x.shape().len() {
            3 => x.at(&[at[0], row, at[1] * shape[3] + at[3]]),
            _ => x.at(&[at[0], at[1], row, at[3]]),
        }
    })
}

/// What is added to the product of query `i` and key `j`; −∞ hides the key.
fn bias(c: &EvalCx, s: &Settings, at: &[usize; 4], length: usize, total: usize) -> Result<f64, Fault> {
    let [batch, head, i, j] = *at;
    let valid = c.ints(6).map(|lengths| lengths.get(batch).copied().unwrap_or(0));
    let past = c.get(4).map_or(0, |past| past.shape().get(2).copied().unwrap_or(0) as i64);
    let own = i as i64 + valid.map_or(past, |valid| valid - length as i64);
    let distance = own - j as i64;
    let hidden = s.causal && distance < 0
        || s.window[0].is_some_and(|left| distance > left)
        || s.window[1].is_some_and(|right| -distance > right)
        || valid.is_some_and(|valid| j as i64 >= valid);
    if hidden {
        return Ok(f64::NEG_INFINITY);
    }
    let Some(mask) = c.get(3) else { return Ok(0.0) };
    let shape = mask.shape();
    let width = shape.last().copied().unwrap_or(1);
    if j >= width && width < total {
        return Ok(f64::NEG_INFINITY);
    }
    let index: Vec<usize> = shape.iter().rev().zip([j, i, head, batch]).map(|(&n, k)| if n == 1 { 0 } else { k }).collect();
    let value = mask.at(&index.into_iter().rev().collect::<Vec<_>>())?;
    Ok(match (mask.dtype, value != 0.0) {
        (DType::Bool, true) => 0.0,
        (DType::Bool, false) => f64::NEG_INFINITY,
        _ => value,
    })
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = row.iter().map(|v| (v - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let s = Settings::of(c.attrs);
    let q = heads_of(c, 0, s.heads[0], None)?;
    let k = heads_of(c, 1, s.heads[1], Some(4))?;
    let v = heads_of(c, 2, s.heads[1], Some(5))?;
    let (&[batch, heads, length, size], &[_, kv_heads, total, value_size]) = (q.shape(), v.shape()) else {
        return Ok(Vec::new());
    };
    let group = (heads / kv_heads.max(1)).max(1);
    let scale = s.scale.unwrap_or(1.0 / (size as f64).sqrt());
    let flat = c.input(0)?.shape().len() == 3;
    let y_shape = if flat { vec![batch, length, heads * value_size] } else { vec![batch, heads, length, value_size] };
    let mut y = ndarray::ArrayD::zeros(y_shape);
    let mut shown = ndarray::ArrayD::zeros(vec![batch, heads, length, total]);
    for at in super::window::positions(&[batch, heads, length]) {
        let (b, h, i) = (at[0], at[1], at[2]);
        let product = |j: usize| (0..size).map(|d| Ok(q.at(&[b, h, i, d])? * k.at(&[b, h / group, j, d])?)).sum();
        let raw = (0..total).map(product).collect::<Result<Vec<f64>, Fault>>()?;
        let raw: Vec<f64> = raw.iter().map(|v| v * scale).collect();
        let cap = |v: &f64| if s.softcap > 0.0 { s.softcap * (v / s.softcap).tanh() } else { *v };
        let capped: Vec<f64> = raw.iter().map(cap).collect();
        let bias = (0..total).map(|j| bias(c, &s, &[b, h, i, j], length, total)).collect::<Result<Vec<_>, _>>()?;
        let masked: Vec<f64> = capped.iter().zip(&bias).map(|(v, b)| v + b).collect();
        let nothing = bias.iter().all(|&b| b == f64::NEG_INFINITY);
        let p = if nothing { vec![0.0; total] } else { softmax(&masked) };
        let row = [&raw, &capped, &masked, &p][s.shown.clamp(0, 3) as usize];
        for j in 0..total {
            shown[[b, h, i, j].as_slice()] = row[j];
        }
        for d in 0..value_size {
            let sum = (0..total).map(|j| Ok(p[j] * v.at(&[b, h / group, j, d])?)).sum::<Result<f64, Fault>>()?;
            let place = if flat { vec![b, i, h * value_size + d] } else { vec![b, h, i, d] };
            y[&place[..]] = sum;
        }
    }
    Ok(vec![Array::new(q.dtype, y), k, v, Array::new(q.dtype, shown)])
}

fn cases() -> Vec<Case> {
    let four = |heads: usize, kv: usize| {
        Case::new().real(&[2, heads, 3, 4]).real(&[2, kv, 5, 4]).real(&[2, kv, 5, 2])
    };
    let three = || {
        let case = Case::new().real(&[2, 3, 8]).real(&[2, 4, 4]).real(&[2, 4, 6]);
        case.attr("q_num_heads", 4).attr("kv_num_heads", 2)
    };
    let own = || Case::new().real(&[1, 2, 3, 2]).real(&[1, 2, 3, 2]).real(&[1, 2, 3, 2]);
    let seen = [true, false, true, false, true, true, true, true, false, true, false, false, true, true, true];
    let nothing = Tensor::from_f64(DType::Bool, &[3, 3], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    let lengths = || Case::new().real(&[2, 1, 2, 2]).real(&[2, 1, 4, 2]).real(&[2, 1, 4, 2]).absent().absent().absent();
    vec![
        four(2, 2),
        four(4, 2).attr("scale", 0.3_f32).attr("softcap", 1.5_f32),
        three(),
        three().real(&[2, 1, 3, 4]),
        own().attr("is_causal", 1),
        four(2, 1).bools(&[3, 5], &seen),
        own().data(nothing),
        own().real(&[3, 3]).attr("is_causal", 1),
        own().real(&[3, 3]).outputs(4).attr("qk_matmul_output_mode", 2),
        own().absent().real(&[1, 2, 2, 2]).real(&[1, 2, 2, 2]).attr("is_causal", 1).outputs(3),
        four(2, 2).bools(&[2, 1, 3, 4], &[seen.as_slice(), &seen[..9]].concat()),
        lengths().ints(&[2], &[3, 2]).attr("is_causal", 1),
        own().attr("left_window_size", 1).attr("right_window_size", 0).outputs(4).attr("qk_matmul_output_mode", 3),
    ]
}

pub static ATTENTION: Op = Op {
    name: "Attention",
    facts: |c| {
        let unknown = [0, 1, 2, 0].map(|i| c.dtype(i).map(Fact::unknown));
        match facts(c) {
            Err(Fault::UnknownRank { .. }) => unknown.into_iter().collect(),
            other => other,
        }
    },
    tangent: Tangent::Lower(lower::attention::attention),
    eval,
    cases,
};
