//! Rotary embeddings.

use super::{Fused, unsupported};
use crate::ir::{Attrs, Dim, Val};
use crate::ops::Fault;

/// Turns pairs of the last axis of `x[batch, heads, length, size]` by angles, whose cosines and sines are
/// `[batch or 1, length, size of pairs]`. Pairs are neighbours, or an element of the first half and one of the second.
pub(super) fn rotate<'g>(x: Val<'g>, cos: Val<'g>, sin: Val<'g>, interleaved: bool) -> Result<Val<'g>, Fault> {
    let (shape, pairs) = (x.shape(), cos.shape().last().and_then(Dim::fixed));
    let (Some(pairs), Some(size)) = (pairs, shape.last().and_then(Dim::fixed)) else {
        return Err(unsupported("the sizes of heads and caches must be known"));
    };
    let b = x.builder();
    let (cos, sin) = (cos.unsqueeze(&[1]), sin.unsqueeze(&[1]));
    let turned = x.slice(3, 0, 2 * pairs);
    let (first, second) = if interleaved {
        let split: Vec<Dim> = shape[..3].iter().cloned().chain([Dim::Fixed(pairs), Dim::Fixed(2)]).collect();
        let split = turned.reshape(&split);
        (split.slice(4, 0, 1).squeeze(&[4]), split.slice(4, 1, 2).squeeze(&[4]))
    } else {
        (turned.slice(3, 0, pairs), turned.slice(3, pairs, 2 * pairs))
    };
    let (real, imaginary) = (first * cos - second * sin, second * cos + first * sin);
    let concat = |parts: &[Val<'g>], axis: i64| b.op("Concat", parts, Attrs::new().with("axis", axis));
    let turned = if interleaved {
        let whole: Vec<Dim> = shape[..3].iter().cloned().chain([Dim::Fixed(2 * pairs)]).collect();
        concat(&[real.unsqueeze(&[4]), imaginary.unsqueeze(&[4])], 4).reshape(&whole)
    } else {
        concat(&[real, imaginary], 3)
    };
    Ok(if 2 * pairs == size { turned } else { concat(&[turned, x.slice(3, 2 * pairs, size)], 3) })
}

/// The rows of a cache for each place: `[batch or 1, length, size of pairs]`.
fn rows<'g>(f: &Fused<'g, '_>, cache: Val<'g>, places: Val<'g>, length: &Dim) -> Val<'g> {
    let places = match places.rank() {
        // One number: the place of the first.
        1 => (f.b.range(length) + places).unsqueeze(&[0]),
        _ => places,
    };
    f.b.op("Gather", &[cache, places], Attrs::new().with("axis", 0))
}

/// Each pair of features turned by its place times its frequency.
pub fn rotary_embedding<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    let (x, shape) = f.shaped(0)?;
    if f.int("is_packed_batching", 0) != 0 || f.float("scale", 1.0) != 1.0 {
        return Err(unsupported("is_packed_batching and scale are not known"));
    }
    f.shaped(1)?;
    let interleaved = f.int("interleaved", 0) != 0;
    let turn = |x: Val<'g>, length: &Dim| {
        let (cos, sin) = (rows(f, f.x(2)?, f.x(1)?, length), rows(f, f.x(3)?, f.x(1)?, length));
        rotate(x, cos, sin, interleaved)
    };
    match &shape[..] {
        [_, _, length, _] => Ok(vec![turn(x, length)?]),
        [_, length, width] => {
            let cached = f.shaped(2)?.1.last().and_then(Dim::fixed).map(|pairs| 2 * pairs);
            let heads = match (f.int("num_heads", 0), width.fixed(), cached) {
                (0, Some(width), Some(size)) if size > 0 => width / size,
                (heads, ..) => heads,
            };
            let split = super::attention::split_heads(x, heads)?;
            Ok(vec![super::attention::merge_heads(turn(split, length)?)])
        }
        _ => Err(Fault::Rank { index: 0, found: shape.len(), expected: "3 or 4".into() }),
    }
}
