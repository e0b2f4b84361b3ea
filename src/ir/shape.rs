//! Shapes as lists of dimensions.

use super::Dim;

/// Numpy's broadcast of two shapes; `None` where fixed sizes clash. Of two different symbols nothing is known, so
/// `unknown(axis)` names the result's dimension.
pub fn broadcast(a: &[Dim], b: &[Dim], unknown: &dyn Fn(usize) -> Dim) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], i: usize| {
        let pad = rank - shape.len();
        if i < pad { Dim::Fixed(1) } else { shape[i - pad].clone() }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (Dim::Fixed(1), y) => Some(y),
            (x, Dim::Fixed(1)) => Some(x),
            (Dim::Fixed(_), Dim::Fixed(_)) => None,
            (x @ Dim::Fixed(_), _) | (_, x @ Dim::Fixed(_)) => Some(x),
            _ => Some(unknown(i)),
        })
        .collect()
}

/// Numpy's broadcast of two shapes, where a dimension that may be either of two symbols is named after both: the same
/// two always give the same one.
pub fn broadcast_named(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], i: usize| {
        (i + shape.len()).checked_sub(rank).and_then(|k| shape.get(k).cloned()).unwrap_or(Dim::Fixed(1))
    };
    broadcast(a, b, &|axis| either(&at(a, axis), &at(b, axis)))
}

/// `?(N|M)`
fn either(a: &Dim, b: &Dim) -> Dim {
    let mut names: Vec<String> = Vec::new();
    for d in [a, b] {
        let inner = d.as_symbol().and_then(|s| s.strip_prefix("?(")?.strip_suffix(')')).filter(|s| !s.contains("?("));
        match inner {
            Some(inner) => names.extend(inner.split('|').map(str::to_string)),
            None => names.push(d.to_string()),
        }
    }
    names.sort_unstable();
    names.dedup();
    Dim::symbol(&format!("?({})", names.join("|")))
}

/// The number of elements, `1` for a scalar.
pub fn count(shape: &[Dim]) -> Dim {
    shape.iter().cloned().fold(Dim::Fixed(1), |product, d| product * d)
}

/// All dimensions as numbers, where they all are.
pub fn fixed(shape: &[Dim]) -> Option<Vec<i64>> {
    shape.iter().map(Dim::fixed).collect()
}

/// Whether `small` certainly broadcasts to `big` without growing it.
pub fn same_or_one(small: &[Dim], big: &[Dim]) -> bool {
    small.len() <= big.len() && small.iter().rev().zip(big.iter().rev()).all(|(s, b)| s == b || s.is_one())
}
