//! Operators on strings, which are no numbers: they have facts, no derivatives and no evaluation in numbers.

use super::{Array, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{DType, Dim, Fact};

fn no_numbers(_: &EvalCx) -> Result<Vec<Array>, Fault> {
    Err(Fault::Unsupported { what: "strings are not evaluated: they are no numbers".into() })
}

pub static REGEX_FULL_MATCH: Op = Op {
    name: "RegexFullMatch",
    facts: |c| Ok(vec![Fact { dtype: DType::Bool, ints: None, ..c.input(0)?.clone() }]),
    tangent: Tangent::Zero,
    eval: no_numbers,
    cases: Vec::new,
};

pub static STRING_CONCAT: Op = Op {
    name: "StringConcat",
    facts: |c| c.elementwise(DType::Str),
    tangent: Tangent::Zero,
    eval: no_numbers,
    cases: Vec::new,
};

/// How many strings are left when stop words are removed is only known at run time.
fn normalizer_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    Ok(vec![match c.input(0)?.rank() {
        Some(2) => Fact::new(DType::Str, [Dim::Fixed(1), c.unknown(1)]),
        _ => Fact::new(DType::Str, [c.unknown(0)]),
    }])
}

pub static STRING_NORMALIZER: Op = Op {
    name: "StringNormalizer",
    facts: normalizer_facts,
    tangent: Tangent::Zero,
    eval: no_numbers,
    cases: Vec::new,
};

/// The parts of each string, and how many it has.
fn split_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.input(0)?.shape.clone();
    let parts = x.clone().map(|shape| [shape, vec![c.unknown(0)]].concat());
    let fact = |dtype, shape| Fact { dtype, shape, ints: None };
    Ok(vec![fact(DType::Str, parts), fact(DType::I64, x)])
}

pub static STRING_SPLIT: Op =
    Op { name: "StringSplit", facts: split_facts, tangent: Tangent::Zero, eval: no_numbers, cases: Vec::new };
