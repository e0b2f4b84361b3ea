//! BitCast: the same bits as another type, which is no function of real numbers.

use super::{Array, Case, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Fact, Tensor};

fn target(attrs: &Attrs, own: DType) -> Result<DType, Fault> {
    let code = attrs.int("to").and_then(|code| DType::from_code(i32::try_from(code).ok()?));
    code.filter(|to| to.size() == own.size() && to.size() > 0).ok_or_else(|| Fault::Attribute {
        name: "to",
        found: format!("{:?}", attrs.get("to")),
        expected: format!("a type of the size of {own}"),
    })
}

pub static BIT_CAST: Op = Op {
    name: "BitCast",
    facts: |c| {
        let x = c.input(0)?;
        Ok(vec![Fact { dtype: target(c.attrs, x.dtype)?, shape: x.shape.clone(), ints: None }])
    },
    tangent: Tangent::Zero,
    eval: |c| {
        let x = c.input(0)?.to_tensor();
        let to = target(c.attrs, x.dtype)?;
        Ok(vec![Array::from_tensor(&Tensor::from_bytes(to, x.shape.clone(), x.bytes.to_vec()))?])
    },
    cases: || {
        let floats = Tensor::from_f64(DType::F32, &[3], [1.0, -0.5, 3.25]);
        vec![Case::new().data(floats).attr("to", i64::from(DType::I32.code()))]
    },
};
