//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear. Rounding is passed straight through: what is quantised has
//! the tangent of the real number that it stands for, so that y = s (q − z) of q = round(x/s) + z has that of x.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, Tensor, Val, small};
use crate::lower::along;
use ndarray::ArrayD;

/// The numbers that a type can hold.
pub(super) fn range(dtype: DType) -> Option<(f64, f64)> {
    Some(match dtype {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U4 | DType::I4 | DType::U2 | DType::I2 => {
            let (low, high) = dtype.int_range()?;
            (low as f64, high as f64)
        }
        dtype if dtype.is_small_float() && dtype != DType::E8M0 => {
            let largest = small::rounded(dtype, f64::MAX, true);
            (-largest, largest)
        }
        _ => return None,
    })
}

/// How the scales of a tensor are laid out.
enum Layout {
    Scalar,
    /// One for each place of an axis.
    Axis(usize),
    /// One for so many places of an axis.
    Blocks(usize, i64),
}

impl Layout {
    /// Of scales of `shape` for a tensor of `rank` axes.
    fn of(attrs: &Attrs, shape: &[Dim], rank: usize) -> Result<Layout, Fault> {
        if shape.is_empty() || shape == [Dim::Fixed(1)] {
            return Ok(Layout::Scalar);
        }
        let axis = super::fact_cx::from_front(attrs.int("axis").unwrap_or(1), rank)?;
        match (attrs.int("block_size").unwrap_or(0), shape.len()) {
            (0, 1) => Ok(Layout::Axis(axis)),
            (size @ 1.., n) if n == rank => Ok(Layout::Blocks(axis, size)),
            (size, n) => Err(Fault::Attribute {
                name: "block_size",
                found: format!("{size} for scales of rank {n}"),
                expected: "0 for a scale an axis, or a block and scales of the tensor's rank".into(),
            }),
        }
    }
}

/// A scale or a zero point as it stands beside the elements of input 0.
fn beside<'g>(c: &Cx<'g>, v: Val<'g>) -> Val<'g> {
    let x = c.x(0);
    match Layout::of(c.attrs(), &v.shape(), x.rank()) {
        Ok(Layout::Axis(axis)) => along::lay(v, axis, x.rank()),
        Ok(Layout::Blocks(axis, size)) => {
            let repeated = along::repeat(v, &[(axis, size)]);
            let shape = x.shape();
            match repeated.shape() == shape {
                true => repeated,
                false => along::pick(repeated, axis, c.b.range(&shape[axis])),
            }
        }
        _ => v.reshape(&[]),
    }
}

/// Zero, or the zero point as a real number beside the elements.
fn zero_point<'g>(c: &Cx<'g>, dtype: DType) -> Val<'g> {
    // Small integers are only cast: runtimes do little else with them.
    if c.has(2) { beside(c, c.x(2).cast(dtype)) } else { c.b.scalar(dtype, 0.0) }
}

/// The type of what QuantizeLinear gives.
fn quantised_type(attrs: &Attrs, zero_point: Option<DType>) -> Result<DType, Fault> {
    let code = attrs.int("output_dtype").unwrap_or(0);
    let named = if code == 0 { Some(DType::U8) } else { i32::try_from(code).ok().and_then(DType::from_code) };
    zero_point.or(named).filter(|&dtype| range(dtype).is_some()).ok_or_else(|| Fault::Attribute {
        name: "output_dtype",
        found: code.to_string(),
        expected: "an integer type of 2 to 16 bits or a float of 4 or 8".into(),
    })
}

fn quantize_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let dtype = quantised_type(c.attrs, c.get(2).map(|z| z.dtype))?;
    if let (Some(shape), Some(rank)) = (&scale.shape, x.rank()) {
        Layout::of(c.attrs, shape, rank)?;
    }
    Ok(vec![Fact { dtype, shape: x.shape.clone(), ints: None }])
}

/// q = clip(round(x/s) + z)            dq = d(x/s) + dz where nothing is clipped
fn quantize<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, q) = (c.x(0), c.out(0));
    let ratio = x / beside(c, c.x(1)).cast(x.dtype());
    let through = c.through(&[ratio]) + c.dx(2);
    let Some((low, high)) = range(q.dtype()) else { return through };
    // A float is rounded in its own way, and has no zero point but 0.
    let shifted = match q.dtype().is_small_float() {
        true => ratio,
        false => c.b.op("Round", &[ratio], Attrs::new()) + zero_point(c, x.dtype()),
    };
    through.gate(shifted.ge(shifted.like(low)).and(shifted.le(shifted.like(high))))
}

/// The elements of input `i` beside those of input 0.
fn beside_data(c: &EvalCx, i: usize) -> Result<ArrayD<f64>, Fault> {
    let (x, v) = (c.data(0)?.shape(), c.data(i)?);
    let dims: Vec<Dim> = v.shape().iter().map(|&n| Dim::from(n)).collect();
    let from = |at: &[usize]| -> Result<f64, Fault> {
        let place = match Layout::of(c.attrs, &dims, x.len())? {
            Layout::Scalar => vec![0; v.ndim()],
            Layout::Axis(axis) => vec![at[axis]],
            Layout::Blocks(axis, size) => {
                at.iter().enumerate().map(|(a, &k)| if a == axis { k / size as usize } else { k }).collect()
            }
        };
        c.input(i)?.at(&place)
    };
    Ok(Array::tabulate(DType::F64, x, from)?.data)
}

/// `clip(round(x/s) + z)` in the given type.
fn rounded(dtype: DType, x: &ArrayD<f64>, scale: &ArrayD<f64>, zero: &ArrayD<f64>) -> Array {
    let (low, high) = range(dtype).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let mut q = x / scale;
    match dtype.is_small_float() {
        true => q.mapv_inplace(|q| small::rounded(dtype, q, true)),
        false => q.zip_mut_with(zero, |q, z| *q = (q.round_ties_even() + z).clamp(low, high)),
    }
    Array::new(dtype, q)
}

fn zeros_or(c: &EvalCx, i: usize) -> Result<ArrayD<f64>, Fault> {
    if c.get(i).is_some() { beside_data(c, i) } else { Ok(ArrayD::zeros(c.data(0)?.raw_dim())) }
}

pub static QUANTIZE_LINEAR: Op = Op {
    name: "QuantizeLinear",
    facts: quantize_facts,
    tangent: Tangent::StraightThrough(quantize),
    eval: |c| {
        let dtype = quantised_type(c.attrs, c.get(2).map(|z| z.dtype))?;
        Ok(vec![rounded(dtype, c.data(0)?, &beside_data(c, 1)?, &zeros_or(c, 2)?)])
    },
    cases: || {
        let bytes = |dtype, values: &[f64]| Tensor::from_f64(dtype, &[values.len()], values.iter().copied());
        let one = |v: f64| Tensor::scalar(DType::U8, v);
        vec![
            Case::new().real(&[2, 3]).within(&[], 0.05, 0.1).data(one(3.0)),
            Case::new().real(&[2, 3]).within(&[3], 0.05, 0.1).data(bytes(DType::I8, &[1.0, -2.0, 0.0])),
            Case::new().real(&[3, 2]).within(&[], 0.01, 0.02),
            Case::new().real(&[2, 3]).within(&[], 0.2, 0.3).data(Tensor::scalar(DType::I4, 1.0)),
            Case::new().real(&[2, 3]).within(&[], 0.2, 0.3).data(Tensor::scalar(DType::E4M3FN, 0.0)),
        ]
    },
};

fn dequantize_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    if let (Some(shape), Some(rank)) = (&scale.shape, x.rank()) {
        Layout::of(c.attrs, shape, rank)?;
    }
    let named = c.attrs.int("output_dtype").filter(|&code| code != 0);
    let named = named.and_then(|code| DType::from_code(i32::try_from(code).ok()?));
    Ok(vec![Fact { dtype: named.unwrap_or(scale.dtype), shape: x.shape.clone(), ints: None }])
}

/// y = s (q − z)            dy = s (dq − dz) + (q − z) ds
fn dequantize<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0).dtype();
    let centred = c.x(0).cast(y) - zero_point(c, y);
    c.through(&[centred * beside(c, c.x(1)).cast(y)])
}

pub static DEQUANTIZE_LINEAR: Op = Op {
    name: "DequantizeLinear",
    facts: dequantize_facts,
    tangent: Tangent::Rule(dequantize),
    eval: |c| {
        let y = (c.data(0)? - &zeros_or(c, 2)?) * beside_data(c, 1)?;
        let named = c.attrs.int("output_dtype").filter(|&code| code != 0);
        let named = named.and_then(|code| DType::from_code(i32::try_from(code).ok()?));
        Ok(vec![Array::new(named.unwrap_or(c.dtype(1)), y)])
    },
    cases: || {
        let bytes = |shape: &[usize]| {
            let n: usize = shape.iter().product();
            Tensor::from_f64(DType::U8, shape, (0..n).map(|k| (k * 37 % 200) as f64))
        };
        let zeros = |values: &[f64]| Tensor::from_f64(DType::U8, &[values.len()], values.iter().copied());
        vec![
            Case::new().data(bytes(&[2, 3])).real(&[]).data(Tensor::scalar(DType::U8, 128.0)),
            Case::new().data(bytes(&[2, 3])).real(&[3]).data(zeros(&[1.0, 2.0, 3.0])),
            Case::new().data(bytes(&[3, 2, 2])).real(&[3]).attr("axis", 0),
            Case::new().data(bytes(&[2, 5])).real(&[2, 3]).attr("block_size", 2),
            Case::new().data(bytes(&[0, 3])).real(&[3]),
            Case::new().data(Tensor::from_f64(DType::E5M2, &[2, 2], [1.5, -0.25, 6.0, 0.0])).real(&[]),
            Case::new().data(Tensor::from_f64(DType::U4, &[3], [1.0, 15.0, 6.0])).real(&[3]).attr("axis", 0),
        ]
    },
};

/// Shares of the range of the smallest and the largest element, 0 among them.
fn spread<'g>(c: &Cx<'g>) -> (Val<'g>, Val<'g>) {
    let (b, x) = (c.b, c.x(0));
    let all = |op: &str| b.op(op, &[x], Attrs::new().with("keepdims", 0));
    let high = b.op("Max", &[all("ReduceMax"), x.like(0.0)], Attrs::new());
    let low = b.op("Min", &[all("ReduceMin"), x.like(0.0)], Attrs::new());
    (low, (high - low) * (1.0 / 255.0))
}

/// s = (max − min)/255, z = round(−min/s), q = round(x/s) + z; the rounding passed straight through
fn dynamic_quantize<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, (low, scale)) = (c.x(0), spread(c));
    let safe = scale.equal(scale.like(0.0)).select(scale.like(1.0), scale);
    let zero = -(low / safe);
    c.through(&[x / safe + zero, scale, zero])
}

fn dynamic_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let (low, high) = x.iter().fold((0.0, 0.0), |(low, high): (f64, f64), &v| (low.min(v), high.max(v)));
    // Which way a half is rounded depends on the precision of the quotient.
    let single = c.dtype(0) == DType::F32;
    let divided = |a: f64, b: f64| if single { f64::from(a as f32 / b as f32) } else { a / b };
    let scale = divided(if high == low { 1.0 } else { high - low }, 255.0);
    let zero = divided(-low, scale).clamp(0.0, 255.0).round_ties_even();
    let q = x.mapv(|v| (divided(v, scale).round_ties_even() + zero).clamp(0.0, 255.0));
    let one = |dtype, v| Array::from_vec(dtype, &[], vec![v]);
    Ok(vec![Array::new(DType::U8, q), one(c.dtype(0), scale)?, one(DType::U8, zero)?])
}

pub static DYNAMIC_QUANTIZE_LINEAR: Op = Op {
    name: "DynamicQuantizeLinear",
    facts: |c| {
        let x = c.input(0)?;
        let q = Fact { dtype: DType::U8, shape: x.shape.clone(), ints: None };
        Ok(vec![q, Fact::new(x.dtype, []), Fact::new(DType::U8, [])])
    },
    tangent: Tangent::StraightThrough(dynamic_quantize),
    eval: dynamic_eval,
    cases: || vec![Case::new().distinct(&[2, 3]).outputs(3), Case::new().within(&[4], 0.5, 2.0).outputs(3)],
};
