//! Products with weights of a few bits.

use super::{Fused, unsupported, without};
use crate::ir::{Attrs, Bytes, DType, Tensor, Val, small};
use crate::ops::Fault;

fn size(f: &Fused, name: &str) -> usize {
    usize::try_from(f.int(name, 0)).unwrap_or(0)
}

/// The initialiser that input `i` has to be.
fn data(f: &Fused, i: usize, what: &str) -> Result<Tensor, Fault> {
    let id = f.x(i)?.id();
    let data = f.b.read(|g| g.value(id).data.clone());
    data.ok_or_else(|| unsupported(&format!("{what} packed in bytes must be initialisers")))
}

/// y = x·Wᵀ + b, W = (q − z)·s with a scale and a zero point for each block of a row. The blocks of q lie in memory as the
/// elements of a tensor of the type do.
pub fn matmul<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    without(f, &[(4, "g_idx")])?;
    let (bits, block) = (f.int("bits", 4), size(f, "block_size"));
    let dtype = match bits {
        4 => DType::U4,
        8 => DType::U8,
        _ => return Err(unsupported(&format!("no standard operator of opset 21 has weights of {bits} bits"))),
    };
    let (rows, columns) = (size(f, "N"), size(f, "K"));
    if rows == 0 || columns == 0 || block == 0 || f.int("weight_prepacked", 0) != 0 {
        return Err(unsupported("N, K and block_size must be known, and the weights packed row by row"));
    }
    let blocks = columns.div_ceil(block);
    let packed = data(f, 1, "weights")?;
    if Some(packed.bytes.len()) != dtype.bytes(rows * blocks * block) {
        return Err(unsupported(&format!("{} bytes are not {rows} rows of {blocks} blocks", packed.bytes.len())));
    }
    let initializer = |name: &str, shape: [usize; 2], bytes: Bytes| {
        let tensor = Tensor { dtype, shape: shape.to_vec(), bytes, strings: Vec::new() };
        f.b.initializer(&format!("{}.{name}", f.draft.name), tensor)
    };
    let weights = initializer("weight", [rows, blocks * block], packed.bytes);
    let zeros = match f.get(3) {
        None => vec![1 << (bits - 1); rows * blocks],
        Some(zeros) if zeros.dtype() == DType::U8 => {
            // Each row begins a byte.
            let (zeros, width) = (data(f, 3, "zero points")?, dtype.bytes(blocks).unwrap_or(0));
            let row = |bytes: &[u8]| (0..blocks).map(|k| small::code(dtype, bytes, k)).collect::<Vec<_>>();
            zeros.bytes.chunks(width.max(1)).flat_map(row).collect()
        }
        Some(_) => return Err(unsupported("zero points that are no integers have no standard operator")),
    };
    if zeros.len() != rows * blocks {
        return Err(unsupported(&format!("{} zero points are not those of {rows} rows", zeros.len())));
    }
    let zeros = initializer("zero_point", [rows, blocks], Bytes::Owned(small::pack(dtype, &zeros).into()));
    let scales = f.x(2)?.reshape(&[rows.into(), blocks.into()]);
    let attrs = Attrs::new().with("axis", 1).with("block_size", block as i64);
    let whole = f.b.op("DequantizeLinear", &[weights, scales, zeros], attrs);
    let own = if blocks * block == columns { whole } else { whole.slice(1, 0, columns as i64) };
    let y = f.x(0)?.matmul(own.transpose());
    Ok(vec![f.get(5).map_or(y, |bias| y + bias)])
}
