//! MaxUnpool: pooled elements put back to where they were taken from.

use super::window::{dims, list, sizes};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, count};
use ndarray::{ArrayD, IxDyn};

/// The shape that was pooled, as far as the pooled one tells; places are counted in it.
fn pooled(attrs: &Attrs, x: &[Dim]) -> Result<Vec<Dim>, Fault> {
    let kernel = attrs.ints("kernel_shape").unwrap_or(&[]).to_vec();
    let n = kernel.len();
    if n == 0 || x.len() != n + 2 {
        let expected = "an entry a spatial axis".to_string();
        return Err(Fault::Attribute { name: "kernel_shape", found: format!("{kernel:?}"), expected });
    }
    let kernel = list(attrs, "kernel_shape", n, 1, 1)?;
    let (strides, pads) = (list(attrs, "strides", n, 1, 1)?, list(attrs, "pads", 2 * n, 0, 0)?);
    let size = |i: usize| {
        (x[i + 2].clone() - Dim::Fixed(1)) * Dim::Fixed(strides[i]) + Dim::Fixed(kernel[i] - pads[i] - pads[n + i])
    };
    let spatial: Vec<Dim> = (0..n).map(size).collect();
    match spatial.iter().all(|d| d.fixed().is_none_or(|n| n >= 0)) {
        true => Ok(x[..2].iter().cloned().chain(spatial).collect()),
        false => {
            let found = format!("{pads:?}");
            Err(Fault::Attribute { name: "pads", found, expected: "pads that leave elements".into() })
        }
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, dtype) = (c.shape(0)?, c.dtype(0)?);
    c.input(1)?;
    let own = pooled(c.attrs, x)?;
    let shape = match (c.ints(2), c.has(2)) {
        (Some(given), _) if given.len() == own.len() => given.to_vec(),
        (_, true) => (0..own.len()).map(|axis| c.unknown(axis)).collect(),
        (_, false) => own,
    };
    Ok(vec![Fact::new(dtype, shape)])
}

/// y = x at its places, zeros elsewhere            dy = dx there
fn max_unpool<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0).shape(), c.out(0).shape());
    let own = match pooled(c.attrs(), &x) {
        Ok(own) => own,
        Err(fault) => return c.fault(fault),
    };
    let flat = [count(&x)];
    let whole = c.dx(0).reshape(&flat).scatter_elements(c.x(1).reshape(&flat), 0, &[count(&own)]).reshape(&own);
    whole.pad(own.iter().zip(y).map(|(own, y)| (Dim::Fixed(0), y - own.clone())).collect())
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, places) = (c.input(0)?, c.ints(1).ok_or(Fault::Missing { index: 1, needs: "places" })?);
    let own = sizes(&pooled(c.attrs, &dims(x.shape()))?);
    let mut flat = vec![0.0; own.iter().product()];
    for (&v, place) in x.data.iter().zip(places) {
        let place = super::eval_cx::wrapped(place, flat.len())?;
        flat[place] = v;
    }
    let own = Array::from_vec(x.dtype, &own, flat)?;
    let shape: Vec<usize> = match c.ints(2) {
        Some(shape) => shape.iter().map(|&n| n.clamp(0, 1 << 24) as usize).collect(),
        None => own.shape().to_vec(),
    };
    let mut y = Array::new(x.dtype, ArrayD::zeros(IxDyn(&shape)));
    for (at, &v) in own.data.indexed_iter() {
        use ndarray::Dimension;
        y.at(at.slice())?;
        y.data[at.slice()] = v;
    }
    Ok(vec![y])
}

pub static MAX_UNPOOL: Op = Op {
    name: "MaxUnpool",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(max_unpool),
    eval,
    cases: || {
        let two = || Case::new().real(&[1, 1, 2, 2]).ints(&[1, 1, 2, 2], &[1, 6, 8, 15]);
        let two = || two().attr("kernel_shape", [2, 2]).attr("strides", [2, 2]);
        let given = Case::new().real(&[1, 1, 2, 2]).ints(&[1, 1, 2, 2], &[1, 6, 8, 15]).const_ints(&[4], &[1, 1, 5, 6]);
        vec![
            two(),
            given.attr("kernel_shape", [2, 2]).attr("strides", [2, 2]),
            Case::new()
                .real(&[2, 2, 3])
                .ints(&[2, 2, 3], &[0, 2, 5, 6, 8, 10, 13, 15, 16, 18, 21, 23])
                .attr("kernel_shape", [2])
                .attr("strides", [2]),
        ]
    },
};
