//! RoiAlign: pools of samples of regions.

use super::fact_cx::show;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attrs, Dim, Fact};
use crate::lower;

/// The attributes of a RoiAlign.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regions {
    pub max: bool,
    pub half_pixel: bool,
    /// Rows and columns of the output.
    pub size: [i64; 2],
    /// Samples a bin and axis; `None`: as many as a bin spans elements.
    pub samples: Option<i64>,
    pub scale: f64,
}

impl Regions {
    pub fn of(attrs: &Attrs) -> Result<Regions, Fault> {
        let size = |name: &'static str| match attrs.int(name).unwrap_or(1) {
            n @ 1..=65536 => Ok(n),
            n => Err(Fault::Attribute { name, found: n.to_string(), expected: "a size".into() }),
        };
        let samples = match attrs.int("sampling_ratio").unwrap_or(0) {
            0 => None,
            n @ 1..=4096 => Some(n),
            n => {
                let expected = "a number of samples, or 0".into();
                return Err(Fault::Attribute { name: "sampling_ratio", found: n.to_string(), expected });
            }
        };
        Ok(Regions {
            max: attrs.str("mode") == Some("max"),
            half_pixel: attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") == "half_pixel",
            size: [size("output_height")?, size("output_width")?],
            samples,
            scale: f64::from(attrs.float("spatial_scale").unwrap_or(1.0)),
        })
    }
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let (r, x, rois) = (Regions::of(c.attrs)?, c.shape(0)?, c.shape(1)?);
    c.input(2)?;
    let ([_, channels, _, _], [n, _]) = (x, rois) else {
        let expected = "an image of rank 4 and regions [R,4]".into();
        return Err(Fault::Shape { what: "regions", found: format!("{} of {}", show(rois), show(x)), expected });
    };
    if n.fixed().is_some() && rois[1].fixed().is_some_and(|k| k != 4) {
        return Err(Fault::Shape { what: "regions", found: show(rois), expected: "[R,4]".into() });
    }
    let shape = [n.clone(), channels.clone(), Dim::Fixed(r.size[0]), Dim::Fixed(r.size[1])];
    Ok(vec![Fact::new(c.dtype(0)?, shape)])
}

/// Samples of one axis of a region: for each bin the two elements next to each sample and their weights.
fn samples(r: &Regions, axis: usize, start: f64, end: f64, size: usize) -> Vec<Vec<[(usize, f64); 2]>> {
    let offset = if r.half_pixel { 0.5 } else { 0.0 };
    let (start, end) = (start * r.scale - offset, end * r.scale - offset);
    let extent = if r.half_pixel { end - start } else { (end - start).max(1.0) };
    let bin = extent / r.size[axis] as f64;
    let count = r.samples.unwrap_or(bin.ceil().clamp(0.0, 65536.0) as i64);
    let sample = |place: f64| {
        if place < -1.0 || place > size as f64 {
            return [(0, 0.0); 2];
        }
        let last = size.saturating_sub(1);
        let place = place.clamp(0.0, last as f64);
        let low = place.floor();
        [(low as usize, 1.0 - (place - low)), ((low as usize + 1).min(last), place - low)]
    };
    let at = |p: i64, i: i64| start + bin * (p as f64 + (i as f64 + 0.5) / count as f64);
    (0..r.size[axis]).map(|p| (0..count).map(|i| sample(at(p, i))).collect()).collect()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (r, x, rois) = (Regions::of(c.attrs)?, c.input(0)?, c.input(1)?);
    let images = c.ints(2).ok_or(Fault::Missing { index: 2, needs: "the image of each region" })?;
    let misfit = || Fault::Shape {
        what: "regions",
        found: format!("{:?} of {:?}", rois.shape(), x.shape()),
        expected: "an image of rank 4 and regions [R,4]".into(),
    };
    let (&[n, channels, height, width], &[count, 4]) = (x.shape(), rois.shape()) else { return Err(misfit()) };
    if height * width == 0 || images.len() != count {
        return Err(misfit());
    }
    let shape = [count, channels, r.size[0] as usize, r.size[1] as usize];
    let y = Array::tabulate(x.dtype, &shape, |at| {
        let image = super::eval_cx::wrapped(images[at[0]], n)?;
        let edge = |k: usize| rois.at(&[at[0], k]);
        let rows = samples(&r, 0, edge(1)?, edge(3)?, height).swap_remove(at[2]);
        let columns = samples(&r, 1, edge(0)?, edge(2)?, width).swap_remove(at[3]);
        let mut products = Vec::new();
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            for ((i, v), (j, w)) in row.iter().flat_map(|a| column.iter().map(move |b| (*a, *b))) {
                products.push(v * w * x.at(&[image, at[1], i, j])?);
            }
        }
        Ok(match (r.max, products.is_empty()) {
            (_, true) => 0.0,
            (true, _) => products.into_iter().fold(f64::NEG_INFINITY, f64::max),
            (false, _) => products.iter().sum::<f64>() / (rows.len() * columns.len()) as f64,
        })
    })?;
    Ok(vec![y])
}

fn cases() -> Vec<Case> {
    let case = |regions: usize, images: &[i64]| {
        let x = Case::new().distinct(&[2, 2, 5, 6]).within(&[regions, 4], 0.3, 4.7).ints(&[images.len()], images);
        let x = x.attr("coordinate_transformation_mode", "half_pixel");
        x.attr("output_height", 2).attr("output_width", 3).attr("sampling_ratio", 2)
    };
    // Corners in order, as a detector gives them.
    let boxes = |values: &[f64]| {
        let rois = crate::ir::Tensor::from_f64(crate::ir::DType::F64, &[values.len() / 4, 4], values.iter().copied());
        let images = vec![0; values.len() / 4];
        let x = Case::new().distinct(&[1, 2, 5, 6]).data(rois).ints(&[images.len()], &images);
        x.attr("coordinate_transformation_mode", "half_pixel")
    };
    let spread = || boxes(&[0.3, 0.7, 3.1, 4.9, 1.2, 0.1, 5.9, 2.6]).attr("output_height", 2).attr("output_width", 2);
    vec![
        case(2, &[1, 0]),
        case(2, &[0, 0]).attr("coordinate_transformation_mode", "output_half_pixel").attr("spatial_scale", 0.75_f32),
        case(3, &[1, 1, 0]).attr("mode", "max"),
        spread(),
        spread().attr("mode", "max").attr("coordinate_transformation_mode", "output_half_pixel"),
        boxes(&[-4.0, -3.0, 2.0, 9.0]).attr("output_height", 3).attr("sampling_ratio", 1),
        case(0, &[]),
    ]
}

pub static ROI_ALIGN: Op = Op {
    name: "RoiAlign",
    facts: |c| c.unknown_rank(c.dtype(0)?, facts(c)),
    tangent: Tangent::Rule(|c| c.through(&lower::roi_align::roi_align(c))),
    eval,
    cases,
};
