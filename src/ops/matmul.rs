//! Matrix products.

use super::eval_cx::{broadcast_shape, broadcast_to};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent, fact_cx::show};
use crate::ad::Tan;
use crate::ir::{Dim, Fact, Val, broadcast, broadcast_named};
use ndarray::{ArrayD, Axis, Ix2, IxDyn};

/// z = a b              dz = da b + a db
///
/// A vector `a` is a row, a vector `b` a column; the axis put in is taken away again.
fn matmul<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([a, b], [da, db]) = c.args();
    let (row, column) = (a.rank() == 1, b.rank() == 1);
    let left = if da.is_zero() { da } else { grown_tan(da, row, 0).matmul(grown(b, column, 1)) };
    let right = if db.is_zero() { db } else { grown_tan(db, column, 1).matmul_left(grown(a, row, 0)) };
    (left + right).reshape(&c.out(0).shape())
}

fn grown<'g>(v: Val<'g>, vector: bool, axis: i64) -> Val<'g> {
    if vector { v.unsqueeze(&[axis]) } else { v }
}

fn grown_tan<'g>(t: Tan<'g>, vector: bool, axis: i64) -> Tan<'g> {
    if vector { t.unsqueeze(&[axis]) } else { t }
}

/// y = α A' B' + β C    dy = α (dA' B' + A' dB') + β dC,  A' = A or Aᵀ, B' = B or Bᵀ
fn gemm<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([a, b, _], [da, db, dc]) = c.args();
    let (trans_a, trans_b) = (c.int("transA", 0) != 0, c.int("transB", 0) != 0);
    let turned = |v: Val<'g>, turn: bool| if turn { v.transpose() } else { v };
    let turned_tan = |t: Tan<'g>, turn: bool| if turn { t.transpose() } else { t };
    let left = if da.is_zero() { da } else { turned_tan(da, trans_a).matmul(turned(b, trans_b)) };
    let right = if db.is_zero() { db } else { turned_tan(db, trans_b).matmul_left(turned(a, trans_a)) };
    let beta = c.float("beta", 1.0);
    let bias = if beta == 0.0 { c.zero() } else { dc * beta };
    (left + right) * c.float("alpha", 1.0) + bias
}

/// Batch dimensions, rows and columns of a matrix shape.
fn split(shape: &[Dim], index: usize) -> Result<(&[Dim], &Dim, &Dim), Fault> {
    match shape {
        [batch @ .., rows, columns] => Ok((batch, rows, columns)),
        _ => Err(Fault::Rank { index, found: shape.len(), expected: "at least 2".into() }),
    }
}

/// Sizes that are known must agree.
fn contracted(a: &[Dim], b: &[Dim], k: &Dim, other: &Dim) -> Result<(), Fault> {
    match (k, other) {
        (Dim::Fixed(x), Dim::Fixed(y)) if x != y => {
            Err(Fault::Shape { what: "matrix product", found: show(b), expected: show(a) })
        }
        _ => Ok(()),
    }
}

fn matmul_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let (Some(a), Some(b)) = (&c.input(0)?.shape, &c.input(1)?.shape) else { return Ok(vec![Fact::unknown(dtype)]) };
    let one = || Dim::Fixed(1);
    let row = [one()].into_iter().chain(a.iter().cloned()).collect::<Vec<_>>();
    let column = b.iter().cloned().chain([one()]).collect::<Vec<_>>();
    let (batch_a, m, k) = split(if a.len() == 1 { &row } else { a }, 0)?;
    let (batch_b, other, n) = split(if b.len() == 1 { &column } else { b }, 1)?;
    contracted(a, b, k, other)?;
    let mut shape = broadcast_named(batch_a, batch_b).ok_or_else(|| Fault::Shape {
        what: "batch of a matrix product",
        found: show(b),
        expected: show(a),
    })?;
    shape.extend((a.len() > 1).then(|| m.clone()));
    shape.extend((b.len() > 1).then(|| n.clone()));
    Ok(vec![Fact::new(dtype, shape)])
}

fn gemm_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let (Some(a), Some(b)) = (&c.input(0)?.shape, &c.input(1)?.shape) else { return Ok(vec![Fact::unknown(dtype)]) };
    let oriented = |shape: &[Dim], index: usize, turn: bool| match shape {
        [rows, columns] if turn => Ok((columns.clone(), rows.clone())),
        [rows, columns] => Ok((rows.clone(), columns.clone())),
        _ => Err(Fault::Rank { index, found: shape.len(), expected: "2".into() }),
    };
    let (m, k) = oriented(a, 0, c.int("transA", 0) != 0)?;
    let (other, n) = oriented(b, 1, c.int("transB", 0) != 0)?;
    contracted(a, b, &k, &other)?;
    let shape = vec![m, n];
    if let Some(bias) = c.get(2).and_then(|f| f.shape.as_ref()) {
        let grown = broadcast(&shape, bias, &|axis| shape.get(axis).cloned().unwrap_or(Dim::Fixed(1)));
        let fits = grown.is_some_and(|grown| {
            grown.len() == 2 && grown.iter().zip(&shape).all(|(g, s)| g == s || g.fixed().is_none() || s.fixed().is_none())
        });
        if !fits {
            return Err(Fault::Shape { what: "bias", found: show(bias), expected: show(&shape) });
        }
    }
    Ok(vec![Fact::new(dtype, shape)])
}

/// The product of matrices, batches broadcast.
pub(super) fn product(a: &ArrayD<f64>, b: &ArrayD<f64>) -> Result<ArrayD<f64>, Fault> {
    let clash = || Fault::Shape {
        what: "matrix product",
        found: format!("{:?}", b.shape()),
        expected: format!("{:?}", a.shape()),
    };
    let (row, column) = (a.ndim() == 1, b.ndim() == 1);
    let lift = |x: &ArrayD<f64>, vector: bool, at: usize| if vector { x.clone().insert_axis(Axis(at)) } else { x.clone() };
    let (a, b) = (lift(a, row, 0), lift(b, column, 1));
    let ([batch_a @ .., m, k], [batch_b @ .., other, n]) = (a.shape(), b.shape()) else { return Err(clash()) };
    if k != other {
        return Err(clash());
    }
    let batch = broadcast_shape(batch_a, batch_b)?;
    let whole = |rows: usize, columns: usize| [&batch[..], &[rows, columns]].concat();
    let (x, y) = (broadcast_to(&a, &whole(*m, *k))?, broadcast_to(&b, &whole(*other, *n))?);
    let count: usize = batch.iter().product();
    let flat = |x: ArrayD<f64>, rows: usize, columns: usize| {
        x.as_standard_layout().into_owned().into_shape_with_order((count, rows, columns)).map_err(|_| clash())
    };
    let (x, y) = (flat(x, *m, *k)?, flat(y, *other, *n)?);
    let mut z = ndarray::Array3::<f64>::zeros((count, *m, *n));
    for i in 0..count {
        z.index_axis_mut(Axis(0), i).assign(&x.index_axis(Axis(0), i).dot(&y.index_axis(Axis(0), i)));
    }
    let mut shape = batch.clone();
    shape.extend((!row).then_some(*m));
    shape.extend((!column).then_some(*n));
    z.into_shape_with_order(IxDyn(&shape)).map_err(|_| clash())
}

fn eval_gemm(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let matrix = |index: usize, turn: bool| {
        let x = c.data(index)?;
        let found = x.ndim();
        let x = x.view().into_dimensionality::<Ix2>();
        let x = x.map_err(|_| Fault::Rank { index, found, expected: "2".into() })?;
        Ok(if turn { x.t().to_owned() } else { x.to_owned() }.into_dyn())
    };
    let (a, b) = (matrix(0, c.int("transA", 0) != 0)?, matrix(1, c.int("transB", 0) != 0)?);
    let mut y = product(&a, &b)? * c.float("alpha", 1.0);
    if let Some(bias) = c.get(2) {
        y += &(broadcast_to(&bias.data, y.shape())? * c.float("beta", 1.0));
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

pub static MATMUL: Op = Op {
    name: "MatMul",
    facts: matmul_facts,
    tangent: Tangent::Rule(matmul),
    eval: |c| Ok(vec![Array::new(c.dtype(0), product(c.data(0)?, c.data(1)?)?)]),
    cases: || {
        let pairs: [(&[usize], &[usize]); 14] = [
            (&[2, 3], &[3, 4]),
            (&[3], &[3, 2]),
            (&[2, 3], &[3]),
            (&[3], &[3]),
            (&[2, 2, 3], &[2, 3, 2]),
            (&[2, 2, 3], &[3, 2]),
            (&[2, 3], &[2, 3, 2]),
            (&[1, 2, 3], &[3, 3, 2]),
            (&[3, 2, 3], &[1, 3, 2]),
            (&[2, 1, 2, 3], &[2, 3, 1]),
            (&[3], &[2, 3, 2]),
            (&[2, 2, 3], &[3]),
            (&[0, 3], &[3, 2]),
            (&[2, 0], &[0, 2]),
        ];
        pairs.into_iter().map(|(a, b)| Case::new().real(a).real(b)).collect()
    },
};

pub static GEMM: Op = Op {
    name: "Gemm",
    facts: gemm_facts,
    tangent: Tangent::Rule(gemm),
    eval: eval_gemm,
    cases: || {
        let two = |a: &[usize], b: &[usize]| Case::new().real(a).real(b);
        let mut cases: Vec<Case> = [&[2, 4][..], &[4], &[1, 4], &[2, 1], &[1], &[]]
            .into_iter()
            .map(|bias| two(&[2, 3], &[3, 4]).real(bias).attr("alpha", 0.5f32).attr("beta", 2.0f32))
            .collect();
        cases.extend([
            two(&[2, 3], &[3, 4]),
            two(&[3, 2], &[3, 4]).real(&[4]).attr("transA", 1),
            two(&[2, 3], &[4, 3]).real(&[4]).attr("transB", 1),
            two(&[3, 2], &[4, 3]).attr("transA", 1).attr("transB", 1).attr("alpha", -1.5f32),
            two(&[2, 3], &[3, 4]).real(&[4]).attr("beta", 0.0f32),
            two(&[0, 3], &[3, 4]).real(&[4]),
        ]);
        cases
    },
};
