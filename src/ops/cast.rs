//! Changes of the element type, and no change at all.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, DType, Dim, Fact, small};

/// y = x in another type    dy = dx in that type, zero if it is no float
fn cast<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0).cast(c.out(0).dtype())
}

/// y = x                dy = dx
fn identity<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0)
}

fn target(attrs: &Attrs) -> Result<DType, Fault> {
    let to = attrs.int("to");
    to.and_then(|code| DType::from_code(i32::try_from(code).ok()?)).ok_or_else(|| Fault::Attribute {
        name: "to",
        found: to.map_or("missing".to_string(), |code| code.to_string()),
        expected: "the number of an element type".into(),
    })
}

/// The same shape; integers keep their elements.
fn typed(c: &FactCx, to: DType) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?;
    let ints: Option<Vec<Dim>> = match to {
        DType::Bool => c.fixed_ints(0).map(|v| v.into_iter().map(|n| Dim::Fixed(i64::from(n != 0))).collect()),
        to if to.is_int() && to.size() >= 4 => c.ints(0).map(<[Dim]>::to_vec),
        _ => None,
    };
    Ok(vec![Fact { dtype: to, shape: x.shape.clone(), ints: None }.with_ints(ints)])
}

/// Floats stay in double precision, small ones become the nearest that there is; towards integers they are cut, and wrap
/// as numpy's do.
fn converted(x: &Array, to: DType, saturate: bool) -> Result<Vec<Array>, Fault> {
    if to == DType::Str || x.dtype == DType::Str {
        return Err(Fault::Unsupported { what: "strings are not converted here".into() });
    }
    let wrapped = |v: f64, bits: i32| v.trunc().rem_euclid(2f64.powi(bits));
    let one = |v: f64| match to {
        DType::Bool => f64::from(u8::from(v != 0.0)),
        to if to.is_small_float() => small::rounded(to, v, saturate),
        DType::U4 => wrapped(v, 4),
        DType::U2 => wrapped(v, 2),
        DType::I4 => wrapped(v + 8.0, 4) - 8.0,
        DType::I2 => wrapped(v + 2.0, 2) - 2.0,
        DType::U8 => wrapped(v, 8),
        DType::U16 => wrapped(v, 16),
        DType::U32 => wrapped(v, 32),
        DType::I8 => wrapped(v + 128.0, 8) - 128.0,
        DType::I16 => wrapped(v + 32768.0, 16) - 32768.0,
        to if to.is_int() => v.trunc(),
        _ => v,
    };
    Ok(vec![Array::new(to, x.data.mapv(one))])
}

fn saturates(c: &EvalCx) -> bool {
    c.attrs.int("saturate").unwrap_or(1) != 0
}

pub static CAST: Op = Op {
    name: "Cast",
    facts: |c| typed(c, target(c.attrs)?),
    tangent: Tangent::Rule(cast),
    eval: |c| converted(c.input(0)?, target(c.attrs)?, saturates(c)),
    cases: || {
        let to = |dtype: DType| i64::from(dtype.code());
        vec![
            Case::new().real(&[2, 3]).attr("to", to(DType::F32)),
            Case::new().real(&[2, 3]).attr("to", to(DType::F64)),
            Case::new().distinct(&[]).attr("to", to(DType::I64)),
            Case::new().distinct(&[3]).attr("to", to(DType::Bool)),
            Case::new().ints(&[3], &[-1, 300, 7]).attr("to", to(DType::U8)),
            Case::new().ints(&[3], &[-1, 300, 7]).attr("to", to(DType::F32)),
            Case::new().distinct(&[3]).attr("to", to(DType::E4M3FN)),
            Case::new().ints(&[3], &[-1, 30, 7]).attr("to", to(DType::I4)),
        ]
    },
};

pub static CAST_LIKE: Op = Op {
    name: "CastLike",
    facts: |c| typed(c, c.dtype(1)?),
    tangent: Tangent::Rule(cast),
    eval: |c| converted(c.input(0)?, c.input(1)?.dtype, saturates(c)),
    cases: || {
        vec![
            Case::new().real(&[2, 3]).const_real(1.0),
            Case::new().real(&[2, 3]).real(&[2]),
            Case::new().distinct(&[2, 3]).ints(&[], &[1]),
        ]
    },
};

pub static IDENTITY: Op = Op {
    name: "Identity",
    facts: |c| Ok(vec![c.input(0)?.clone()]),
    tangent: Tangent::Rule(identity),
    eval: |c: &EvalCx| Ok(vec![c.input(0)?.clone()]),
    cases: || vec![Case::new().real(&[2, 3]), Case::new().real(&[]), Case::new().ints(&[2], &[1, -2])],
};
