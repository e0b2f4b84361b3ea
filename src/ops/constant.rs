//! Tensors made from nothing but numbers: Constant, ConstantOfShape, EyeLike, Range.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attr, Attrs, DType, Dim, Fact, Tensor, count};

/// The data of a Constant node, in whichever attribute it stands.
fn constant_of(attrs: &Attrs) -> Result<Tensor, Fault> {
    let found = || format!("one of {:?}", attrs.names().collect::<Vec<_>>());
    match attrs.iter().next() {
        Some((_, Attr::Tensor(tensor))) => Ok(tensor.clone()),
        Some((_, Attr::Int(v))) => Ok(Tensor::ints(&[], &[*v])),
        Some((_, Attr::Ints(v))) => Ok(Tensor::ints(&[v.len()], v)),
        Some((_, Attr::Float(v))) => Ok(Tensor::scalar(DType::F32, f64::from(*v))),
        Some((_, Attr::Floats(v))) => Ok(Tensor::from_f64(DType::F32, &[v.len()], v.iter().map(|&v| f64::from(v)))),
        _ => Err(Fault::Attribute { name: "value", found: found(), expected: "a number or a dense tensor".into() }),
    }
}

/// The elements of integer data, where a fact may hold them.
fn elements(tensor: &Tensor) -> Option<Vec<Dim>> {
    if tensor.shape.len() > 1 || tensor.len() > 64 {
        return None;
    }
    Some(tensor.to_i64()?.into_iter().map(Dim::Fixed).collect())
}

pub static CONSTANT: Op = Op {
    name: "Constant",
    facts: |c| {
        let tensor = constant_of(c.attrs)?;
        let shape: Vec<Dim> = tensor.shape.iter().map(|&n| Dim::from(n)).collect();
        Ok(vec![Fact::new(tensor.dtype, shape).with_ints(elements(&tensor))])
    },
    tangent: Tangent::Zero,
    eval: |c| Ok(vec![Array::from_tensor(&constant_of(c.attrs)?)?]),
    cases: || {
        vec![Case::new().attr("value_ints", [2, 3]), Case::new().attr("value", Tensor::scalar(DType::F32, 1.5))]
    },
};

/// The attribute `value`, a tensor of one element; 0 of type float without it.
fn fill(attrs: &Attrs) -> Result<(DType, f64), Fault> {
    match attrs.get("value") {
        None => Ok((DType::F32, 0.0)),
        Some(Attr::Tensor(t)) if t.len() == 1 => Ok((t.dtype, t.to_f64().first().copied().unwrap_or(0.0))),
        Some(_) => Err(Fault::Attribute {
            name: "value",
            found: "something else".into(),
            expected: "a tensor of one element".into(),
        }),
    }
}

fn constant_of_shape_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, value) = fill(c.attrs)?;
    let Some(shape) = c.ints(0) else {
        return Ok(vec![match c.unknown_dims(0) {
            Some(shape) => Fact::new(dtype, shape),
            None => Fact::unknown(dtype),
        }]);
    };
    let size = count(shape).fixed().filter(|n| (0..=64).contains(n) && shape.len() <= 1 && dtype.is_int());
    let ints = size.map(|n| vec![Dim::Fixed(value as i64); n as usize]);
    Ok(vec![Fact::new(dtype, shape).with_ints(ints)])
}

pub static CONSTANT_OF_SHAPE: Op = Op {
    name: "ConstantOfShape",
    facts: constant_of_shape_facts,
    tangent: Tangent::Zero,
    eval: |c| {
        let (dtype, value) = fill(c.attrs)?;
        let shape = c.ints(0).ok_or(Fault::Missing { index: 0, needs: "a shape" })?;
        let shape: Vec<usize> = shape.iter().map(|&n| n.max(0) as usize).collect();
        Ok(vec![Array::tabulate(dtype, &shape, |_| Ok(value))?])
    },
    cases: || {
        let two = Tensor::from_f64(DType::F32, &[1], [2.0]);
        vec![Case::new().const_ints(&[2], &[2, 3]), Case::new().ints(&[1], &[3]).attr("value", two)]
    },
};

fn eye_type(attrs: &Attrs, own: DType) -> DType {
    attrs.int("dtype").and_then(|code| DType::from_code(i32::try_from(code).ok()?)).unwrap_or(own)
}

pub static EYE_LIKE: Op = Op {
    name: "EyeLike",
    facts: |c| {
        let shape = c.input(0)?.shape.clone();
        if let Some(found) = shape.as_ref().map(Vec::len).filter(|&rank| rank != 2) {
            return Err(Fault::Rank { index: 0, found, expected: "2".to_string() });
        }
        Ok(vec![Fact { dtype: eye_type(c.attrs, c.dtype(0)?), shape, ints: None }])
    },
    tangent: Tangent::Zero,
    eval: |c| {
        let k = c.int("k", 0);
        let dtype = eye_type(c.attrs, c.dtype(0));
        let on = |at: &[usize]| matches!(at, [i, j] if *j as i64 == (*i as i64).saturating_add(k));
        Ok(vec![Array::tabulate(dtype, c.input(0)?.shape(), |at| Ok(f64::from(u8::from(on(at)))))?])
    },
    cases: || vec![Case::new().real(&[2, 3]), Case::new().real(&[3, 3]).attr("k", -1).attr("dtype", 7)],
};

/// `⌈(limit − start)/delta⌉` numbers.
fn range_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    for i in 0..3 {
        c.one_number(i)?;
    }
    let one = |i: usize| c.ints(i).and_then(<[Dim]>::first);
    let data = |i: usize| c.data(i).and_then(|t| t.to_f64().first().copied());
    let size = match (one(0), one(1), one(2).and_then(Dim::fixed)) {
        (Some(start), Some(limit), Some(delta)) if delta != 0 => {
            let length = if delta > 0 { limit.clone() - start.clone() } else { start.clone() - limit.clone() };
            match length.div_ceil(delta.saturating_abs()) {
                Dim::Fixed(n) => Dim::Fixed(n.max(0)),
                n => n,
            }
        }
        _ => match (data(0), data(1), data(2)) {
            (Some(start), Some(limit), Some(delta)) if delta != 0.0 => {
                Dim::Fixed(((limit - start) / delta).ceil().max(0.0) as i64)
            }
            _ => c.unknown(0),
        },
    };
    let ints = match (one(0).and_then(Dim::fixed), one(2).and_then(Dim::fixed), size.fixed()) {
        (Some(start), Some(delta), Some(n)) if n <= 64 => {
            Some((0..n).map(|k| Dim::Fixed(start.saturating_add(k.saturating_mul(delta)))).collect())
        }
        _ => None,
    };
    Ok(vec![Fact::new(dtype, [size]).with_ints(ints)])
}

/// yₖ = start + k·delta            dyₖ = dstart + k·ddelta
fn range<'g>(c: &Cx<'g>) -> Tan<'g> {
    let y = c.out(0);
    let [start, delta] = [c.dx(0), c.dx(2)].map(|t| t.reshape(&[]).expand(&y.shape()));
    let steps = || c.b.range(&y.dim(0)).cast(y.dtype());
    if delta.is_zero() { start } else { start + delta * steps() }
}

fn range_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let one = |i: usize| {
        let one = c.data(i)?.first().copied().filter(|_| c.input(i).is_ok_and(|x| x.data.len() == 1));
        one.ok_or(Fault::Missing { index: i, needs: "one number" })
    };
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    if delta == 0.0 {
        return Err(Fault::Shape { what: "delta", found: "0".into(), expected: "a step".into() });
    }
    let n = ((limit - start) / delta).ceil().max(0.0) as usize;
    Ok(vec![Array::from_vec(c.dtype(0), &[n], (0..n).map(|k| start + k as f64 * delta).collect())?])
}

pub static RANGE: Op = Op {
    name: "Range",
    facts: range_facts,
    tangent: Tangent::Rule(range),
    eval: range_eval,
    cases: || {
        vec![
            Case::new().const_ints(&[], &[1]).const_ints(&[], &[8]).const_ints(&[], &[3]),
            Case::new().ints(&[], &[5]).ints(&[], &[0]).ints(&[], &[-2]),
            // The count stays whatever the start and the step are moved by.
            Case::new().real(&[]).const_real(130.0).within(&[], 90.0, 95.0),
        ]
    },
};
