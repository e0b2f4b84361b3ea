//! Embeddings of tokens, their places and their segments, summed and normalised.

use super::{Fused, normalization};
use crate::ir::{Attrs, DType, Val};
use crate::ops::Fault;

/// y = layer normalisation of word[ids] + position[0, 1, …] + segment[segment_ids]; the tokens of each sample that the
/// mask keeps; the sum.
pub fn embed_layer_normalization<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    let (ids, [batch, length]) = f.ranked(0)?;
    let gather = |table: Val<'g>, at: Val<'g>| f.b.op("Gather", &[table, at], Attrs::new().with("axis", 0));
    let places = f.get(8).unwrap_or_else(|| f.b.range(&length));
    let mut sum = gather(f.x(2)?, ids) + gather(f.x(3)?, places);
    if let (Some(segments), Some(table)) = (f.get(1), f.get(4)) {
        sum = sum + gather(table, segments);
    }
    let y = normalization::layer_normalization(f, sum, f.x(5)?, Some(f.x(6)?), 1)[0];
    let mut outputs = vec![y];
    if f.has_out(1) || f.has_out(2) {
        outputs.push(match f.get(7) {
            Some(mask) => mask.sum(&[1]).cast(DType::I32),
            None => f.b.zeros(DType::I32, &[batch]),
        });
        outputs.push(sum);
    }
    Ok(outputs)
}
