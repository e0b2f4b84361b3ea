//! `docs/operators.md` is the table of operators. `UPDATE_EXPECT=1` writes it anew.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use fam_onnx::ir::Attrs;
use fam_onnx::ops::{Input, OPS, Op, Tangent};

const HEAD: &str = "\
# Operators

Standard operators of opsets 7 to 26 that have a place in `src/ops`. The derivative of each is

- a *rule*: the tangent as linear maps, from which both modes follow;
- *lowered*: the operator is written with others first;
- *zero*: it is constant almost everywhere, or gives no real numbers;
- *by attributes*: one of these, as the node says;
- *none*: with the reason, a fact of the operator.

Opsets: where the operator changed; each form is read. Types: the real ones of its newest form, as ONNX has it; halves are
summed in float32. Orders: how often the derivative is itself differentiated in the tests, for the operator's own cases
(`tests/operators`); ONNX's node tests judge the first two orders once more (`tests/node_tests`).

Floats of eight bits or fewer (float8 of four kinds, float8e8m0, float4e2m1) and integers of two and four are read, kept
bit for bit and printed. They hold weights and scales, and have no derivatives of their own: `DequantizeLinear` and
`QuantizeLinear` pass derivatives straight through them, a `Cast` to them gives zero. ONNX Runtime's CPU has no kernels for
float4e2m1.

What a node's own inputs can rule out: `DFT` with a length or one side along an axis known only at run time, since which
size changes is then open; `Col2Im` with blocks whose size is known only at run time, since so is how many elements a window
has; `Det` of a matrix whose size is known only at run time, since it is a polynomial with as many steps. Fused operators
(`com.microsoft`) that are written out stay refused where a key and value cache is quantised (its scales belong to no tensor
of real numbers), where weights of a few bits are no initialisers (the standard operators unpack none), or are of 2, 3, 5,
6 or 7 bits (no standard operator up to opset 21 has them).

| operator | derivative | opsets | types | orders | cases |
|---|---|---|---|---|---|
";

fn schemas() -> BTreeMap<String, (String, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operator_docs/schemas.py");
    let output = common::run(Command::new(common::python()).arg(script));
    let text = String::from_utf8(output.stdout).expect("text");
    let schema = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, versions, types] = fields[..] else { panic!("three fields: {line}") };
        (name.to_string(), (versions.to_string(), types.to_string()))
    };
    text.lines().map(schema).collect()
}

fn derivative(tangent: Tangent) -> String {
    match tangent {
        Tangent::Rule(_) | Tangent::Joint(_) => "rule".to_string(),
        Tangent::StraightThrough(_) => "rule, straight through rounding".to_string(),
        Tangent::Lower(_) => "lowered".to_string(),
        Tangent::Zero => "zero".to_string(),
        Tangent::Blocked(reason) => format!("none: {reason}"),
        Tangent::Select(_) => match tangent.of(&Attrs::new()) {
            Tangent::Blocked(_) => "by attributes".to_string(),
            other => format!("by attributes; {} without", derivative(other)),
        },
    }
}

/// Orders that `tests/operators` differentiates: all that has a derivative and a real input in some case, three times.
fn orders(op: &Op) -> &'static str {
    let is_real = |input: &Input| matches!(input, Input::Real { .. } | Input::Distinct { .. });
    let differentiated = |case: &fam_onnx::ops::Case| {
        !matches!(op.tangent.of(&case.attrs), Tangent::Zero | Tangent::Blocked(_)) && case.inputs.iter().any(is_real)
    };
    if (op.cases)().iter().any(differentiated) { "3" } else { "–" }
}

#[test]
fn the_table_is_true() {
    let schemas = schemas();
    let mut ops: Vec<&&Op> = OPS.iter().collect();
    ops.sort_by_key(|op| op.name);
    let mut text = HEAD.to_string();
    for op in ops {
        let (versions, types) = schemas.get(op.name).cloned().unwrap_or_default();
        let types = if types.is_empty() { "–".to_string() } else { types };
        let kind = derivative(op.tangent);
        let _ =
            writeln!(text, "| {} | {kind} | {versions} | {types} | {} | {} |", op.name, orders(op), (op.cases)().len());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    expect_test::expect_file![path].assert_eq(&text);
}
