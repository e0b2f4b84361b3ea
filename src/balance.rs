//! λ from a ratio: so that `‖λ∇κ‖` is a given part of `‖∇L‖` on the first batches of the data.

use crate::artifact::manifest::Manifest;
use crate::artifact::{Options, Plan};
use crate::error::{Error, Result};
use crate::onnx;
use crate::runtime::{self, Bound, Feed, Runtime, Session};
use crate::tensor::{DType, Tensor, Tensors};
use crate::train::data::{self, Dataset, Spec};
use crate::train::{self, Probes};
use serde_json::{Value, json};
use std::path::Path;

/// Batches that the norms are medians over.
pub const BATCHES: usize = 8;

/// λ of one layer and what it follows from.
#[derive(Clone, Debug, PartialEq)]
pub struct Balanced {
    /// As the layer was named.
    pub layer: String,
    pub ratio: f64,
    /// Median of `‖∇L‖` over the batches, all trained parameters together.
    pub loss_norm: f64,
    /// Median of `‖∇κ‖`.
    pub kappa_norm: f64,
    /// `ratio · loss_norm / kappa_norm`
    pub lambda: f64,
    pub batches: usize,
    pub batch_size: usize,
}

impl Balanced {
    /// As the manifest keeps it.
    pub fn record(&self) -> Value {
        json!({
            "layer": self.layer, "ratio": self.ratio, "lambda": self.lambda,
            "loss_gradient_norm": self.loss_norm, "kappa_gradient_norm": self.kappa_norm,
            "statistic": "median", "batches": self.batches, "batch_size": self.batch_size,
        })
    }
}

/// What the batches are taken from.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    pub path: &'a Path,
    pub how: &'a data::Options,
    pub size: usize,
}

/// λ of every layer that has a ratio. `plan` is the artifact with any λ above 0 at these layers; `ratios` go with its layers,
/// named as in `options`.
///
/// # Errors
/// [`Error::NoKappaGradient`] if κ of a layer has no slope or one that is not finite; data that do not fit; what ONNX Runtime
/// reports.
pub fn balance(
    plan: &Plan,
    options: &Options,
    ratios: &[Option<f64>],
    batches: Batches<'_>,
    runtime: &Runtime,
    on: &runtime::Options,
) -> Result<Vec<Balanced>> {
    let mut scale = Scale::open(plan, batches, runtime, on)?;
    let mut balanced = Vec::new();
    let loss: Vec<Vec<Vec<f64>>> = scale.parts().map(|part| scale.gradients(part, None)).collect::<Result<_>>()?;
    let norms: Vec<f64> = loss.iter().map(|gradients| norm(gradients)).collect();
    for ((layer, (name, _)), ratio) in plan.manifest.layers.iter().zip(&options.layers).zip(ratios) {
        let (Some(ratio), Some(input)) = (ratio, &layer.lambda_input) else { continue };
        let kappa_norm = median(scale.kappa_norms(input, &loss, &norms)?);
        let loss_norm = median(norms.clone());
        let lambda = f64::from((ratio * loss_norm / kappa_norm) as f32);
        if !(kappa_norm > 0.0 && lambda.is_finite()) {
            let layer = layer.name.clone();
            return Err(Error::NoKappaGradient { layer, kappa_norm, loss_norm });
        }
        balanced.push(Balanced {
            layer: name.clone(),
            ratio: *ratio,
            loss_norm,
            kappa_norm,
            lambda,
            batches: loss.len(),
            batch_size: scale.size,
        });
    }
    Ok(balanced)
}

/// `gradient.onnx` open, with the first batches.
struct Scale<'a> {
    manifest: &'a Manifest,
    bound: Bound,
    probes: Probes,
    data: Dataset,
    size: usize,
    count: usize,
}

impl<'a> Scale<'a> {
    fn open(plan: &'a Plan, batches: Batches<'_>, runtime: &Runtime, on: &runtime::Options) -> Result<Scale<'a>> {
        let manifest = &plan.manifest;
        let graph = |file: &str| {
            let found = plan.graphs.iter().find(|(name, _)| *name == file);
            let missing = || Error::BrokenGraph { what: format!("the artifact has no {file}") };
            let (name, model) = found.ok_or_else(missing)?;
            Ok::<Session, Error>(Session::from_bytes(runtime, name, &onnx::to_bytes(model), on)?)
        };
        let spec = Spec::of(manifest, &graph(&manifest.graphs.evaluate.path)?)?;
        let mut source = data::read(batches.path, batches.how).map_err(train::Error::from)?;
        let data = Dataset::new(&mut source, &spec).map_err(train::Error::from)?;
        let size = spec.batch.unwrap_or(batches.size.min(data.samples()));
        let count = (data.samples() / size.max(1)).min(BATCHES);
        if count == 0 {
            return Err(train::Error::NoFullBatch { samples: data.samples(), batch: size }.into());
        }
        let session = graph(&manifest.graphs.gradient.path)?;
        let probes = Probes::for_evaluation(manifest, &session, 0)?;
        let outputs: Vec<&str> = manifest.graphs.gradient.gradients.values().map(String::as_str).collect();
        let mut bound = Bound::new(session, &outputs)?;
        let held = plan
            .tensors
            .iter()
            .map(|(name, t)| Ok((name.clone(), Tensor::new(t.dtype, t.shape.clone(), t.bytes.to_vec())?)));
        bound.hold(&held.collect::<Result<Tensors>>()?)?;
        Ok(Scale { manifest, bound, probes, data, size, count })
    }

    /// The numbers of the batches.
    fn parts(&self) -> std::ops::Range<usize> {
        0..self.count
    }

    /// The gradient of every parameter on one batch, λ being 0 but for one input.
    fn gradients(&mut self, part: usize, lambda: Option<(&str, f64)>) -> Result<Vec<Vec<f64>>> {
        let indices: Vec<usize> = (part * self.size..(part + 1) * self.size).collect();
        for column in self.data.columns() {
            let tensor = self.data.gather(column, &indices).map_err(train::Error::from)?;
            self.bound
                .feed(&column.name, tensor.dtype(), tensor.shape(), |bytes| bytes.copy_from_slice(tensor.data()))?;
        }
        for input in self.manifest.layers.iter().filter_map(|layer| layer.lambda_input.as_deref()) {
            let value = lambda.filter(|(name, _)| *name == input).map_or(0.0, |(_, value)| value);
            self.bound.feed(input, DType::F32, &[], |bytes| bytes.copy_from_slice(&(value as f32).to_le_bytes()))?;
        }
        self.probes.feed(&mut self.bound, part as u64, self.size)?;
        Ok(self.bound.run()?.iter().map(|t| t.iter_f64().collect()).collect())
    }

    /// `‖∇κ‖` on each batch: `‖∇(L + cκ) − ∇L‖ / c`, with `c` such that both parts are of a size and nothing cancels.
    fn kappa_norms(&mut self, input: &str, loss: &[Vec<Vec<f64>>], norms: &[f64]) -> Result<Vec<f64>> {
        let mut found = Vec::new();
        for part in self.parts() {
            let mut factor = 1.0;
            let mut size = self.kappa_norm(input, factor, part, &loss[part])?;
            for _ in 0..2 {
                let even = norms[part] / size;
                if !even.is_finite() || even <= 0.0 || (0.1..10.0).contains(&(even / factor)) {
                    break;
                }
                factor = even;
                size = self.kappa_norm(input, factor, part, &loss[part])?;
            }
            found.push(size);
        }
        Ok(found)
    }

    fn kappa_norm(&mut self, input: &str, factor: f64, part: usize, loss: &[Vec<f64>]) -> Result<f64> {
        let both = self.gradients(part, Some((input, factor)))?;
        let differences: Vec<Vec<f64>> = both
            .iter()
            .zip(loss)
            .map(|(both, loss)| both.iter().zip(loss).map(|(b, l)| (b - l) / f64::from(factor as f32)).collect())
            .collect();
        Ok(norm(&differences))
    }
}

fn norm(gradients: &[Vec<f64>]) -> f64 {
    gradients.iter().flatten().map(|v| v * v).sum::<f64>().sqrt()
}

/// The middle value, or the mean of the two in the middle; NaN where one is.
fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() || values.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
