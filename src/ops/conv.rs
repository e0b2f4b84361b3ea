//! Convolution.

use super::window::{Windows, dims, inside, positions, sizes};
use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Graph, Node};
use crate::linear::ConvGeometry;
use ndarray::{ArrayD, IxDyn};

/// The spatial sizes of a filter `[M, C/group, k…]`: its own, or where they are not known the attribute.
pub(super) fn kernel(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> Result<Vec<i64>, Fault> {
    if x.len() < 3 || w.len() != x.len() {
        return Err(Fault::Shape { what: "filter", found: show(w), expected: format!("an image {}", show(x)) });
    }
    let own = crate::ir::fixed(&w[2..]);
    match (own, attrs.ints("kernel_shape")) {
        (Some(own), Some(given)) if own != given => Err(Fault::Attribute {
            name: "kernel_shape",
            found: format!("{given:?}"),
            expected: format!("the filter's {own:?}"),
        }),
        (Some(own), _) => Ok(own),
        (None, Some(given)) if given.len() + 2 == w.len() => Ok(given.to_vec()),
        (None, _) => Err(Fault::Shape { what: "filter", found: show(w), expected: "fixed spatial sizes".into() }),
    }
}

/// The attribute `group`, which must divide the filter's channels on axis 0.
pub(super) fn group(attrs: &Attrs, w: &[Dim]) -> Result<i64, Fault> {
    let group = attrs.int("group").unwrap_or(1);
    let rows = w.first().and_then(Dim::fixed);
    match group > 0 && rows.is_none_or(|m| m % group == 0) {
        true => Ok(group),
        false => Err(Fault::Attribute {
            name: "group",
            found: group.to_string(),
            expected: format!("a divisor of the filter's first axis {}", show(w)),
        }),
    }
}

fn windows(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> Result<(Windows, ConvGeometry), Fault> {
    let windows = Windows::of(attrs, kernel(attrs, x, w)?)?;
    let group = group(attrs, w)?;
    let channels = w[1].clone() * Dim::Fixed(group);
    if let (Some(given), Some(needed)) = (x[1].fixed(), channels.fixed())
        && given != needed
    {
        return Err(Fault::Shape {
            what: "image",
            found: show(x),
            expected: format!("the {needed} channels of filter {} in {group} groups", show(w)),
        });
    }
    let counts = windows.counts(&x[2..], |_| Dim::Fixed(1))?;
    let geometry = windows.geometry(&x[2..], &counts, group);
    Ok((windows, geometry))
}

/// The geometry of a Conv node, where the shapes it depends on are known and fit.
pub fn geometry_of(graph: &Graph, node: &Node) -> Option<ConvGeometry> {
    let shape = |i: usize| node.input(i).and_then(|id| graph.value(id).fact.shape.clone());
    windows(&node.attrs, &shape(0)?, &shape(1)?).ok().map(|(_, geometry)| geometry)
}

/// `[M]`, where it is known.
pub(super) fn check_bias(c: &FactCx, channels: &Dim) -> Result<(), Fault> {
    check_bias_at(c, 2, channels)
}

/// The same where the bias is input `i`.
pub(super) fn check_bias_at(c: &FactCx, i: usize, channels: &Dim) -> Result<(), Fault> {
    let Some([bias]) = c.get(i).and_then(|f| f.shape.as_deref()) else { return Ok(()) };
    match (bias.fixed(), channels.fixed()) {
        (Some(found), Some(needed)) if found != needed => Err(Fault::Shape {
            what: "bias",
            found: format!("[{found}]"),
            expected: format!("{needed} output channels"),
        }),
        _ => Ok(()),
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let (Some(x), Some(w)) = (&c.input(0)?.shape, &c.input(1)?.shape) else { return Ok(vec![Fact::unknown(dtype)]) };
    let (_, geometry) = windows(c.attrs, x, w)?;
    check_bias(c, &w[0])?;
    Ok(vec![Fact::new(dtype, geometry.conv_shape(x, w))])
}

/// y = x ⋆ w + b        dy = dx ⋆ w + x ⋆ dw + db
fn conv<'g>(c: &Cx<'g>) -> Tan<'g> {
    let ([x, w, _], [dx, dw, db]) = c.args();
    match windows(c.attrs(), &x.shape(), &w.shape()) {
        Ok((_, g)) => dx.conv(w, g.clone()) + dw.conv_filter(x, g) + db.along_channel(x.rank()),
        Err(fault) => c.fault(fault),
    }
}

/// `y[n,m,o] = b[m] + Σ_{c,t} x[n, c, o·s + t·δ − p]·w[m,c,t]`, `c` over the channels of `m`'s group.
fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, w) = (c.data(0)?, c.data(1)?);
    let (windows, g) = windows(c.attrs, &dims(x.shape()), &dims(w.shape()))?;
    let out = sizes(&g.conv_shape(&dims(x.shape()), &dims(w.shape())));
    let (image, each) = (&x.shape()[2..], w.shape()[1]);
    let rows = w.shape()[0] / g.group as usize;
    let mut y = with_bias(c, &out)?;
    for (at, value) in positions(&out).zip(y.iter_mut()) {
        let first = at[1] / rows * each;
        for tap in windows.each_tap() {
            let Some(from) = inside(&windows.position(&at[2..], &tap), image) else { continue };
            for k in 0..each {
                *value += x[&index(at[0], first + k, &from)] * w[&index(at[1], k, &tap)];
            }
        }
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

/// `[a, b, rest…]`
pub(super) fn index(a: usize, b: usize, rest: &[usize]) -> IxDyn {
    IxDyn(&[&[a, b], rest].concat())
}

/// An image that holds the bias of each channel.
pub(super) fn with_bias(c: &EvalCx, shape: &[usize]) -> Result<ArrayD<f64>, Fault> {
    with_bias_at(c, 2, shape)
}

/// The same where the bias is input `i`.
pub(super) fn with_bias_at(c: &EvalCx, i: usize, shape: &[usize]) -> Result<ArrayD<f64>, Fault> {
    let mut y = ArrayD::zeros(IxDyn(shape));
    if c.get(i).is_some() {
        let bias = c.data(i)?;
        if bias.len() != shape[1] {
            return Err(Fault::Shape {
                what: "bias",
                found: format!("{:?}", bias.shape()),
                expected: format!("{} channels", shape[1]),
            });
        }
        for (mut channel, &b) in y.axis_iter_mut(ndarray::Axis(1)).zip(bias) {
            channel.fill(b);
        }
    }
    Ok(y)
}

fn cases() -> Vec<Case> {
    let case = |x: &[usize], w: &[usize]| Case::new().real(x).real(w);
    vec![
        case(&[2, 2, 5], &[3, 2, 3]).real(&[3]),
        case(&[2, 2, 4, 5], &[3, 2, 3, 2]).real(&[3]).attr("pads", [1, 0, 2, 1]),
        case(&[1, 2, 6, 7], &[2, 2, 3, 3]).attr("strides", [2, 3]).attr("pads", [1, 1, 0, 1]),
        case(&[1, 2, 7, 6], &[2, 2, 2, 3]).attr("dilations", [3, 2]).attr("strides", [2, 1]),
        case(&[2, 4, 4, 4], &[6, 2, 2, 2]).real(&[6]).attr("group", 2),
        case(&[2, 3, 4, 4], &[3, 1, 3, 3]).attr("group", 3).attr("pads", [1, 1, 1, 1]),
        case(&[2, 3, 4, 4], &[2, 3, 1, 1]),
        case(&[2, 3, 5, 4], &[2, 3, 1, 1]).attr("strides", [2, 2]),
        // Enough columns for an exchanged filter gradient; rows that no window reads; a channel a group.
        case(&[2, 8, 6, 5], &[2, 8, 3, 3]).attr("strides", [2, 2]).attr("pads", [1, 0, 0, 1]),
        case(&[1, 16, 4, 6], &[4, 8, 3, 3]).attr("group", 2).attr("dilations", [1, 2]),
        case(&[2, 8, 10], &[2, 8, 9]).attr("pads", [0, 3]),
        case(&[2, 3, 6, 6], &[3, 1, 3, 3]).attr("group", 3).attr("strides", [2, 2]),
        case(&[1, 1, 4, 3, 4], &[2, 1, 2, 2, 2]).attr("strides", [2, 1, 2]).attr("kernel_shape", [2, 2, 2]),
    ]
}

pub static CONV: Op = Op { name: "Conv", facts, tangent: Tangent::Rule(conv), eval, cases };
