//! What must hold of every valid graph.

use super::plan::{Plan, Variant, named};
use fam_onnx::ad::{Differentiated, grad_model, jvp_model};
use fam_onnx::eval::evaluate;
use fam_onnx::ir::{DType, Dim, Fact, Model, verify};
use fam_onnx::ops::{Array, Tangent, lookup};
use fam_onnx::{lower, onnx, simplify};
use ndarray::ArrayD;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub type Check = fn(&Plan) -> Result<(), String>;
type Data = HashMap<String, Array>;

pub const PROPERTIES: &[(&str, Check)] = &[
    ("facts", facts),
    ("rewrites", rewrites),
    ("files", files),
    ("derivatives", |plan| derivatives(plan, &differentiated)),
    ("names", names),
    ("order", order),
];

/// The first property that does not hold, and how.
pub fn failure(plan: &Plan) -> Option<(&'static str, String)> {
    PROPERTIES.iter().find_map(|(name, check)| {
        let result = catch_unwind(AssertUnwindSafe(|| check(plan)));
        let result = result.unwrap_or_else(|panic| Err(format!("panics: {}", panic_text(&*panic))));
        result.err().map(|what| (*name, what))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

/// Every value of a model by name.
fn values(model: &Model, data: &Data) -> Result<Data, String> {
    Ok(named(model, &evaluate(&model.graph, data).map_err(|e| format!("interpreter: {e}"))?))
}

/// Outputs of a model in their order.
fn outputs(model: &Model, data: &Data) -> Result<Vec<(String, Array)>, String> {
    let mut values = values(model, data)?;
    let names = model.graph.outputs.iter().map(|&id| model.graph.name_of(id).to_string());
    names.map(|name| values.remove(&name).map(|a| (name.clone(), a)).ok_or(format!("no output {name}"))).collect()
}

/// Equal to rounding, relative to the largest number, and of the same shape and type.
fn same(what: &str, found: &[(String, Array)], expected: &[(String, Array)]) -> Result<(), String> {
    if found.len() < expected.len() {
        return Err(format!("{what}: {} outputs, expected {}", found.len(), expected.len()));
    }
    // What is folded is rounded to its type, which the interpreter is not.
    let rounding = if expected.iter().all(|(_, a)| a.dtype == DType::F64 || !a.dtype.is_float()) { 1e-9 } else { 1e-6 };
    for ((_, found), (name, expected)) in found.iter().zip(expected) {
        if found.shape() != expected.shape() || found.dtype != expected.dtype {
            let show = |a: &Array| format!("{}{:?}", a.dtype, a.shape());
            return Err(format!("{what}: {name} is {}, expected {}", show(found), show(expected)));
        }
        let scale = largest(&expected.data).max(1.0);
        for (k, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
            if !(a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= rounding * scale) {
                return Err(format!("{what}: {name}, element {k} is {a:e}, expected {b:e}"));
            }
        }
    }
    Ok(())
}

fn largest(array: &ArrayD<f64>) -> f64 {
    array.iter().filter(|v| v.is_finite()).fold(0.0, |m, v| v.abs().max(m))
}

/// The interpreter sees what the facts say of every value.
fn facts(plan: &Plan) -> Result<(), String> {
    let variant = Variant::default();
    facts_hold(&plan.build(&variant)?, &plan.feeds(&variant))
}

fn facts_hold(model: &Model, data: &Data) -> Result<(), String> {
    verify(&model.graph).map_err(|e| e.to_string())?;
    let values = evaluate(&model.graph, data).map_err(|e| format!("interpreter: {e}"))?;
    for (id, array) in &values {
        let value = model.graph.value(*id);
        fact_holds(&value.fact, array).map_err(|e| format!("{}: {e}", value.name))?;
    }
    Ok(())
}

fn fact_holds(fact: &Fact, array: &Array) -> Result<(), String> {
    let Some(shape) = &fact.shape else { return Ok(()) };
    let fits = |dim: &Dim, n: i64| size_of(dim).is_none_or(|d| d == n);
    let whole = shape.len() == array.shape().len() && shape.iter().zip(array.shape()).all(|(d, &n)| fits(d, n as i64));
    let ints = array.ints();
    let known = |known: &[Dim]| known.len() == ints.len() && known.iter().zip(&ints).all(|(d, &n)| fits(d, n));
    if whole && fact.dtype == array.dtype && fact.ints.as_ref().is_none_or(|all| known(all)) {
        return Ok(());
    }
    Err(format!("fact {fact} with elements {:?}; seen {}{:?} = {ints:?}", fact.ints, array.dtype, array.shape()))
}

/// The number that a dimension is, where its symbols say it.
fn size_of(dim: &Dim) -> Option<i64> {
    let Dim::Symbol(poly) = dim else { return dim.fixed() };
    let value = |symbol: &str| symbol.strip_prefix(['N', 'M'])?.parse::<i64>().ok();
    poly.terms().map(|(symbols, c)| Some(c * symbols.iter().map(|s| value(s)).product::<Option<i64>>()?)).sum()
}

/// Neither the rewrites nor the lowerings change a value.
fn rewrites(plan: &Plan) -> Result<(), String> {
    let variant = Variant::default();
    let (model, data) = (plan.build(&variant)?, plan.feeds(&variant));
    let plain = outputs(&model, &data)?;
    for (what, graph) in [
        ("simplified", simplify::simplify(&model.graph)),
        ("lowered", lower::composites(model.graph.clone(), |_| true)),
        ("without dead code", Ok(simplify::dead_code(&model.graph))),
    ] {
        let other = Model { graph: graph.map_err(|e| format!("{what}: {e}"))?, ..model.clone() };
        facts_hold(&other, &data).map_err(|e| format!("{what}: {e}"))?;
        same(what, &outputs(&other, &data)?, &plain)?;
    }
    Ok(())
}

/// A file says the same as the graph that it was written from, and written again it has the same bytes.
fn files(plan: &Plan) -> Result<(), String> {
    let variant = Variant::default();
    let (model, data) = (plan.build(&variant)?, plan.feeds(&variant));
    let bytes = onnx::to_bytes(&model);
    if bytes != onnx::to_bytes(&plan.build(&variant)?) {
        return Err("other bytes the second time".to_string());
    }
    let read = onnx::read_bytes(&bytes, None).map_err(|e| format!("what was written is refused: {e}"))?;
    same("read again", &outputs(&read, &data)?, &outputs(&model, &data)?)?;
    // Reading gives attributes their defaults and names types, after which more may be known of what is computed; from then
    // on nothing changes.
    let mut written = onnx::to_bytes(&read);
    for last in [false, true] {
        let again = onnx::read_bytes(&written, None).map_err(|e| format!("what was written again is refused: {e}"))?;
        let before = std::mem::replace(&mut written, onnx::to_bytes(&again));
        if last && written != before {
            return Err("read and written again, it has other bytes".to_string());
        }
    }
    Ok(())
}

/// `grad` and `jvp` of a value with respect to others.
pub type Derivatives = Result<[Differentiated; 2], String>;
pub type Differentiate = dyn Fn(&Model, &str, &[String]) -> Derivatives;

pub fn differentiated(model: &Model, of: &str, wrt: &[String]) -> Derivatives {
    let grad = || grad_model(model, of, wrt);
    let (first, second) = (grad().map_err(|e| format!("grad: {e}"))?, grad().map_err(|e| format!("grad: {e}"))?);
    if onnx::to_bytes(&first.model) != onnx::to_bytes(&second.model) {
        return Err("the gradient has other bytes the second time".to_string());
    }
    Ok([first, jvp_model(model, of, wrt).map_err(|e| format!("jvp: {e}"))?])
}

/// Operators whose derivative is not that of what the interpreter computes, or that have none.
fn is_differentiated(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| {
        let tangent = lookup(step.op).map(|op| op.tangent.of(&step.attrs));
        !matches!(tangent, None | Some(Tangent::Blocked(_) | Tangent::StraightThrough(_)))
    })
}

/// Tangents are what differences say, gradients their transpose; of the first order, and of the second where nothing has a
/// kink.
///
/// # Errors
/// What is wrong.
pub fn derivatives(plan: &Plan, differentiate: &Differentiate) -> Result<(), String> {
    let variant = Variant::default();
    let (model, data) = (plan.build(&variant)?, plan.feeds(&variant));
    let wrt: Vec<String> = plan.reals().into_iter().map(|id| plan.name(id, &variant)).collect();
    if !is_differentiated(plan) || wrt.is_empty() {
        return Ok(());
    }
    let real = plan.outputs().into_iter().filter(|&id| plan.values[id].array.dtype == DType::F64);
    let real: Vec<usize> = real.collect();
    let chosen: Vec<usize> = real.first().into_iter().chain(real.last().filter(|_| real.len() > 1)).copied().collect();
    for of in chosen {
        let of = plan.name(of, &variant);
        let first = Point { model: &model, of: &of, wrt: &wrt, data: &data };
        let checked = first.check(differentiate).map_err(|e| format!("{of}: {e}"))?;
        if checked.smooth && checked.grad.model.graph.nodes.len() < 300 {
            let (of, model) = (&checked.grad.outputs[0], &checked.grad.model);
            // What only the size of mattered is gone.
            let wrt: Vec<String> = wrt.iter().filter(|name| model.graph.find(name).is_some()).cloned().collect();
            let second = Point { model, of, wrt: &wrt, data: &checked.data };
            second.check(differentiate).map_err(|e| format!("second order, {of}: {e}"))?;
        }
    }
    Ok(())
}

/// A value as a function of others, and where.
struct Point<'a> {
    model: &'a Model,
    of: &'a str,
    wrt: &'a [String],
    data: &'a Data,
}

struct Checked {
    grad: Differentiated,
    /// What the gradient reads.
    data: Data,
    /// Whether every element could be compared.
    smooth: bool,
}

/// Larger steps for what rounding hides; where two differences disagree, nothing is said.
const STEPS: [f64; 2] = [1e-5, 1e-6];
/// How far the two may be apart, and the tangent from the second, relative to the tangent or 1.
const AGREE: f64 = 2e-5;
/// One-sided differences further apart than this tell a kink.
const KINK: f64 = 1e-3;
/// Values may be so large that their rounding, over the step, is no longer small.
const LARGEST: f64 = 1e4;

/// Operators whose slope is infinite somewhere.
const VERTICAL: &[&str] =
    &["Acos", "Acosh", "Asin", "GlobalLpPool", "LpNormalization", "LpPool", "Pow", "ReduceL2", "Sqrt"];

/// Operators whose results jump: of what is computed in two ways, roundings may lie on different sides.
const JUMPS: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Cast",
    "Ceil",
    "Compress",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "Less",
    "LessOrEqual",
    "Mod",
    "NonMaxSuppression",
    "NonZero",
    "Round",
    "Sign",
    "TopK",
    "Unique",
];

impl Point<'_> {
    fn check(&self, differentiate: &Differentiate) -> Result<Checked, String> {
        let [grad, jvp] = differentiate(self.model, self.of, self.wrt)?;
        let all = values(self.model, self.data)?;
        let direction = |salt: u64, array: &Array| {
            let mut state = salt;
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
            };
            Array::new(array.dtype, array.data.mapv(|_| next()))
        };
        let v: Vec<Array> = self.wrt.iter().zip(1..).map(|(name, salt)| direction(salt, &all[name])).collect();
        let y = all.get(self.of).ok_or("it is not computed")?;
        let u = match grad.inputs.first() {
            Some(_) => direction(0, y),
            None => Array::new(y.dtype, y.data.mapv(|_| 1.0)),
        };
        let mut data = self.data.clone();
        data.extend(jvp.inputs.iter().cloned().zip(v.iter().cloned()));
        let pushed = self.differentiated(&jvp, &data)?.remove(0);
        let mut data = self.data.clone();
        data.extend(grad.inputs.first().map(|name| (name.clone(), u.clone())));
        let pulled = self.differentiated(&grad, &data)?;
        let smooth = self.tangent(&pushed, &v, y)?;
        self.adjoint(&pulled, &v, &pushed, &u, &all)?;
        Ok(Checked { grad, data, smooth })
    }

    /// What a derivative puts out beside the model's own outputs, which stay as they are.
    fn differentiated(&self, derivative: &Differentiated, data: &Data) -> Result<Vec<Array>, String> {
        facts_hold(&derivative.model, data)?;
        let found = outputs(&derivative.model, data)?;
        let jumps = self.model.graph.nodes.iter().filter(|node| JUMPS.contains(&node.op.as_str()));
        let jumped: Vec<_> = jumps.flat_map(|node| node.outputs.iter().flatten().copied()).collect();
        let behind = self.model.graph.descendants(&jumped);
        let jumped: HashSet<&str> = behind.iter().map(|id| self.model.graph.name_of(id)).collect();
        let own: Vec<(String, Array)> =
            outputs(self.model, self.data)?.into_iter().filter(|(name, _)| !jumped.contains(name.as_str())).collect();
        let still: Vec<(String, Array)> =
            own.iter().filter_map(|(name, _)| found.iter().find(|(other, _)| other == name).cloned()).collect();
        same("the model's own outputs", &still, &own)?;
        let simple = simplify::simplify(&derivative.model.graph).map_err(|e| format!("simplified derivative: {e}"))?;
        let simple = Model { graph: simple, ..derivative.model.clone() };
        same("simplified derivative", &outputs(&simple, data)?, &found)?;
        let found: Data = found.into_iter().collect();
        derivative.outputs.iter().map(|name| found.get(name).cloned().ok_or(format!("no output {name}"))).collect()
    }

    fn moved(&self, v: &[Array], step: f64) -> Result<Array, String> {
        let mut data = self.data.clone();
        let all = values(self.model, self.data)?;
        for (name, v) in self.wrt.iter().zip(v) {
            data.insert(name.clone(), Array::new(v.dtype, &all[name].data + &(&v.data * step)));
        }
        values(self.model, &data)?.remove(self.of).ok_or(format!("no value {}", self.of))
    }

    /// Whether every element could be compared.
    fn tangent(&self, found: &Array, v: &[Array], y: &Array) -> Result<bool, String> {
        if found.shape() != y.shape() {
            return Err(format!("jvp: shape {:?}, expected {:?}", found.shape(), y.shape()));
        }
        let mut sides = Vec::new();
        for step in STEPS {
            let (before, after) = (self.moved(v, -step)?, self.moved(v, step)?);
            if before.shape() != y.shape() || after.shape() != y.shape() {
                return Ok(false);
            }
            sides.push(((&y.data - &before.data) / step, (&after.data - &y.data) / step));
        }
        let [(coarse_left, coarse_right), (left, right)] = &sides[..] else { return Ok(false) };
        let flat = |a: &ArrayD<f64>| a.iter().copied().collect::<Vec<f64>>();
        let (cl, cr, l, r) = (flat(coarse_left), flat(coarse_right), flat(left), flat(right));
        let mut smooth = true;
        for (k, &t) in found.data.iter().enumerate() {
            let (coarse, fine) = ((cl[k] + cr[k]) / 2.0, (l[k] + r[k]) / 2.0);
            let scale = fine.abs().max(1.0);
            let sure = fine.is_finite() && y.data.iter().nth(k).is_some_and(|y| y.abs() <= LARGEST);
            let kink = (l[k] - r[k]).abs() > KINK * scale || (cl[k] - cr[k]).abs() > 10.0 * KINK * scale;
            let open = !sure || kink || (coarse - fine).abs() > AGREE * scale;
            if open || t.is_nan() && self.has_vertical_slope() {
                smooth = false;
            } else if t.is_nan() || (t - fine).abs() > 2.0 * AGREE * scale {
                return Err(format!("jvp: element {k} is {t:e}, differences say {fine:e} and {coarse:e}"));
            }
        }
        Ok(smooth)
    }

    /// Whether some slope may be infinite: where it meets a zero, there is no derivative, as in PyTorch.
    fn has_vertical_slope(&self) -> bool {
        self.model.graph.nodes.iter().any(|node| VERTICAL.contains(&node.op.as_str()))
    }

    /// `⟨J v, u⟩ = ⟨v, Jᵀ u⟩`.
    fn adjoint(&self, pulled: &[Array], v: &[Array], pushed: &Array, u: &Array, all: &Data) -> Result<(), String> {
        let (mut left, mut size) = (0.0, 1.0);
        for ((name, g), v) in self.wrt.iter().zip(pulled).zip(v) {
            if g.shape() != all[name].shape() {
                return Err(format!("grad: {name} has shape {:?}, expected {:?}", g.shape(), all[name].shape()));
            }
            for (g, v) in g.data.iter().zip(&v.data) {
                left += g * v;
                size += (g * v).abs();
            }
        }
        let mut right = 0.0;
        for (t, u) in pushed.data.iter().zip(&u.data) {
            right += t * u;
            size += (t * u).abs();
        }
        // Infinite slopes, as of a root at 0, have no product that could be compared.
        if (left - right).abs() <= 1e-8 * size || !left.is_finite() || !right.is_finite() {
            return Ok(());
        }
        Err(format!("⟨Jᵀ u, v⟩ is {left:e}, ⟨u, J v⟩ is {right:e}"))
    }
}

/// Texts that names begin with: what terminals, parsers and this crate's own names could mistake.
const NAMES: [&str; 5] = ["\u{1b}[31m\"\\\n", "const/", "\0", "x.grad_", "../../"];

/// Gradient and values of a variant are those of the plan, output by output.
fn unchanged(plan: &Plan, variant: &Variant) -> Result<(), String> {
    let results = |variant: &Variant| -> Result<Vec<(String, Array)>, String> {
        let (model, mut data) = (plan.build(variant)?, plan.feeds(variant));
        let mut results: HashMap<usize, Array> = HashMap::new();
        let own = outputs(&model, &data)?.into_iter().collect::<Data>();
        for id in plan.outputs() {
            results.insert(id, own[&plan.name(id, variant)].clone());
        }
        let real = plan.outputs().into_iter().find(|&id| plan.values[id].array.dtype == DType::F64);
        let reals = plan.reals();
        let mut all: Vec<(String, Array)> =
            plan.outputs().into_iter().map(|id| (format!("v{id}"), results[&id].clone())).collect();
        let Some(of) = real.filter(|_| is_differentiated(plan) && !reals.is_empty()) else { return Ok(all) };
        let wrt: Vec<String> = reals.iter().map(|&id| plan.name(id, variant)).collect();
        let grad = grad_model(&model, &plan.name(of, variant), &wrt).map_err(|e| format!("grad: {e}"))?;
        let ones = Array::new(results[&of].dtype, results[&of].data.mapv(|_| 1.0));
        data.extend(grad.inputs.first().map(|name| (name.clone(), ones)));
        let found: Data = outputs(&grad.model, &data)?.into_iter().collect();
        let read = onnx::read_bytes(&onnx::to_bytes(&grad.model), None);
        read.map_err(|e| format!("what was written is refused: {e}"))?;
        all.extend(
            grad.outputs.iter().zip(&reals).map(|(name, id)| (format!("gradient of {id}"), found[name].clone())),
        );
        Ok(all)
    };
    same("variant", &results(variant)?, &results(&Variant::default())?)
}

fn names(plan: &Plan) -> Result<(), String> {
    let names = Some(NAMES[plan.values.len() % NAMES.len()]);
    unchanged(plan, &Variant { names, ..Variant::default() })
}

fn order(plan: &Plan) -> Result<(), String> {
    unchanged(plan, &Variant { late: true, ..Variant::default() })
}
