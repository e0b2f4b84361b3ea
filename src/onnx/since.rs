//! The lowest opset in which a node's form is valid, and the form that a node takes in a given opset.

use crate::ir::{Attr, Attrs, DType, Graph, Node, ValueId, ValueSet, fixed};
use std::borrow::Cow;

/// The lowest opset that is written: the first with axes of Squeeze, Unsqueeze and ReduceSum as inputs.
pub(super) const LOWEST: i64 = 13;

/// Operators that came, or took their internal form, after opset 13.
const INTRODUCED: &[(i64, &[&str])] = &[
    (14, &["HardSwish", "Trilu"]),
    (15, &["Bernoulli", "CastLike", "Optional", "OptionalGetElement", "OptionalHasElement"]),
    (16, &["GridSample"]),
    (17, &["BlackmanWindow", "DFT", "HammingWindow", "HannWindow", "LayerNormalization", "MelWeightMatrix"]),
    (17, &["STFT", "SequenceMap"]),
    (18, &["BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "Mish"]),
    (19, &["DeformConv"]),
    (20, &["AffineGrid", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"]),
    (21, &["GroupNormalization"]),
    (23, &["Attention", "RMSNormalization", "RotaryEmbedding"]),
    (24, &["Swish", "TensorScatter"]),
    (26, &["BitCast", "CumProd"]),
];

/// Operators that take elements of eight bits or fewer.
const SMALL: &[&str] = &[
    "Cast",
    "CastLike",
    "DequantizeLinear",
    "Flatten",
    "Identity",
    "Pad",
    "Reshape",
    "Shape",
    "Size",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Element types of the first input that an operator takes only from some opset after 13 on.
const TYPES: &[(i64, &[DType], &[&str])] = {
    use DType::*;
    &[
        (14, &[I8, I16, U8, U16], &["Add", "Sub", "Mul", "Div"]),
        (14, &[I8, I16, I32, I64], &["Relu"]),
        (14, &[F16, BF16], &["CumSum"]),
        (14, &[BF16], &["BatchNormalization"]),
        (16, &[BF16], &["GreaterOrEqual", "LessOrEqual", "LeakyRelu", "PRelu", "Scan"]),
        (19, &[Str], &["Equal"]),
        (19, &[F16, BF16], &["QuantizeLinear"]),
        (20, &[F16, BF16], &["IsInf"]),
        (20, &[Bool], &["ReduceMax", "ReduceMin"]),
        (21, &[I16, U16], &["DequantizeLinear"]),
        (22, &[BF16], &["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan"]),
        (22, &[BF16], &["AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "LpPool"]),
        (22, &[BF16], &["MaxPool", "MaxUnpool", "RoiAlign", "GRU", "LSTM", "RNN", "Det", "EyeLike", "Round"]),
        (22, &[BF16], &["Elu", "HardSigmoid", "InstanceNormalization", "LpNormalization", "Multinomial", "Selu"]),
        (22, &[BF16], &["NegativeLogLikelihoodLoss", "RandomNormalLike", "RandomUniformLike", "Softplus"]),
        (22, &[BF16], &["Softsign", "ThresholdedRelu", "Bernoulli", "DeformConv", "HardSwish", "Mish", "GridSample"]),
        (19, &[E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ], SMALL),
        (21, &[U4, I4], SMALL),
        (23, &[F4E2M1], SMALL),
        (24, &[E8M0], SMALL),
        (25, &[U2, I2], SMALL),
        (24, &[BF16], &["TopK", "SplitToSequence"]),
        (27, &[F16, BF16], &["Range"]),
    ]
};

/// The lowest opset, from 13 on, in which every node of the graph can be written.
pub(super) fn graph(graph: &Graph) -> i64 {
    let inputs: ValueSet = graph.inputs.iter().copied().collect();
    graph.nodes.iter().map(|n| node(graph, &inputs, n)).max().unwrap_or(LOWEST).max(LOWEST)
}

fn node(g: &Graph, inputs: &ValueSet, n: &Node) -> i64 {
    let inner = n.attrs.graphs().map(|body| graph(body)).max().unwrap_or(LOWEST);
    if !n.domain.is_empty() {
        return inner;
    }
    let listed = |op: &[&str]| op.contains(&n.op.as_str());
    let introduced = INTRODUCED.iter().filter(|(_, ops)| listed(ops)).map(|row| row.0).max();
    let dtype = n.input(0).map(|id| g.value(id).fact.dtype);
    let typed = TYPES.iter().filter(|(_, types, ops)| dtype.is_some_and(|d| types.contains(&d)) && listed(ops));
    let typed = typed.map(|row| row.0).max();
    inner.max(introduced.unwrap_or(LOWEST)).max(typed.unwrap_or(LOWEST)).max(form(g, inputs, n))
}

/// What attributes and inputs need.
fn form(g: &Graph, inputs: &ValueSet, n: &Node) -> i64 {
    let int = |name: &str| n.attrs.int(name).unwrap_or(0);
    let has = |name: &str| n.attrs.get(name).is_some();
    let known = |i: usize| n.input(i).is_none_or(|id| known_ints(g, inputs, id).is_some());
    let any = |rows: &[(bool, i64)]| rows.iter().filter(|row| row.0).map(|row| row.1).max().unwrap_or(LOWEST);
    match n.op.as_str() {
        "Cast" => {
            let to = i32::try_from(int("to")).ok().and_then(DType::from_code);
            let small = TYPES.iter().filter(|row| to.is_some_and(|to| row.1.contains(&to)) && row.2 == SMALL);
            small.map(|row| row.0).max().unwrap_or(LOWEST)
        }
        "Reshape" => any(&[(has("allowzero"), 14)]),
        "BatchNormalization" => any(&[(int("training_mode") != 0, 14)]),
        "LSTM" | "GRU" | "RNN" => any(&[(int("layout") != 0, 14)]),
        "Shape" => any(&[(has("start") || has("end"), 15)]),
        "Where" => any(&[(n.input(1).is_some_and(|id| g.value(id).fact.dtype == DType::BF16), 16)]),
        "ScatterND" | "ScatterElements" => match n.attrs.str("reduction") {
            None | Some("none") => LOWEST,
            Some("add" | "mul") => 16,
            Some(_) => 18,
        },
        "Pad" => any(&[(n.input(3).is_some(), 18), (n.attrs.str("mode") == Some("wrap"), 19)]),
        "Split" => any(&[(has("num_outputs") && splits_unevenly(g, n), 18)]),
        "RoiAlign" => any(&[(n.attrs.str("coordinate_transformation_mode") == Some("half_pixel"), 16)]),
        "LpPool" => any(&[(has("ceil_mode") || has("dilations"), 18)]),
        "AveragePool" => any(&[(has("dilations"), 19)]),
        "Resize" => {
            let newer = has("antialias") || has("axes") || has("keep_aspect_ratio_policy");
            let symmetric = n.attrs.str("coordinate_transformation_mode") == Some("half_pixel_symmetric");
            any(&[(newer, 18), (symmetric, 19)])
        }
        "Attention" => any(&[(n.input(6).is_some(), 24), (has("left_window_size") || has("right_window_size"), 25)]),
        "QuantizeLinear" => {
            let zero = n.input(2).map(|id| g.value(id).fact.dtype);
            let wide = zero.is_some_and(|dtype| matches!(dtype, DType::I16 | DType::U16));
            let small = TYPES.iter().filter(|row| zero.is_some_and(|zero| row.1.contains(&zero)) && row.2 == SMALL);
            any(&[
                (has("saturate"), 19),
                (has("block_size") || has("output_dtype") || wide, 21),
                (has("precision"), 23),
            ])
            .max(small.map(|row| row.0).max().unwrap_or(LOWEST))
        }
        "DequantizeLinear" => {
            let half = n.input(1).is_some_and(|id| matches!(g.value(id).fact.dtype, DType::F16 | DType::BF16));
            any(&[(half, 19), (has("block_size"), 21), (has("output_dtype"), 23)])
        }
        "ReduceSum" => LOWEST,
        op if op.starts_with("Reduce") => any(&[(!known(1) || has("noop_with_empty_axes"), 18)]),
        "DFT" => any(&[(!known(2) || moved_default_axis(g, n), 20)]),
        _ => LOWEST,
    }
}

/// Whether a DFT without an axis is along another one than before opset 20: the one before the last, which was the second.
fn moved_default_axis(g: &Graph, n: &Node) -> bool {
    n.input(2).is_none() && n.input(0).and_then(|id| g.value(id).fact.rank()) != Some(3)
}

/// Whether a Split without sizes is known to have parts that differ.
fn splits_unevenly(g: &Graph, n: &Node) -> bool {
    let Some(shape) = n.input(0).and_then(|id| g.value(id).fact.shape.as_ref()) else { return false };
    let axis = n.attrs.int("axis").unwrap_or(0);
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let size = usize::try_from(axis).ok().and_then(|axis| shape.get(axis)?.fixed());
    size.is_some_and(|size| size % n.outputs.len().max(1) as i64 != 0)
}

/// The elements of an integer value that are the same in every run.
fn known_ints(g: &Graph, inputs: &ValueSet, id: ValueId) -> Option<Vec<i64>> {
    let value = g.value(id);
    if inputs.contains(&id) {
        return None;
    }
    let stated = value.fact.ints.as_deref().and_then(fixed);
    stated.or_else(|| value.data.as_ref().and_then(|t| t.to_i64()))
}

/// A node as some opset writes it.
pub(super) struct Form<'n> {
    pub node: &'n Node,
    pub inputs: Cow<'n, [Option<ValueId>]>,
    pub attrs: Cow<'n, Attrs>,
}

impl<'n> Form<'n> {
    fn newest(node: &'n Node) -> Form<'n> {
        Form { node, inputs: Cow::Borrowed(&node.inputs), attrs: Cow::Borrowed(&node.attrs) }
    }

    /// Every value that is read, captures included.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().chain(&self.node.captures).copied()
    }
}

/// The graph's nodes in the form of an opset; `None`: the internal form.
pub(super) fn forms(g: &Graph, opset: Option<i64>) -> Vec<Form<'_>> {
    let inputs: ValueSet = g.inputs.iter().copied().collect();
    let lower = |node| match opset {
        Some(opset) => lowered(g, &inputs, node, opset),
        None => Form::newest(node),
    };
    g.nodes.iter().map(lower).collect()
}

fn lowered<'n>(g: &Graph, inputs: &ValueSet, node: &'n Node, opset: i64) -> Form<'n> {
    let mut form = Form::newest(node);
    if !node.domain.is_empty() {
        return form;
    }
    let ints = |i: usize| node.input(i).and_then(|id| known_ints(g, inputs, id));
    match node.op.as_str() {
        op if op.starts_with("Reduce") && op != "ReduceSum" && opset < 18 => {
            if let Some(axes) = ints(1) {
                if !axes.is_empty() {
                    form.attrs.to_mut().insert("axes", Attr::Ints(axes));
                }
                form.inputs.to_mut().truncate(1);
            }
        }
        "DFT" if opset < 20 => {
            if let Some(&[axis]) = ints(2).as_deref() {
                form.attrs.to_mut().insert("axis", Attr::Int(axis));
                let inputs = form.inputs.to_mut();
                inputs.truncate(2);
                while inputs.last().is_some_and(Option::is_none) {
                    inputs.pop();
                }
            }
        }
        "Split" if opset < 18 && node.attrs.get("num_outputs").is_some() => {
            form.attrs.to_mut().remove("num_outputs");
        }
        "ScatterND" | "ScatterElements" if opset < 16 && node.attrs.get("reduction").is_some() => {
            form.attrs.to_mut().remove("reduction");
        }
        "RoiAlign" if opset < 16 => {
            form.attrs.to_mut().remove("coordinate_transformation_mode");
        }
        "GridSample" if opset < 20 => {
            let old = match node.attrs.str("mode") {
                Some("linear") => "bilinear",
                Some("cubic") => "bicubic",
                _ => return form,
            };
            form.attrs.to_mut().insert("mode", Attr::from(old));
        }
        _ => {}
    }
    form
}

/// The initialisers that the forms and the outputs read, in the order of their first use. Those that are inputs too
/// stand with the inputs.
pub(super) fn initializers(g: &Graph, forms: &[Form]) -> Vec<ValueId> {
    let inputs: ValueSet = g.inputs.iter().copied().collect();
    let mut seen = ValueSet::default();
    let reads = forms.iter().flat_map(Form::reads).chain(g.outputs.iter().copied());
    reads.filter(|id| g.value(*id).data.is_some() && !inputs.contains(id) && seen.insert(*id)).collect()
}
