//! What holds of every valid graph, on random ones that are the same on every machine. `PROPERTY_GRAPHS=n` draws n of them, and
//! `PROPERTY_FIRST=k` begins with the one of number k.

mod common;
#[path = "../fuzz/src/graphs/mod.rs"]
mod graphs;

use common::{judge, rng::Rng};
use fam_onnx::ad::grad_model;
use fam_onnx::ir::{Attrs, DType, Graph, Model};
use fam_onnx::ops::{Array, Case, Input, OPS, Op, lookup};
use graphs::{Kind, NOT_DRAWN, Plan, Variant, derivatives, differentiated, draw, failure, shrink};
use std::collections::HashMap;

/// The bytes that a graph is drawn from.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
    };
    (0..2048).map(|_| next()).collect()
}

/// Numbers of the graphs that are drawn.
fn numbers(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("PROPERTY_FIRST").unwrap_or(0);
    first..first + number("PROPERTY_GRAPHS").unwrap_or(usual)
}

/// What is wrong with a graph, made small.
fn report(number: u64) -> Option<String> {
    made_small(&number.to_string(), draw(&bytes(number)))
}

fn made_small(name: &str, plan: Plan) -> Option<String> {
    let (property, _) = failure(&plan)?;
    let small = shrink(plan, |plan| failure(plan).is_some_and(|(other, _)| other == property));
    let what = failure(&small).map(|(_, what)| what).unwrap_or_default();
    Some(format!("graph {name}: {property}: {what}\n{}\n", small.show()))
}

#[test]
fn every_property_holds_of_random_graphs() {
    let numbers = numbers(250);
    let found: Vec<String> = numbers.clone().filter_map(report).collect();
    assert!(found.is_empty(), "{} of graphs {numbers:?} fail:\n{}", found.len(), found.join("\n"));
}

#[test]
fn graphs_of_every_size_and_most_operators_are_drawn() {
    let plans: Vec<Plan> = (0..200).map(|number| draw(&bytes(number))).collect();
    let sizes: Vec<usize> = plans.iter().map(|plan| plan.steps.len()).collect();
    assert!(
        sizes.iter().all(|&n| n <= 30) && sizes.iter().any(|&n| n <= 2) && sizes.iter().any(|&n| n >= 26),
        "{sizes:?}"
    );
    let mut drawn: Vec<&str> = plans.iter().flat_map(|plan| plan.steps.iter().map(|step| step.op)).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert!(drawn.len() >= 120, "{}: {drawn:?}", drawn.len());
}

/// y = sin x
fn sine() -> Plan {
    let mut plan = Plan::default();
    let x = Array::from_vec(DType::F64, &[2], vec![0.3, -1.2]).expect("two numbers");
    let x = plan.add(Kind::Input { symbols: vec![None] }, x);
    plan.step("Sin", &[Some(x)], Default::default(), 1).expect("a sine");
    plan
}

/// Says that the derivative of the sine is the sine.
fn wrong(graph: &mut Graph) {
    graph.nodes.iter_mut().filter(|node| node.op == "Cos").for_each(|node| node.op = "Sin".to_string());
}

#[test]
fn a_wrong_rule_is_found() {
    derivatives(&sine(), &differentiated).expect("a right rule");
    let both = |model: &Model, of: &str, wrt: &[String]| {
        let mut all = differentiated(model, of, wrt)?;
        all.iter_mut().for_each(|derivative| wrong(&mut derivative.model.graph));
        Ok(all)
    };
    let found = derivatives(&sine(), &both).expect_err("a wrong rule");
    assert!(found.contains("differences say"), "{found}");
}

#[test]
fn a_wrong_transpose_is_found() {
    let gradient = |model: &Model, of: &str, wrt: &[String]| {
        let [mut grad, jvp] = differentiated(model, of, wrt)?;
        wrong(&mut grad.model.graph);
        Ok([grad, jvp])
    };
    let found = derivatives(&sine(), &gradient).expect_err("a wrong transpose");
    assert!(found.contains("⟨Jᵀ u, v⟩"), "{found}");
}

#[test]
fn a_failing_graph_is_made_small() {
    let plan =
        (0..).map(|number| draw(&bytes(number))).find(|plan| plan.steps.len() > 10 && plan.has(|op| op == "Neg"));
    let small = shrink(plan.expect("a graph with a negation"), |plan| plan.has(|op| op == "Neg"));
    assert_eq!(small.steps.len(), 1);
}

/// Operators whose results jump where float32 and float64 may be on different sides, for which there is no kernel, or, as
/// LayerNormalization with a scale that is broadcast, one that reads past its end, or that takes fewer sizes and ranks.
const NOT_RUN: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Cast",
    "CastLike",
    "Ceil",
    "Floor",
    "Round",
    "Sign",
    "Mod",
    "Hardmax",
    "TopK",
    "Unique",
    "NonZero",
    "NonMaxSuppression",
    "Compress",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "If",
    "Loop",
    "Scan",
    "LayerNormalization",
    "LRN",
    "GlobalLpPool",
    "Einsum",
];

/// What a float32 program may be off: the effect of a small change of all that it reads, and rounding.
fn tolerance(model: &Model, data: &HashMap<String, Array>, expected: &HashMap<String, Array>) -> Option<f64> {
    let mut state = 1u64;
    let mut change = |v: &f64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        v + (state >> 40) as f64 / (1u64 << 24) as f64 * 1e-6 * (1.0 + v.abs())
    };
    let changed = data.iter().map(|(name, array)| match array.dtype.is_float() {
        true => (name.clone(), Array::new(array.dtype, array.data.map(&mut change))),
        false => (name.clone(), array.clone()),
    });
    let moved = judge::outputs(model, &changed.collect()).ok()?;
    let mut largest = 1.0f64;
    let mut off = 0.0f64;
    for (name, array) in expected {
        for (a, b) in array.data.iter().zip(&moved.get(name)?.data) {
            largest = largest.max(a.abs());
            off = off.max((a - b).abs());
        }
    }
    (largest.is_finite() && off.is_finite()).then_some(1e-4 * largest + 50.0 * off)
}

fn run_differs(plan: &Plan) -> Result<bool, String> {
    let variant = Variant { single: true, ..Variant::default() };
    // Kernels differ in what they make of nothing.
    if plan.has(|op| NOT_RUN.contains(&op)) || plan.values.iter().any(|value| value.array.data.is_empty()) {
        return Ok(false);
    }
    let (model, mut data) = (plan.build(&variant)?, plan.feeds(&variant));
    let wrt: Vec<String> = plan.reals().into_iter().map(|id| plan.name(id, &variant)).collect();
    let float = plan.outputs().into_iter().find(|&id| plan.values[id].array.dtype == DType::F64);
    let (Some(of), false) = (float.map(|id| plan.name(id, &variant)), wrt.is_empty()) else { return Ok(false) };
    let Ok(grad) = grad_model(&model, &of, &wrt) else { return Ok(false) };
    if let Some(name) = grad.inputs.first() {
        let array = judge::outputs(&model, &data)?.remove(&of).ok_or("no output")?;
        data.insert(name.clone(), Array::new(array.dtype, array.data.mapv(|_| 1.0)));
    }
    let expected = judge::outputs(&grad.model, &data)?;
    let Some(tolerance) = tolerance(&grad.model, &data, &expected) else { return Ok(false) };
    for (name, found) in judge::run("random", &grad.model, &judge::feeds(&data))? {
        let wanted = &expected[&name];
        if found.shape() != wanted.shape() {
            return Err(format!("{name}: shape {:?}, expected {:?}", found.shape(), wanted.shape()));
        }
        for (k, (a, &b)) in found.iter_f64().zip(&wanted.data).enumerate() {
            if !(a == b || (a - b).abs() <= tolerance) {
                return Err(format!("{name}: element {k} is {a:e}, expected {b:e} ± {tolerance:e}"));
            }
        }
    }
    Ok(true)
}

#[test]
fn gradients_of_random_graphs_run_in_onnx_runtime() {
    let (mut run, mut found) = (0, Vec::new());
    let numbers = numbers(150);
    for number in numbers.clone() {
        let plan = draw(&bytes(number));
        match run_differs(&plan) {
            Ok(compared) => run += usize::from(compared),
            Err(_) => {
                let small = shrink(plan, |plan| run_differs(plan).is_err());
                let what = run_differs(&small).err().unwrap_or_default();
                found.push(format!("graph {number}: {what}\n{}\n", small.show()));
            }
        }
    }
    assert!(found.is_empty(), "{} graphs fail:\n{}", found.len(), found.join("\n"));
    assert!(10 * run >= numbers.count(), "only {run} graphs could be compared");
}

/// A node as one of its operator's cases has it, with a symbol in place of every size of what is real: the same for equal
/// sizes, or another one for every second input.
fn with_symbols(op: &Op, case: &Case, letters: [char; 2]) -> Option<Plan> {
    let mut plan = Plan::default();
    let mut rng = Rng(1);
    let size = |shape: &[usize]| shape.iter().product::<usize>();
    let mut inputs = Vec::new();
    for input in &case.inputs {
        let (shape, data) = match input {
            Input::None => {
                inputs.push(None);
                continue;
            }
            Input::Data(tensor) | Input::Constant(tensor) => {
                let mut array = Array::from_tensor(tensor).expect("a whole tensor");
                if tensor.dtype == DType::F32 && tensor.shape.is_empty() {
                    array.dtype = DType::F64;
                }
                let symbols = vec![None; tensor.shape.len()];
                let kind = if matches!(input, Input::Data(_)) { Kind::Input { symbols } } else { Kind::Stored };
                inputs.push(Some(plan.add(kind, array)));
                continue;
            }
            Input::Real { shape, low, high } => {
                (shape, (0..size(shape)).map(|_| (low + high) / 2.0 + (high - low) * rng.uniform()).collect())
            }
            // In steps, in an order that is not that of the elements.
            Input::Distinct { shape } => {
                (shape, (0..size(shape)).map(|k| ((k * 37 + 11) % 101) as f64 * 0.03 - 1.51).collect())
            }
        };
        let array = Array::from_vec(DType::F64, shape, data).expect("as many as the shape says");
        let letter = letters[inputs.len() % 2];
        let symbols = shape.iter().map(|&n| (n > 1).then(|| &*format!("{letter}{n}").leak())).collect();
        inputs.push(Some(plan.add(Kind::Input { symbols }, array)));
    }
    plan.step(op.name, &inputs, case.attrs.clone(), case.outputs)?;
    Some(plan)
}

/// What has no facts or no derivative where sizes are not known, and words of the reason that is given.
const REFUSED: &[(&str, &str)] = &[
    ("AffineGrid", "the rank of tensor"),
    ("Conv", "fixed spatial sizes"),
    ("ConvTranspose", "fixed spatial sizes"),
    ("DeformConv", "fixed spatial sizes"),
    ("Det", "as many steps as rows: a number that is not known"),
    ("Squeeze", "the rank of tensor"),
];

/// Every size of every operator's cases is a symbol.
#[test]
fn sizes_that_are_not_known() {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for op in OPS.iter().filter(|op| !NOT_DRAWN.contains(&op.name)) {
        for (k, case) in (op.cases)().iter().enumerate() {
            let plan = with_symbols(op, case, ['N', 'N']);
            let Some((property, what)) = plan.and_then(|plan| failure(&plan)) else { continue };
            match REFUSED.iter().find(|(name, why)| *name == op.name && what.contains(why)) {
                Some((name, _)) => refused.push(*name),
                None => found.push(format!("{} {k}: {property}: {what}", op.name)),
            }
        }
    }
    assert!(found.is_empty(), "{} cases fail:\n{}", found.len(), found.join("\n"));
    refused.dedup();
    assert_eq!(refused, REFUSED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

/// The same of operators whose sizes decide what they compute: heads, gates, parts of complex numbers, frames. Nothing but the
/// sizes of its weights says how many hidden units a cell has.
#[test]
fn sizes_that_decide_and_are_not_known() {
    for name in ["Attention", "DFT", "GRU", "LSTM", "RNN", "STFT"] {
        let op = lookup(name).expect("an operator");
        for (k, mut case) in (op.cases)().into_iter().enumerate() {
            case.attrs.remove("hidden_size");
            let plan = with_symbols(op, &case, ['N', 'M']).expect("a plan");
            assert_eq!(failure(&plan), None, "{name} {k}");
        }
    }
}

/// What random graphs found, made small.
mod found {
    use super::*;

    fn input(plan: &mut Plan, shape: &[usize], symbols: &[Option<&'static str>]) -> usize {
        let n: usize = shape.iter().product();
        let data = (0..n).map(|k| (k as f64 * 0.7).sin()).collect();
        let array = Array::from_vec(DType::F64, shape, data).expect("as many as the shape says");
        plan.add(Kind::Input { symbols: symbols.to_vec() }, array)
    }

    /// The rule went through itself without end.
    #[test]
    fn a_determinant_of_unknown_size() {
        let mut plan = Plan::default();
        let x = input(&mut plan, &[2, 3, 3], &[None, Some("N3"), Some("N3")]);
        plan.step("Det", &[Some(x)], Attrs::new(), 1).expect("a determinant");
        let error = derivatives(&plan, &differentiated).expect_err("no derivative");
        assert!(error.contains("as many steps as rows: a number that is not known"), "{error}");
    }

    /// The size of what is pooled could not be said, though the size of the result is.
    #[test]
    fn pooling_and_convolution_with_a_stride_over_sizes_that_are_not_known() {
        let mut plan = Plan::default();
        let x = input(&mut plan, &[1, 2, 4, 4], &[None, None, Some("M4"), Some("N4")]);
        let attrs = Attrs::new().with("kernel_shape", [2, 2]).with("strides", [2, 2]);
        let pooled = plan.step("AveragePool", &[Some(x)], attrs, 1).expect("a pool");
        let w = input(&mut plan, &[3, 2, 1, 1], &[None; 4]);
        let strided = plan.step("Conv", &[Some(x), Some(w)], Attrs::new().with("strides", [2, 2]), 1);
        assert_eq!((pooled.len(), strided.expect("a convolution").len()), (1, 1));
        assert_eq!(failure(&plan), None);
    }

    /// More was cut away than there is: the result had a size below 0.
    #[test]
    fn a_pad_that_cuts_more_than_there_is() {
        for mode in ["constant", "edge", "reflect", "wrap"] {
            let mut plan = Plan::default();
            let x = input(&mut plan, &[3], &[None]);
            let pads = plan.stored_ints(&[2], &[-2, -2]);
            assert_eq!(plan.step("Pad", &[Some(x), Some(pads)], Attrs::new().with("mode", mode), 1), None);
        }
    }

    /// ONNX Runtime does not load them.
    #[test]
    fn an_identity_like_an_image_an_axis_that_is_put_in_twice_and_repeats_of_another_number_of_axes() {
        let mut plan = Plan::default();
        let x = input(&mut plan, &[1, 2, 3], &[None; 3]);
        let twice = plan.stored_ints(&[2], &[-2, 3]);
        let repeats = plan.stored_ints(&[2], &[1, 2]);
        assert_eq!(plan.step("EyeLike", &[Some(x)], Attrs::new(), 1), None);
        assert_eq!(plan.step("Unsqueeze", &[Some(x), Some(twice)], Attrs::new(), 1), None);
        assert_eq!(plan.step("Tile", &[Some(x), Some(repeats)], Attrs::new(), 1), None);
    }

    /// Facts and the interpreter said different sizes.
    #[test]
    fn a_reshape_of_nothing_to_any_size() {
        let mut plan = Plan::default();
        let x = input(&mut plan, &[0, 2], &[None; 2]);
        let shape = plan.stored_ints(&[2], &[0, -1]);
        assert_eq!(plan.step("Reshape", &[Some(x), Some(shape)], Attrs::new(), 1), None);
    }

    /// Written for opset 17, where the axis that is not named is another one.
    #[test]
    fn a_transform_along_the_default_axis() {
        let mut plan = Plan::default();
        for shape in [&[3, 1][..], &[2, 4, 1], &[2, 3, 2, 2]] {
            let x = input(&mut plan, shape, &[None; 4][..shape.len()]);
            plan.step("DFT", &[Some(x)], Attrs::new(), 1).expect("a transform");
        }
        assert_eq!(failure(&plan), None);
    }

    /// Inputs of any shape were taken for what is one number, or for updates, and the derivative did not fit.
    #[test]
    fn inputs_of_the_wrong_shape_are_refused() {
        let mut plan = Plan::default();
        let (x, row) = (input(&mut plan, &[2, 3], &[None; 2]), input(&mut plan, &[1, 3], &[None; 2]));
        let one = input(&mut plan, &[], &[]);
        assert_eq!(plan.step("Range", &[Some(x), Some(one), Some(one)], Attrs::new(), 1), None);
        let pads = plan.stored_ints(&[4], &[0, 1, 1, 2]);
        assert_eq!(plan.step("Pad", &[Some(x), Some(pads), Some(row)], Attrs::new(), 1), None);
        let (indices, updates) =
            (plan.stored_ints(&[3, 2], &[0, 1, 0, 1, 1, -1]), input(&mut plan, &[0, 2], &[None; 2]));
        assert_eq!(plan.step("ScatterND", &[Some(x), Some(indices), Some(updates)], Attrs::new(), 1), None);
        let lengths = plan.stored_ints(&[3], &[1, 3, 4]);
        let attrs = Attrs::new().with("batch_axis", 0).with("time_axis", 1);
        assert_eq!(plan.step("ReverseSequence", &[Some(x), Some(lengths)], attrs, 1), None);
    }

    /// Frames of the one length were weighted by as much of a window of the other as there is.
    #[test]
    fn a_window_that_is_not_as_long_as_its_frame() {
        for length in [4, 6] {
            let mut plan = Plan::default();
            let x = input(&mut plan, &[2, 6, 1], &[None; 3]);
            let (step, frame) = (plan.stored_ints(&[], &[1]), plan.stored_ints(&[], &[length]));
            let window = input(&mut plan, &[5], &[None]);
            assert_eq!(plan.step("STFT", &[x, step, window, frame].map(Some), Attrs::new(), 1), None);
        }
    }

    /// There is nothing to pool over: no runtime takes it.
    #[test]
    fn a_global_pool_without_an_axis() {
        for op in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"] {
            let mut plan = Plan::default();
            let x = input(&mut plan, &[2, 3], &[None; 2]);
            assert_eq!(plan.step(op, &[Some(x)], Attrs::new(), 1), None);
        }
    }

    /// The derivative had as many zeros as the step.
    #[test]
    fn a_slice_with_a_huge_step() {
        for (symbol, step) in [(None, 1 << 40), (Some("N3"), 1 << 20), (Some("N3"), -(1 << 40))] {
            let mut plan = Plan::default();
            let x = input(&mut plan, &[2, 3], &[None, symbol]);
            let (start, end) = if step < 0 { (-1, i64::MIN) } else { (0, 1 << 40) };
            let bounds = [start, end, 1, step].map(|v| plan.stored_ints(&[1], &[v]));
            let inputs: Vec<Option<usize>> = std::iter::once(x).chain(bounds).map(Some).collect();
            plan.step("Slice", &inputs, Attrs::new(), 1).expect("a slice");
            assert_eq!(failure(&plan), None);
        }
    }

    /// The interpreter refused what ONNX Runtime takes, and what derivatives of the other way round are made of.
    #[test]
    fn a_pad_that_cuts_its_own_zeros() {
        for (n, begin, end) in [(1, 1, -2), (2, 2, -3), (0, -1, 2), (1, -2, 3)] {
            let mut plan = Plan::default();
            let x = input(&mut plan, &[n], &[None]);
            let pads = plan.stored_ints(&[2], &[begin, end]);
            let y = plan.step("Pad", &[Some(x), Some(pads)], Attrs::new(), 1).expect("a pad")[0];
            assert!(plan.values[y].array.data.iter().all(|&v| v == 0.0));
            assert_eq!(failure(&plan), None);
        }
    }

    /// What a group has of channels whose number is a symbol could not be said, though the filter says it.
    #[test]
    fn a_deformed_convolution_of_channels_in_an_unknown_number() {
        let mut plan = Plan::default();
        let x = input(&mut plan, &[1, 4, 4, 3], &[None, Some("N4"), Some("N4"), None]);
        let (w, offset) = (input(&mut plan, &[4, 2, 2, 1], &[None; 4]), input(&mut plan, &[1, 8, 1, 2], &[None; 4]));
        let attrs = Attrs::new().with("dilations", [2, 1]).with("strides", [2, 2]);
        let attrs = attrs.with("group", 2).with("offset_group", 2);
        plan.step("DeformConv", &[x, w, offset].map(Some), attrs, 1).expect("a convolution");
        assert_eq!(failure(&plan), None);
    }
}
