//! Nodes made for the shape of what they read: arithmetic of dimensions, indices at and beyond the ends, what rewrites look for.

use super::draw::{pool, real};
use super::plan::{Kind, Plan};
use arbitrary::{Result, Unstructured};
use fam_onnx::ir::{Attrs, DType};
use fam_onnx::ops::Array;

type Drawn = Result<Option<Vec<usize>>>;
type Maker = fn(&mut Plan, &mut Unstructured, usize) -> Drawn;

const MAKERS: &[Maker] = &[
    unary, unary, binary, binary, neutral, reshape, transpose, slice, pad, gather, concat, split, reduce, expand, tile,
    axes, matmul, select, shape_of, again, cumulative, softmax, variadic, convert,
];

/// One node, or a few that belong together; `None` if they cannot be.
pub fn draw(plan: &mut Plan, u: &mut Unstructured) -> Drawn {
    let pool = pool(plan);
    // Most often one of the latest, so that graphs grow deep.
    let recent = pool.len().saturating_sub(4);
    let from = if u.ratio(2, 3)? { &pool[recent..] } else { &pool };
    let x = *u.choose(from)?;
    u.choose(MAKERS)?(plan, u, x)
}

fn shape(plan: &Plan, x: usize) -> Vec<usize> {
    plan.values[x].array.shape().to_vec()
}

fn one(plan: &mut Plan, op: &str, inputs: &[usize], attrs: Attrs) -> Drawn {
    let inputs: Vec<Option<usize>> = inputs.iter().map(|&id| Some(id)).collect();
    Ok(plan.step(op, &inputs, attrs, 1))
}

/// An axis from the front or from the end.
fn axis(u: &mut Unstructured, rank: usize) -> Result<i64> {
    let rank = rank as i64;
    u.int_in_range(-rank..=(rank - 1).max(-rank))
}

fn unary(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let op = *u.choose(&[
        "Neg",
        "Neg",
        "Exp",
        "Tanh",
        "Sigmoid",
        "Sin",
        "Cos",
        "Erf",
        "Softplus",
        "Relu",
        "LeakyRelu",
        "Abs",
        "Elu",
        "Sqrt",
        "Log",
        "Reciprocal",
        "Identity",
        "Floor",
        "Sign",
        "Gelu",
        "Softsign",
        "Mish",
        "Atan",
        "HardSigmoid",
        "Clip",
        "Selu",
    ])?;
    one(plan, op, &[x], Attrs::new())
}

/// A shape that broadcasts with this one.
fn partner(u: &mut Unstructured, shape: &[usize]) -> Result<Vec<usize>> {
    let mut other: Vec<usize> = shape[u.int_in_range(0..=shape.len())?..].to_vec();
    for n in &mut other {
        *n = match *n {
            1 => u.int_in_range(0..=3)?,
            n if u.ratio(1, 3)? => n.min(1),
            n => n,
        };
    }
    if u.ratio(1, 6)? {
        other.insert(0, 1);
    }
    Ok(other)
}

/// A value that broadcasts with `x`: one that is there, or a new leaf.
fn beside(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Result<usize> {
    if u.ratio(1, 2)? {
        return u.choose(&pool(plan)).copied();
    }
    let shape = partner(u, &shape(plan, x))?;
    real(plan, u, &shape, (-1.5, 1.5))
}

fn binary(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let op = *u.choose(&["Add", "Add", "Sub", "Sub", "Mul", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Mod"])?;
    let y = beside(plan, u, x)?;
    let attrs = if op == "Mod" { Attrs::new().with("fmod", 1) } else { Attrs::new() };
    if u.arbitrary()? { one(plan, op, &[x, y], attrs) } else { one(plan, op, &[y, x], attrs) }
}

/// Arithmetic with constants that rewrites look for, of a shape that may make the result larger.
fn neutral(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let number = *u.choose(&[0.0, 1.0, -1.0, 2.0, -0.0, 0.5])?;
    let shape = if u.ratio(1, 3)? { Vec::new() } else { partner(u, &shape(plan, x))? };
    let data = vec![number; shape.iter().product()];
    let array = Array::from_vec(DType::F64, &shape, data).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    let c = plan.add(Kind::Stored, array);
    let op = *u.choose(&["Add", "Sub", "Mul", "Div", "Pow", "Max"])?;
    if u.arbitrary()? { one(plan, op, &[x, c], Attrs::new()) } else { one(plan, op, &[c, x], Attrs::new()) }
}

/// A random way to write a number of elements as dimensions.
fn factors(u: &mut Unstructured, mut n: usize) -> Result<Vec<i64>> {
    let mut dims = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let divisors: Vec<usize> =
            if n == 0 { (0..4).collect() } else { (1..=n).filter(|&d| n.is_multiple_of(d)).collect() };
        let d = *u.choose(&divisors)?;
        dims.push(d as i64);
        n = n.checked_div(d).unwrap_or(0);
    }
    dims.push(n as i64);
    Ok(dims)
}

fn reshape(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let old = shape(plan, x);
    let mut dims = factors(u, old.iter().product())?;
    let allow_zero = u.ratio(1, 4)?;
    let at = u.choose_index(dims.len())?;
    match u.int_in_range(0..=3)? {
        0 => dims[at] = -1,
        1 if !allow_zero && old.get(at) == Some(&(dims[at] as usize)) => dims[at] = 0,
        2 if !allow_zero => {
            // The front as it is, the rest joined.
            dims = old.iter().map(|_| 0).collect();
            dims.truncate(at.max(1));
            dims.push(-1);
        }
        _ => {}
    }
    let dims = plan.stored_ints(&[dims.len()], &dims);
    one(plan, "Reshape", &[x, dims], Attrs::new().with("allowzero", i64::from(allow_zero)))
}

fn transpose(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let mut perm: Vec<i64> = (0..shape(plan, x).len() as i64).collect();
    for i in (1..perm.len()).rev() {
        let j = u.int_in_range(0..=i)?;
        perm.swap(i, j);
    }
    one(plan, "Transpose", &[x], Attrs::new().with("perm", perm))
}

/// Within, at, and beyond both ends.
fn bound(u: &mut Unstructured, n: usize) -> Result<i64> {
    let n = n as i64;
    // Powers of two are exact in float64, in which the interpreter counts.
    Ok(match u.int_in_range(0..=5)? {
        0 => 0,
        1 => *u.choose(&[n, -n, n + 1, -n - 1])?,
        2 => *u.choose(&[i64::MIN, 1 << 62, i64::from(i32::MAX) + 1, -(1 << 40)])?,
        _ => u.int_in_range(-n - 1..=n + 1)?,
    })
}

fn slice(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    if dims.is_empty() {
        return Ok(None);
    }
    let (mut starts, mut ends, mut axes, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for at in 0..dims.len() {
        if u.ratio(1, 2)? {
            starts.push(bound(u, dims[at])?);
            ends.push(bound(u, dims[at])?);
            axes.push(if u.arbitrary()? { at as i64 } else { at as i64 - dims.len() as i64 });
            steps.push(*u.choose(&[1, 1, 1, 2, -1, -1, -2, 1 << 40, -(1 << 40)])?);
        }
    }
    let n = axes.len();
    let inputs: Vec<usize> = [starts, ends, axes, steps].iter().map(|v| plan.stored_ints(&[n], v)).collect();
    one(plan, "Slice", &[&[x], inputs.as_slice()].concat(), Attrs::new())
}

fn pad(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let rank = shape(plan, x).len();
    let mut pads = Vec::new();
    for _ in 0..2 * rank {
        pads.push(u.int_in_range(-2..=2)?);
    }
    let pads = plan.stored_ints(&[2 * rank], &pads);
    let mode = *u.choose(&["constant", "reflect", "edge", "wrap"])?;
    one(plan, "Pad", &[x, pads], Attrs::new().with("mode", mode))
}

fn gather(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    if dims.is_empty() {
        return Ok(None);
    }
    let along = axis(u, dims.len())?;
    let n = dims[along.rem_euclid(dims.len() as i64) as usize] as i64;
    let of: Vec<usize> = u.choose(&[vec![], vec![1], vec![3], vec![2, 2], vec![0]])?.clone();
    let mut at = Vec::new();
    for _ in 0..of.iter().product() {
        at.push(u.int_in_range(-n..=(n - 1).max(-n))?);
    }
    let at = plan.stored_ints(&of, &at);
    one(plan, "Gather", &[x, at], Attrs::new().with("axis", along))
}

fn concat(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    if dims.is_empty() {
        return Ok(None);
    }
    let along = axis(u, dims.len())?;
    let at = along.rem_euclid(dims.len() as i64) as usize;
    let fits = |id: &usize| {
        let other = plan.values[*id].array.shape();
        other.len() == dims.len() && (0..dims.len()).all(|k| k == at || dims[k] == other[k])
    };
    let fitting: Vec<usize> = pool(plan).into_iter().filter(fits).collect();
    let mut parts = vec![x];
    for _ in 0..u.int_in_range(0..=2)? {
        parts.push(*u.choose(&fitting)?);
    }
    one(plan, "Concat", &parts, Attrs::new().with("axis", along))
}

fn split(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    if dims.is_empty() {
        return Ok(None);
    }
    let along = axis(u, dims.len())?;
    let n = dims[along.rem_euclid(dims.len() as i64) as usize];
    let first = u.int_in_range(0..=n)?;
    let attrs = Attrs::new().with("axis", along);
    if u.ratio(1, 3)? {
        return Ok(plan.step("Split", &[Some(x)], attrs.with("num_outputs", 2), 2));
    }
    let sizes = plan.stored_ints(&[2], &[first as i64, (n - first) as i64]);
    Ok(plan.step("Split", &[Some(x), Some(sizes)], attrs, 2))
}

/// Some of the axes, in any order, counted from either end.
fn some_axes(u: &mut Unstructured, rank: usize) -> Result<Vec<i64>> {
    let mut axes = Vec::new();
    for at in 0..rank as i64 {
        if u.ratio(1, 2)? {
            let axis = if u.arbitrary()? { at } else { at - rank as i64 };
            axes.insert(u.int_in_range(0..=axes.len())?, axis);
        }
    }
    Ok(axes)
}

fn reduce(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let op = *u.choose(&[
        "ReduceSum",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ])?;
    let axes = some_axes(u, shape(plan, x).len())?;
    let attrs = Attrs::new()
        .with("keepdims", i64::from(u.arbitrary::<bool>()?))
        .with("noop_with_empty_axes", i64::from(u.ratio(1, 4)?));
    if axes.is_empty() && u.arbitrary()? {
        return one(plan, op, &[x], attrs);
    }
    let axes = plan.stored_ints(&[axes.len()], &axes);
    one(plan, op, &[x, axes], attrs)
}

fn expand(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let to: Vec<i64> = partner(u, &shape(plan, x))?.iter().map(|&n| n as i64).collect();
    let to = plan.stored_ints(&[to.len()], &to);
    one(plan, "Expand", &[x, to], Attrs::new())
}

fn tile(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let rank = shape(plan, x).len();
    let mut times = Vec::new();
    for _ in 0..rank {
        times.push(*u.choose(&[1, 1, 2, 3, 0])?);
    }
    let times = plan.stored_ints(&[rank], &times);
    one(plan, "Tile", &[x, times], Attrs::new())
}

/// Squeeze, Unsqueeze, Flatten.
fn axes(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    let rank = dims.len() as i64;
    match u.int_in_range(0..=3)? {
        0 => one(plan, "Flatten", &[x], Attrs::new().with("axis", u.int_in_range(-rank..=rank)?)),
        1 => {
            let ones: Vec<i64> = (0..rank).filter(|&k| dims[k as usize] == 1).collect();
            let ones: Vec<i64> = ones.iter().map(|k| k - rank * (k % 2)).collect();
            let ones = plan.stored_ints(&[ones.len()], &ones);
            one(plan, "Squeeze", &[x, ones], Attrs::new())
        }
        n => {
            let new = some_axes(u, dims.len() + n as usize - 1)?;
            let wide = rank + new.len() as i64;
            let new: Vec<i64> = new.into_iter().filter(|a| (-wide..wide).contains(a)).collect();
            let new = plan.stored_ints(&[new.len()], &new);
            one(plan, "Unsqueeze", &[x, new], Attrs::new())
        }
    }
}

fn matmul(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    let Some(&k) = dims.last() else { return Ok(None) };
    let mut other = vec![k];
    if u.ratio(4, 5)? {
        other.push(u.int_in_range(0..=3)?);
    }
    if u.ratio(1, 3)? && other.len() == 2 {
        let lead = partner(u, &dims[..dims.len().saturating_sub(2)])?;
        other = [lead, other].concat();
    }
    let w = real(plan, u, &other, (-1.0, 1.0))?;
    if u.ratio(1, 3)? {
        let Some(t) = one(plan, "Transpose", &[x], Attrs::new())? else { return Ok(None) };
        return one(plan, "MatMul", &[w, t[0]], Attrs::new());
    }
    one(plan, "MatMul", &[x, w], Attrs::new())
}

fn select(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let (a, b) = (beside(plan, u, x)?, beside(plan, u, x)?);
    let op = *u.choose(&["Greater", "Less", "GreaterOrEqual", "Equal"])?;
    let Some(condition) = one(plan, op, &[x, a], Attrs::new())? else { return Ok(None) };
    one(plan, "Where", &[condition[0], x, b], Attrs::new())
}

/// The shape of `x`, taken apart and put together again, as exporters write `view`.
fn shape_of(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    let Some(of) = one(plan, "Shape", &[x], Attrs::new())? else { return Ok(None) };
    if dims.is_empty() || u.ratio(1, 4)? {
        let y = beside(plan, u, x)?;
        return one(plan, "Expand", &[y, of[0]], Attrs::new());
    }
    let at = u.choose_index(dims.len())? as i64;
    let at = plan.stored_ints(&[1], &[at - dims.len() as i64 * i64::from(u.arbitrary::<bool>()?)]);
    let Some(first) = one(plan, "Gather", &[of[0], at], Attrs::new())? else { return Ok(None) };
    let rest = plan.stored_ints(&[1], &[-1]);
    let Some(new) = one(plan, "Concat", &[first[0], rest], Attrs::new().with("axis", 0))? else { return Ok(None) };
    one(plan, "Reshape", &[x, new[0]], Attrs::new())
}

/// A step that is there already, on the same values, with the same attributes or others of its kind.
fn again(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    if plan.steps.is_empty() {
        return Ok(None);
    }
    let mut step = plan.steps[u.choose_index(plan.steps.len())?].clone();
    // A body says itself of what shape its inputs are.
    if step.attrs.graphs().next().is_some() {
        return Ok(plan.step(step.op, &step.inputs, step.attrs, step.outputs.len()));
    }
    if u.ratio(1, 2)?
        && let Some(first) = step.inputs.first_mut()
        && first.is_some_and(|id| plan.values[id].array.dtype == DType::F64)
    {
        *first = Some(x);
    }
    if u.ratio(1, 3)? {
        step.inputs.reverse();
    }
    Ok(plan.step(step.op, &step.inputs, step.attrs, step.outputs.len()))
}

fn cumulative(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let dims = shape(plan, x);
    if dims.is_empty() {
        return Ok(None);
    }
    let along = axis(u, dims.len())?;
    let along = plan.stored_ints(&[], &[along]);
    let flag = |u: &mut Unstructured| u.arbitrary::<bool>().map(i64::from);
    let attrs = Attrs::new().with("exclusive", flag(u)?).with("reverse", flag(u)?);
    let op = if u.ratio(2, 3)? { "CumSum" } else { "CumProd" };
    one(plan, op, &[x, along], attrs)
}

fn softmax(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let rank = shape(plan, x).len();
    if rank == 0 {
        return Ok(None);
    }
    let op = *u.choose(&["Softmax", "LogSoftmax", "LpNormalization"])?;
    one(plan, op, &[x], Attrs::new().with("axis", axis(u, rank)?))
}

fn variadic(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let mut inputs = vec![x];
    for _ in 0..u.int_in_range(0..=3)? {
        inputs.push(beside(plan, u, x)?);
    }
    let op = *u.choose(&["Sum", "Mean", "Max", "Min"])?;
    one(plan, op, &inputs, Attrs::new())
}

fn convert(plan: &mut Plan, u: &mut Unstructured, x: usize) -> Drawn {
    let y = beside(plan, u, x)?;
    one(plan, "CastLike", &[x, y], Attrs::new())
}
