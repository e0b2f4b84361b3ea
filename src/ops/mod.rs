//! The operators: each contributes its facts, its tangent, its evaluation and its test cases, once.
//!
//! Adding an operator is one file here and one line in [`OPS`].

mod case;
mod cx;
mod elementwise;
mod eval_cx;
mod fact_cx;
mod window;

pub use case::{Case, Input};
pub use conv::geometry_of as conv_geometry;
pub use conv_transpose::geometry_of as conv_transpose_geometry;
pub use cx::Cx;
pub(crate) use einsum::{Equation, Label};
pub use eval_cx::{Array, EvalCx};
pub(crate) use fact_cx::from_front;
pub use fact_cx::{FactCx, Fault};
pub(crate) use recurrent::{Activation, Cell, Settings};
pub(crate) use window::{Windows, inside, positions};

use crate::ad::{Tan, Tape};
use crate::ir::{Attrs, Fact, Val};

/// How an operator is differentiated. Every operator says which; there is no default.
#[derive(Clone, Copy)]
pub enum Tangent {
    /// The tangent of output `cx.output()`, linear in the tangents of the inputs.
    Rule(for<'g> fn(&Cx<'g>) -> Tan<'g>),
    /// The tangents of all outputs, which one map computes together.
    Joint(for<'g> fn(&Cx<'g>) -> Vec<Tan<'g>>),
    /// A rule also for outputs that are integers: they stand for real numbers that were rounded, whose tangent is passed
    /// straight through.
    StraightThrough(for<'g> fn(&Cx<'g>) -> Tan<'g>),
    /// The operator in terms of others, one value an output.
    Lower(for<'g> fn(&Cx<'g>) -> Vec<Val<'g>>),
    /// Constant almost everywhere, or not a function of real numbers.
    Zero,
    /// Not differentiable, by a fact of the operator.
    Blocked(&'static str),
    /// One of the others, as the attributes say.
    Select(fn(&Attrs) -> Tangent),
}

impl Tangent {
    /// How a node with these attributes is differentiated: never `Select`.
    pub fn of(self, attrs: &Attrs) -> Tangent {
        match self {
            Tangent::Select(choose) => choose(attrs).of(attrs),
            other => other,
        }
    }
}

pub struct Op {
    pub name: &'static str,
    /// Facts of the outputs from those of the inputs.
    pub facts: fn(&FactCx) -> Result<Vec<Fact>, Fault>,
    pub tangent: Tangent,
    /// Reference evaluation in f64, slow and obvious.
    pub eval: fn(&EvalCx) -> Result<Vec<Array>, Fault>,
    /// Inputs and attributes that the table-wide tests run.
    pub cases: fn() -> Vec<Case>,
}

macro_rules! ops {
    ($($file:ident { $($op:ident)+ })+) => {
        $(pub(crate) mod $file;)+
        /// Every operator that is read, differentiated, evaluated and emitted.
        pub static OPS: &[&Op] = &[$($(&$file::$op),+),+];
    };
}

ops! {
    activation { CELU ELU GELU HARD_SWISH MISH SELU SOFTPLUS SOFTSIGN SWISH }
    affine_grid { AFFINE_GRID }
    arithmetic { ADD SUB MUL DIV NEG }
    attention { ATTENTION }
    average_pool { AVERAGE_POOL }
    batch_normalization { BATCH_NORMALIZATION }
    bit_cast { BIT_CAST }
    branch { IF }
    cast { CAST CAST_LIKE IDENTITY }
    center_crop_pad { CENTER_CROP_PAD }
    col2im { COL2IM }
    comparison { EQUAL GREATER GREATER_OR_EQUAL LESS LESS_OR_EQUAL }
    compress { COMPRESS NON_ZERO }
    concat { CONCAT SPLIT }
    constant { CONSTANT CONSTANT_OF_SHAPE EYE_LIKE RANGE }
    conv { CONV }
    conv_transpose { CONV_TRANSPOSE }
    cumprod { CUM_PROD }
    cumsum { CUM_SUM }
    deform_conv { DEFORM_CONV }
    det { DET }
    dft { DFT STFT }
    dropout { DROPOUT }
    einsum { EINSUM }
    expand { EXPAND TILE }
    exponential { ERF EXP LOG RECIPROCAL SIGMOID SQRT }
    gather { GATHER GATHER_ELEMENTS GATHER_ND }
    global_pool { GLOBAL_AVERAGE_POOL GLOBAL_MAX_POOL GLOBAL_LP_POOL }
    label_loss { SOFTMAX_CROSS_ENTROPY_LOSS NEGATIVE_LOG_LIKELIHOOD_LOSS }
    grid_sample { GRID_SAMPLE }
    image_decoder { IMAGE_DECODER }
    layer_normalization { LAYER_NORMALIZATION }
    logic { AND BITWISE_AND BITWISE_NOT BITWISE_OR BITWISE_XOR BIT_SHIFT NOT OR XOR }
    lp_pool { LP_POOL }
    matmul { GEMM MATMUL }
    max_pool { MAX_POOL }
    max_roi_pool { MAX_ROI_POOL }
    max_unpool { MAX_UNPOOL }
    mel_weight_matrix { MEL_WEIGHT_MATRIX }
    non_max_suppression { NON_MAX_SUPPRESSION }
    normalization {
        INSTANCE_NORMALIZATION GROUP_NORMALIZATION RMS_NORMALIZATION LP_NORMALIZATION MEAN_VARIANCE_NORMALIZATION LRN
    }
    one_hot { ONE_HOT }
    pad { PAD }
    piecewise { ABS CLIP HARD_SIGMOID LEAKY_RELU PRELU RELU SHRINK THRESHOLDED_RELU }
    power { MOD POW }
    quantize { QUANTIZE_LINEAR DEQUANTIZE_LINEAR DYNAMIC_QUANTIZE_LINEAR }
    quantized_product { CONV_INTEGER MATMUL_INTEGER Q_LINEAR_CONV Q_LINEAR_MATMUL }
    random {
        BERNOULLI MULTINOMIAL RANDOM_NORMAL RANDOM_NORMAL_LIKE RANDOM_UNIFORM RANDOM_UNIFORM_LIKE
    }
    recurrent { LSTM GRU RNN }
    reduce {
        REDUCE_SUM REDUCE_MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_L1 REDUCE_L2 REDUCE_LOG_SUM REDUCE_LOG_SUM_EXP
        REDUCE_SUM_SQUARE
    }
    repeat { LOOP SCAN }
    reshape { RESHAPE FLATTEN SQUEEZE UNSQUEEZE }
    resize { RESIZE }
    roi_align { ROI_ALIGN }
    rotary_embedding { ROTARY_EMBEDDING }
    reverse_sequence { REVERSE_SEQUENCE }
    rounding { CEIL FLOOR IS_INF IS_NAN ROUND SIGN }
    scatter { SCATTER_ELEMENTS SCATTER_ND }
    select { WHERE }
    shape { SHAPE SIZE }
    slice { SLICE }
    softmax { SOFTMAX LOG_SOFTMAX HARDMAX }
    tensor_scatter { TENSOR_SCATTER }
    text { REGEX_FULL_MATCH STRING_CONCAT STRING_NORMALIZER STRING_SPLIT }
    tf_idf_vectorizer { TF_IDF_VECTORIZER }
    top_k { TOP_K ARG_MAX ARG_MIN }
    transpose { TRANSPOSE DEPTH_TO_SPACE SPACE_TO_DEPTH }
    trigonometric { ACOS ACOSH ASIN ASINH ATAN ATANH COS COSH SIN SINH TAN TANH }
    trilu { TRILU }
    unique { UNIQUE }
    variadic { MAX MEAN MIN SUM }
    window_function { BLACKMAN_WINDOW HAMMING_WINDOW HANN_WINDOW }
}

/// The operator of that name in the standard domain.
pub fn lookup(name: &str) -> Option<&'static Op> {
    use foldhash::HashMap;
    use std::sync::LazyLock;
    static BY_NAME: LazyLock<HashMap<&str, &Op>> = LazyLock::new(|| OPS.iter().map(|op| (op.name, *op)).collect());
    BY_NAME.get(name).copied()
}

/// The outputs of the node that computes `val` in terms of other operators, where it is one that is lowered.
pub fn lowered<'g>(tape: &'g Tape<'g>, val: Val<'g>) -> Option<Vec<Val<'g>>> {
    let b = tape.builder;
    let node = b.read(|g| g.value(val.id()).producer.map(|id| g.node(id).clone()))?;
    match lookup(&node.op).filter(|_| node.domain.is_empty())?.tangent.of(&node.attrs) {
        Tangent::Lower(lower) => Some(lower(&Cx::new(b, tape, node, Vec::new(), 0))),
        _ => None,
    }
}

/// Whether equal inputs give equal outputs, so that equal nodes are one.
pub fn is_pure(name: &str) -> bool {
    !name.starts_with("Random") && !matches!(name, "Dropout" | "Multinomial" | "Bernoulli" | "If" | "Loop" | "Scan")
}

/// Whether a node may be asked for fewer outputs than the operator has, without changing the others.
pub fn has_optional_outputs(name: &str) -> bool {
    matches!(name, "MaxPool" | "LayerNormalization" | "SoftmaxCrossEntropyLoss" | "Unique")
}

pub fn is_commutative(name: &str) -> bool {
    matches!(name, "Add" | "Mul" | "And" | "Or" | "Xor" | "Equal")
}
