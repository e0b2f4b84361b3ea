//! Logic of bools and of bits.

use super::elementwise::{constant, predicate};
use super::{Array, Case, EvalCx, Fault, Op};
use crate::ir::{DType, Dim};

fn logic(c: &EvalCx, f: impl Fn(bool, bool) -> bool) -> Result<Vec<Array>, Fault> {
    c.zip(DType::Bool, |x, y| f64::from(u8::from(f(x != 0.0, y != 0.0))))
}

fn bits(c: &EvalCx, f: impl Fn(i64, i64) -> i64) -> Result<Vec<Array>, Fault> {
    let dtype = c.dtype(0);
    c.zip(dtype, |x, y| wrap(dtype, f(x as i64, y as i64)))
}

/// An integer in the bits of its type.
fn wrap(dtype: DType, v: i64) -> f64 {
    match dtype {
        DType::U8 => f64::from(v as u8),
        DType::U16 => f64::from(v as u16),
        DType::U32 => f64::from(v as u32),
        DType::U64 => v as u64 as f64,
        DType::I8 => f64::from(v as i8),
        DType::I16 => f64::from(v as i16),
        DType::I32 => f64::from(v as i32),
        _ => v as f64,
    }
}

fn shift(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let left = match c.attrs.str("direction") {
        Some("LEFT") => true,
        Some("RIGHT") => false,
        found => {
            return Err(Fault::Attribute {
                name: "direction",
                found: found.unwrap_or("missing").to_string(),
                expected: "LEFT or RIGHT".into(),
            });
        }
    };
    // Whatever is shifted by more than its width is gone.
    bits(c, |x, by| {
        let by = u32::try_from(by).unwrap_or(u32::MAX);
        let shifted = if left { (x as u64).checked_shl(by) } else { (x as u64).checked_shr(by) };
        shifted.unwrap_or(0) as i64
    })
}

/// Two bool operands, broadcast.
fn bools() -> Vec<Case> {
    let (row, column) = ([true, false], [true, true, false]);
    vec![Case::new().bools(&[2], &row).bools(&[3, 1], &column), Case::new().bools(&[], &row[..1]).bools(&[2], &row)]
}

fn ints() -> Vec<Case> {
    vec![
        Case::new().ints(&[4], &[12, -7, 0, 255]).ints(&[], &[10]),
        Case::new().ints(&[2, 1], &[6, 5]).ints(&[2], &[3, 1]),
    ]
}

pub static NOT: Op = Op {
    facts: |c| {
        let flip = |d: &Dim| d.fixed().map(|v| Dim::Fixed(i64::from(v == 0)));
        let ints: Option<Vec<Dim>> = c.ints(0).and_then(|v| v.iter().map(flip).collect());
        Ok(super::elementwise::bool_facts(c)?.into_iter().map(|f| f.with_ints(ints.clone())).collect())
    },
    ..predicate(
        "Not",
        |c| c.map(|x| f64::from(u8::from(x == 0.0))),
        || vec![Case::new().bools(&[2, 1], &[true, false]), Case::new().bools(&[], &[true])],
    )
};
pub static AND: Op = predicate("And", |c| logic(c, |x, y| x && y), bools);
pub static OR: Op = predicate("Or", |c| logic(c, |x, y| x || y), bools);
pub static XOR: Op = predicate("Xor", |c| logic(c, |x, y| x != y), bools);
pub static BITWISE_NOT: Op = constant(
    "BitwiseNot",
    |c| {
        let dtype = c.dtype(0);
        c.map(|x| wrap(dtype, !(x as i64)))
    },
    || vec![Case::new().ints(&[3], &[0, 5, -1])],
);
pub static BITWISE_AND: Op = constant("BitwiseAnd", |c| bits(c, |x, y| x & y), ints);
pub static BITWISE_OR: Op = constant("BitwiseOr", |c| bits(c, |x, y| x | y), ints);
pub static BITWISE_XOR: Op = constant("BitwiseXor", |c| bits(c, |x, y| x ^ y), ints);
pub static BIT_SHIFT: Op = constant("BitShift", shift, || {
    let unsigned = |v: [f64; 3]| crate::ir::Tensor::from_f64(DType::U8, &[3], v);
    let case = || Case::new().data(unsigned([16.0, 200.0, 1.0])).data(unsigned([1.0, 2.0, 9.0]));
    vec![case().attr("direction", "LEFT"), case().attr("direction", "RIGHT")]
});
