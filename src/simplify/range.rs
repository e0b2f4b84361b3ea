//! What is known of a value's numbers without running anything: whether they can be infinite where inputs and weights are
//! not, their sign, whether they stay away from zero. What overflows is not looked at: only places where a formula has a
//! pole, such as `1/x` at 0, are met as a rule.

use crate::ir::{DType, Graph, Node, Tensor, Value};

/// Weights of more elements are not looked into.
const LIMIT: usize = 1 << 14;

/// What holds of all elements; `false` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Range {
    pub finite: bool,
    pub not_negative: bool,
    pub not_positive: bool,
    /// By more than rounding.
    pub not_zero: bool,
}

const FINITE: Range = Range { finite: true, not_negative: false, not_positive: false, not_zero: false };
const NOT_NEGATIVE: Range = Range { not_negative: true, ..FINITE };

const POSITIVE: Range = Range { not_zero: true, ..NOT_NEGATIVE };

impl Range {
    fn positive(self) -> bool {
        self.not_negative && self.not_zero
    }

    fn both(self, other: Range) -> Range {
        Range {
            finite: self.finite && other.finite,
            not_negative: self.not_negative && other.not_negative,
            not_positive: self.not_positive && other.not_positive,
            not_zero: self.not_zero && other.not_zero,
        }
    }
}

/// The ranges of the graph's values from number `known.len()` on; those before are in `known`.
pub(crate) fn extend(graph: &Graph, known: &mut Vec<Range>) {
    for value in &graph.values[known.len()..] {
        let range = match value.producer {
            Some(node) => made(graph, graph.node(node), known),
            None => free(value),
        };
        known.push(range);
    }
}

/// An input, a weight, a constant.
fn free(value: &Value) -> Range {
    match &value.data {
        Some(data) => data_range(data),
        None => Range { not_negative: value.fact.dtype == DType::Bool, ..FINITE },
    }
}

fn data_range(data: &Tensor) -> Range {
    if data.len() > LIMIT || !(data.dtype.is_float() || data.dtype == DType::I64) {
        return FINITE;
    }
    let numbers = data.to_f64();
    Range {
        finite: numbers.iter().all(|x| x.is_finite()),
        not_negative: numbers.iter().all(|&x| x >= 0.0),
        not_positive: numbers.iter().all(|&x| x <= 0.0),
        not_zero: numbers.iter().all(|&x| x != 0.0),
    }
}

fn made(graph: &Graph, node: &Node, known: &[Range]) -> Range {
    if !node.domain.is_empty() {
        return Range::default();
    }
    let inputs: Vec<Range> =
        node.inputs.iter().flatten().map(|id| known.get(id.0 as usize).copied().unwrap_or_default()).collect();
    let finite = inputs.iter().all(|r| r.finite);
    let first = inputs.first().copied().unwrap_or_default();
    let second = inputs.get(1).copied().unwrap_or_default();
    let only = |range: Range| Range { finite, ..range };
    match node.op.as_str() {
        // The first input's numbers, moved, repeated, chosen from.
        "Identity" | "Cast" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Expand" | "Tile"
        | "Slice" | "Split" | "Gather" | "GatherElements" | "GatherND" | "ReduceMax" | "ReduceMin" | "MaxPool"
        | "GlobalMaxPool" | "DepthToSpace" | "SpaceToDepth" => first,
        "ReduceSum" | "ReduceMean" | "GlobalAveragePool" => sum(&[first]),
        "Shape" | "Size" => POSITIVE,
        "Neg" => Range { not_negative: first.not_positive, not_positive: first.not_negative, ..first },
        "Add" | "Sum" | "Mean" => only(sum(&inputs)),
        "Mul" if node.inputs[0] == node.inputs[1] => only(Range { not_zero: first.not_zero, ..NOT_NEGATIVE }),
        "Mul" => only(product(first, second)),
        "Div" => Range { finite: finite && second.not_zero, not_zero: first.not_zero, ..product(first, second) },
        "Reciprocal" => Range { finite: finite && first.not_zero, not_zero: true, ..first },
        "Pow" => power(graph, node, first),
        "Sqrt" => Range { finite, not_zero: first.not_zero, ..NOT_NEGATIVE },
        "Log" => Range { finite: finite && first.positive(), ..FINITE },
        "Exp" => Range { finite: finite && first.not_positive, ..NOT_NEGATIVE },
        "LogSoftmax" => Range { finite, not_positive: true, ..FINITE },
        "Where" => {
            let other = inputs.get(2).copied().unwrap_or_default();
            let range = if is_above_zero(graph, node) { POSITIVE } else { second };
            Range { finite, ..range.both(other) }
        }
        // One bound above zero is enough.
        "Max" if inputs.iter().any(|r| r.positive()) => only(POSITIVE),
        "Concat" => inputs.iter().fold(first, |all, r| all.both(*r)),
        "Abs" => Range { finite, not_zero: first.not_zero, ..NOT_NEGATIVE },
        "Relu" | "Sigmoid" | "HardSigmoid" | "Softmax" | "Softplus" | "ReduceSumSquare" | "ReduceL1" | "ReduceL2" => {
            only(NOT_NEGATIVE)
        }
        // True and false.
        "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Equal" | "And" | "Or" | "Xor" | "Not" | "IsNaN"
        | "IsInf" => NOT_NEGATIVE,
        op if WITHOUT_POLE.contains(&op) => only(FINITE),
        _ => Range::default(),
    }
}

/// `x` in `x > 0 ? x : …`
fn is_above_zero(graph: &Graph, choice: &Node) -> bool {
    let greater = choice.input(0).and_then(|id| graph.value(id).producer).map(|id| graph.node(id));
    let Some(greater) = greater.filter(|node| node.op == "Greater" && node.domain.is_empty()) else { return false };
    let zero = greater.input(1).and_then(|id| graph.value(id).data.as_ref());
    greater.input(0) == choice.input(1) && zero.is_some_and(|data| data.len() == 1 && data.to_f64() == [0.0])
}

/// Operators that are finite where their inputs are, of any sign.
const WITHOUT_POLE: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Ceil",
    "Celu",
    "Clip",
    "Compress",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "Dropout",
    "Einsum",
    "Elu",
    "Erf",
    "Floor",
    "GRU",
    "Gelu",
    "Gemm",
    "GroupNormalization",
    "HardSwish",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "LpPool",
    "MatMul",
    "Max",
    "Min",
    "Mish",
    "NonZero",
    "OneHot",
    "PRelu",
    "Pad",
    "RMSNormalization",
    "RNN",
    "Range",
    "Resize",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Sign",
    "Sin",
    "Softsign",
    "Sub",
    "Tanh",
    "TopK",
    "Trilu",
];

/// One number above zero carries a sum of numbers that are not below.
fn sum(terms: &[Range]) -> Range {
    let mut all = terms.iter().copied().reduce(Range::both).unwrap_or_default();
    let any = terms.iter().any(|r| r.not_zero);
    all.not_zero = any && (all.not_negative || all.not_positive);
    all
}

fn product(a: Range, b: Range) -> Range {
    Range {
        finite: a.finite && b.finite,
        not_negative: (a.not_negative && b.not_negative) || (a.not_positive && b.not_positive),
        not_positive: (a.not_negative && b.not_positive) || (a.not_positive && b.not_negative),
        not_zero: a.not_zero && b.not_zero,
    }
}

fn power(graph: &Graph, node: &Node, base: Range) -> Range {
    let exponent = node.input(1).and_then(|id| graph.value(id).data.as_ref()).filter(|data| data.len() == 1);
    let Some(exponent) = exponent.and_then(|data| data.to_f64().first().copied()) else { return Range::default() };
    let even = exponent % 2.0 == 0.0;
    Range {
        finite: base.finite && (exponent >= 0.0 || base.not_zero),
        not_negative: even || base.not_negative,
        not_positive: false,
        not_zero: base.not_zero,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attrs, Builder, Dim, Fact, Val};

    fn finite(f: impl for<'g> Fn(Val<'g>) -> Val<'g>) -> bool {
        let b = Builder::new();
        let x = b.input("x", Fact::new(DType::F32, [Dim::Fixed(3)]), None);
        b.is_finite(f(x))
    }

    #[test]
    fn poles() {
        assert!(finite(|x| x * x + x.sin()));
        assert!(!finite(|x| x.exp()));
        assert!(finite(|x| (-(x * x)).exp()));
        assert!(!finite(|x| x / x));
        assert!(!finite(|x| x.log()));
        assert!(!finite(|x| x.like(1.0) / (x * x).sqrt()));
        assert!(finite(|x| x.like(1.0) / (x * x + x.like(1e-5)).sqrt()));
        assert!(!finite(|x| x.like(1.0) / (x + x.like(1e-5)).sqrt()), "a sum may be zero where terms have any sign");
        assert!(finite(|x| x / x.like(3.0)));
        let weight = |x: Val<'_>, numbers: [f64; 2]| {
            x.builder().initializer("w", Tensor::from_f64(DType::F32, &[2], numbers)).id()
        };
        assert!(finite(|x| x / x.builder().val(weight(x, [1.0, 2.0])).mean_all()));
        assert!(!finite(|x| x / x.builder().val(weight(x, [1.0, -1.0])).mean_all()), "both signs may add up to zero");
        assert!(finite(|x| x / x.gt(x.like(0.0)).select(x, x.like(1.0)).sqrt()));
        assert!(!finite(|x| x / x.gt(x.like(0.0)).select(x, x.like(0.0))));
        assert!(!finite(|x| x * x.like(f64::INFINITY)));
        assert!(!finite(|x| (x / x) * x.like(0.0)));
        assert!(finite(|x| x.builder().op("LogSoftmax", &[x], Attrs::new().with("axis", 0)).exp()));
    }
}
