//! TfIdfVectorizer: counts of n-grams, which are no real numbers to start from.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attr, Attrs, DType, Dim, Fact};

fn ints<'a>(attrs: &'a Attrs, name: &'static str) -> Result<&'a [i64], Fault> {
    attrs.ints(name).ok_or_else(|| Fault::Attribute { name, found: "absent".into(), expected: "integers".into() })
}

/// Elements of a row of the output.
fn width(attrs: &Attrs) -> Result<usize, Fault> {
    let indexes = ints(attrs, "ngram_indexes")?;
    let last = indexes.iter().copied().max().unwrap_or(-1);
    usize::try_from(last.saturating_add(1)).ok().filter(|&n| n < 1 << 24).ok_or_else(|| Fault::Attribute {
        name: "ngram_indexes",
        found: last.to_string(),
        expected: "places in the output".into(),
    })
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    let batch = x.split_last().map(|(_, batch)| batch.to_vec()).unwrap_or_default();
    Ok(vec![Fact::new(DType::F32, [batch, vec![Dim::from(width(c.attrs)?)]].concat())])
}

/// The n-grams of each length and their places in the output.
fn grams(attrs: &Attrs) -> Result<Vec<(Vec<i64>, usize)>, Fault> {
    let (pool, starts) = (ints(attrs, "pool_int64s")?, ints(attrs, "ngram_counts")?);
    let indexes = ints(attrs, "ngram_indexes")?;
    let mut all = Vec::new();
    for (k, &start) in starts.iter().enumerate() {
        let end = starts.get(k + 1).copied().unwrap_or(pool.len() as i64);
        let part = usize::try_from(start).ok().zip(usize::try_from(end).ok()).and_then(|(a, b)| pool.get(a..b));
        for gram in part.unwrap_or(&[]).chunks_exact(k + 1) {
            let place = indexes.get(all.len()).and_then(|&n| usize::try_from(n).ok()).unwrap_or(0);
            all.push((gram.to_vec(), place));
        }
    }
    Ok(all)
}

/// How often the n-gram stands in the row with steps of each size from 1 to `skip + 1`.
fn occurrences(gram: &[i64], row: &[i64], skip: i64) -> usize {
    // Steps make no difference to single elements.
    let steps = if gram.len() == 1 { 1..=1 } else { 1..=skip.clamp(0, 1 << 20) as usize + 1 };
    let stands = |start: usize, step: usize| gram.iter().enumerate().all(|(k, v)| row.get(start + k * step) == Some(v));
    steps.map(|step| (0..row.len()).filter(|&start| stands(start, step)).count()).sum()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, width, grams) = (c.input(0)?, width(c.attrs)?, grams(c.attrs)?);
    let lengths = c.int("min_gram_length", 1)..=c.int("max_gram_length", 1);
    let weights = match c.attrs.get("weights") {
        Some(Attr::Floats(weights)) => weights.clone(),
        _ => Vec::new(),
    };
    let (elements, batch) = x.shape().split_last().map_or((1, &[][..]), |(n, batch)| (*n, batch));
    let rows: Vec<i64> = x.ints();
    let mut y = vec![0.0; batch.iter().product::<usize>() * width];
    for (row, out) in rows.chunks(elements.max(1)).zip(y.chunks_mut(width.max(1))) {
        for (k, (gram, place)) in grams.iter().enumerate().filter(|(_, (gram, _))| lengths.contains(&(gram.len() as i64))) {
            let count = occurrences(gram, row, c.int("max_skip_count", 0)) as f64;
            let weight = weights.get(k).map_or(1.0, |&w| f64::from(w));
            if let Some(slot) = out.get_mut(*place) {
                *slot += match c.attrs.str("mode").unwrap_or("TF") {
                    "IDF" => weight * f64::from(u8::from(count > 0.0)),
                    "TFIDF" => weight * count,
                    _ => count,
                };
            }
        }
    }
    Ok(vec![Array::from_vec(DType::F32, &[batch, &[width]].concat(), y)?])
}

pub static TF_IDF_VECTORIZER: Op = Op {
    name: "TfIdfVectorizer",
    facts: |c| c.unknown_rank(DType::F32, facts(c)),
    tangent: Tangent::Zero,
    eval,
    cases: || {
        let case = Case::new().ints(&[2, 6], &[1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8]);
        let case = case.attr("mode", "TF").attr("min_gram_length", 1).attr("max_gram_length", 2);
        let case = case.attr("max_skip_count", 1).attr("ngram_counts", [0, 4]).attr("ngram_indexes", [0, 1, 2, 3, 4, 5, 6]);
        vec![case.attr("pool_int64s", [2, 3, 5, 4, 5, 6, 7, 8, 6, 7])]
    },
};
