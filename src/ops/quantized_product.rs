//! Products of quantised tensors. Those of integers pass the tangents of what they stand for straight through, those
//! with scales are the product of real numbers between DequantizeLinear and QuantizeLinear.

use super::conv;
use super::window::Windows;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Tensor, Val};
use crate::linear::ConvGeometry;

/// The facts of `of` on the shapes of two inputs, in another type.
fn product_facts(of: &Op, c: &FactCx, a: usize, b: usize, dtype: DType) -> Result<Vec<Fact>, Fault> {
    let facts = (of.facts)(&c.of_inputs(of.name, &[a, b]))?;
    Ok(facts.into_iter().map(|fact| Fact { dtype, ints: None, ..fact }).collect())
}

/// What `of` computes of two arrays.
fn product(of: &Op, c: &EvalCx, a: Array, b: Array, dtype: DType) -> Result<Vec<Array>, Fault> {
    let inputs = [Some(a), Some(b)];
    let y = (of.eval)(&EvalCx { op: of.name, inputs: &inputs, outputs: 1, ..*c })?;
    Ok(y.into_iter().map(|y| Array { dtype, ..y }).collect())
}

/// Input `i` less its zero point, which stands along `axis` (from the end) where it is a vector.
fn centred(c: &EvalCx, i: usize, zero: usize, axis: usize) -> Result<Array, Fault> {
    let x = c.input(i)?;
    let Some(z) = c.get(zero) else { return Ok(Array::new(DType::F64, x.data.clone())) };
    let at = |at: &[usize]| match z.data.len() {
        1 => z.data.first().copied().unwrap_or(0.0),
        _ => at.len().checked_sub(axis).and_then(|k| z.data.get([at[k]].as_slice()).copied()).unwrap_or(0.0),
    };
    Array::tabulate(DType::F64, x.shape(), |index| Ok(x.at(index)? - at(index)))
}

/// The same in the graph.
fn centred_val<'g>(c: &Cx<'g>, i: usize, zero: usize, axis: usize, dtype: DType) -> Val<'g> {
    let x = c.x(i).cast(dtype);
    if !c.has(zero) {
        return x;
    }
    let z = c.x(zero).cast(dtype);
    let behind: Vec<i64> = (1..axis as i64).collect();
    x - if z.rank() == 1 { z.unsqueeze(&behind) } else { z }
}

/// The type of the tangents that come in.
fn work<'g>(tangents: &[Tan<'g>]) -> DType {
    tangents.iter().find(|t| !t.is_zero()).map_or(DType::F32, |t| t.dtype())
}

/// y = (a − a₀)(b − b₀)            dy = (da − da₀)(b − b₀) + (a − a₀)(db − db₀)
fn matmul_integer<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (da, db) = (c.dx(0) - c.dx(2), c.dx(1) - c.dx(3));
    let dtype = work(&[da, db]);
    da.matmul(centred_val(c, 1, 3, 1, dtype)) + db.matmul_left(centred_val(c, 0, 2, 2, dtype))
}

/// Bytes that count up and start over.
fn bytes(dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_f64(dtype, shape, (0..n).map(|k| (k * 29 % 97) as f64))
}

pub static MATMUL_INTEGER: Op = Op {
    name: "MatMulInteger",
    facts: |c| product_facts(&super::matmul::MATMUL, c, 0, 1, DType::I32),
    tangent: Tangent::StraightThrough(matmul_integer),
    eval: |c| product(&super::matmul::MATMUL, c, centred(c, 0, 2, 2)?, centred(c, 1, 3, 1)?, DType::I32),
    cases: || {
        let pair = || Case::new().data(bytes(DType::U8, &[2, 3])).data(bytes(DType::I8, &[3, 4]));
        let zero = |dtype, n: &[usize]| bytes(dtype, n);
        vec![pair(), pair().data(zero(DType::U8, &[])).data(zero(DType::I8, &[4]))]
    },
};

fn geometry(c: &Cx) -> Result<ConvGeometry, Fault> {
    let (x, w) = (c.x(0).shape(), c.x(1).shape());
    let windows = Windows::of(c.attrs(), conv::kernel(c.attrs(), &x, &w)?)?;
    let counts = windows.counts(&x[2..], |_| Dim::Fixed(1))?;
    Ok(windows.geometry(&x[2..], &counts, conv::group(c.attrs(), &w)?))
}

/// y = (x − x₀) ⋆ (w − w₀)            dy = (dx − dx₀) ⋆ (w − w₀) + (x − x₀) ⋆ (dw − dw₀)
fn conv_integer<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (dx, dw) = (c.dx(0) - c.dx(2), c.dx(1) - c.dx(3));
    let (dtype, rank) = (work(&[dx, dw]), c.x(1).rank());
    match geometry(c) {
        Ok(g) => {
            let by_image = dx.conv(centred_val(c, 1, 3, rank, dtype), g.clone());
            by_image + dw.conv_filter(centred_val(c, 0, 2, 1, dtype), g)
        }
        Err(fault) => c.fault(fault),
    }
}

pub static CONV_INTEGER: Op = Op {
    name: "ConvInteger",
    facts: |c| product_facts(&conv::CONV, c, 0, 1, DType::I32),
    tangent: Tangent::StraightThrough(conv_integer),
    eval: |c| {
        let rank = c.data(1)?.ndim();
        product(&conv::CONV, c, centred(c, 0, 2, 1)?, centred(c, 1, 3, rank)?, DType::I32)
    },
    cases: || {
        let x = || Case::new().data(bytes(DType::U8, &[1, 2, 3, 3])).data(bytes(DType::U8, &[2, 2, 2, 2]));
        let one = |v: f64| Tensor::scalar(DType::U8, v);
        vec![x(), x().data(one(3.0)).attr("pads", [1, 1, 0, 0])]
    },
};

/// The inputs of QLinearMatMul and QLinearConv: two tensors, each with scale and zero point, and those of the result.
mod at {
    pub const A: usize = 0;
    pub const B: usize = 3;
    pub const Y_SCALE: usize = 6;
    pub const Y_ZERO: usize = 7;
    pub const BIAS: usize = 8;
}

/// Input `i` as real numbers, its scale along `axis` where it is a vector.
fn dequantised<'g>(c: &Cx<'g>, i: usize, axis: i64) -> Val<'g> {
    let attrs = Attrs::new().with("axis", axis);
    c.b.op("DequantizeLinear", &[c.x(i), c.x(i + 1), c.x(i + 2)], attrs)
}

fn requantised<'g>(c: &Cx<'g>, y: Val<'g>, axis: i64) -> Val<'g> {
    c.b.op("QuantizeLinear", &[y, c.x(at::Y_SCALE), c.x(at::Y_ZERO)], Attrs::new().with("axis", axis))
}

/// y = quantised(a b) of the real numbers a and b
fn q_linear_matmul<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (rows, columns) = (c.x(at::A).rank() as i64 - 2, c.x(at::B).rank() as i64 - 1);
    let y = dequantised(c, at::A, rows.max(0)).matmul(dequantised(c, at::B, columns.max(0)));
    vec![requantised(c, y, y.rank() as i64 - 2)]
}

/// y = quantised(x ⋆ w + b); the bias is quantised by the product of the scales of x and w
fn q_linear_conv<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let mut inputs = vec![dequantised(c, at::A, 1), dequantised(c, at::B, 0)];
    if c.has(at::BIAS) {
        let scale = c.x(at::A + 1) * c.x(at::B + 1);
        inputs.push(c.x(at::BIAS).cast(scale.dtype()) * scale);
    }
    vec![requantised(c, c.b.op("Conv", &inputs, c.attrs().clone()), 1)]
}

/// The product of integers, scaled by `a_scale · b_scale / y_scale`, rounded and put into the range of `y`.
fn scaled(c: &EvalCx, of: &Op, axes: [usize; 2], y_axis: usize) -> Result<Vec<Array>, Fault> {
    let (a, b) = (centred(c, at::A, at::A + 2, axes[0])?, centred(c, at::B, at::B + 2, axes[1])?);
    let dtype = c.dtype(at::Y_ZERO);
    let mut y = product(of, c, a, b, dtype)?;
    let (low, high) = super::quantize::range(dtype).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let along = |i: usize, axis: Option<usize>, at: &[usize]| -> Result<f64, Fault> {
        let v = c.data(i)?;
        let k = axis.and_then(|axis| at.get(axis).copied()).filter(|_| v.len() > 1).unwrap_or(0);
        v.iter().nth(k).copied().ok_or(Fault::Missing { index: i, needs: "scales" })
    };
    for out in &mut y {
        let rank = out.shape().len();
        let (rows, columns) = (rank.checked_sub(axes[0]), Some(y_axis.min(rank.saturating_sub(1))));
        out.data = Array::tabulate(dtype, out.shape(), |at| {
            let bias = if c.get(at::BIAS).is_some() { along(at::BIAS, Some(1), at)? } else { 0.0 };
            let scale = along(at::A + 1, rows, at)? * along(at::B + 1, columns, at)? / along(at::Y_SCALE, rows, at)?;
            let v = (out.at(at)? + bias) * scale;
            Ok((v.round_ties_even() + along(at::Y_ZERO, rows, at)?).clamp(low, high))
        })?
        .data;
    }
    Ok(y)
}

fn scaled_cases(a: &[usize], b: &[usize]) -> Case {
    let scale = |v: f64| Tensor::scalar(DType::F32, v);
    let zero = |v: f64| Tensor::scalar(DType::U8, v);
    let pair = Case::new().data(bytes(DType::U8, a)).constant(scale(0.05)).data(zero(40.0));
    pair.data(bytes(DType::U8, b)).constant(scale(0.03)).data(zero(50.0)).constant(scale(0.4)).data(zero(120.0))
}

pub static Q_LINEAR_MATMUL: Op = Op {
    name: "QLinearMatMul",
    facts: |c| product_facts(&super::matmul::MATMUL, c, at::A, at::B, c.dtype(at::Y_ZERO)?),
    tangent: Tangent::Lower(q_linear_matmul),
    eval: |c| scaled(c, &super::matmul::MATMUL, [2, 1], c.data(at::A)?.ndim().saturating_sub(1)),
    cases: || vec![scaled_cases(&[2, 3], &[3, 4]), scaled_cases(&[2, 2, 3], &[3, 2])],
};

pub static Q_LINEAR_CONV: Op = Op {
    name: "QLinearConv",
    facts: |c| product_facts(&conv::CONV, c, at::A, at::B, c.dtype(at::Y_ZERO)?),
    tangent: Tangent::Lower(q_linear_conv),
    eval: |c| scaled(c, &conv::CONV, [usize::MAX, c.data(at::B)?.ndim()], 1),
    cases: || {
        let bias = Tensor::from_f64(DType::I32, &[2], [200.0, -300.0]);
        let case = || scaled_cases(&[1, 2, 3, 3], &[2, 2, 2, 2]);
        vec![case(), case().data(bias).attr("pads", [1, 0, 1, 0])]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ad::{Tape, linearise};
    use crate::eval::evaluate;
    use crate::ir::Builder;
    use crate::linear::Cotangent;
    use std::collections::HashMap;

    /// The gradient of the sum of `of(x)`.
    fn gradient(x: &[f64], of: impl for<'g> Fn(&'g Builder, Val<'g>) -> Val<'g>) -> Vec<f64> {
        let b = Builder::new();
        let input = b.input("x", Fact::new(DType::F32, [Dim::from(x.len())]), None);
        let y = of(&b, input).sum_all();
        let tape = Tape::new(&b);
        let linear = linearise(&tape, &[y], &[input]).expect("a derivative");
        let seed = Cotangent::new(b.scalar(DType::F32, 1.0));
        let pulled = linear.vjp(&[Some(seed)], None).remove(0).map(|ct| ct.materialise().id()).expect("no zero");
        let x = Array::from_vec(DType::F32, &[x.len()], x.to_vec()).expect("fits");
        let values = evaluate(&b.read(|g| g.clone()), &HashMap::from([("x".to_string(), x)])).expect("evaluates");
        values[&pulled].data.iter().copied().collect()
    }

    #[test]
    fn rounding_is_passed_straight_through() {
        let fake = |b: &Builder, x: Val<'_>| {
            let (scale, zero) = (b.scalar(DType::F32, 0.5), b.constant(Tensor::scalar(DType::I8, 3.0)));
            let q = b.op("QuantizeLinear", &[b.val(x.id()), scale, zero], Attrs::new());
            b.op("DequantizeLinear", &[q, scale, zero], Attrs::new()).id()
        };
        // What is clipped does not move.
        assert_eq!(gradient(&[0.3, -20.1, 70.0, -70.0], |b, x| b.val(fake(b, x))), [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_dynamically_quantised_product_has_the_gradient_of_the_product() {
        let found = gradient(&[0.5, -1.0, 0.25], |b, x| {
            let [q, scale, zero] = b.node("DynamicQuantizeLinear", &[Some(x)], Attrs::new(), 3)[..] else { return x };
            let w = b.constant(Tensor::from_f64(DType::I8, &[3, 1], [2.0, -3.0, 5.0]));
            let y = b.op("MatMulInteger", &[q.unsqueeze(&[0]), w, zero], Attrs::new());
            y.cast(DType::F32) * scale
        });
        // y = Σ w x, the rounding apart; the extremes also move the scale by what rounding left over.
        for (found, w) in found.iter().zip([2.0, -3.0, 5.0]) {
            assert!((found - w).abs() < 0.05, "{found} for {w}");
        }
    }
}
