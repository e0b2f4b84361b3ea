//! Determinants.

use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact, Tensor, Val};
use crate::lower::normalization::working_type;

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    match x {
        [batch @ .., rows, columns] if rows.fixed().zip(columns.fixed()).is_none_or(|(n, m)| n == m) => {
            Ok(vec![Fact::new(c.dtype(0)?, batch)])
        }
        _ => Err(Fault::Shape { what: "matrix", found: show(x), expected: "square ones".into() }),
    }
}

/// Rows of the largest matrix whose determinant is differentiated.
const LARGEST: i64 = 256;

/// y = det A as a polynomial of the elements, so that singular matrices are no exception: after n − 1 steps
/// `X ← μ(X) A` from `X = A`, `±X₁₁`, where μ keeps what is above the diagonal and puts `−Σ_{j>i} Xⱼⱼ` on it.
/// (R. S. Bird: *A simple division-free algorithm for computing determinants*, 2011.)
fn polynomial<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (b, own) = (c.b, c.x(0).dtype());
    let a = c.x(0).cast(working_type(own));
    let rank = a.rank() as i64;
    let size = [a.dim(-1), a.dim(-2)].iter().find_map(Dim::fixed).filter(|&n| (1..=LARGEST).contains(&n));
    let Some(n) = size.and_then(|n| usize::try_from(n).ok()) else {
        c.blocked("as a polynomial of the matrix it has as many steps as rows: a number that is not known, 0, or above 256");
        return vec![c.out(0)];
    };
    let square = |f: &dyn Fn(usize, usize) -> bool| {
        let entries = (0..n * n).map(|k| f64::from(u8::from(f(k / n, k % n))));
        b.constant(Tensor::from_f64(a.dtype(), &[n, n], entries.collect::<Vec<_>>()))
    };
    let (diagonal, after) = (square(&|i, j| i == j), square(&|i, j| i > j));
    let mut x = a;
    for _ in 1..n {
        let above = b.op("Trilu", &[x, b.constant(Tensor::ints(&[], &[1]))], Attrs::new());
        let sums = (x * diagonal).sum(&[rank - 1]).unsqueeze(&[rank - 2]).matmul(after);
        x = (above - sums * diagonal).matmul(a);
    }
    let first = x.slice(rank - 2, 0, 1).slice(rank - 1, 0, 1).squeeze(&[rank - 2, rank - 1]);
    vec![if n.is_multiple_of(2) { -first } else { first }.cast(own)]
}

/// By elimination with the largest pivot of each column.
fn determinant(mut a: Vec<Vec<f64>>) -> f64 {
    let n = a.len();
    let mut det = 1.0;
    for k in 0..n {
        let best = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
        if a[best][k] == 0.0 {
            return 0.0;
        }
        if best != k {
            a.swap(best, k);
            det = -det;
        }
        det *= a[k][k];
        let pivot = a[k].clone();
        for row in a.iter_mut().skip(k + 1) {
            let factor = row[k] / pivot[k];
            row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
        }
    }
    det
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let misfit = || Fault::Shape { what: "matrix", found: format!("{:?}", x.shape()), expected: "square ones".into() };
    let (batch, n) = match x.shape() {
        [batch @ .., n, m] if n == m => (batch, *n),
        _ => return Err(misfit()),
    };
    let y = Array::tabulate(x.dtype, batch, |at| {
        let row = |i: usize| (0..n).map(|j| x.at(&[at, &[i, j]].concat())).collect::<Result<Vec<_>, _>>();
        Ok(determinant((0..n).map(row).collect::<Result<_, _>>()?))
    })?;
    Ok(vec![y])
}

pub static DET: Op = Op {
    name: "Det",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&polynomial(c))),
    eval,
    cases: || {
        [&[1, 1][..], &[2, 2], &[3, 3, 3], &[2, 1, 4, 4], &[2, 5, 5], &[0, 2, 2]]
            .iter()
            .map(|shape| Case::new().real(shape))
            .collect()
    },
};
