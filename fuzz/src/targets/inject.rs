//! Small nets, their losses and layers: κ by its definition, and the gradient of the objective by differences.

use arbitrary::{Result, Unstructured};
use fam_onnx::artifact::{Options, Plan, Target, manifest, plan};
use fam_onnx::eval::evaluate;
use fam_onnx::flatness::{Estimator, Measure};
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Tensor, Val, verify};
use fam_onnx::loss::Loss;
use fam_onnx::ops::Array;
use std::collections::HashMap;

const BATCH: usize = 3;
type Data = HashMap<String, Array>;

/// A net with the weights that are layers: names, and whether a row of the stored weight is a neuron.
struct Net {
    model: Model,
    weights: Vec<(String, bool)>,
    input: Vec<usize>,
    output: Vec<usize>,
}

/// What `inject` refuses is as good as what it plans rightly.
pub fn inject(data: &[u8]) {
    let _ = drawn(&mut Unstructured::new(data));
}

fn drawn(u: &mut Unstructured) -> Result<()> {
    let Some(net) = net(u)? else { return Ok(()) };
    let kinds: Vec<&str> = Loss::names().collect();
    let Some(kind) = Loss::from_name(u.choose(&kinds)?) else { return Ok(()) };
    let (weight, by_row) = u.choose(&net.weights)?.clone();
    let mut options = Options::of(Target::Loss(kind.into()));
    options.layers = vec![(weight.clone(), *u.choose(&[0.1, 1.0, 0.0])?)];
    options.measure = *u.choose(&[Measure::Neuronwise, Measure::Layerwise])?;
    options.estimator =
        *u.choose(&[None, Some(Estimator::Exact), Some(Estimator::Exact), Some(Estimator::Hutchinson)])?;
    options.samples = u.int_in_range(1..=2)?;
    let source = manifest::Source { name: "net.onnx".to_owned(), sha256: String::new() };
    let Ok(plan) = plan(&net.model, &options, source) else { return Ok(()) };
    for (name, model) in &plan.graphs {
        verify(&model.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let step = Step { plan: &plan, net: &net, kind };
    let data = step.data();
    step.check_gradient(&data);
    let exact = plan.report.layers.first().is_some_and(|layer| layer.estimator == Estimator::Exact);
    if exact {
        step.check_kappa(&data, &weight, by_row, options.measure);
    }
    Ok(())
}

/// Layers, activations and now and then a normalisation between input and output.
fn net(u: &mut Unstructured) -> Result<Option<Net>> {
    let b = Builder::new();
    let conv = u.ratio(1, 3)?;
    let mut shape = if conv { vec![BATCH, 2, 4] } else { vec![BATCH, u.int_in_range(1..=3)?] };
    let batch = if u.arbitrary()? { Dim::symbol("N") } else { Dim::from(BATCH) };
    let dims: Vec<Dim> = std::iter::once(batch).chain(shape[1..].iter().map(|&n| n.into())).collect();
    let input = shape.clone();
    let mut x = b.input("x", Fact::new(DType::F32, dims), None);
    let mut weights: Vec<(String, bool)> = Vec::new();
    for k in 0..u.int_in_range(1..=3)? {
        let d = u.int_in_range(1..=3)?;
        let tied = weights.len() == 1 && u.ratio(1, 4)?;
        let (w, made) = layer(&b, u, x, &mut shape, d, k, if tied { weights.first() } else { None })?;
        x = made;
        weights.extend(w);
        x = between(&b, u, x, &shape)?;
    }
    if conv && u.arbitrary()? {
        x = x.reshape(&[x.dim(0), Dim::from(shape[1] * shape[2])]);
        shape = vec![BATCH, shape[1] * shape[2]];
    }
    b.output(x, "y");
    let Ok(graph) = b.finish() else { return Ok(None) };
    Ok(Some(Net {
        model: Model { graph, opset: 17, ir_version: 8, ..Model::default() },
        weights,
        input,
        output: shape,
    }))
}

/// A layer of `d` neurons, its weight new unless it is tied to that of another layer of the same shape.
fn layer<'g>(
    b: &'g Builder,
    u: &mut Unstructured,
    x: Val<'g>,
    shape: &mut [usize],
    d: usize,
    k: usize,
    tied: Option<&(String, bool)>,
) -> Result<(Option<(String, bool)>, Val<'g>)> {
    let name = format!("w{k}");
    let m = shape[1];
    let mut seed = u64::from(u.arbitrary::<u16>()?);
    let mut tensor = |dims: &[usize]| {
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as f64 / (1u64 << 23) as f64 - 1.0
        };
        Tensor::from_f64(DType::F32, dims, (0..dims.iter().product::<usize>()).map(|_| next()).collect::<Vec<_>>())
    };
    if shape.len() == 3 {
        let w = b.initializer(&name, tensor(&[d, m, 2]));
        let pads = u.ratio(1, 2)?;
        let attrs = Attrs::new().with("kernel_shape", [2]).with("pads", if pads { [1, 0] } else { [0, 0] });
        shape[1] = d;
        shape[2] -= usize::from(!pads);
        return Ok((Some((name, true)), b.op("Conv", &[x, w], attrs)));
    }
    let old = tied.and_then(|(name, by_row)| Some((b.find(name)?, *by_row)));
    if let Some((w, true)) = old.filter(|(w, _)| w.shape() == [Dim::from(m), Dim::from(m)]) {
        return Ok((None, b.op("Gemm", &[x, w], Attrs::new().with("transB", 1))));
    }
    shape[1] = d;
    if u.arbitrary()? {
        let (w, bias) = (b.initializer(&name, tensor(&[d, m])), b.initializer(&format!("b{k}"), tensor(&[d])));
        return Ok((Some((name, true)), b.op("Gemm", &[x, w, bias], Attrs::new().with("transB", 1))));
    }
    let w = b.initializer(&name, tensor(&[m, d]));
    Ok((Some((name, false)), x.matmul(w)))
}

fn between<'g>(b: &'g Builder, u: &mut Unstructured, x: Val<'g>, shape: &[usize]) -> Result<Val<'g>> {
    let op = *u.choose(&[
        "",
        "Relu",
        "Tanh",
        "Sigmoid",
        "LeakyRelu",
        "Softplus",
        "Gelu",
        "Elu",
        "Softmax",
        "LogSoftmax",
        "norm",
    ])?;
    Ok(match op {
        "" => x,
        "norm" => {
            let n = shape[shape.len() - 1];
            let scale = b.constant(Tensor::from_f64(DType::F32, &[n], vec![1.0; n]));
            b.op("LayerNormalization", &[x, scale], Attrs::new().with("axis", -1))
        }
        "Softmax" | "LogSoftmax" => b.op(op, &[x], Attrs::new().with("axis", 1)),
        _ => b.op(op, &[x], Attrs::new()),
    })
}

struct Step<'a> {
    plan: &'a Plan,
    net: &'a Net,
    kind: Loss,
}

/// Numbers in −1..1 that look random.
fn numbers(salt: u64, shape: &[usize]) -> Array {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    let n = shape.iter().product::<usize>();
    Array::from_vec(DType::F32, shape, (0..n).map(|_| next()).collect()).expect("as many as the shape says")
}

impl Step<'_> {
    fn graph(&self, name: &str) -> &Model {
        let found = self.plan.graphs.iter().find(|(file, _)| *file == name);
        &found.expect("an artifact has this graph").1
    }

    /// Everything that the graphs read.
    fn data(&self) -> Data {
        let mut data = Data::new();
        for (name, tensor) in &self.plan.tensors {
            data.insert(name.clone(), Array::from_tensor(tensor).expect("a whole tensor"));
        }
        data.insert("x".to_owned(), numbers(1, &self.net.input));
        if let Some(labels) = &self.plan.manifest.labels {
            let mut array = numbers(2, &self.net.output);
            if self.kind.scores_classes() {
                let classes = self.net.output[1] as f64;
                let rows: Vec<usize> =
                    self.net.output.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, &n)| n).collect();
                array = Array { dtype: DType::I64, ..numbers(2, &rows) };
                array.data.mapv_inplace(|v| ((v + 1.0) / 2.0 * classes).floor().clamp(0.0, classes - 1.0));
            } else {
                array.data.mapv_inplace(|v| (v + 1.0) / 2.0);
            }
            data.insert(labels.clone(), array);
        }
        let gradient = self.graph("gradient.onnx");
        for &id in &gradient.graph.inputs {
            let value = gradient.graph.value(id);
            if !data.contains_key(&value.name) && value.data.is_none() {
                let dims = value.fact.shape.as_deref().unwrap_or_default();
                let shape: Vec<usize> = dims.iter().map(|d| d.fixed().map_or(BATCH, |n| n as usize)).collect();
                let mut probe = numbers(3, &shape);
                probe.data.mapv_inplace(f64::signum);
                data.insert(value.name.clone(), probe);
            }
        }
        data
    }

    /// One output of a graph; `None` where it is no number, as of a logarithm of what is not positive.
    fn output(&self, graph: &str, name: &str, data: &Data) -> Option<Array> {
        let model = self.graph(graph);
        let values = evaluate(&model.graph, data).unwrap_or_else(|e| panic!("{graph}: {e}"));
        let id = model.graph.find(name).unwrap_or_else(|| panic!("{graph} has no {name}"));
        values.get(&id).cloned().filter(|array| array.data.iter().all(|v| v.is_finite()))
    }

    fn scalar(&self, graph: &str, name: &str, data: &Data) -> Option<f64> {
        self.output(graph, name, data)?.data.first().copied()
    }

    fn moved(data: &Data, along: &Data, step: f64) -> Data {
        let mut moved = data.clone();
        for (name, v) in along {
            if let Some(array) = moved.get_mut(name) {
                array.data += &(&v.data * step);
            }
        }
        moved
    }

    /// The objective's slope along a random direction in all parameters is the gradient's product with it.
    fn check_gradient(&self, data: &Data) {
        let names = &self.plan.manifest.graphs.gradient;
        let along: Data = names
            .gradients
            .keys()
            .zip(5..)
            .map(|(name, salt)| (name.clone(), numbers(salt, data[name].shape())))
            .collect();
        let at = |step| self.scalar("gradient.onnx", &names.objective, &Self::moved(data, &along, step));
        let slope = |step: f64| Some((at(step)? - at(-step)?) / (2.0 * step));
        let (Some(here), Some(coarse), Some(fine)) = (at(0.0), slope(1e-4), slope(1e-5)) else { return };
        // A kink between, or a curvature that the step does not see through.
        let scale = fine.abs().max(here.abs()).max(1.0);
        if (coarse - fine).abs() > 1e-6 * scale {
            return;
        }
        let mut product = 0.0;
        for (name, output) in &names.gradients {
            let Some(gradient) = self.output("gradient.onnx", output, data) else { return };
            product += (&gradient.data * &along[name].data).sum();
        }
        assert!(
            (product - fine).abs() <= 1e-5 * scale,
            "the gradient says {product:e}, differences {fine:e} and {coarse:e}\n{}",
            self.show()
        );
    }

    /// κ = Σ_{t,j} D²L[u_j e_tᵀ, u_j e_tᵀ] with `u_j` the columns of W, or ‖W‖² Tr H.
    fn check_kappa(&self, data: &Data, weight: &str, by_row: bool, measure: Measure) {
        let names = &self.plan.manifest.graphs.evaluate;
        let Some(kappa) = names.kappa.first() else { return };
        let Some(found) = self.scalar("evaluate.onnx", kappa, data) else { return };
        let w = &data[weight];
        // As rows of neurons.
        let rows = if by_row { w.data.clone() } else { w.data.t().to_owned() };
        let d = rows.shape()[0];
        let m = rows.len() / d.max(1);
        let flat: Vec<f64> = rows.iter().copied().collect();
        let mut directions: Vec<(f64, Vec<f64>)> = Vec::new();
        let norm: f64 = flat.iter().map(|v| v * v).sum();
        for (a, t) in (0..if measure == Measure::Neuronwise { m } else { d }).flat_map(|a| (0..m).map(move |t| (a, t)))
        {
            let mut v = vec![0.0; d * m];
            match measure {
                Measure::Neuronwise => (0..d).for_each(|s| v[s * m + t] = flat[s * m + a]),
                Measure::Layerwise => v[a * m + t] = 1.0,
            }
            directions.push((if measure == Measure::Neuronwise { 1.0 } else { norm }, v));
        }
        let shape: Vec<usize> = rows.shape().to_vec();
        let at = |v: &[f64], step: f64| {
            let v = Array::from_vec(DType::F32, &shape, v.to_vec()).expect("a direction of the weight's shape");
            let v = if by_row { v } else { Array::new(DType::F32, v.data.t().to_owned()) };
            self.scalar("evaluate.onnx", &names.loss, &Self::moved(data, &Data::from([(weight.to_owned(), v)]), step))
        };
        let sum = |step: f64| {
            let second =
                |(c, v): &(f64, Vec<f64>)| Some(c * (at(v, step)? - 2.0 * at(v, 0.0)? + at(v, -step)?) / (step * step));
            directions.iter().map(second).sum::<Option<f64>>()
        };
        let (Some(coarse), Some(fine)) = (sum(2e-3), sum(1e-3)) else { return };
        // The error of second order taken away.
        let expected = fine + (fine - coarse) / 3.0;
        let scale = expected.abs().max(1e-2);
        if (coarse - fine).abs() > 1e-3 * scale {
            return;
        }
        assert!(
            (found - expected).abs() <= 1e-3 * scale,
            "κ of {weight} is {found:e}, by its definition {expected:e} ({fine:e}, {coarse:e})\n{}",
            self.show()
        );
    }

    fn show(&self) -> String {
        let layers: Vec<String> = self
            .plan
            .report
            .layers
            .iter()
            .map(|l| format!("{}: {}, {}, {}", l.name, l.class, l.estimator.name(), l.why))
            .collect();
        format!("{:?}, {}\n{}", self.kind, layers.join("; "), fam_onnx::onnx::compact(&self.net.model.graph))
    }
}
