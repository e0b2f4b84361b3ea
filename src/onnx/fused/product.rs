//! Products with transposes, scales and activations.

use super::{Fused, unsupported};
use crate::ir::{Attr, Attrs, Val};
use crate::ops::Fault;

type Made<'g> = Result<Vec<Val<'g>>, Fault>;

/// y = α · A·B, of either transposed: in its last two axes, or with its first axis behind the batch axes
pub fn matmul<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let operand = |i: usize, last: &str, batch: &str| -> Result<Val<'g>, Fault> {
        let (mut x, shape) = f.shaped(i)?;
        let rank = shape.len() as i64;
        if f.int(batch, 0) != 0 && rank > 2 {
            let perm: Vec<i64> = (1..rank - 1).chain([0, rank - 1]).collect();
            x = x.permute(&perm);
        }
        Ok(if f.int(last, 0) != 0 && rank > 1 { x.transpose() } else { x })
    };
    let product = operand(0, "transA", "transBatchA")?.matmul(operand(1, "transB", "transBatchB")?);
    let alpha = f.float("alpha", 1.0);
    Ok(vec![if alpha == 1.0 { product } else { product * alpha }])
}

/// y = activation(α A·B + β C)
pub fn gemm<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let names = ["activation", "activation_alpha", "activation_beta", "activation_gamma"];
    let inputs = [f.get(0), f.get(1), f.get(2)];
    let y = f.standard("Gemm", &inputs, f.attrs_without(&names), 1)?[0];
    let parameter = |name: &str| f.draft.attrs.float(name);
    let parameters = [parameter("activation_alpha"), parameter("activation_beta")];
    Ok(vec![activated(f, y, &parameters.into_iter().flatten().collect::<Vec<_>>())?])
}

/// y = activation(x ⋆ w + b + z)
pub fn conv<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    convolution(f, f.x(0)?, f.get(3))
}

/// The same of images whose channels stand last; of the filters they stand second as ever.
pub fn channels_last<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let rank = f.shaped(0)?.1.len() as i64;
    let first: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let last: Vec<i64> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let y = convolution(f, f.x(0)?.permute(&first), f.get(3).map(|z| z.permute(&first)))?;
    Ok(y.into_iter().map(|y| y.permute(&last)).collect())
}

fn convolution<'g>(f: &Fused<'g, '_>, x: Val<'g>, z: Option<Val<'g>>) -> Made<'g> {
    let inputs = [Some(x), f.get(1), f.get(2)];
    let y = f.standard("Conv", &inputs, f.attrs_without(&["activation", "activation_params"]), 1)?[0];
    let y = z.map_or(y, |z| y + z);
    let parameters = match f.draft.attrs.get("activation_params") {
        Some(Attr::Floats(parameters)) => parameters.clone(),
        _ => Vec::new(),
    };
    Ok(vec![activated(f, y, &parameters)?])
}

/// The activation that the node names, with its parameters in the order of the standard operator's.
fn activated<'g>(f: &Fused<'g, '_>, y: Val<'g>, parameters: &[f32]) -> Result<Val<'g>, Fault> {
    let name = f.draft.attrs.str("activation").unwrap_or("");
    let names: &[&str] = match name {
        "" => return Ok(y),
        "Clip" => {
            let bound = |k: usize| parameters.get(k).map(|&v| y.like(f64::from(v)));
            return Ok(f.b.node("Clip", &[Some(y), bound(0), bound(1)], Attrs::new(), 1)[0]);
        }
        "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Softsign" => &[],
        "LeakyRelu" | "Elu" | "ThresholdedRelu" => &["alpha"],
        "HardSigmoid" => &["alpha", "beta"],
        _ => return Err(unsupported(&format!("activation {name:?} is not known"))),
    };
    let attrs = names.iter().zip(parameters).fold(Attrs::new(), |attrs, (name, &value)| attrs.with(name, value));
    Ok(f.b.op(name, &[y], attrs))
}
