//! Derivatives at kinks and at the edges of domains: PyTorch's, and never NaN where the operator is finite.

use fam_onnx::ad::{Tape, linearise};
use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Tensor, Val};
use fam_onnx::linear::Cotangent;
use fam_onnx::ops::Array;
use std::collections::HashMap;

fn tensor(data: &[f64]) -> Tensor {
    match data {
        [one] => Tensor::scalar(DType::F64, *one),
        _ => Tensor::from_f64(DType::F64, &[data.len()], data.iter().copied()),
    }
}

/// The `order`-th derivative of the sum of `op(inputs)` in each input; one element is a scalar.
fn derivatives(op: &str, inputs: &[&[f64]], attrs: Attrs, order: usize) -> Vec<Vec<f64>> {
    let b = Builder::new();
    let tapes: Vec<Tape> = (0..order).map(|_| Tape::new(&b)).collect();
    let mut feeds = HashMap::new();
    let xs: Vec<Val> = inputs
        .iter()
        .map(|data| {
            let data = tensor(data);
            let shape: Vec<Dim> = data.shape.iter().map(|&n| Dim::from(n)).collect();
            let x = b.input("x", Fact::new(DType::F64, shape), None);
            feeds.insert(x.name(), Array::from_tensor(&data).unwrap());
            x
        })
        .collect();
    let mut gradient = vec![Some(b.op(op, &xs, attrs))];
    for tape in &tapes {
        let of: Vec<Val> = gradient.iter().flatten().copied().collect();
        let lin = linearise(tape, &of, &xs).unwrap();
        let ones: Vec<Option<Cotangent>> =
            of.iter().map(|v| Some(Cotangent { value: v.like(1.0), shape: v.shape() })).collect();
        gradient = lin.vjp(&ones, None).into_iter().map(|ct| ct.map(|ct| ct.materialise())).collect();
    }
    let values = b.read(|g| evaluate(g, &feeds)).unwrap();
    let zeros = |x: &Val| vec![0.0; feeds[&x.name()].data.len()];
    let of = |(x, g): (&Val, &Option<Val>)| match g {
        Some(g) => {
            let data =
                values.get(&g.id()).cloned().or_else(|| b.constant_data(*g).map(|t| Array::from_tensor(&t).unwrap()));
            data.unwrap().data.iter().copied().collect()
        }
        None => zeros(x),
    };
    xs.iter().zip(&gradient).map(of).collect()
}

fn none() -> Attrs {
    Attrs::new()
}

#[track_caller]
fn check(op: &str, attrs: Attrs, inputs: &[&[f64]], expected: &[&[f64]]) {
    let found = derivatives(op, inputs, attrs, 1);
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = found.iter().zip(*expected).all(|(x, y)| x == y || (x - y).abs() < 1e-6);
        assert!(close && found.len() == expected.len(), "{op}, input {k}: {found:?}, expected {expected:?}");
    }
}

#[test]
fn kinks_are_pytorchs() {
    let alpha = |v: f32| none().with("alpha", v);
    check("Relu", none(), &[&[0.0, -1.0, 2.0]], &[&[0.0, 0.0, 1.0]]);
    check("Abs", none(), &[&[0.0, -0.5]], &[&[0.0, -1.0]]);
    check("LeakyRelu", none(), &[&[0.0, 2.0]], &[&[0.01, 1.0]]);
    check("PRelu", none(), &[&[0.0, -1.0, 2.0], &[0.25]], &[&[0.25, 0.25, 1.0], &[-1.0]]);
    check("Elu", alpha(0.5), &[&[0.0, 1.0]], &[&[0.5, 1.0]]);
    check("Celu", alpha(0.5), &[&[0.0, 1.0]], &[&[1.0, 1.0]]);
    check("Selu", none(), &[&[0.0, 1.0]], &[&[1.758_099_3, 1.050_701]]);
    check("ThresholdedRelu", none(), &[&[1.0, 2.0]], &[&[0.0, 1.0]]);
    check("Shrink", none(), &[&[-0.5, 0.5, 0.6]], &[&[0.0, 0.0, 1.0]]);
    check("Softsign", none(), &[&[0.0, 1.0]], &[&[1.0, 0.25]]);
    check("HardSwish", none(), &[&[-3.0, 3.0, 0.0]], &[&[0.0, 1.0, 0.5]]);
    let sixth = alpha(1.0 / 6.0);
    check("HardSigmoid", sixth, &[&[-3.0, 3.0, 0.0]], &[&[0.0, 0.0, 1.0 / 6.0]]);
    check("Clip", none(), &[&[-1.0, 1.0, 0.0, 2.0], &[-1.0], &[1.0]], &[&[0.0, 0.0, 1.0, 0.0], &[1.0], &[2.0]]);
    check("Clip", none(), &[&[-1.0, 1.0, 0.0], &[1.0], &[-1.0]], &[&[0.0; 3], &[0.0], &[3.0]]);
    check("Sqrt", none(), &[&[0.0, 1.0]], &[&[f64::INFINITY, 0.5]]);
}

#[test]
fn ties_share_equally() {
    for op in ["Max", "Min"] {
        check(op, none(), &[&[1.0, 1.0], &[1.0]], &[&[0.5, 0.5], &[1.0]]);
        check(op, none(), &[&[3.0, 3.0], &[3.0], &[3.0]], &[&[1.0 / 3.0, 1.0 / 3.0], &[2.0 / 3.0], &[2.0 / 3.0]]);
    }
}

#[test]
fn powers_of_zero_have_derivatives() {
    let x = [0.0, 0.0, 0.0, 2.0];
    check("Pow", none(), &[&x, &[0.0, 1.0, 2.0, 0.0]], &[&[0.0, 1.0, 0.0, 0.0], &[0.0, 0.0, 0.0, 2f64.ln()]]);
    check("Pow", none(), &[&[0.0, 0.0], &[0.5, 2.0]], &[&[f64::INFINITY, 0.0], &[0.0, 0.0]]);
    // x³: 3x², then what its parts say of 6x.
    for order in 1..=3 {
        let all = derivatives("Pow", &[&[0.0, 0.0], &[3.0, 2.0]], none(), order);
        assert!(all.iter().flatten().all(|v| v.is_finite()), "order {order}: {all:?}");
    }
}

/// What is not chosen has no part in the derivative, infinite or not.
#[test]
fn the_other_branch_of_a_choice_is_masked() {
    let b = Builder::new();
    let tape = Tape::new(&b);
    let x = b.input("x", Fact::new(DType::F64, [Dim::Fixed(2)]), None);
    let y = b.input("y", Fact::new(DType::F64, [Dim::Fixed(2)]), None);
    let z = x.gt(x.like(0.0)).select(x, x * y);
    let lin = linearise(&tape, &[z], &[x]).unwrap();
    let pushed = lin.jvp(&[Some(b.constant(tensor(&[1.0, 1.0])))], None)[0].unwrap();
    let feeds = HashMap::from([
        ("x".to_string(), Array::from_vec(DType::F64, &[2], vec![1.0, -1.0]).unwrap()),
        ("y".to_string(), Array::from_vec(DType::F64, &[2], vec![f64::INFINITY, 3.0]).unwrap()),
    ]);
    let values = b.read(|g| evaluate(g, &feeds)).unwrap();
    assert_eq!(values[&pushed.id()].data.as_slice().unwrap(), [1.0, 3.0]);
}

/// A piecewise-affine operator has no second derivative at all, not a tensor of zeros.
#[test]
fn second_derivatives_of_piecewise_affine_operators_are_structurally_zero() {
    for op in ["Relu", "LeakyRelu", "Abs", "HardSigmoid", "Shrink", "ThresholdedRelu", "Max", "Min", "Clip"] {
        let b = Builder::new();
        let tapes = [Tape::new(&b), Tape::new(&b)];
        let x = b.input("x", Fact::new(DType::F64, [Dim::Fixed(3)]), None);
        let u = b.input("u", Fact::new(DType::F64, [Dim::Fixed(3)]), None);
        let bound = x.like(0.5);
        let y = match op {
            "Max" | "Min" | "Clip" => b.op(op, &[x, bound], none()),
            _ => b.op(op, &[x], none()),
        };
        let lin = linearise(&tapes[0], &[y], &[x]).unwrap();
        let gradient = lin.vjp(&[Some(Cotangent::new(u))], None)[0].clone().unwrap().materialise();
        let second = linearise(&tapes[1], &[gradient], &[x]).unwrap();
        assert!(second.of[0].is_zero(), "{op}");
    }
}

/// A tangent and a cotangent through pools of an image with many equal numbers.
fn pooled(dtype: DType, kernel: [i64; 2], size: [usize; 2]) -> [Vec<f64>; 3] {
    let b = Builder::new();
    let shape = [2, 3, size[0], size[1]];
    let small = [2, 3, size[0] / kernel[0] as usize, size[1] / kernel[1] as usize];
    let input = |name: &str, shape: &[usize]| {
        b.input(name, Fact::new(dtype, shape.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>()), None)
    };
    let (x, dx, dy) = (input("x", &shape), input("dx", &shape), input("dy", &small));
    let y = b.op("MaxPool", &[x], Attrs::new().with("kernel_shape", kernel).with("strides", kernel));
    let tape = Tape::new(&b);
    let linear = linearise(&tape, &[y], &[x]).expect("a rule");
    let moved = linear.jvp(&[Some(dx)], None).pop().flatten().expect("a tangent");
    let pulled = linear.vjp(&[Some(Cotangent::new(dy))], None).pop().flatten().expect("a cotangent").materialise();
    // Few different numbers, zeros most of all.
    let data = |shape: &[usize], k: usize| {
        let numbers = (0..shape.iter().product::<usize>()).map(|i| ((i * i * k + 3 * i) % 7).saturating_sub(2) as f64);
        Array::from_vec(dtype, shape, numbers.collect()).expect("as many numbers")
    };
    let feeds = HashMap::from(
        [("x", &shape, 5), ("dx", &shape, 11), ("dy", &small, 3)].map(|(n, s, k)| (n.into(), data(s, k))),
    );
    let values = b.read(|g| evaluate(g, &feeds)).expect("a graph that runs");
    [y, moved, pulled].map(|v| values[&v.id()].data.iter().copied().collect())
}

/// In float32 maxima are compared, in float64 they are found by index.
#[test]
fn the_first_of_equal_maxima_moves() {
    for (kernel, size) in [([2, 2], [4, 6]), ([3, 2], [6, 4]), ([1, 4], [3, 8])] {
        let [compared, indexed] = [DType::F32, DType::F64].map(|dtype| pooled(dtype, kernel, size));
        assert_eq!(compared, indexed, "{kernel:?}");
        assert!(indexed[2].iter().any(|&c| c != 0.0));
    }
}
