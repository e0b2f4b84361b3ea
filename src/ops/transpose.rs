//! Transpose, DepthToSpace, SpaceToDepth: axes change places.

use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact};
use ndarray::IxDyn;

/// The attribute `perm`; without it the axes in reverse order.
fn permutation(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, Fault> {
    let Some(perm) = attrs.ints("perm") else { return Ok((0..rank).rev().collect()) };
    let axes: Vec<usize> = perm.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if axes.len() == perm.len() && sorted.iter().copied().eq(0..rank) {
        return Ok(axes);
    }
    let expected = format!("a permutation of 0..{rank}");
    Err(Fault::Attribute { name: "perm", found: format!("{perm:?}"), expected })
}

fn transpose_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let Some(x) = &c.input(0)?.shape else {
        return Ok(vec![match c.attrs.ints("perm") {
            Some(perm) => Fact::new(dtype, (0..perm.len()).map(|i| c.unknown(i)).collect::<Vec<_>>()),
            None => Fact::unknown(dtype),
        }]);
    };
    let shape: Vec<Dim> = permutation(c.attrs, x.len())?.into_iter().map(|i| x[i].clone()).collect();
    Ok(vec![Fact::new(dtype, shape).with_ints(c.ints(0).map(<[Dim]>::to_vec))])
}

/// y = x with axes permuted            dy = dx with the same axes permuted
fn transpose<'g>(c: &Cx<'g>) -> Tan<'g> {
    let reversed = || (0..c.x(0).rank() as i64).rev().collect();
    let perm = c.attrs().ints("perm").map_or_else(reversed, <[i64]>::to_vec);
    c.dx(0).permute(&perm)
}

pub static TRANSPOSE: Op = Op {
    name: "Transpose",
    facts: transpose_facts,
    tangent: Tangent::Rule(transpose),
    eval: |c| {
        let x = c.input(0)?;
        let perm = permutation(c.attrs, x.shape().len())?;
        let data = x.data.view().permuted_axes(IxDyn(&perm)).as_standard_layout().into_owned();
        Ok(vec![Array::new(x.dtype, data)])
    },
    cases: || {
        vec![
            Case::new().real(&[2, 3]),
            Case::new().real(&[2, 3, 4]).attr("perm", [1, 2, 0]),
            Case::new().real(&[2, 0, 1]).attr("perm", [2, 0, 1]),
            Case::new().real(&[]),
        ]
    },
};

/// The way of blocks between channels and space: reshape, permute, reshape.
struct Blocks {
    split: Vec<Dim>,
    perm: [i64; 6],
    joined: Vec<Dim>,
}

impl Blocks {
    fn of(op: &str, attrs: &Attrs, x: &[Dim]) -> Result<Blocks, Fault> {
        let [n, ch, h, w] = x else {
            return Err(Fault::Rank { index: 0, found: x.len(), expected: "4".into() });
        };
        let size = attrs.int("blocksize").filter(|&size| (1..=i64::from(u16::MAX)).contains(&size));
        let size = size.ok_or_else(|| Fault::Attribute {
            name: "blocksize",
            found: attrs.int("blocksize").map_or("missing".into(), |b| b.to_string()),
            expected: "a positive number".into(),
        })?;
        let b = Dim::Fixed(size);
        let divided = |d: &Dim, by: i64| {
            d.fixed().is_none_or(|d| d % by == 0).then(|| d.div_floor(by)).ok_or_else(|| Fault::Shape {
                what: "blocks",
                found: d.to_string(),
                expected: format!("a multiple of {by}"),
            })
        };
        let [n, ch, h, w] = [n, ch, h, w].map(Dim::clone);
        if op == "SpaceToDepth" {
            let (rows, columns) = (divided(&h, size)?, divided(&w, size)?);
            return Ok(Blocks {
                split: vec![n.clone(), ch.clone(), rows.clone(), b.clone(), columns.clone(), b.clone()],
                perm: [0, 3, 5, 1, 2, 4],
                joined: vec![n, ch * b.clone() * b, rows, columns],
            });
        }
        let depth = divided(&ch, size * size)?;
        let joined = vec![n.clone(), depth.clone(), h.clone() * b.clone(), w.clone() * b.clone()];
        Ok(match attrs.str("mode") {
            Some("CRD") => Blocks { split: vec![n, depth, b.clone(), b, h, w], perm: [0, 1, 4, 2, 5, 3], joined },
            _ => Blocks { split: vec![n, b.clone(), b, depth, h, w], perm: [0, 3, 4, 1, 5, 2], joined },
        })
    }
}

fn block_facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    match &c.input(0)?.shape {
        Some(x) => Ok(vec![Fact::new(dtype, Blocks::of(c.op, c.attrs, x)?.joined)]),
        None => Ok(vec![Fact::new(dtype, (0..4).map(|i| c.unknown(i)).collect::<Vec<_>>())]),
    }
}

/// y = x with blocks moved between channels and space            dy = dx moved likewise
fn blocks<'g>(c: &Cx<'g>) -> Tan<'g> {
    match Blocks::of(c.op(), c.attrs(), &c.x(0).shape()) {
        Ok(way) => c.dx(0).reshape(&way.split).permute(&way.perm).reshape(&way.joined),
        Err(fault) => c.blocked(&fault.to_string()),
    }
}

fn block_eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.input(0)?;
    let shape: Vec<Dim> = x.shape().iter().map(|&n| Dim::from(n)).collect();
    let way = Blocks::of(c.op, c.attrs, &shape)?;
    let sizes = |dims: &[Dim]| dims.iter().map(|d| d.fixed().unwrap_or(0) as usize).collect::<Vec<_>>();
    let split = Array::from_vec(x.dtype, &sizes(&way.split), x.data.iter().copied().collect())?;
    let moved = split.data.permuted_axes(IxDyn(&way.perm.map(|p| p as usize)));
    Ok(vec![Array::from_vec(x.dtype, &sizes(&way.joined), moved.iter().copied().collect())?])
}

pub static DEPTH_TO_SPACE: Op = Op {
    name: "DepthToSpace",
    facts: block_facts,
    tangent: Tangent::Rule(blocks),
    eval: block_eval,
    cases: || {
        let x = || Case::new().real(&[2, 8, 2, 1]).attr("blocksize", 2);
        vec![x(), x().attr("mode", "CRD"), Case::new().real(&[0, 4, 1, 3]).attr("blocksize", 2)]
    },
};

pub static SPACE_TO_DEPTH: Op = Op {
    name: "SpaceToDepth",
    facts: block_facts,
    tangent: Tangent::Rule(blocks),
    eval: block_eval,
    cases: || vec![Case::new().real(&[2, 3, 4, 2]).attr("blocksize", 2)],
};
