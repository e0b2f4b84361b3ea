//! p-norm pooling.

use super::conv::index;
use super::window::{Windows, dims, inside, positions, sizes};
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Dim, Fact};
use crate::lower;
use ndarray::{ArrayD, IxDyn};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else { return Ok(vec![Fact::unknown(dtype)]) };
    let windows = Windows::of_pool(c.attrs, x)?;
    let counts = windows.counts(&x[2..], |axis| c.unknown(axis))?;
    Ok(vec![Fact::new(dtype, x[..2].iter().cloned().chain(counts).collect::<Vec<_>>())])
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let w = Windows::of_pool(c.attrs, &dims(x.shape()))?;
    let (image, p) = (&x.shape()[2..], c.int("p", 2) as f64);
    let windows = sizes(&w.counts(&dims(image), |_| Dim::Fixed(0))?);
    let shape = [&x.shape()[..2], &windows].concat();
    let mut y = ArrayD::zeros(IxDyn(&shape));
    for (at, value) in positions(&shape).zip(y.iter_mut()) {
        let taps = w.each_tap().filter_map(|tap| inside(&w.position(&at[2..], &tap), image));
        let sum: f64 = taps.map(|from| x[&index(at[0], at[1], &from)].abs().powf(p)).sum();
        *value = sum.powf(1.0 / p);
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], k: &[i64]| Case::new().distinct(x).attr("kernel_shape", k);
    vec![
        case(&[2, 2, 6], &[2]).attr("strides", [2]),
        case(&[2, 2, 5, 4], &[3, 2]).attr("p", 3).attr("pads", [1, 0, 1, 1]).attr("strides", [2, 1]),
        case(&[1, 2, 5, 5], &[2, 2]).attr("p", 1).attr("ceil_mode", 1).attr("strides", [2, 2]),
        case(&[2, 1, 7], &[2]).attr("strides", [3]).attr("pads", [1, 1]).attr("ceil_mode", 1),
    ]
}

pub static LP_POOL: Op =
    Op { name: "LpPool", facts, tangent: Tangent::Lower(lower::pool::lp_pool), eval, cases };
