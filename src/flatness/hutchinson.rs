//! κ estimated by one random direction (Hutchinson 1990): `E ⟨WR, H[WR]⟩ = κ` for signs `R`.
//!
//! In the graph `δz = V a`, then the second derivative of the loss along `δz` through the head, forward over forward.

use super::exact::Measure;
use super::layer::{Form, Layer};
use crate::ad::{Tape, linearise};
use crate::error::Result;
use crate::ir::{Builder, Dim, Fact, Val};

/// A graph input that is filled with random signs before every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub name: String,
    pub shape: Vec<Dim>,
}

/// An unbiased estimate of κ (of `Tr H`·‖W‖² for the layerwise measure), rank 0.
///
/// Where samples do not meet and the layer acts once a sample, every sample has its own signs `ξ_r`, `δz_r = ‖a_r‖ W ξ_r`;
/// else one matrix of signs `R` serves all, `V = W R`.
pub fn kappa<'g>(
    b: &'g Builder,
    layer: &Layer,
    weight: Val<'g>,
    loss: Val<'g>,
    per_sample: bool,
    measure: Measure,
) -> Result<(Val<'g>, Probe)> {
    let (z, a) = (b.val(layer.output), b.val(layer.activation));
    let columns = Dim::Fixed(match measure {
        Measure::Neuronwise => layer.m,
        Measure::Layerwise => layer.d,
    });
    let shape = match (per_sample, measure) {
        (true, _) => vec![a.dim(0), columns],
        (false, Measure::Neuronwise) => vec![Dim::Fixed(layer.m), Dim::Fixed(layer.m)],
        (false, Measure::Layerwise) => vec![Dim::Fixed(layer.d), Dim::Fixed(layer.m)],
    };
    let probe = b.input(&format!("probe.{}", layer.name), Fact::new(z.dtype(), shape.clone()), None);
    b.scope(&format!("kappa/{}/", layer.name));
    let direction = match (per_sample, measure) {
        (true, Measure::Neuronwise) => scaled(layer, a, probe.matmul(weight.transpose())),
        (true, Measure::Layerwise) => scaled(layer, a, probe),
        (false, Measure::Neuronwise) => layer.apply(a, weight.matmul(probe)),
        (false, Measure::Layerwise) => layer.apply(a, probe),
    };
    let second = second_derivative(b, loss, z, direction)?;
    b.scope(&format!("kappa/{}/", layer.name));
    let value = match measure {
        Measure::Neuronwise => second,
        Measure::Layerwise => weight.square().sum_all() * second,
    };
    Ok((value, Probe { name: probe.name(), shape }))
}

/// `‖a_r‖ v_r`
fn scaled<'g>(layer: &Layer, a: Val<'g>, v: Val<'g>) -> Val<'g> {
    let a = match layer.form {
        Form::Rows { alpha, .. } if alpha != 1.0 => a * f64::from(alpha),
        _ => a,
    };
    // The square root has no slope at 0, where κ has slope 0: a sample whose activations are all 0 is left out.
    let squared = a.square().sum_keep(&[1]);
    let active = squared.gt(squared.like(0.0));
    let norm = active.select(squared, squared.like(1.0)).sqrt();
    v * active.select(norm, norm.like(0.0))
}

/// `D²L[δ, δ]` in `z`.
fn second_derivative<'g>(b: &'g Builder, loss: Val<'g>, z: Val<'g>, direction: Val<'g>) -> Result<Val<'g>> {
    let first = along(b, loss, z, direction)?;
    match first {
        Some(first) => Ok(along(b, first, z, direction)?.unwrap_or_else(|| loss.like(0.0))),
        None => Ok(loss.like(0.0)),
    }
}

fn along<'g>(b: &'g Builder, of: Val<'g>, z: Val<'g>, direction: Val<'g>) -> Result<Option<Val<'g>>> {
    let tape = Tape::new(b);
    let linear = linearise(&tape, &[of], &[z])?;
    Ok(linear.jvp(&[Some(direction)], None).pop().flatten().map(|v| b.val(v.id())))
}
