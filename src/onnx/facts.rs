//! Facts of values that neither our operators nor the file know: element types by rule, shapes by tract.

use super::apart;
use super::dims::Symbols;
use super::types::is_made_up;
use crate::ir::{Attr, DType, Dim, Fact, Graph, Node, Val};
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{Factoid, InferenceModelExt};

pub(super) type Declared = HashMap<String, Fact>;

/// tract copies the whole model; above this size it is not asked.
const TRACT_LIMIT: usize = 256 << 20;

/// The element types of a node's outputs, the last one for all further outputs.
pub(super) struct Types {
    types: Vec<DType>,
    /// Whether the operator's definition says so; else the first input's type is assumed.
    pub certain: bool,
}

impl Types {
    pub fn output(&self, k: usize) -> DType {
        self.types.get(k).or(self.types.last()).copied().unwrap_or(DType::F32)
    }
}

pub(super) fn dtypes(node: &Node, inputs: &[Option<Val>]) -> Types {
    let input = |i: usize| inputs.get(i).copied().flatten().map_or(DType::F32, Val::dtype);
    let named = |attr: &str| node.attrs.int(attr).and_then(|c| DType::from_code(i32::try_from(c).ok()?));
    let types = match node.op.as_str() {
        _ if !node.domain.is_empty() => None,
        "Cast" | "RandomNormal" | "RandomUniform" => {
            let attr = if node.op == "Cast" { "to" } else { "dtype" };
            Some(vec![named(attr).unwrap_or(DType::F32)])
        }
        "CastLike" | "Where" => Some(vec![input(1)]),
        "RandomNormalLike" | "RandomUniformLike" | "EyeLike" | "Bernoulli" => {
            Some(vec![named("dtype").unwrap_or(input(0))])
        }
        "ConstantOfShape" => match node.attrs.get("value") {
            Some(Attr::Tensor(t)) => Some(vec![t.dtype]),
            _ => Some(vec![DType::F32]),
        },
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression" => Some(vec![DType::I64]),
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not" | "IsNaN"
        | "IsInf" => Some(vec![DType::Bool]),
        "TopK" | "MaxPool" | "Unique" => Some(vec![input(0), DType::I64]),
        "Dropout" => Some(vec![input(0), DType::Bool]),
        "OneHot" => Some(vec![input(2)]),
        "Add" | "Sub" | "Mul" | "Div" | "MatMul" | "Gemm" | "Conv" | "Relu" | "Reshape" | "Transpose" | "Identity"
        | "Concat" | "Gather" | "Slice" | "Squeeze" | "Unsqueeze" | "Expand" | "Flatten" | "Split" | "Range"
        | "Pad" | "Neg" | "Softmax" | "Tile" => Some(vec![input(0)]),
        _ => None,
    };
    match types {
        Some(types) => Types { types, certain: true },
        None if matches!(node.op.as_str(), "If" | "Loop" | "Scan") => {
            Types { types: super::bodies::dtypes(node), certain: false }
        }
        None => Types { types: vec![input(0)], certain: false },
    }
}

/// Whether some float value that a node computes lacks a rank or a dimension, and tract may know it: it takes the
/// branches of an `If` for alike, so it is not asked where there are subgraphs.
pub(super) fn wanting(graph: &Graph) -> bool {
    let flat = graph.nodes.iter().all(|n| n.attrs.graphs().next().is_none());
    flat && graph.values.iter().any(|v| {
        let open = || v.fact.shape.as_ref().is_none_or(|dims| dims.iter().any(is_made_up));
        v.producer.is_some() && v.fact.dtype.is_float() && open()
    })
}

/// What tract infers from the file, by value name; nothing where it gives up. `external`: bytes of data beside the file.
pub(super) fn inferred(bytes: &[u8], external: usize, dir: Option<&Path>, symbols: &Symbols) -> Declared {
    if bytes.len() + external > TRACT_LIMIT {
        return Declared::new();
    }
    match apart::program() {
        Some(program) => apart::ask(program, bytes, dir, symbols).unwrap_or_default(),
        None => quietly(|| infer(bytes, dir, symbols).unwrap_or_default()).unwrap_or_default(),
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; `None` if it panics, without the message that a panic prints.
fn quietly<T>(f: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(f)).ok();
    QUIET.set(false);
    result
}

pub(super) fn infer(bytes: &[u8], dir: Option<&Path>, symbols: &Symbols) -> TractResult<Declared> {
    let onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let proto = onnx.proto_model_for_read(&mut &*bytes)?;
    let dir = dir.and_then(Path::to_str);
    let mut model = onnx.parse(&proto, dir)?.model;
    // An error ends the analysis at the node it concerns; what was found before stays.
    let _ = model.analyse(true);
    let mut found = Declared::new();
    for (outlet, name) in &model.outlet_labels {
        let Ok(fact) = model.outlet_fact(*outlet) else { continue };
        let Some(dtype) = fact.datum_type.concretize().and_then(dtype) else { continue };
        let Some(dims) = fact.shape.concretize() else { continue };
        let dims: Option<Vec<Dim>> = dims.iter().map(|d| dim(d, symbols)).collect();
        if let Some(dims) = dims {
            found.insert(name.clone(), Fact::new(dtype, dims));
        }
    }
    Ok(found)
}

fn dtype(found: DatumType) -> Option<DType> {
    Some(match found {
        DatumType::F16 => DType::F16,
        DatumType::F32 => DType::F32,
        DatumType::F64 => DType::F64,
        DatumType::I8 => DType::I8,
        DatumType::I16 => DType::I16,
        DatumType::I32 => DType::I32,
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::U8 => DType::U8,
        DatumType::U16 => DType::U16,
        DatumType::U32 => DType::U32,
        DatumType::U64 => DType::U64,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}

fn dim(found: &TDim, symbols: &Symbols) -> Option<Dim> {
    if let Some(n) = found.as_i64() {
        return Some(Dim::Fixed(n));
    }
    Some(match found {
        TDim::Val(n) => Dim::Fixed(*n),
        TDim::Sym(symbol) => symbols.dim(&symbol.to_string()),
        TDim::Add(terms) => terms.iter().try_fold(Dim::Fixed(0), |sum, term| Some(sum + dim(term, symbols)?))?,
        TDim::Mul(factors) => {
            factors.iter().try_fold(Dim::Fixed(1), |product, factor| Some(product * dim(factor, symbols)?))?
        }
        TDim::MulInt(n, factor) => Dim::Fixed(*n) * dim(factor, symbols)?,
        TDim::Div(of, by) => dim(of, symbols)?.div_floor(i64::try_from(*by).ok()?),
        _ => return None,
    })
}
