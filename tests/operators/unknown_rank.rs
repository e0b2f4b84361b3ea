//! An input of unknown rank is no error: less is known of the outputs.

use fam_onnx::ir::{Builder, DType, Dim, Fact, Val};
use fam_onnx::ops::{Case, Input, OPS, Op};

/// The node with input `hidden` of unknown rank.
fn facts_hold(op: &Op, case: &Case, hidden: usize) -> Result<(), String> {
    let b = Builder::new();
    let inputs: Vec<Option<Val>> =
        case.inputs.iter().enumerate().map(|(i, input)| one(&b, input, i == hidden)).collect();
    b.node(op.name, &inputs, case.attrs.clone(), case.outputs);
    b.check().map_err(|e| e.to_string())
}

fn one<'g>(b: &'g Builder, input: &Input, hidden: bool) -> Option<Val<'g>> {
    let (dtype, shape) = match input {
        Input::None => return None,
        Input::Constant(tensor) if !hidden => return Some(b.constant(tensor.clone())),
        Input::Constant(tensor) | Input::Data(tensor) => (tensor.dtype, &tensor.shape),
        Input::Real { shape, .. } | Input::Distinct { shape } => (DType::F32, shape),
    };
    let dims = || shape.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>();
    let fact = if hidden { Fact::unknown(dtype) } else { Fact::new(dtype, dims()) };
    Some(b.input("x", fact, None))
}

#[test]
fn an_unknown_rank_is_no_fault() {
    let mut failures = Vec::new();
    for op in OPS {
        for (k, case) in (op.cases)().iter().enumerate() {
            for hidden in 0..case.inputs.len() {
                if let Err(failure) = facts_hold(op, case, hidden) {
                    failures.push(format!("{} case {k} input {hidden}: {failure}", op.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
