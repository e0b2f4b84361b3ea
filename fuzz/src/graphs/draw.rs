//! Draws graphs: nodes as the operators' own cases have them, on values of any shape, and nodes that are made for the shape of
//! what they read.

use super::general;
use super::plan::{Kind, Plan, SYMBOLS, Step, Variant};
use arbitrary::{Result, Unstructured};
use fam_onnx::ir::{DType, Model, Tensor};
use fam_onnx::ops::{Array, Case, Input, OPS, Op};

/// Operators of which no two runs agree, or which read files.
pub const NOT_DRAWN: &[&str] = &[
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Dropout",
    "ImageDecoder",
];

/// Operators that have a derivative only where sizes are known: one as long as a size says, or states that keep their shapes.
const SIZES_KNOWN: &[&str] = &["Det", "Loop"];

/// A graph of 1 to 30 nodes.
pub fn draw(bytes: &[u8]) -> Plan {
    let mut u = Unstructured::new(bytes);
    let mut plan = Plan::default();
    // Bytes that end early end the graph.
    let _ = grow(&mut plan, &mut u);
    let ranks_known = |model: Model| model.graph.values.iter().all(|value| value.fact.shape.is_some());
    let built = plan.build(&Variant::default());
    let needs_sizes = plan.has(|op| SIZES_KNOWN.contains(&op))
        || !built.is_ok_and(ranks_known)
        || plan.steps.iter().any(|step| step.op == "Slice" && !lies_inside(&plan, step));
    if needs_sizes { without_symbols(plan) } else { plan }
}

/// Whether a Slice takes what is there: one of a size that is not known is taken to, but for an end behind that of the axis.
fn lies_inside(plan: &Plan, step: &Step) -> bool {
    const FAR: i64 = i32::MAX as i64 - 1;
    let ints = |i: usize| step.inputs.get(i).copied().flatten().map(|id| plan.values[id].array.ints());
    let shape = step.inputs[0].map_or(&[][..], |id| plan.values[id].array.shape());
    let (starts, ends) = (ints(1).unwrap_or_default(), ints(2).unwrap_or_default());
    let (axes, steps) = (ints(3).unwrap_or((0..starts.len() as i64).collect()), ints(4));
    (0..starts.len()).all(|k| {
        let axis = if axes[k] < 0 { axes[k] + shape.len() as i64 } else { axes[k] };
        let n = shape[axis as usize] as i64;
        let forward = steps.as_ref().is_none_or(|steps| steps[k] > 0);
        let (first, last) = if forward { (0, n) } else { (-1, n - 1) };
        let place = |v: i64| match v {
            FAR.. => last,
            v if v <= -FAR => first,
            v => {
                if v < 0 {
                    v + n
                } else {
                    v
                }
            }
        };
        let (lo, hi) = (place(starts[k]), place(ends[k]));
        let inside = |v: i64| (first..=last).contains(&v);
        let cut_short = forward && (0..n).contains(&starts[k]) && hi > n && hi - lo > 1;
        inside(lo) && (inside(hi) || cut_short) && if forward { lo <= hi } else { lo >= hi }
    })
}

fn without_symbols(mut plan: Plan) -> Plan {
    for value in &mut plan.values {
        if let Kind::Input { symbols } = &mut value.kind {
            symbols.fill(None);
        }
    }
    plan
}

fn grow(plan: &mut Plan, u: &mut Unstructured) -> Result<()> {
    // The last one may be of four nodes.
    let wanted = u.int_in_range(1..=27)?;
    real(plan, u, &[2, 3], (-1.5, 1.5))?;
    for _ in 0..4 * wanted {
        if plan.steps.len() >= wanted {
            break;
        }
        let before = plan.values.len();
        let made = if u.ratio(2, 5)? { of_table(plan, u)? } else { general::draw(plan, u)? };
        match made {
            Some(outputs) if u.ratio(1, 8)? => plan.extra.extend(outputs.first()),
            Some(_) => {}
            // Leaves of a step that cannot be stay unread, and are not built.
            None => debug_assert!(plan.values.len() >= before),
        }
    }
    Ok(())
}

/// A node as one of its operator's cases has it; what is real may be another value of the graph.
fn of_table(plan: &mut Plan, u: &mut Unstructured) -> Result<Option<Vec<usize>>> {
    let op: &Op = u.choose(OPS)?;
    let cases = (op.cases)();
    if NOT_DRAWN.contains(&op.name) || cases.is_empty() {
        return Ok(None);
    }
    let case: &Case = u.choose(&cases)?;
    // A body says itself of what shape its inputs are.
    let any_shape = case.attrs.graphs().next().is_none() && u.ratio(1, 3)?;
    let mut inputs = Vec::new();
    for input in &case.inputs {
        inputs.push(match input {
            Input::None => None,
            Input::Constant(tensor) => Some(given(plan, tensor, true)?),
            Input::Data(tensor) => Some(given(plan, tensor, u.ratio(1, 2)?)?),
            Input::Real { shape, low, high } => Some(taken(plan, u, shape, (*low, *high), any_shape)?),
            Input::Distinct { shape } => Some(taken(plan, u, shape, (-1.5, 1.5), any_shape)?),
        });
    }
    Ok(plan.step(op.name, &inputs, case.attrs.clone(), case.outputs))
}

fn given(plan: &mut Plan, tensor: &Tensor, stored: bool) -> Result<usize> {
    let mut array = Array::from_tensor(tensor).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    if tensor.dtype == DType::F32 && tensor.shape.is_empty() {
        array.dtype = DType::F64;
    }
    let symbols = vec![None; array.shape().len()];
    Ok(plan.add(if stored { Kind::Stored } else { Kind::Input { symbols } }, array))
}

/// A value for a real input of a case: one of the same shape, now and then one of any shape, else a new leaf.
fn taken(plan: &mut Plan, u: &mut Unstructured, shape: &[usize], range: (f64, f64), any_shape: bool) -> Result<usize> {
    let pool = pool(plan);
    if any_shape && u.ratio(2, 3)? {
        return u.choose(&pool).copied();
    }
    let fitting: Vec<usize> = pool.into_iter().filter(|&id| plan.values[id].array.shape() == shape).collect();
    let inside = |id: &usize| plan.values[*id].array.data.iter().all(|v| range.0 <= *v && *v <= range.1);
    let fitting: Vec<usize> = fitting.into_iter().filter(inside).collect();
    if !fitting.is_empty() && u.ratio(3, 4)? { u.choose(&fitting).copied() } else { real(plan, u, shape, range) }
}

/// All real values.
pub fn pool(plan: &Plan) -> Vec<usize> {
    (0..plan.values.len()).filter(|&id| plan.values[id].array.dtype == DType::F64).collect()
}

/// A new real leaf, with symbols for some of its dimensions.
pub fn real(plan: &mut Plan, u: &mut Unstructured, shape: &[usize], (low, high): (f64, f64)) -> Result<usize> {
    let mut state = u64::from(u.arbitrary::<u16>()?);
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Exact in float32.
        f64::from((low + (high - low) * (state >> 40) as f64 / (1u64 << 24) as f64) as f32)
    };
    let data = (0..shape.iter().product()).map(|_| uniform()).collect();
    let array = Array::from_vec(DType::F64, shape, data).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    if u.ratio(1, 3)? {
        return Ok(plan.add(Kind::Stored, array));
    }
    let mut symbols = Vec::new();
    for &n in shape {
        let symbolic = (1..=SYMBOLS.len()).contains(&n) && u.ratio(1, 4)?;
        symbols.push(if symbolic { Some(SYMBOLS[n - 1][usize::from(u.ratio(1, 3)?)]) } else { None });
    }
    Ok(plan.add(Kind::Input { symbols }, array))
}
