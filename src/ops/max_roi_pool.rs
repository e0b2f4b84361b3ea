//! MaxRoiPool: the largest element of each bin of a region. Regions are rounded to whole elements.

use super::fact_cx::show;
use super::{Array, Case, Cx, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, DType, Dim, Fact, Val};
use crate::lower::along;

fn bins(attrs: &Attrs) -> Result<[i64; 2], Fault> {
    match attrs.ints("pooled_shape") {
        Some(&[height, width]) if (1..=65536).contains(&height) && (1..=65536).contains(&width) => Ok([height, width]),
        found => {
            let expected = "the rows and columns of the output".to_string();
            Err(Fault::Attribute { name: "pooled_shape", found: format!("{found:?}"), expected })
        }
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (x, rois, [height, width]) = (c.shape(0)?, c.shape(1)?, bins(c.attrs)?);
    match (x, rois) {
        ([_, channels, _, _], [n, k]) if k.fixed().is_none_or(|k| k == 5) => {
            let shape = [n.clone(), channels.clone(), Dim::Fixed(height), Dim::Fixed(width)];
            Ok(vec![Fact::new(c.dtype(0)?, shape)])
        }
        _ => {
            let expected = "an image of rank 4 and regions [R,5]".into();
            Err(Fault::Shape { what: "regions", found: format!("{} of {}", show(rois), show(x)), expected })
        }
    }
}

/// y = the largest of x in each bin, over columns and then over rows; 0 where a bin is empty
fn lowered<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let (x, b) = (c.x(0), c.b);
    let Ok(size) = bins(c.attrs()) else { return vec![x] };
    let column = |k: i64| c.x(1).slice(1, k, k + 1);
    let image = along::pick(x, 0, column(0).squeeze(&[1]).cast(DType::I64));
    // [R, bins, elements]: which elements each bin has.
    let [rows, columns] = [0, 1].map(|axis| {
        // Halves go away from 0.
        let whole = |k: i64| {
            let scaled = column(k) * c.float("spatial_scale", 1.0);
            (scaled.abs() + 0.5).floor() * scaled.sign()
        };
        let (start, end) = (whole(2 - axis), whole(4 - axis));
        let extent = b.op("Max", &[end - start + 1.0, start.like(1.0)], Attrs::new());
        let bin = extent / size[axis as usize] as f64;
        let order = b.range(&Dim::Fixed(size[axis as usize])).cast(x.dtype());
        let first = ((order * bin).floor() + start).unsqueeze(&[2]);
        let last = (b.op("Ceil", &[(order + 1.0) * bin], Attrs::new()) + start).unsqueeze(&[2]);
        let elements = b.range(&x.dim(axis + 2)).cast(x.dtype());
        elements.ge(first).and(elements.lt(last))
    });
    let none = x.like(f64::NEG_INFINITY);
    let largest = |v: Val<'g>, axis: i64| b.op("ReduceMax", &[v, b.ints(&[axis])], Attrs::new().with("keepdims", 0));
    // [R, C, H, bins, W] → [R, C, H, bins] → [R, C, bins, H, bins] → [R, C, bins, bins]
    let over_columns = largest(columns.unsqueeze(&[1, 2]).select(image.unsqueeze(&[3]), none), 4);
    let y = largest(rows.unsqueeze(&[1, 4]).select(over_columns.unsqueeze(&[2]), none), 3);
    vec![y.equal(none).select(x.like(0.0), y)]
}

/// The elements of bin `k` of `bins` along an axis of `size` elements.
fn bin(start: f64, end: f64, k: usize, bins: i64, size: usize) -> std::ops::Range<usize> {
    let bin = (end - start + 1.0).max(1.0) / bins as f64;
    let inside = |v: f64| (v + start).clamp(0.0, size as f64) as usize;
    inside((k as f64 * bin).floor())..inside(((k + 1) as f64 * bin).ceil())
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (x, rois, size) = (c.input(0)?, c.input(1)?, bins(c.attrs)?);
    let (&[n, channels, height, width], &[count, 5]) = (x.shape(), rois.shape()) else {
        let expected = "an image of rank 4 and regions [R,5]".into();
        return Err(Fault::Shape { what: "regions", found: format!("{:?}", rois.shape()), expected });
    };
    let shape = [count, channels, size[0] as usize, size[1] as usize];
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let edge = |k: usize| Ok((rois.at(&[at[0], k])? * c.float("spatial_scale", 1.0)).round());
        let image = super::eval_cx::wrapped(rois.at(&[at[0], 0])? as i64, n)?;
        let mut best = f64::NEG_INFINITY;
        for i in bin(edge(2)?, edge(4)?, at[2], size[0], height) {
            for j in bin(edge(1)?, edge(3)?, at[3], size[1], width) {
                best = best.max(x.at(&[image, at[1], i, j])?);
            }
        }
        Ok(if best == f64::NEG_INFINITY { 0.0 } else { best })
    })?;
    Ok(vec![y])
}

pub static MAX_ROI_POOL: Op = Op {
    name: "MaxRoiPool",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lowered(c))),
    eval,
    cases: || {
        let regions = |values: &[f64]| {
            crate::ir::Tensor::from_f64(DType::F64, &[values.len() / 5, 5], values.iter().copied())
        };
        let case = |values: &[f64]| Case::new().distinct(&[2, 2, 4, 5]).data(regions(values));
        vec![
            case(&[1.0, 0.0, 1.0, 3.0, 3.0, 0.0, 1.0, 0.0, 4.0, 3.0]).attr("pooled_shape", [2, 3]),
            case(&[0.0, 2.0, 2.0, 9.0, 7.0]).attr("pooled_shape", [2, 2]).attr("spatial_scale", 0.5_f32),
            case(&[0.0, 3.0, 3.0, 8.0, 9.0]).attr("pooled_shape", [3, 2]),
        ]
    },
};
