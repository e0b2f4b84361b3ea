//! AffineGrid: the places that an affine map sends the elements of an image to.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Dim, Fact};
use crate::lower;

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, theta) = (c.dtype(0)?, c.shape(0)?);
    let spatial = match theta {
        [_, rows, _] => rows.fixed().and_then(|rows| usize::try_from(rows).ok()).filter(|rows| (2..=3).contains(rows)),
        _ => return Err(Fault::Rank { index: 0, found: theta.len(), expected: "3".into() }),
    };
    let sizes = c.ints(1);
    let spatial = spatial.or(sizes.map(|sizes| sizes.len().saturating_sub(2)));
    let Some(spatial) = spatial else { return Ok(vec![Fact::unknown(dtype)]) };
    let size = |k: usize| sizes.and_then(|sizes| sizes.get(k + 2).cloned()).unwrap_or_else(|| c.unknown(k + 1));
    let points = (0..spatial).map(size);
    let shape: Vec<Dim> = theta[..1].iter().cloned().chain(points).chain([Dim::from(spatial)]).collect();
    Ok(vec![Fact::new(dtype, shape)])
}

/// The centre of element `k` of `n`.
fn centre(k: usize, n: usize, align: bool) -> f64 {
    let (k, n) = (k as f64, n as f64);
    if align { k * 2.0 / (n - 1.0).max(1.0) - 1.0 } else { (2.0 * k + 1.0) / n - 1.0 }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (theta, sizes) = (c.input(0)?, c.ints(1).ok_or(Fault::Missing { index: 1, needs: "a size" })?);
    let sizes: Vec<usize> = sizes.iter().skip(2).map(|&n| n.clamp(0, 1 << 24) as usize).collect();
    let (spatial, align) = (sizes.len(), c.int("align_corners", 0) == 1);
    if theta.shape().len() != 3 || theta.shape()[1..] != [spatial, spatial + 1] {
        let expected = format!("[N,{spatial},{}]", spatial + 1);
        return Err(Fault::Shape { what: "theta", found: format!("{:?}", theta.shape()), expected });
    }
    let shape = [&theta.shape()[..1], &sizes, &[spatial]].concat();
    let y = Array::tabulate(theta.dtype, &shape, |at| {
        let row = at[spatial + 1];
        let mut sum = theta.at(&[at[0], row, spatial])?;
        for k in 0..spatial {
            let axis = spatial - 1 - k;
            sum += theta.at(&[at[0], row, k])? * centre(at[axis + 1], sizes[axis], align);
        }
        Ok(sum)
    })?;
    Ok(vec![y])
}

pub static AFFINE_GRID: Op = Op {
    name: "AffineGrid",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lower::grid_sample::affine_grid(c))),
    eval,
    cases: || {
        vec![
            Case::new().real(&[2, 2, 3]).const_ints(&[4], &[2, 3, 2, 4]),
            Case::new().real(&[2, 2, 3]).const_ints(&[4], &[2, 1, 3, 2]).attr("align_corners", 1),
            Case::new().real(&[1, 3, 4]).ints(&[5], &[1, 2, 2, 3, 2]),
            Case::new().real(&[2, 2, 3]).ints(&[4], &[2, 3, 3, 2]).attr("align_corners", 1),
            Case::new().real(&[2, 2, 3]).const_ints(&[4], &[2, 1, 0, 2]),
        ]
    },
};
