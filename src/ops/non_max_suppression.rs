//! NonMaxSuppression: indices of boxes, best first, without those that overlap a better one.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{DType, Dim, Fact, Tensor};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    c.input(0)?;
    c.input(1)?;
    Ok(vec![Fact::new(DType::I64, [c.unknown(0), Dim::Fixed(3)])])
}

/// Lower and upper ends of a box on its two axes.
fn ends(b: &[f64], centred: bool) -> [(f64, f64); 2] {
    [0, 1].map(|axis| match centred {
        true => (b[axis] - b[axis + 2] / 2.0, b[axis] + b[axis + 2] / 2.0),
        false => (b[axis].min(b[axis + 2]), b[axis].max(b[axis + 2])),
    })
}

/// Intersection over union.
fn overlap(a: &[(f64, f64); 2], b: &[(f64, f64); 2]) -> f64 {
    let area = |x: &[(f64, f64); 2]| (x[0].1 - x[0].0) * (x[1].1 - x[1].0);
    let common = [0, 1].map(|k| (a[k].0.max(b[k].0), a[k].1.min(b[k].1)));
    if common.iter().any(|(low, high)| high <= low) || area(a) <= 0.0 || area(b) <= 0.0 {
        return 0.0;
    }
    area(&common) / (area(a) + area(b) - area(&common))
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let (boxes, scores) = (c.input(0)?, c.input(1)?);
    let one = |i: usize| c.get(i).and_then(|a| a.data.first().copied());
    let (&[batch, count, 4], &[_, classes, _]) = (boxes.shape(), scores.shape()) else {
        let expected = "[N,B,4] and scores [N,C,B]".into();
        return Err(Fault::Shape { what: "boxes", found: format!("{:?}", boxes.shape()), expected });
    };
    let (most, threshold) = (one(2).unwrap_or(0.0).max(0.0) as usize, one(3).unwrap_or(0.0));
    let centred = c.int("center_point_box", 0) == 1;
    let mut selected: Vec<f64> = Vec::new();
    for (n, class) in (0..batch).flat_map(|n| (0..classes).map(move |class| (n, class))) {
        let score = |k: usize| scores.at(&[n, class, k]);
        let mut order = Vec::new();
        for k in 0..count {
            let score = score(k)?;
            if one(4).is_none_or(|least| score > least) {
                order.push((score, k));
            }
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut kept: Vec<[(f64, f64); 2]> = Vec::new();
        for (_, k) in order {
            let corners = (0..4).map(|i| boxes.at(&[n, k, i])).collect::<Result<Vec<_>, _>>()?;
            let own = ends(&corners, centred);
            if kept.len() < most && kept.iter().all(|other| overlap(&own, other) <= threshold) {
                kept.push(own);
                selected.extend([n, class, k].map(|v| v as f64));
            }
        }
    }
    Ok(vec![Array::from_vec(DType::I64, &[selected.len() / 3, 3], selected)?])
}

pub static NON_MAX_SUPPRESSION: Op = Op {
    name: "NonMaxSuppression",
    facts,
    tangent: Tangent::Zero,
    eval,
    cases: || {
        let threshold = |v: f64| Tensor::from_f64(DType::F32, &[1], [v]);
        let boxes = [0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, 10.0, 1.0, 11.0];
        let boxes = Tensor::from_f64(DType::F32, &[1, 3, 4], boxes);
        let scores = Tensor::from_f64(DType::F32, &[1, 1, 3], [0.9, 0.75, 0.6]);
        vec![
            Case::new()
                .data(boxes)
                .data(scores)
                .const_ints(&[1], &[3])
                .constant(threshold(0.5))
                .constant(threshold(0.1)),
        ]
    },
};
