//! The gradient of every parameter: against central differences in float64, and in float32 against float64.

use super::difference::{Difference, norm};
use super::double::{Double, Feeds};
use super::sample::{Random, float64};
use super::{Case, Check, Options, What, on_cpu};
use crate::artifact::manifest::Layer;
use crate::error::Result;
use crate::runtime::{Runtime, Session};
use crate::tensor::{Tensor, Tensors};

/// Derivatives along a direction: relative to the slope, or to the gradient's usual slope along a random direction.
const SLOPE: f64 = 1e-5;
/// Differences that are further apart say nothing.
const UNSETTLED: f64 = 1e-3;
/// Float32 gradients, in norm.
const FLOAT32: f64 = 1e-4;
/// A gradient is small where it is less than this part of the whole one.
const SMALL: f64 = 1e-2;
/// Figures in float32.
const FIGURE: f64 = 1e-4;

/// Everything that is moved, by name, each with its direction.
type Direction = Vec<(String, Vec<f64>)>;

/// How far a slope is from the expected one and how well the differences know it, both relative.
#[derive(Clone, Copy)]
struct Gap {
    off: f64,
    error: f64,
}

impl Gap {
    fn limit(self) -> f64 {
        SLOPE + 4.0 * self.error
    }

    /// The one that is further outside its limit; NaN is furthest.
    fn or(self, other: Gap) -> Gap {
        let ratio = |gap: Gap| gap.off / gap.limit();
        if ratio(other) <= ratio(self) { self } else { other }
    }

    fn check(self, name: &str, size: f64) -> Check {
        if self.error > UNSETTLED {
            let reason = "the objective has a kink or a jump so close that differences do not settle".to_string();
            return Check::not_compared(What::Gradient, name, size, reason);
        }
        Check::new(What::Gradient, name, size, self.off, self.limit())
    }
}

struct Gradients {
    /// By parameter, in the order of the manifest.
    wide: Vec<(String, Vec<f64>)>,
    /// Norm over all of them.
    whole: f64,
}

/// The checks, and what computed in float64.
pub(super) fn checks(
    case: &Case,
    runtime: &Runtime,
    options: &Options,
    random: &mut Random,
) -> Result<(Vec<Check>, &'static str)> {
    let graph = &case.manifest().graphs.gradient;
    let pairs: Vec<(&String, &String)> = graph.gradients.iter().collect();
    let outputs: Vec<String> = pairs.iter().map(|(_, output)| output.to_string()).collect();
    let mut double = Double::new(runtime, &case.gradient, &outputs, &case.wide)?;
    let found = double.run(feeds(case, &Tensors::new()))?;
    let wide: Vec<(String, Vec<f64>)> = pairs.iter().map(|(name, _)| name.to_string()).zip(found).collect();
    let whole = norm(&wide.iter().map(|(_, g)| norm(g)).collect::<Vec<f64>>());
    let gradients = Gradients { wide, whole };
    let mut checks = by_differences(case, runtime, options, random, &gradients)?;
    checks.extend(in_float32(case, runtime, &gradients)?);
    Ok((checks, double.engine()))
}

fn feeds<'a>(case: &'a Case, changed: &'a Tensors) -> Feeds<'a> {
    Feeds { base: &case.wide, changed }
}

/// One check a parameter, and one of all parameters together.
fn by_differences(
    case: &Case,
    runtime: &Runtime,
    options: &Options,
    random: &mut Random,
    gradients: &Gradients,
) -> Result<Vec<Check>> {
    let mut slopes = Slopes::new(case, runtime, gradients.whole)?;
    let mut checks = Vec::new();
    for (name, gradient) in &gradients.wide {
        checks.push(match slopes.detached_layer(name) {
            Some(layer) => slopes.along_the_weight(&layer, gradient)?,
            None => slopes.check(name, &[(name.clone(), gradient.as_slice())], options, random)?,
        });
    }
    if !slopes.detached {
        let all: Vec<(String, &[f64])> = gradients.wide.iter().map(|(n, g)| (n.clone(), g.as_slice())).collect();
        checks.push(slopes.check("all parameters", &all, options, random)?);
    }
    Ok(checks)
}

/// Slopes of the objective by differences.
struct Slopes<'a> {
    case: &'a Case,
    runtime: &'a Runtime,
    objective: Double,
    /// Norm of the whole gradient.
    whole: f64,
    /// The gradient has the traces as constants, so that it is no gradient of the objective.
    detached: bool,
}

impl<'a> Slopes<'a> {
    fn new(case: &'a Case, runtime: &'a Runtime, whole: f64) -> Result<Slopes<'a>> {
        let graph = &case.manifest().graphs.gradient;
        let detached = case.manifest().options.get("detach_trace").and_then(serde_json::Value::as_bool) == Some(true);
        let detached = detached && !graph.kappa.is_empty();
        let of = if detached { &graph.loss } else { &graph.objective };
        let objective = Double::new(runtime, &case.gradient, std::slice::from_ref(of), &case.wide)?;
        Ok(Slopes { case, runtime, objective, whole, detached })
    }

    /// The worst of some random directions.
    fn check(
        &mut self,
        name: &str,
        gradients: &[(String, &[f64])],
        options: &Options,
        random: &mut Random,
    ) -> Result<Check> {
        let size = norm(&gradients.iter().map(|(_, g)| norm(g)).collect::<Vec<f64>>());
        // What a slope usually is: that of each parameter along independent signs.
        let usual = |(name, g): &(String, &[f64])| self.scale(name) * norm(g).max(SMALL * self.whole);
        let usual = norm(&gradients.iter().map(usual).collect::<Vec<f64>>());
        let mut worst: Option<Gap> = None;
        for _ in 0..options.directions.max(1) {
            let signs = |(name, g): &(String, &[f64])| {
                let scale = self.scale(name);
                (name.clone(), g.iter().map(|_| scale * random.sign()).collect())
            };
            let direction: Direction = gradients.iter().map(signs).collect();
            let expected: f64 = gradients.iter().zip(&direction).map(|((_, g), (_, v))| dot(g, v)).sum();
            let gap = self.gap(&direction, expected, usual)?;
            worst = Some(worst.map_or(gap, |worst| worst.or(gap)));
        }
        Ok(worst.unwrap_or(Gap { off: f64::NAN, error: 0.0 }).check(name, size))
    }

    /// How far the slope along `direction` is from `expected`.
    fn gap(&mut self, direction: &Direction, expected: f64, usual: f64) -> Result<Gap> {
        let found = Difference::of(|t| Ok(vec![self.moved(direction, t)?]))?;
        let gap = (found.value.first().copied().unwrap_or(f64::NAN) - expected).abs();
        let size = Some(expected.abs().max(usual)).filter(|size| *size != 0.0).unwrap_or(1.0);
        Ok(Gap { off: gap / size, error: found.error / size })
    }

    fn moved(&mut self, direction: &Direction, t: f64) -> Result<f64> {
        let changed = direction.iter().map(|(name, v)| {
            let base = self.case.wide.get(name);
            let shape = base.map(|b| b.shape().to_vec()).unwrap_or_default();
            let moved = base.into_iter().flat_map(Tensor::iter_f64).zip(v).map(|(x, v)| x + t * v).collect();
            Ok((name.clone(), float64(shape, moved)?))
        });
        let changed = changed.collect::<Result<Tensors>>()?;
        self.objective.scalar(feeds(self.case, &changed))
    }

    /// The usual size of a parameter's elements.
    fn scale(&self, name: &str) -> f64 {
        let values: Vec<f64> = self.case.wide.get(name).map(|t| t.iter_f64().collect()).unwrap_or_default();
        (norm(&values) / (values.len().max(1) as f64).sqrt()).max(1e-3)
    }

    /// The layer whose weight `name` is, where its gradient is not that of the loss.
    fn detached_layer(&self, name: &str) -> Option<Layer> {
        let layer = self.case.manifest().layers.iter().find(|l| l.weight == name && l.lambda_input.is_some());
        layer.filter(|_| self.detached).cloned()
    }

    /// κ with detached traces is quadratic in `W`: along `W` itself the slope of `λκ` is `2λκ` (Euler).
    fn along_the_weight(&mut self, layer: &Layer, gradient: &[f64]) -> Result<Check> {
        let at = self.case.manifest().layers.iter().position(|l| l.name == layer.name).unwrap_or(0);
        let graph = &self.case.manifest().graphs.gradient;
        let kappa = graph.kappa.get(at).cloned().unwrap_or_default();
        let kappa = Double::new(self.runtime, &self.case.gradient, &[kappa], &self.case.wide)?
            .scalar(feeds(self.case, &Tensors::new()))?;
        let weight: Vec<f64> = self.case.wide.get(&layer.weight).map(|t| t.iter_f64().collect()).unwrap_or_default();
        let expected = dot(gradient, &weight) - 2.0 * f64::from(layer.lambda as f32) * kappa;
        let usual = norm(gradient).max(SMALL * self.whole) * self.scale(&layer.weight);
        let gap = self.gap(&vec![(layer.weight.clone(), weight)], expected, usual)?;
        Ok(gap.check(&layer.weight, norm(gradient)))
    }
}

/// The gradient that ONNX Runtime computes in float32, parameter by parameter, and the figures beside it.
fn in_float32(case: &Case, runtime: &Runtime, gradients: &Gradients) -> Result<Vec<Check>> {
    let graph = &case.manifest().graphs.gradient;
    let path = case.weights.graphs.join(&graph.path);
    let mut session = Session::from_file(runtime, &path, &on_cpu())?;
    let outputs: Vec<&str> = graph.gradients.values().map(String::as_str).collect();
    let names: Vec<String> = session.inputs().iter().map(|port| port.name.clone()).collect();
    let given: Vec<(&str, &Tensor)> =
        names.iter().filter_map(|name| Some((name.as_str(), case.fed.get(name)?))).collect();
    let narrow = session.run(&given, &outputs)?;
    let mut checks = Vec::new();
    for ((name, wide), narrow) in gradients.wide.iter().zip(&narrow) {
        let difference: Vec<f64> = narrow.iter_f64().zip(wide).map(|(a, b)| a - b).collect();
        let size = norm(wide).max(SMALL * gradients.whole);
        let off = if size == 0.0 { norm(&difference) } else { norm(&difference) / size };
        checks.push(Check::new(What::GradientInFloat32, name, norm(wide), off, FLOAT32));
    }
    let figures: Vec<String> =
        [graph.loss.clone()].into_iter().chain(graph.kappa.clone()).chain([graph.objective.clone()]).collect();
    let wanted: Vec<&str> = figures.iter().map(String::as_str).collect();
    let narrow = session.run(&given, &wanted)?;
    let wide = Double::new(runtime, &case.gradient, &figures, &case.wide)?.run(feeds(case, &Tensors::new()))?;
    for ((name, narrow), wide) in figures.iter().zip(&narrow).zip(&wide) {
        let first = |values: &[f64]| values.first().copied().unwrap_or(f64::NAN);
        let (narrow, wide) = (first(&narrow.iter_f64().collect::<Vec<f64>>()), first(wide));
        let off = (narrow - wide).abs() / wide.abs().max(f64::MIN_POSITIVE);
        checks.push(Check::new(What::InFloat32, name, wide, off, FIGURE));
    }
    Ok(checks)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
