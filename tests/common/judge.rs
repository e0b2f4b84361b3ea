//! Whether derivatives are right: emitted `jvp` and `grad` models against differences of the interpreter's results, against
//! each other, and run by ONNX Runtime.
#![allow(dead_code)]

use std::collections::HashMap;

use fam_onnx::ad::{Differentiated, grad_model, jvp_model};
use fam_onnx::eval::evaluate;
use fam_onnx::ir::{DType, Model};
use fam_onnx::ops::Array;
use fam_onnx::tensor::{Tensor as HostTensor, Tensors};
use ndarray::ArrayD;

use super::step::{exceeds, open};

/// Inputs by name.
pub type Data = HashMap<String, Array>;

/// The step of the differences in double precision: rounding makes an error of 1e-10 of the value, a jump of the second
/// derivative one of half the step.
const STEP: f64 = 1e-6;
/// How far a derivative may be from its difference, relative to the largest element or 1.
const TOLERANCE: f64 = 2e-6;
/// How far gradient and tangent may be from being each other's adjoint: constants of a float32 model are rounded.
const ADJOINT: f64 = 1e-6;
/// One-sided differences that are further apart, relative to the largest element, tell a kink.
const KINK: f64 = 1e-3;
/// How far a derivative may lie outside of its one-sided differences, whose error is of the order of the step.
const ONE_SIDED: f64 = 1e-4;
/// Steps for whole models, tried in turn: a larger one crosses kinks of more activations, a smaller one is lost in rounding.
/// A wrong derivative agrees at none.
const SMALL_STEPS: [f64; 4] = [1e-9, 1e-7, 1e-10, 1e-6];
/// How far the tangent of a whole model may be from the differences, relative to its norm.
const WHOLE: f64 = 1e-4;
/// Coordinates that are looked at one by one around a kink.
const COORDINATES: usize = 40;

/// Numbers from a linear congruential generator, the same everywhere.
pub struct Numbers(pub u64);

impl Numbers {
    /// In `low..high`, and exact in float32.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from((low + (high - low) * (self.0 >> 40) as f64 / (1u64 << 24) as f64) as f32)
    }

    /// In −1..1, of the type and shape of `array`.
    pub fn like(&mut self, array: &Array) -> Array {
        Array::new(array.dtype, array.data.mapv(|_| self.uniform(-1.0, 1.0)))
    }
}

/// What is differentiated, and where.
pub struct Problem<'a> {
    pub model: &'a Model,
    pub of: &'a str,
    pub wrt: &'a [String],
    pub at: &'a Data,
}

/// Both derivatives, and the data that they read beside the problem's.
pub struct Derivatives {
    pub grad: Differentiated,
    pub jvp: Differentiated,
    pub data: Data,
    /// Whether the function has a kink at the data: then the derivative lies between its one-sided differences.
    pub kink: bool,
}

/// Outputs of a model by name, as the interpreter computes them.
pub fn outputs(model: &Model, data: &Data) -> Result<Data, String> {
    let mut values = evaluate(&model.graph, data).map_err(|e| format!("interpreter: {e}"))?;
    let graph = &model.graph;
    let mut named = |id| (graph.name_of(id).to_string(), values.remove(&id));
    let all: Vec<_> = graph.outputs.iter().map(|&id| named(id)).collect();
    Ok(all.into_iter().filter_map(|(name, array)| Some((name, array?))).collect())
}

/// One value of a model.
fn value(model: &Model, name: &str, data: &Data) -> Result<Array, String> {
    outputs(model, data)?.remove(name).ok_or(format!("there is no output {name}"))
}

/// The data of `wrt`, also where that is an initialiser.
fn point(model: &Model, name: &str, data: &Data) -> Result<Array, String> {
    if let Some(array) = data.get(name) {
        return Ok(array.clone());
    }
    let graph = &model.graph;
    let stored = graph.find(name).and_then(|id| graph.value(id).data.as_ref()).ok_or(format!("{name} has no data"))?;
    Array::from_tensor(stored).map_err(|e| e.to_string())
}

impl Problem<'_> {
    fn moved(&self, along: &Data, step: f64) -> Result<ArrayD<f64>, String> {
        let mut data = self.at.clone();
        for (name, v) in along {
            let x = point(self.model, name, self.at)?;
            data.insert(name.clone(), Array::new(x.dtype, &x.data + &(&v.data * step)));
        }
        Ok(value(self.model, self.of, &data)?.data)
    }

    /// Differences to both sides.
    fn differences(&self, along: &Data) -> Result<[ArrayD<f64>; 2], String> {
        let here = value(self.model, self.of, self.at)?.data;
        let (before, after) = (self.moved(along, -STEP)?, self.moved(along, STEP)?);
        if before.shape() != here.shape() || after.shape() != here.shape() {
            return Err("the shape of the result depends on the elements".to_string());
        }
        Ok([(&here - &before) / STEP, (&after - &here) / STEP])
    }

    /// For a whole model: both derivatives along one random direction in everything. A step may cross kinks of single
    /// activations, so that the norm of all is what agrees, at one of the steps. Gives the cotangent and tangents that it
    /// used.
    pub fn along_one_direction(
        &self,
        grad: &Differentiated,
        jvp: &Differentiated,
        numbers: &mut Numbers,
    ) -> Result<Data, String> {
        let mut along = Data::new();
        for name in self.wrt {
            along.insert(name.clone(), numbers.like(&point(self.model, name, self.at)?));
        }
        let found = self.tangent(jvp, &along)?;
        let norm = |array: &ArrayD<f64>| array.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut faults = Vec::new();
        for step in SMALL_STEPS {
            let across = (self.moved(&along, step)? - self.moved(&along, -step)?) / (2.0 * step);
            let (off, size) = (norm(&(&found - &across)), norm(&across));
            if !exceeds(off, WHOLE * size.max(1e-6)) {
                return self.adjoint(grad, jvp, &along, numbers);
            }
            faults.push(format!("by {off:.1e} of {size:.1e} at a step of {step:e}"));
        }
        Err(format!("jvp is off the differences {}", faults.join(", ")))
    }

    fn tangent(&self, jvp: &Differentiated, along: &Data) -> Result<ArrayD<f64>, String> {
        let mut data = self.at.clone();
        for (name, input) in self.wrt.iter().zip(&jvp.inputs) {
            let zeros = || point(self.model, name, self.at).map(|x| Array::new(x.dtype, x.data.mapv(|_| 0.0)));
            let v = along.get(name).map_or_else(zeros, |v| Ok(v.clone()))?;
            data.insert(input.clone(), v);
        }
        Ok(value(&jvp.model, &jvp.outputs[0], &data)?.data)
    }

    /// Emits both derivatives and checks them: the tangent against differences along random directions, the gradient
    /// against the tangent, `⟨u, J v⟩ = ⟨Jᵀ u, v⟩`.
    pub fn check(&self, numbers: &mut Numbers) -> Result<Derivatives, String> {
        let grad = grad_model(self.model, self.of, self.wrt).map_err(|e| format!("grad: {e}"))?;
        let jvp = jvp_model(self.model, self.of, self.wrt).map_err(|e| format!("jvp: {e}"))?;
        let mut all = Data::new();
        let mut kink = false;
        for name in self.wrt {
            let v = numbers.like(&point(self.model, name, self.at)?);
            all.insert(name.clone(), v.clone());
            if self.wrt.len() > 1 && self.wrt.len() <= 8 {
                kink |= self.along(&jvp, &Data::from([(name.clone(), v)]))?;
            }
        }
        kink |= self.along(&jvp, &all)?;
        if kink {
            self.along_coordinates(&jvp)?;
        }
        let data = self.adjoint(&grad, &jvp, &all, numbers)?;
        Ok(Derivatives { grad, jvp, data, kink })
    }

    /// Checks the tangent along a direction; gives whether there is a kink.
    fn along(&self, jvp: &Differentiated, along: &Data) -> Result<bool, String> {
        let found = self.tangent(jvp, along)?;
        let [left, right] = self.differences(along)?;
        let across = (&left + &right) / 2.0;
        if found.shape() != across.shape() {
            return Err(format!("jvp: shape {:?}, expected {:?}", found.shape(), across.shape()));
        }
        let scale = largest(&found).max(largest(&across)).max(1.0);
        let mut kink = false;
        for (k, (((&t, &d), &l), &r)) in found.iter().zip(&across).zip(&left).zip(&right).enumerate() {
            if (l - r).abs() > KINK * scale {
                kink = true;
            } else if d.is_finite() && exceeds((t - d).abs(), TOLERANCE * scale) {
                let names: Vec<&str> = along.keys().map(String::as_str).collect();
                return Err(format!("jvp along {}: element {k} is {t:e}, differences say {d:e}", names.join(", ")));
            }
        }
        Ok(kink)
    }

    /// Around a kink: each partial derivative lies between its one-sided differences.
    fn along_coordinates(&self, jvp: &Differentiated) -> Result<(), String> {
        for name in self.wrt {
            let x = point(self.model, name, self.at)?;
            let every = x.data.len().div_ceil(COORDINATES).max(1);
            for k in (0..x.data.len()).step_by(every) {
                let mut v = Array::new(x.dtype, x.data.mapv(|_| 0.0));
                if let Some(one) = v.data.iter_mut().nth(k) {
                    *one = 1.0;
                }
                let along = Data::from([(name.clone(), v)]);
                let found = self.tangent(jvp, &along)?;
                let [left, right] = self.differences(&along)?;
                for ((&t, &l), &r) in found.iter().zip(&left).zip(&right) {
                    let slack = ONE_SIDED * t.abs().max(l.abs().min(r.abs())).max(1.0);
                    if l.abs().max(r.abs()) > 1e-2 / STEP {
                        return Err(format!("jump: {name}[{k}] moves the result by {:e}", l.abs().max(r.abs()) * STEP));
                    }
                    if l.is_finite() && r.is_finite() && !(l.min(r) - slack <= t && t <= l.max(r) + slack) {
                        return Err(format!(
                            "jvp along {name}[{k}] is {t:e}, one-sided differences say {l:e} and {r:e}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the cotangent and tangents that it used.
    fn adjoint(
        &self,
        grad: &Differentiated,
        jvp: &Differentiated,
        along: &Data,
        numbers: &mut Numbers,
    ) -> Result<Data, String> {
        let y = value(self.model, self.of, self.at)?;
        let mut u = match grad.inputs.first() {
            Some(_) => numbers.like(&y),
            None => Array::new(y.dtype, y.data.mapv(|_| 1.0)),
        };
        // Results that are no numbers have no derivative.
        u.data.zip_mut_with(&y.data, |u, y| *u = if y.is_finite() { *u } else { 0.0 });
        let mut data = self.at.clone();
        data.extend(grad.inputs.first().map(|name| (name.clone(), u.clone())));
        let pulled = outputs(&grad.model, &data)?;
        let (mut left, mut size) = (0.0, 1.0);
        for (name, output) in self.wrt.iter().zip(&grad.outputs) {
            let (g, x) = (&pulled[output].data, point(self.model, name, self.at)?);
            if g.shape() != x.shape() {
                return Err(format!("grad: {output} has shape {:?}, expected {:?}", g.shape(), x.shape()));
            }
            for (g, v) in g.iter().zip(&along[name].data) {
                left += g * v;
                size += (g * v).abs();
            }
        }
        let pushed = self.tangent(jvp, along)?;
        let right: f64 = pushed.iter().zip(&u.data).filter(|(_, u)| **u != 0.0).map(|(t, u)| t * u).sum();
        if exceeds((left - right).abs(), ADJOINT * size) {
            return Err(format!("grad: ⟨Jᵀ u, v⟩ is {left:e}, ⟨u, J v⟩ is {right:e}"));
        }
        let named = self.wrt.iter().zip(&jvp.inputs).map(|(name, input)| (input.clone(), along[name].clone()));
        data.extend(named);
        Ok(data)
    }
}

fn largest(array: &ArrayD<f64>) -> f64 {
    array.iter().filter(|v| v.is_finite()).fold(0.0, |m, v| v.abs().max(m))
}

/// Runs a model with ONNX Runtime; its outputs agree with the interpreter's.
///
/// # Errors
/// Says whether loading, running or the result is at fault.
pub fn run_and_compare(name: &str, model: &Model, data: &Data) -> Result<(), String> {
    let expected = outputs(model, data)?;
    let found = run(name, model, &feeds(data))?;
    let types = data.values().chain(expected.values()).map(|array| array.dtype);
    let precision = types.map(precision).fold(1e-4, f64::max);
    for (name, found) in &found {
        agree(name, found, &expected[name], precision).map_err(|e| format!("ONNX Runtime computes {e}"))?;
    }
    Ok(())
}

/// Every output of a model by name, as ONNX Runtime computes it.
pub fn run(name: &str, model: &Model, feeds: &Tensors) -> Result<Tensors, String> {
    let mut session = open(name, model).map_err(|e| format!("ONNX Runtime loads: {e}"))?;
    let taken: Vec<(&str, &HostTensor)> =
        feeds.iter().filter(|(name, _)| session.has_input(name)).map(|(n, t)| (n.as_str(), t)).collect();
    let names: Vec<&str> = model.graph.outputs.iter().map(|&id| model.graph.name_of(id)).collect();
    let found = session.run(&taken, &names).map_err(|e| format!("ONNX Runtime runs: {e}"))?;
    Ok(names.iter().map(|name| name.to_string()).zip(found).collect())
}

/// Arrays as ONNX Runtime takes them.
pub fn feeds(data: &Data) -> Tensors {
    data.iter().map(|(name, array)| (name.clone(), host(array))).collect()
}

fn host(array: &Array) -> HostTensor {
    let tensor = array.to_tensor();
    HostTensor::new(tensor.dtype, tensor.shape.clone(), tensor.bytes.to_vec()).expect("a whole tensor")
}

/// Relative error of results that are computed in a type, with its accumulation.
fn precision(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-2,
        DType::BF16 => 1e-1,
        _ => 1e-4,
    }
}

/// Equal within a precision relative to the largest element or 1; what is not finite is so in both.
fn agree(name: &str, found: &HostTensor, expected: &Array, precision: f64) -> Result<(), String> {
    if found.shape() != expected.shape() {
        return Err(format!("{name} of shape {:?}, expected {:?}", found.shape(), expected.shape()));
    }
    let tolerance = precision * largest(&expected.data).max(1.0);
    for (k, (a, &b)) in found.iter_f64().zip(&expected.data).enumerate() {
        if !((a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= tolerance) {
            return Err(format!("{name}: element {k} is {a:e}, expected {b:e}"));
        }
    }
    Ok(())
}
