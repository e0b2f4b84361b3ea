//! What does not hold for every node test, with the reason. The test fails where an entry is missing or no longer true.

use crate::case::{Kind, Remark};

/// What cases of an operator show, and why that is right or cannot be otherwise.
pub struct Exception {
    /// `*`: any.
    pub operator: &'static str,
    /// A pattern of case names, with `*`.
    pub cases: &'static str,
    pub kind: Kind,
    /// A part of the message.
    pub message: &'static str,
    pub reason: &'static str,
}

const fn except(
    operator: &'static str,
    cases: &'static str,
    kind: Kind,
    message: &'static str,
    reason: &'static str,
) -> Exception {
    Exception { operator, cases, kind, message, reason }
}

/// Real inputs that decide shapes: operator, input, reason. They are not differentiated.
const HELD: &[(&str, &str, &str)] = &[
    ("OneHot", "depth", "it is the size of an axis"),
    ("OneHot", "indices", "they are positions"),
    ("Resize", "scales", "they decide the shape"),
    ("Upsample", "scales", "they decide the shape"),
    ("Dropout", "r", "the mask depends on it by jumps"),
    ("Dropout", "t", "the mask depends on it by jumps"),
];

pub fn is_held(operator: &str, input: &str) -> bool {
    HELD.iter().any(|(op, name, _)| *op == operator && *name == input)
}

const DROPS: &str = "random numbers of its own choose what is dropped";
const ELU: &str = "its slope jumps at 0";
const TIES: &str = "equal elements share the place of the largest or smallest";
const WHOLE: &str = "between pixels it is linear, and a place is at one";
const JUMPS: &str = "it jumps at the data";
const KERNEL: &str = "it has no kernel for these types or this opset";
const CAP: &str =
    "its onnx adds the mask before the cap and numbers the scores so; the specification has since been corrected";
const LAYOUT: &str = "it has no kernel for the batch in front";

#[rustfmt::skip]
pub const EXCEPTIONS: &[Exception] = &[
    except("CastLike", "castlike_FLOAT4E2M1_*", Kind::Runtime, "Could not find an implementation", KERNEL),
    except("DequantizeLinear", "dequantizelinear_float4e2m1", Kind::Runtime, "Could not find an implementation", KERNEL),
    except("Scan", "scan_sum", Kind::Unread, "opset 8", "its Scan is of opset 8, which no exporter writes any more"),
    except("LpNormalization", "l2normalization_axis_0", Kind::Forward, "element 5 is 0e0, expected NaN", "a norm of 0: ONNX Runtime and we give 0"),
    except("Dropout", "training_dropout", Kind::Forward, "element", DROPS),
    except("Dropout", "training_dropout_default", Kind::Forward, "element", DROPS),
    except("Dropout", "training_dropout_default_mask", Kind::Forward, "element", DROPS),
    except("Dropout", "training_dropout_mask", Kind::Forward, "element", DROPS),
    except("Elu", "elu_example*", Kind::Kink, "first", ELU),
    except("Selu", "selu_example*", Kind::Kink, "first", ELU),
    except("LeakyRelu", "leakyrelu_example*", Kind::Kink, "first", ELU),
    except("LpNormalization", "l1normalization_axis_last", Kind::Kink, "first", "|x| at 0"),
    except("MaxPool", "maxpool_3d_dilations*", Kind::Kink, "first", TIES),
    except("ReduceMin", "reduce_min_default_axes_keepdims_example", Kind::Kink, "first", TIES),
    except("ScatterND", "scatternd_max", Kind::Kink, "first", TIES),
    except("ScatterND", "scatternd_min", Kind::Kink, "first", TIES),
    except("Softsign", "softsign_example*", Kind::Kink, "second", "the second derivative of x/(1 + |x|) jumps at 0"),
    except("DeformConv", "*", Kind::Kink, "first", WHOLE),
    except("GridSample", "gridsample_*", Kind::Kink, "derivative", WHOLE),
    except("RoiAlign", "roialign_mode_max", Kind::Kink, "first", TIES),
    except("Acosh", "acosh_example", Kind::Moved, "inf", "the slope at 1 is infinite"),
    except("Floor", "floor_example", Kind::Moved, "jump", JUMPS),
    except("Round", "round", Kind::Moved, "jump", JUMPS),
    except("Sign", "sign", Kind::Moved, "element", JUMPS),
    except("Hardmax", "hardmax_one_hot", Kind::Moved, "jump", JUMPS),
    except("ThresholdedRelu", "thresholdedrelu_example*", Kind::Moved, "jump", JUMPS),
    except("GridSample", "gridsample_*nearest*", Kind::Moved, "jump", JUMPS),
    except("RoiAlign", "roialign_aligned_false", Kind::Moved, "jvp along rois", "boxes are at least one pixel wide, and one of them is just that"),
    except("Range", "range_float_type_positive_delta*", Kind::Moved, "shape", "the limit is where one more element begins"),
    except("Pow", "pow", Kind::Wrong, "second derivative", "0 to a power between 1 and 2: the second derivative is infinite"),
    except("ReduceL2", "reduce_l2_empty_set_expanded", Kind::Wrong, "NaN", "the root of an empty sum: an infinite slope times a tangent of 0"),
    except("Pow", "pow_types_float32_uint*", Kind::Runtime, "Could not find an implementation", KERNEL),
    except("OneHot", "onehot_*", Kind::Runtime, "Could not find an implementation", KERNEL),
    except("RoiAlign", "roialign_*", Kind::Runtime, "Could not find an implementation", KERNEL),
    except("ReduceLogSum", "reduce_log_sum_empty_set", Kind::Runtime, "of shape [2, 1, 4]", "its broadcast of an empty axis with one of size 1 gives the latter"),
    except("Resize", "resize_downsample_scales_*_align_corners", Kind::Runtime, "forward", "its coordinates differ from the specification's where an output has one element"),
    except("AffineGrid", "affine_grid_*_expanded", Kind::Wrong, "the rank of tensor", "the branches of its If differ in rank"),
    except("AffineGrid", "affine_grid_*_expanded", Kind::Runtime, "does not load it", "its shape inference refuses the expansion's Range"),
    except("Range", "range_float_type_positive_delta_expanded", Kind::Runtime, "output.cotangent", "in float32 the moved limit gives another number of elements"),
    except("Attention", "attention_4d_diff_heads_mask4d_padded_kv", Kind::Runtime, "forward", "its kernel refuses the padded keys"),
    except("Attention", "attention_4d_*fp16*", Kind::Wrong, "jvp", "the scale, rounded to half precision, is differentiated as it is"),
    except("Attention", "attention_*qk_matmul_bias*", Kind::Forward, "qk_matmul_output", CAP),
    except("Attention", "attention_*qk_matmul_softcap", Kind::Forward, "Y: element", CAP),
    except("Bernoulli", "bernoulli*", Kind::Forward, "element", DROPS),
    except("Col2Im", "col2im*", Kind::Refused, "no derivative", "its sizes are inputs of the model"),
    except("DynamicQuantizeLinear", "dynamicquantizelinear*", Kind::Wrong, "jvp", "its rounding is passed straight through"),
    except("DynamicQuantizeLinear", "dynamicquantizelinear_expanded", Kind::Forward, "2.6e1", "halves round otherwise in float32"),
    except("DynamicQuantizeLinear", "dynamicquantizelinear_min_adjusted_expanded", Kind::Kink, "first", TIES),
    except("GRU", "gru_batchwise", Kind::Runtime, "does not load", LAYOUT),
    except("LSTM", "lstm_batchwise", Kind::Runtime, "does not load", LAYOUT),
    except("RNN", "simple_rnn_batchwise", Kind::Runtime, "does not load", LAYOUT),
    except("MaxUnpool", "maxunpool_export_with_output_shape", Kind::Runtime, "element 5", "it reads the indices as those of a smaller image"),
    except("Unique", "unique_*", Kind::Moved, "shape", "equal elements count once"),
    except("Unique", "unique_*", Kind::Runtime, "invalid dimensions", "equal elements that moved count apart, here and there"),
];

impl Exception {
    pub fn is_of(&self, operator: &str, case: &str) -> bool {
        (self.operator == "*" || self.operator == operator) && matches(self.cases, case)
    }

    pub fn covers(&self, operator: &str, case: &str, remark: &Remark) -> bool {
        self.is_of(operator, case) && self.kind == remark.kind && remark.detail.contains(self.message)
    }
}

/// Whether a pattern with `*` matches a whole name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))),
    }
}
