//! Col2Im: blocks put back to where they were cut from, summed where they overlap.

use super::fact_cx::show;
use super::window::{Windows, dims, inside, positions, sizes};
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ad::Tan;
use crate::ir::{Attrs, Dim, Fact, Tensor};
use ndarray::{ArrayD, IxDyn};

/// The blocks, and how many there are along each axis of the image.
fn windows(attrs: &Attrs, x: &[Dim], image: &[Dim], block: Vec<i64>) -> Result<(Windows, Vec<Dim>), Fault> {
    if x.len() != 3 || image.is_empty() || image.len() != block.len() {
        let found = format!("{} blocks of {} for an image {}", show(x), block.len(), show(image));
        return Err(Fault::Shape { what: "columns", found, expected: "[N,C*block,L] and a size an axis".into() });
    }
    let windows = Windows::of(attrs, block)?;
    let counts = windows.counts(image, |axis| Dim::symbol(&format!("?blocks.{axis}")))?;
    let fits = |known: Option<i64>, by: i64| known.is_none_or(|n| by > 0 && n % by == 0);
    let total = crate::ir::count(&counts).fixed();
    let all = x[2].fixed().zip(total).is_none_or(|(found, expected)| found == expected);
    match fits(x[1].fixed(), windows.taps()) && all {
        true => Ok((windows, counts)),
        false => {
            let expected = format!("[N, a multiple of {}, {}]", windows.taps(), show(&counts));
            Err(Fault::Shape { what: "columns", found: show(x), expected })
        }
    }
}

/// Channels of the image.
fn channels(x: &[Dim], taps: i64) -> Dim {
    x[1].div_exact(&Dim::Fixed(taps)).unwrap_or_else(|| x[1].div_floor(taps))
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (dtype, x) = (c.dtype(0)?, c.shape(0)?);
    let image = c.ints(1).map(<[Dim]>::to_vec).or_else(|| c.unknown_dims(1)).or_else(|| c.unknown_dims(2));
    let Some(image) = image else { return Ok(vec![Fact::unknown(dtype)]) };
    let channels = match c.fixed_ints(2) {
        Some(block) => {
            let (windows, _) = windows(c.attrs, x, &image, block)?;
            channels(x, windows.taps())
        }
        None => c.unknown(1),
    };
    let batch = x.first().cloned().unwrap_or(Dim::Fixed(1));
    Ok(vec![Fact::new(dtype, [batch, channels].into_iter().chain(image).collect::<Vec<_>>())])
}

/// y = Σ blocks at their places: the transpose of cutting them, which is a convolution with one filter a tap
fn col2im<'g>(c: &Cx<'g>) -> Tan<'g> {
    let (x, y) = (c.x(0).shape(), c.out(0).shape());
    let Some(block) = c.ints(2) else { return c.blocked("the size of its blocks is known only at run time") };
    let (batch, image) = y.split_at(2.min(y.len()));
    let (windows, counts) = match windows(c.attrs(), &x, image, block) {
        Ok(found) => found,
        Err(fault) => return c.fault(fault),
    };
    let taps = windows.taps();
    let single = [batch[0].clone() * batch[1].clone(), Dim::Fixed(taps)];
    let g = windows.geometry(image, &counts, 1);
    let shape: Vec<usize> = [taps, 1].iter().chain(&g.kernel).map(|&k| k as usize).collect();
    let n = taps as usize;
    let identity = (0..n * n).map(|k| f64::from(u8::from(k / n == k % n)));
    let w = c.b.constant(Tensor::from_f64(c.x(0).dtype(), &shape, identity));
    let blocks: Vec<Dim> = single.into_iter().chain(counts).collect();
    c.dx(0).reshape(&blocks).conv_transpose(w, g).reshape(&y)
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let x = c.data(0)?;
    let ints = |i: usize| c.ints(i).ok_or(Fault::Missing { index: i, needs: "sizes" });
    let image: Vec<usize> = ints(1)?.iter().map(|&n| n.clamp(0, 1 << 24) as usize).collect();
    let (w, counts) = windows(c.attrs, &dims(x.shape()), &dims(&image), ints(2)?)?;
    let (counts, taps) = (sizes(&counts), w.taps() as usize);
    let shape = [&[x.shape()[0], x.shape()[1] / taps], &image[..]].concat();
    let mut y = ArrayD::zeros(IxDyn(&shape));
    for at in positions(&shape[..2]) {
        for (block, window) in positions(&counts).enumerate() {
            for (k, tap) in w.each_tap().enumerate() {
                if let Some(place) = inside(&w.position(&window, &tap), &image) {
                    y[IxDyn(&[&at[..], &place].concat())] += x[IxDyn(&[at[0], at[1] * taps + k, block])];
                }
            }
        }
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

pub static COL2IM: Op = Op {
    name: "Col2Im",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(col2im),
    eval,
    cases: || {
        let case = |x: &[usize], image: &[i64], block: &[i64]| {
            Case::new().real(x).const_ints(&[image.len()], image).const_ints(&[block.len()], block)
        };
        vec![
            case(&[2, 4, 6], &[3, 4], &[2, 2]),
            case(&[2, 8, 4], &[4, 4], &[2, 2]).attr("strides", [2, 2]),
            case(&[1, 6, 8], &[3, 4], &[3, 2]).attr("pads", [1, 0, 1, 0]).attr("dilations", [2, 1]).attr("strides", [1, 1])
                .attr("pads", [1, 1, 2, 0]),
            case(&[2, 3, 4], &[6], &[3]),
            Case::new().real(&[2, 4, 4]).ints(&[2], &[3, 3]).const_ints(&[2], &[2, 2]),
        ]
    },
};
