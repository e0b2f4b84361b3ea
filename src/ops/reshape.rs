//! Operators that keep the elements in order: Reshape, Flatten, Squeeze, Unsqueeze.

use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Dim, Fact, count};

/// y = x in another shape            dy = dx in that shape
fn reshaped<'g>(c: &Cx<'g>) -> Tan<'g> {
    c.dx(0).reshape(&c.out(0).shape())
}

/// One output of the type of input 0; its elements, where known, stay.
fn same_elements(c: &FactCx, shape: Vec<Dim>) -> Result<Vec<Fact>, Fault> {
    let ints = if shape.len() <= 1 { c.ints(0).map(<[Dim]>::to_vec) } else { None };
    Ok(vec![Fact::new(c.dtype(0)?, shape).with_ints(ints)])
}

/// The value of -1: what of `all` the other dimensions do not take. Common factors are cancelled first, so that a
/// dimension that is no single term divides too.
fn inferred(all: &[Dim], others: &[Dim]) -> Option<Dim> {
    let mut all = all.to_vec();
    let mut rest = Vec::new();
    for d in others {
        match all.iter().position(|a| a == d) {
            Some(at) => drop(all.remove(at)),
            None => rest.push(d.clone()),
        }
    }
    let (all, rest) = (count(&all), count(&rest));
    if all == Dim::Fixed(0) { Some(all) } else { all.div_exact(&rest) }
}

/// 0 copies the dimension of the input (unless `allowzero`), -1 takes what is left.
fn reshape_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let x = c.input(0)?.shape.as_deref();
    let Some(target) = c.ints(1) else {
        return Ok(vec![match c.unknown_dims(1) {
            Some(shape) => Fact::new(dtype, shape),
            None => Fact::unknown(dtype),
        }]);
    };
    let copies = c.int("allowzero", 0) == 0;
    let misfit = || Fault::Shape {
        what: "target of the reshape",
        found: show(target),
        expected: x.map_or("the input".to_string(), show),
    };
    let mut shape = Vec::with_capacity(target.len());
    for (i, d) in target.iter().enumerate() {
        shape.push(match (d, x) {
            (Dim::Fixed(0), Some(x)) if copies => x.get(i).cloned().ok_or_else(misfit)?,
            (Dim::Fixed(0), None) if copies => c.unknown(i),
            (Dim::Fixed(n), _) if *n < -1 => return Err(misfit()),
            _ => d.clone(),
        });
    }
    let open = Dim::Fixed(-1);
    if let Some(at) = shape.iter().position(|d| *d == open) {
        let others: Vec<Dim> = shape.iter().enumerate().filter(|&(i, _)| i != at).map(|(_, d)| d.clone()).collect();
        if others.contains(&open) {
            return Err(misfit());
        }
        let size = x.and_then(|x| inferred(x, &others));
        if size.is_none() && x.is_some_and(|x| count(x).fixed().is_some()) && count(&others).fixed().is_some() {
            return Err(misfit());
        }
        shape[at] = size.unwrap_or_else(|| c.unknown(at));
    } else if let (Some(have), Some(want)) = (x.and_then(|x| count(x).fixed()), count(&shape).fixed())
        && have != want
    {
        return Err(misfit());
    }
    same_elements(c, shape)
}

fn reshape_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let target = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "a shape" })?;
    let copies = c.int("allowzero", 0) == 0;
    let misfit = || Fault::Shape {
        what: "target of the reshape",
        found: format!("{target:?}"),
        expected: format!("{:?}", x.shape()),
    };
    let mut shape: Vec<usize> = Vec::with_capacity(target.len());
    let mut open = None;
    for (i, &n) in target.iter().enumerate() {
        shape.push(match n {
            0 if copies => *x.shape().get(i).ok_or_else(misfit)?,
            -1 => {
                open = Some(i);
                1
            }
            n => n.max(0) as usize,
        });
    }
    if let Some(at) = open {
        let rest: usize = shape.iter().product();
        // Of no elements any number of rows is as good.
        shape[at] = x.data.len().checked_div(rest).ok_or_else(misfit)?;
    }
    in_shape(x, &shape)
}

fn in_shape(x: &Array, shape: &[usize]) -> Result<Vec<Array>, Fault> {
    Ok(vec![Array::from_vec(x.dtype, shape, x.data.iter().copied().collect())?])
}

pub static RESHAPE: Op = Op {
    name: "Reshape",
    facts: reshape_facts,
    tangent: Tangent::Rule(reshaped),
    eval: reshape_eval,
    cases: || {
        vec![
            Case::new().real(&[2, 3, 4]).const_ints(&[2], &[0, -1]),
            Case::new().real(&[2, 6]).const_ints(&[3], &[3, 2, 2]),
            Case::new().real(&[2, 6]).ints(&[2], &[-1, 4]),
            Case::new().real(&[1, 1]).const_ints(&[0], &[]),
            Case::new().real(&[0, 3]).const_ints(&[2], &[3, 0]).attr("allowzero", 1),
            Case::new().real(&[0, 3]).const_ints(&[2], &[0, 3]),
        ]
    },
};

fn flatten_axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(at).ok().filter(|&at| at <= rank).ok_or_else(|| Fault::Attribute {
        name: "axis",
        found: axis.to_string(),
        expected: format!("{}..={rank}", -(rank as i64)),
    })
}

pub static FLATTEN: Op = Op {
    name: "Flatten",
    facts: |c| {
        let Some(x) = &c.input(0)?.shape else {
            return Ok(vec![Fact::new(c.dtype(0)?, [c.unknown(0), c.unknown(1)])]);
        };
        let (rows, columns) = x.split_at(flatten_axis(c.int("axis", 1), x.len())?);
        Ok(vec![Fact::new(c.dtype(0)?, [count(rows), count(columns)])])
    },
    tangent: Tangent::Rule(reshaped),
    eval: |c| {
        let x = c.input(0)?;
        let (rows, columns) = x.shape().split_at(flatten_axis(c.int("axis", 1), x.shape().len())?);
        in_shape(x, &[rows.iter().product(), columns.iter().product()])
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3, 2]),
            Case::new().real(&[2, 3, 2]).attr("axis", 0),
            Case::new().real(&[2, 3, 2]).attr("axis", 3),
            Case::new().real(&[2, 3, 2]).attr("axis", -1),
        ]
    },
};

/// The given axes go; without a list, all of size 1.
fn squeeze_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    let axes = if c.has(1) {
        match c.fixed_ints(1) {
            Some(axes) => c.axes(&axes, x.len())?,
            None => {
                let k = c.unknown_dims(1).ok_or(Fault::UnknownRank { index: 1 })?.len();
                let rank = x.len().checked_sub(k).ok_or(Fault::UnknownRank { index: 1 })?;
                return Ok(vec![Fact::new(c.dtype(0)?, (0..rank).map(|i| c.unknown(i)).collect::<Vec<_>>())]);
            }
        }
    } else if x.iter().all(|d| d.fixed().is_some()) {
        (0..x.len()).filter(|&i| x[i].is_one()).collect()
    } else {
        return Err(Fault::UnknownRank { index: 0 });
    };
    if let Some(&axis) = axes.iter().find(|&&a| x[a].fixed().is_some_and(|n| n != 1)) {
        return Err(Fault::Shape { what: "squeezed axis", found: x[axis].to_string(), expected: "1".into() });
    }
    same_elements(c, (0..x.len()).filter(|i| !axes.contains(i)).map(|i| x[i].clone()).collect())
}

pub static SQUEEZE: Op = Op {
    name: "Squeeze",
    facts: |c| c.unknown_rank(c.dtype(0)?, squeeze_facts(c)),
    tangent: Tangent::Rule(reshaped),
    eval: |c| {
        let x = c.input(0)?;
        let rank = x.shape().len();
        let axes = match c.ints(1) {
            Some(axes) => axes.iter().map(|&a| c.axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).filter(|&i| x.shape()[i] == 1).collect(),
        };
        let kept: Vec<usize> = (0..rank).filter(|i| !axes.contains(i)).map(|i| x.shape()[i]).collect();
        in_shape(x, &kept)
    },
    cases: || {
        vec![
            Case::new().real(&[1, 3, 1]).const_ints(&[1], &[0]),
            Case::new().real(&[1, 3, 1]).const_ints(&[2], &[-1, 0]),
            Case::new().real(&[1, 3, 1]),
            Case::new().real(&[2, 1, 0]).ints(&[1], &[1]),
        ]
    },
};

/// Axes of size 1 come in at the given places of the result.
fn unsqueeze_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let x = c.shape(0)?;
    let Some(axes) = c.fixed_ints(1) else {
        let k = c.unknown_dims(1).ok_or(Fault::UnknownRank { index: 1 })?.len();
        return Ok(vec![Fact::new(c.dtype(0)?, (0..x.len() + k).map(|i| c.unknown(i)).collect::<Vec<_>>())]);
    };
    let rank = x.len() + axes.len();
    let axes = c.axes(&axes, rank)?;
    let mut rest = x.iter().cloned();
    let one = Dim::Fixed(1);
    let shape: Vec<Dim> =
        (0..rank).map(|i| if axes.contains(&i) { None } else { rest.next() }.unwrap_or(one.clone())).collect();
    if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
        return Err(Fault::Attribute { name: "axes", found: format!("{axes:?}"), expected: "no axis twice".into() });
    }
    same_elements(c, shape)
}

pub static UNSQUEEZE: Op = Op {
    name: "Unsqueeze",
    facts: |c| c.unknown_rank(c.dtype(0)?, unsqueeze_facts(c)),
    tangent: Tangent::Rule(reshaped),
    eval: |c| {
        let x = c.input(0)?;
        let axes = c.ints(1).ok_or(Fault::Missing { index: 1, needs: "axes" })?;
        let rank = x.shape().len() + axes.len();
        let axes = axes.iter().map(|&a| c.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        let mut rest = x.shape().iter().copied();
        let shape: Vec<usize> =
            (0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().unwrap_or(1) }).collect();
        in_shape(x, &shape)
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3]).const_ints(&[1], &[0]),
            Case::new().real(&[2, 3]).const_ints(&[2], &[-1, 1]),
            Case::new().real(&[]).const_ints(&[1], &[0]),
            Case::new().real(&[2, 0]).ints(&[1], &[-2]),
        ]
    },
};
