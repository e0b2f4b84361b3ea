//! Operators of `ai.onnx.ml` that scikit-learn's models of real numbers are exported with.

use super::{Fused, unsupported};
use crate::ir::{Attr, Attrs, DType, Tensor, Val};
use crate::ops::Fault;

type Made<'g> = Result<Vec<Val<'g>>, Fault>;

fn floats(f: &Fused, name: &str) -> Vec<f64> {
    match f.draft.attrs.get(name) {
        Some(Attr::Floats(values)) => values.iter().map(|&v| f64::from(v)).collect(),
        _ => Vec::new(),
    }
}

/// The numbers of an attribute as a vector, or one for all.
fn row<'g>(f: &Fused<'g, '_>, name: &str) -> Result<Val<'g>, Fault> {
    let values = floats(f, name);
    let shape: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
    match values.is_empty() {
        true => Err(unsupported(&format!("attribute {name} is missing"))),
        false => Ok(f.b.constant(Tensor::from_f64(DType::F32, shape, values.iter().copied()))),
    }
}

/// y = (x − offset)·scale
pub fn scaler<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    Ok(vec![(f.x(0)?.cast(DType::F32) - row(f, "offset")?) * row(f, "scale")?])
}

/// y = x / max x, x / Σ|x| or x / √Σx² of each row, as ONNX Runtime has it: a row of zeros stays
pub fn normalizer<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let (x, axes) = (f.x(0)?.cast(DType::F32), [f.shaped(0)?.1.len() as i64 - 1]);
    let norm = match f.draft.attrs.str("norm").unwrap_or("MAX") {
        "MAX" => x.max_keep(&axes),
        "L1" => x.abs().sum_keep(&axes),
        "L2" => {
            let sum = x.square().sum_keep(&axes);
            // Also the root's derivative stays finite at 0.
            sum.equal(sum.like(0.0)).select(sum.like(1.0), sum).sqrt()
        }
        other => return Err(unsupported(&format!("norm {other:?} is not known"))),
    };
    Ok(vec![x / norm.equal(norm.like(0.0)).select(norm.like(1.0), norm)])
}

/// y = x[…, indices]; of one row a matrix
pub fn array_feature_extractor<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let (x, shape) = f.shaped(0)?;
    let indices = f.b.op("Reshape", &[f.x(1)?, f.b.ints(&[-1])], Attrs::new());
    let picked = f.b.op("Gather", &[x, indices], Attrs::new().with("axis", shape.len() as i64 - 1));
    Ok(vec![if shape.len() == 1 { picked.unsqueeze(&[0]) } else { picked }])
}

/// The numbers alone: what they are called is no tensor.
pub fn zip_map<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    Ok(vec![f.x(0)?])
}

/// Rows of scores before they are transformed: `x·Wᵀ + b`, where `W` has so many rows
fn scores<'g>(f: &Fused<'g, '_>, rows: usize) -> Result<Val<'g>, Fault> {
    let (weights, intercepts) = (floats(f, "coefficients"), floats(f, "intercepts"));
    if rows == 0 || weights.is_empty() || weights.len() % rows != 0 {
        return Err(unsupported(&format!("{} coefficients are not those of {rows} outputs", weights.len())));
    }
    let parameter = |name: &str, shape: &[usize], data: Vec<f64>| {
        f.b.initializer(&format!("{}.{name}", f.draft.name), Tensor::from_f64(DType::F32, shape, data))
    };
    let weights = parameter("coefficients", &[rows, weights.len() / rows], weights);
    let mut inputs = vec![Some(f.x(0)?.cast(DType::F32)), Some(weights)];
    if intercepts.len() == rows {
        inputs.push(Some(parameter("intercepts", &[rows], intercepts)));
    }
    Ok(f.b.node("Gemm", &inputs, Attrs::new().with("transB", 1), 1)[0])
}

fn transformed<'g>(f: &Fused<'g, '_>, y: Val<'g>) -> Result<Val<'g>, Fault> {
    match f.draft.attrs.str("post_transform").unwrap_or("NONE") {
        "NONE" => Ok(y),
        "LOGISTIC" => Ok(y.sigmoid()),
        "SOFTMAX" => Ok(f.b.op("Softmax", &[y], Attrs::new().with("axis", 1))),
        other => Err(unsupported(&format!("post_transform {other:?} is not known"))),
    }
}

/// y = transform(x·Wᵀ + b)
pub fn linear_regressor<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let y = scores(f, usize::try_from(f.int("targets", 1)).unwrap_or(0))?;
    Ok(vec![transformed(f, y)?])
}

/// The label of the largest score, and transform(x·Wᵀ + b), a column a class
pub fn linear_classifier<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let labels = match (f.draft.attrs.get("classlabels_ints"), f.draft.attrs.get("classlabels_strings")) {
        (Some(Attr::Ints(labels)), _) => Tensor::ints(&[labels.len()], labels),
        (_, Some(Attr::Strs(labels))) => {
            let none = Tensor::from_bytes(DType::Str, vec![labels.len()], Vec::new());
            Tensor { strings: labels.clone(), ..none }
        }
        _ => return Err(unsupported("the classes have no labels")),
    };
    let y = scores(f, labels.len())?;
    let best = f.b.op("ArgMax", &[y], Attrs::new().with("axis", 1).with("keepdims", 0));
    let label = f.b.op("Gather", &[f.b.constant(labels), best], Attrs::new().with("axis", 0));
    Ok(vec![label, transformed(f, y)?])
}
