//! TopK, ArgMax, ArgMin.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{DType, Dim, Fact};
use std::cmp::Ordering;

fn top_k_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, Some(x)) = (c.dtype(0)?, &c.input(0)?.shape) else {
        return Ok(vec![Fact::unknown(c.dtype(0)?), Fact::unknown(DType::I64)]);
    };
    let axis = c.axis(c.int("axis", -1), x.len())?;
    let mut shape = x.clone();
    shape[axis] = c.ints(1).and_then(|k| k.first().cloned()).unwrap_or_else(|| c.unknown(axis));
    if let (Some(k), Some(n)) = (shape[axis].fixed(), x[axis].fixed())
        && !(0..=n).contains(&k)
    {
        return Err(Fault::Shape { what: "k", found: k.to_string(), expected: format!("0..={n}") });
    }
    Ok(vec![Fact::new(dtype, shape.clone()), Fact::new(DType::I64, shape)])
}

/// (y, i) = the k largest            dy = dx[i]
fn top_k<'g>(c: &Cx<'g>) -> Tan<'g> {
    if c.has_out(1) {
        return c.dx(0).gather_elements(c.out(1), c.axis(-1));
    }
    let both = c.b.node("TopK", &[Some(c.x(0)), Some(c.x(1))], c.attrs().clone(), 2);
    match both.get(1) {
        Some(&index) => {
            c.b.refine_fact(index, &Fact { dtype: DType::I64, ..c.out(0).fact() });
            c.dx(0).gather_elements(index, c.axis(-1))
        }
        None => c.zero(),
    }
}

/// The elements of every line along `axis`, with the line's index (0 at `axis`).
fn lines(x: &Array, axis: usize) -> Vec<(Vec<usize>, Vec<f64>)> {
    use ndarray::Dimension;
    let mut outer = x.data.raw_dim();
    outer[axis] = 1;
    let line = |at: Vec<usize>| {
        let element = |k: usize| {
            let mut at = at.clone();
            at[axis] = k;
            x.data.get(&at[..]).copied().unwrap_or(f64::NAN)
        };
        let values = (0..x.shape()[axis]).map(element).collect();
        (at, values)
    };
    ndarray::indices(outer).into_iter().map(|at| line(at.slice().to_vec())).collect()
}

/// Positions in order, the best first; of equals the first.
fn ranked(values: &[f64], largest: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| {
        let by_value = values[i].partial_cmp(&values[j]).unwrap_or(Ordering::Equal);
        if largest { by_value.reverse() } else { by_value }
    });
    order
}

fn top_k_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.axis(c.int("axis", -1), x.shape().len())?;
    let k = c.ints(1).and_then(|k| k.first().copied()).unwrap_or(0).clamp(0, x.shape()[axis] as i64) as usize;
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    let mut values = Array::tabulate(x.dtype, &shape, |_| Ok(0.0))?;
    let mut indices = Array::tabulate(DType::I64, &shape, |_| Ok(0.0))?;
    for (mut at, line) in lines(x, axis) {
        for (place, &from) in ranked(&line, c.int("largest", 1) != 0).iter().take(k).enumerate() {
            at[axis] = place;
            if let (Some(v), Some(i)) = (values.data.get_mut(&at[..]), indices.data.get_mut(&at[..])) {
                (*v, *i) = (line[from], from as f64);
            }
        }
    }
    Ok(vec![values, indices])
}

pub static TOP_K: Op = Op {
    name: "TopK",
    facts: top_k_facts,
    tangent: Tangent::Rule(top_k),
    eval: top_k_eval,
    cases: || {
        vec![
            Case::new().distinct(&[2, 4]).const_ints(&[1], &[2]).outputs(2),
            Case::new().distinct(&[3, 2]).const_ints(&[1], &[2]).attr("axis", 0).attr("largest", 0).outputs(2),
            Case::new().distinct(&[4]).ints(&[1], &[3]).outputs(2),
        ]
    },
};

fn arg_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let mut shape = c.shape(0)?.to_vec();
    let axis = c.axis(c.int("axis", 0), shape.len())?;
    if c.int("keepdims", 1) != 0 {
        shape[axis] = Dim::Fixed(1);
    } else {
        shape.remove(axis);
    }
    Ok(vec![Fact::new(DType::I64, shape)])
}

fn arg_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let axis = c.axis(c.int("axis", 0), x.shape().len())?;
    let best = |line: &[f64]| {
        let order = ranked(line, c.op == "ArgMax");
        let top = order.first().copied().unwrap_or(0);
        let equal = |&&k: &&usize| line[k] == line[top];
        if c.int("select_last_index", 0) != 0 { order.iter().take_while(equal).max().copied() } else { None }
            .unwrap_or(top) as f64
    };
    let mut shape = x.shape().to_vec();
    shape[axis] = 1;
    if c.int("keepdims", 1) == 0 {
        shape.remove(axis);
    }
    let found = lines(x, axis).iter().map(|(_, line)| best(line)).collect();
    Ok(vec![Array::from_vec(DType::I64, &shape, found)?])
}

macro_rules! arg {
    ($const:ident $name:literal) => {
        pub static $const: Op = Op {
            name: $name,
            facts: |c| c.unknown_rank(DType::I64, arg_facts(c)),
            tangent: Tangent::Zero,
            eval: arg_eval,
            cases: || {
                let ties = || Case::new().ints(&[2, 3], &[1, 3, 3, 0, 0, -1]).attr("axis", -1);
                vec![
                    Case::new().distinct(&[3, 2]),
                    ties().attr("keepdims", 0),
                    ties().attr("select_last_index", 1),
                ]
            },
        };
    };
}

arg!(ARG_MAX "ArgMax");
arg!(ARG_MIN "ArgMin");
