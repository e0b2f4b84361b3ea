//! Transposed convolution.

use super::conv::{check_bias, group, index, kernel, with_bias};
use super::fact_cx::show;
use super::window::{Windows, dims, inside, list, positions, sizes};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Graph, Node};
use crate::linear::ConvGeometry;

/// The windows, whose pads are those that make the output as large as asked for, and the output's spatial sizes.
///
/// `size = s·(n−1) + output_padding + span − pads`; with `output_shape` the pads follow from the size, and an odd one
/// goes to the beginning.
fn windows(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> Result<(Windows, Vec<Dim>), Fault> {
    let mut windows = Windows::of(attrs, kernel(attrs, x, w)?)?;
    let spatial = windows.spatial();
    let extra = list(attrs, "output_padding", spatial, 0, 0)?;
    let asked = match attrs.ints("output_shape") {
        Some(whole) if whole.len() == spatial + 2 => Some(whole[2..].to_vec()),
        Some(_) => Some(list(attrs, "output_shape", spatial, 0, 0)?),
        None => None,
    };
    let mut out = Vec::with_capacity(spatial);
    for i in 0..spatial {
        if extra[i] >= windows.strides[i] {
            return Err(Fault::Attribute {
                name: "output_padding",
                found: extra[i].to_string(),
                expected: format!("less than the stride {}", windows.strides[i]),
            });
        }
        let covered = (x[i + 2].clone() - Dim::Fixed(1)) * Dim::Fixed(windows.strides[i])
            + Dim::Fixed(extra[i] + windows.span(i));
        match &asked {
            None => out.push(covered - Dim::Fixed(windows.pads[i].0 + windows.pads[i].1)),
            Some(asked) => {
                let beyond = (covered - Dim::Fixed(asked[i])).fixed().filter(|&n| n >= 0).ok_or_else(|| {
                    Fault::Attribute {
                        name: "output_shape",
                        found: format!("{asked:?}"),
                        expected: format!("what an image {} of fixed size reaches", show(x)),
                    }
                })?;
                windows.pads[i] = (beyond - beyond / 2, beyond / 2);
                out.push(Dim::Fixed(asked[i]));
            }
        }
    }
    if out.iter().any(|d| d.fixed().is_some_and(|n| n < 0)) {
        return Err(Fault::Shape { what: "pads", found: format!("{:?}", windows.pads), expected: show(x) });
    }
    Ok((windows, out))
}

/// The convolution that this is the transpose of.
fn geometry(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> Result<(Windows, ConvGeometry), Fault> {
    let group = group(attrs, w)?;
    if let (Some(given), Some(needed)) = (x.get(1).and_then(Dim::fixed), w.first().and_then(Dim::fixed))
        && given != needed
    {
        return Err(Fault::Shape { what: "filter", found: show(w), expected: format!("the channels of {}", show(x)) });
    }
    let (windows, image) = windows(attrs, x, w)?;
    let geometry = ConvGeometry {
        kernel: windows.kernel.clone(),
        strides: windows.strides.clone(),
        dilations: windows.dilations.clone(),
        pads: windows.pads.clone(),
        group,
        image,
    };
    Ok((windows, geometry))
}

/// The geometry of a ConvTranspose node, where the shapes it depends on are known and fit.
pub fn geometry_of(graph: &Graph, node: &Node) -> Option<ConvGeometry> {
    let shape = |i: usize| node.input(i).and_then(|id| graph.value(id).fact.shape.clone());
    geometry(&node.attrs, &shape(0)?, &shape(1)?).ok().map(|(_, geometry)| geometry)
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let (Some(x), Some(w)) = (&c.input(0)?.shape, &c.input(1)?.shape) else { return Ok(vec![Fact::unknown(dtype)]) };
    let (_, geometry) = geometry(c.attrs, x, w)?;
    let shape = geometry.image_shape(x, w);
    check_bias(c, &shape[1])?;
    Ok(vec![Fact::new(dtype, shape)])
}

/// y = x ⋆ᵀ w + b       dy = dx ⋆ᵀ w + x ⋆ᵀ dw + db
fn conv_transpose<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, w, _], [dx, dw, db]) = c.args();
    match geometry(c.attrs(), &x.shape(), &w.shape()) {
        Ok((_, g)) => {
            dx.conv_transpose(w, g.clone()) + dw.conv_transpose_filter(x, g) + db.along_channel(x.rank())
        }
        Err(fault) => c.fault(fault),
    }
}

/// `y[n, m, i·s + t·δ − p] += x[n,c,i]·w[c,m,t]`, `m` over the channels of `c`'s group.
fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, w) = (c.data(0)?, c.data(1)?);
    let (windows, g) = geometry(c.attrs, &dims(x.shape()), &dims(w.shape()))?;
    let out = sizes(&g.image_shape(&dims(x.shape()), &dims(w.shape())));
    let (each, rows) = (w.shape()[1], w.shape()[0] / g.group as usize);
    let mut y = with_bias(c, &out)?;
    for (at, value) in positions(x.shape()).zip(x) {
        let first = at[1] / rows * each;
        for tap in windows.each_tap() {
            let Some(to) = inside(&windows.position(&at[2..], &tap), &out[2..]) else { continue };
            for m in 0..each {
                y[&index(at[0], first + m, &to)] += value * w[&index(at[1], m, &tap)];
            }
        }
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], w: &[usize]| Case::new().real(x).real(w);
    vec![
        case(&[2, 2, 4], &[2, 3, 3]).real(&[3]),
        case(&[2, 2, 3, 3], &[2, 3, 3, 2]).real(&[3]).attr("strides", [2, 3]).attr("pads", [1, 0, 2, 1]),
        case(&[1, 2, 3, 3], &[2, 2, 3, 3]).attr("strides", [2, 3]).attr("output_padding", [1, 2]),
        case(&[1, 2, 3, 4], &[2, 1, 2, 3]).attr("dilations", [2, 3]).attr("strides", [2, 1]),
        case(&[2, 4, 3, 3], &[4, 3, 2, 2]).real(&[6]).attr("group", 2),
        case(&[1, 3, 3, 3], &[3, 1, 3, 3]).attr("group", 3).attr("pads", [1, 1, 1, 1]),
        case(&[1, 2, 3, 3], &[2, 2, 3, 3]).attr("strides", [2, 2]).attr("output_shape", [6, 4]),
        // Enough columns for an exchanged filter gradient.
        case(&[2, 2, 3, 2], &[2, 8, 3, 3]).attr("strides", [2, 1]).attr("pads", [1, 0, 0, 1]),
        case(&[1, 4, 3, 3], &[4, 7, 3, 3]).attr("group", 2).attr("output_padding", [1, 0]).attr("strides", [2, 2]),
        case(&[1, 1, 2, 3, 2], &[1, 2, 2, 2, 2]).attr("strides", [2, 1, 2]),
    ]
}

pub static CONV_TRANSPOSE: Op =
    Op { name: "ConvTranspose", facts, tangent: Tangent::Rule(conv_transpose), eval, cases };
