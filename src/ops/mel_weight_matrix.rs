//! MelWeightMatrix: triangles on the mel scale over the bins of a spectrum. The triangles' corners are whole bins, so
//! that the matrix moves by jumps.

use super::window_function::output_type;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{DType, Dim, Fact, Tensor};
use ndarray::{ArrayD, IxDyn};

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let size = |i: usize| c.ints(i).and_then(<[Dim]>::first).cloned();
    let bins = size(1).map(|n| n.div_floor(2) + Dim::Fixed(1)).unwrap_or_else(|| c.unknown(0));
    Ok(vec![Fact::new(output_type(c.attrs)?, [bins, size(0).unwrap_or_else(|| c.unknown(1))])])
}

fn mel(hertz: f64) -> f64 {
    2595.0 * (hertz / 700.0).ln_1p() / f64::ln(10.0)
}

fn hertz(mel: f64) -> f64 {
    700.0 * (mel / 2595.0 * f64::ln(10.0)).exp_m1()
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let one = |i: usize| c.data(i)?.first().copied().ok_or(Fault::Missing { index: i, needs: "a number" });
    let (count, length, rate) = (one(0)?, one(1)?, one(2)?);
    let (low, high) = (mel(one(3)?), mel(one(4)?));
    if !(0.0..65536.0).contains(&count) || !(0.0..65536.0).contains(&length) || rate <= 0.0 {
        let found = format!("{count} bins, length {length}, rate {rate}");
        return Err(Fault::Shape { what: "mel bins", found, expected: "positive numbers".into() });
    }
    let (count, bins) = (count as usize, length as usize / 2 + 1);
    let step = (high - low) / (count + 2) as f64;
    let corner = |k: usize| ((length + 1.0) * hertz(k as f64 * step + low) / rate).floor().max(0.0) as usize;
    let mut y = ArrayD::zeros(IxDyn(&[bins, count]));
    for i in 0..count {
        let (left, centre, right) = (corner(i), corner(i + 1), corner(i + 2));
        let mut put = |bin: usize, v: f64| {
            if let Some(slot) = y.get_mut([bin, i].as_slice()) {
                *slot = v;
            }
        };
        match centre.saturating_sub(left) {
            0 => put(centre, 1.0),
            width => (left..=centre).for_each(|bin| put(bin, (bin - left) as f64 / width as f64)),
        }
        let width = right.saturating_sub(centre);
        (centre..right).for_each(|bin| put(bin, (right - bin) as f64 / width as f64));
    }
    Ok(vec![Array::new(output_type(c.attrs)?, y)])
}

pub static MEL_WEIGHT_MATRIX: Op = Op {
    name: "MelWeightMatrix",
    facts,
    tangent: Tangent::Zero,
    eval,
    cases: || {
        let edge = |v: f64| Tensor::scalar(DType::F32, v);
        let sizes = Case::new().const_ints(&[], &[8]).const_ints(&[], &[16]).const_ints(&[], &[8192]);
        vec![sizes.constant(edge(0.0)).constant(edge(4096.0))]
    },
};
