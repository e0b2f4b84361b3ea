//! What is emitted: valid ONNX of standard operators alone, each of which can be differentiated again, and the same bytes
//! each time; ONNX Runtime runs it and computes what the interpreter does.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use common::step::*;
use fam_onnx::ad::{Differentiated, grad_model, jvp_model};
use fam_onnx::artifact::Options;
use fam_onnx::eval::evaluate;
use fam_onnx::flatness::Estimator;
use fam_onnx::ir::{Builder, DType, Dim, Fact, Graph, Model, Tensor, Val, ValueId, verify};
use fam_onnx::onnx;
use fam_onnx::ops::{Array, Case, Input, OPS, Op, Tangent, lookup};
use fam_onnx::tensor::{Tensor as HostTensor, Tensors};

/// The gradient with respect to all parameters, the tangent along the input, and both again.
fn derivatives(fixture: &str) -> Vec<(String, Model)> {
    let model = model(fixture);
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let made = |result: fam_onnx::Result<Differentiated>, what: &str| {
        result.unwrap_or_else(|error| panic!("{fixture}: {what}: {error}")).model
    };
    let gradient = made(grad_model(&model, "logits", &names(&["parameters"])), "grad");
    let tangent = made(jvp_model(&model, "logits", &names(&["x"])), "jvp");
    let first = made(grad_model(&model, "logits", &names(&["x"])), "grad");
    let second = made(grad_model(&first, "x.grad", &names(&["x"])), "grad of grad");
    let along = made(jvp_model(&tangent, "logits.tangent", &names(&["x"])), "jvp of jvp");
    let all = [("grad", gradient), ("jvp", tangent), ("grad-x", first), ("grad-grad", second), ("jvp-jvp", along)];
    all.into_iter().map(|(what, model)| (format!("{fixture}.{what}"), model)).collect()
}

/// Every graph of the artifacts of one layer: exact where that exists, and estimated.
fn artifacts(fixture: &str, layer: &str) -> Vec<(String, Model)> {
    let model = model(fixture);
    let base = exact(&[(layer, 0.1)]);
    let ways = [("auto", None), ("hutchinson", Some(Estimator::Hutchinson))];
    let graphs = ways.into_iter().flat_map(|(way, estimator)| {
        let plan = plan(&model, &Options { estimator, ..base.clone() });
        plan.graphs.into_iter().map(move |(file, graph)| (format!("{fixture}.{layer}.{way}.{file}"), graph))
    });
    graphs.collect()
}

fn emitted() -> Vec<(String, Model)> {
    let mut all = Vec::new();
    for fixture in fixtures() {
        all.extend(derivatives(&fixture));
        let layers = Oracle::read(&fixture, "oracle.npz").layers();
        let layer = layers.first().cloned().unwrap_or("penultimate".to_string());
        all.extend(artifacts(&fixture, &layer));
    }
    all
}

/// What is wrong with a model by the crate's own rules.
fn faults(model: &Model) -> Vec<String> {
    let mut faults: Vec<String> = verify(&model.graph).err().map(|e| e.to_string()).into_iter().collect();
    let mut seen = BTreeSet::new();
    for node in &model.graph.nodes {
        if !node.domain.is_empty() {
            faults.push(format!("{} is of domain {:?}", node.name, node.domain));
        } else if lookup(&node.op).is_none() && seen.insert(node.op.clone()) {
            faults.push(format!("{} is not in the table", node.op));
        }
    }
    let opset = onnx::opset(model);
    if opset > 21 {
        faults.push(format!("opset {opset}"));
    }
    faults
}

#[test]
fn emitted_models_are_valid_closed_and_reproducible() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, second) = (emitted(), emitted());
    assert_eq!(first.len(), second.len());
    let mut found = Vec::new();
    for ((name, model), (_, again)) in first.iter().zip(&second) {
        found.extend(faults(model).into_iter().map(|fault| format!("{name}: {fault}")));
        let bytes = onnx::to_bytes(model);
        if bytes != onnx::to_bytes(again) {
            found.push(format!("{name}: other bytes the second time"));
        }
        std::fs::write(directory.path().join(format!("{}.onnx", name.trim_end_matches(".onnx"))), bytes)
            .expect("a written file");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    common::script("check_models.py", &[directory.path()]);
}

/// Cases of operators that a stock ONNX Runtime cannot run here, and why; an empty list stands for all.
const NOT_RUN: &[(&str, &[usize], &str)] = &[
    ("AffineGrid", &[4], "the kernel takes no image without elements"),
    ("Bernoulli", &[], "it draws at random"),
    ("Multinomial", &[], "it draws at random"),
    ("RandomNormal", &[], "it draws at random"),
    ("RandomNormalLike", &[], "it draws at random"),
    ("RandomUniform", &[], "it draws at random"),
    ("RandomUniformLike", &[], "it draws at random"),
    ("Cast", &[6, 7], "what it gives has fewer bits than a number that is read back here"),
    ("QuantizeLinear", &[3, 4], "what it gives has fewer bits than a number that is read back here"),
    ("Dropout", &[2, 3, 4], "it drops at random in training"),
    ("LayerNormalization", &[1], "there is no kernel for statistics in double"),
    ("LayerNormalization", &[3, 4], "the kernel takes no scale that is broadcast, and reads past its end"),
    ("MaxUnpool", &[1], "it counts places in the shape that is given, the specification in the one that was pooled"),
    ("Tile", &[2], "its optimiser removes an Expand to 0 copies"),
];

fn is_run(op: &Op, case: usize) -> bool {
    !NOT_RUN.iter().any(|(name, cases, _)| *name == op.name && (cases.is_empty() || cases.contains(&case)))
}

/// Numbers from a linear congruential generator, the same everywhere.
struct Numbers(u64);

impl Numbers {
    /// In `low..high`, and exact in float32.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from((low + (high - low) * (self.0 >> 40) as f64 / (1u64 << 24) as f64) as f32)
    }

    /// `n` numbers at least 0.07 apart and 0.035 away from 0, in some order.
    fn distinct(&mut self, n: usize) -> Vec<f64> {
        let middle = (n / 2) as f64 - 0.5;
        let mut values: Vec<f64> = (0..n).map(|i| (i as f64 - middle) * 0.11 + self.uniform(-0.02, 0.02)).collect();
        for i in (1..n).rev() {
            values.swap(i, (self.uniform(0.0, 1.0) * i as f64) as usize);
        }
        values.iter().map(|&v| f64::from(v as f32)).collect()
    }
}

/// A model of one node in float32.
struct OneNode {
    model: Model,
    /// Names of the real inputs.
    wrt: Vec<String>,
    outputs: Vec<String>,
    data: HashMap<String, Array>,
    numbers: Numbers,
}

impl OneNode {
    fn new(op: &Op, case: &Case, seed: u64, symbolic: bool) -> Result<OneNode, String> {
        let b = Builder::new();
        let mut numbers = Numbers(seed);
        let size = |shape: &[usize]| shape.iter().product::<usize>();
        let total = case.inputs.iter().map(|i| if let Input::Distinct { shape } = i { size(shape) } else { 0 }).sum();
        let mut distinct = numbers.distinct(total);
        let mut data = HashMap::new();
        let mut wrt = Vec::new();
        let mut real = |shape: &[usize], values: Vec<f64>| {
            let mut dims: Vec<Dim> = shape.iter().map(|&n| Dim::from(n)).collect();
            if let (true, Some(first), Some(n)) = (symbolic, dims.first_mut(), shape.first().filter(|n| **n > 1)) {
                *first = Dim::symbol(&format!("N{n}"));
            }
            let val = b.input("x", Fact::new(DType::F32, dims), None);
            wrt.push(val.name());
            data.insert(val.name(), Array::from_vec(DType::F32, shape, values).expect("fits"));
            val
        };
        let mut inputs: Vec<Option<Val>> = Vec::new();
        let mut given = Vec::new();
        for input in &case.inputs {
            inputs.push(match input {
                Input::None => None,
                Input::Constant(tensor) => Some(b.constant(single(tensor))),
                Input::Data(tensor) => {
                    let tensor = &single(tensor);
                    let shape: Vec<Dim> = tensor.shape.iter().map(|&n| Dim::from(n)).collect();
                    let val = b.input("data", Fact::new(tensor.dtype, shape), None);
                    given.push((val.name(), Array::from_tensor(tensor).map_err(|e| e.to_string())?));
                    Some(val)
                }
                Input::Real { shape, low, high } => {
                    let values = (0..size(shape)).map(|_| numbers.uniform(*low, *high)).collect();
                    Some(real(shape, values))
                }
                Input::Distinct { shape } => Some(real(shape, distinct.split_off(distinct.len() - size(shape)))),
            });
        }
        data.extend(given);
        b.scope("node");
        let mut attrs = case.attrs.clone();
        attrs.graphs_mut().for_each(single_body);
        let outs = b.node(op.name, &inputs, attrs, case.outputs);
        let outputs = outs.iter().map(|v| b.output(*v, "y")).collect();
        let graph = b.finish().map_err(|e| e.to_string())?;
        // The oldest forms that are written, and those of the first opset that splits a size that is not known unevenly.
        let opset = if symbolic { 18 } else { 13 };
        let model = Model { graph, opset, ir_version: 8, ..Model::default() };
        Ok(OneNode { model, wrt, outputs, data, numbers })
    }

    /// The gradient of each float output and its tangent, or the forward model where there is none.
    fn models(&self, op: &Op, case: &Case) -> Result<Vec<Model>, String> {
        let is_float = |name: &&String| {
            let graph = &self.model.graph;
            graph.find(name).is_some_and(|id| graph.value(id).fact.dtype.is_float())
        };
        let first = self.outputs.iter().find(is_float);
        let (Some(output), false, false) =
            (first, self.wrt.is_empty(), matches!(op.tangent.of(&case.attrs), Tangent::Blocked(_)))
        else {
            return Ok(vec![self.model.clone()]);
        };
        let grad = grad_model(&self.model, output, &self.wrt).map_err(|e| format!("grad: {e}"))?;
        let jvp = jvp_model(&self.model, output, &self.wrt).map_err(|e| format!("jvp: {e}"))?;
        Ok(vec![grad.model, jvp.model])
    }

    /// Runs a model with ONNX Runtime and with the interpreter on the same data.
    fn compare(&mut self, model: &Model) -> Result<(), String> {
        let shapes = self.shapes()?;
        let graph = &model.graph;
        for &id in &graph.inputs {
            let value = graph.value(id);
            // A cotangent or a tangent: of the shape of what it belongs to.
            if let Some((of, _)) = value.name.rsplit_once('.').filter(|_| !self.data.contains_key(&value.name)) {
                let shape = shapes.get(of).ok_or(format!("{} is of nothing", value.name))?.clone();
                let values = (0..shape.iter().product()).map(|_| self.numbers.uniform(-1.0, 1.0)).collect();
                self.data.insert(value.name.clone(), Array::from_vec(value.fact.dtype, &shape, values).expect("fits"));
            }
        }
        let mut session = open("one node", model).map_err(|e| format!("loads: {e}"))?;
        let feeds: Tensors = self.data.iter().map(|(name, array)| (name.clone(), host(array))).collect();
        let taken: Vec<(&str, &HostTensor)> =
            feeds.iter().filter(|(name, _)| session.has_input(name)).map(|(n, t)| (n.as_str(), t)).collect();
        let names: Vec<&str> = graph.outputs.iter().map(|&id| graph.name_of(id)).collect();
        let found = session.run(&taken, &names).map_err(|e| format!("runs: {e}"))?;
        let expected = evaluate(graph, &self.data).map_err(|e| format!("interpreter: {e}"))?;
        for (&id, found) in graph.outputs.iter().zip(found) {
            agree(graph.name_of(id), &values(&found), found.shape(), &expected[&id])?;
        }
        Ok(())
    }

    fn shapes(&self) -> Result<HashMap<String, Vec<usize>>, String> {
        let results: HashMap<ValueId, Array> = evaluate(&self.model.graph, &self.data).map_err(|e| e.to_string())?;
        Ok(results.iter().map(|(&id, a)| (self.model.graph.name_of(id).to_string(), a.shape().to_vec())).collect())
    }
}

/// Reals in float32, whatever the tests in double precision have.
fn single(tensor: &Tensor) -> Tensor {
    match tensor.dtype {
        DType::F64 => Tensor::from_f64(DType::F32, &tensor.shape, tensor.to_f64()),
        _ => tensor.clone(),
    }
}

fn single_body(body: &mut Graph) {
    for value in &mut body.values {
        if value.fact.dtype == DType::F64 {
            value.fact.dtype = DType::F32;
        }
        value.data = value.data.as_ref().map(single);
    }
    for node in &mut body.nodes {
        if node.attrs.int("to") == Some(i64::from(DType::F64.code())) {
            node.attrs = node.attrs.clone().with("to", i64::from(DType::F32.code()));
        }
        node.attrs.graphs_mut().for_each(single_body);
    }
}

fn host(array: &Array) -> HostTensor {
    let tensor: Tensor = array.to_tensor();
    HostTensor::new(tensor.dtype, tensor.shape.clone(), tensor.bytes.to_vec()).expect("a whole tensor")
}

/// Equal within 1e-4 of the largest element; what is not finite is so in both.
fn agree(name: &str, found: &[f64], shape: &[usize], expected: &Array) -> Result<(), String> {
    if shape != expected.shape() {
        return Err(format!("{name} has shape {shape:?}, expected {:?}", expected.shape()));
    }
    let scale = expected.data.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (k, (a, b)) in found.iter().zip(&expected.data).enumerate() {
        let same = (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 1e-4 * scale;
        if !same {
            return Err(format!("{name}: element {k} is {a:e}, expected {b:e}"));
        }
    }
    Ok(())
}

#[test]
fn onnx_runtime_runs_what_every_operator_emits() {
    let mut faults = Vec::new();
    let only = std::env::var("ONLY_OPERATOR").ok();
    for op in OPS.iter().filter(|op| only.as_ref().is_none_or(|name| name == op.name)) {
        for (k, case) in (op.cases)().iter().enumerate().filter(|(k, _)| is_run(op, *k)) {
            for symbolic in [false, true] {
                let seed = op.name.bytes().fold(k as u64 + 1, |h, c| h.wrapping_mul(31).wrapping_add(u64::from(c)));
                let result = OneNode::new(op, case, seed, symbolic)
                    .and_then(|mut one| one.models(op, case)?.iter().try_for_each(|model| one.compare(model)));
                let kind = if symbolic { "symbolic" } else { "static" };
                faults.extend(result.err().map(|fault| format!("{} case {k} ({kind}): {fault}", op.name)));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// `UPDATE_EXPECT=1` writes the file anew.
fn golden(name: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    expect_test::expect_file![path].assert_eq(found);
}

/// The gradient of the cross-entropy with respect to every parameter.
#[test]
fn plain_gradients() {
    for fixture in ["mlp", "mlp-dynamo", "lenet", "lenet-dynamo"] {
        let plan = plan(&model(fixture), &exact(&[("penultimate", 0.0)]));
        golden(&format!("gradient_{fixture}.txt"), &onnx::compact(&graph(&plan, "gradient.onnx").graph));
    }
}

/// One step, and what evaluates, with κ of the layer behind one mask.
#[test]
fn steps_and_evaluations() {
    for fixture in ["mlp", "mlp-dynamo"] {
        let plan = plan(&model(fixture), &exact(&[("fc2", 0.1)]));
        for file in ["train", "evaluate"] {
            let text = onnx::compact(&graph(&plan, &format!("{file}.onnx")).graph);
            golden(&format!("{file}_{fixture}_fc2.txt"), &text);
        }
    }
}

/// Nodes by operator: of the forward pass, of what the plain gradient adds, of what κ and its gradient add.
#[test]
fn nodes_of_a_resnet() {
    let mut text = String::new();
    for fixture in ["resnet", "resnet-dynamo"] {
        let model = model(fixture);
        for layer in ["neck", "fc"] {
            let (with, without) = (plan(&model, &exact(&[(layer, 0.1)])), plan(&model, &exact(&[(layer, 0.0)])));
            let count = |model: &Model| {
                let mut counts: BTreeMap<String, i64> = BTreeMap::new();
                for node in &model.graph.nodes {
                    *counts.entry(node.op.clone()).or_default() += 1;
                }
                counts
            };
            let forward = count(&model);
            let plain = count(graph(&without, "gradient.onnx"));
            let all = count(graph(&with, "gradient.onnx"));
            let operators: BTreeSet<&String> = forward.keys().chain(plain.keys()).chain(all.keys()).collect();
            let _ = writeln!(text, "{fixture} {layer}\n{:20}{:>8}{:>8}{:>8}", "operator", "forward", "plain", "FAM");
            let mut row = |name: &str, f: i64, p: i64, a: i64| {
                let _ = writeln!(text, "{name:20}{f:>8}{:>8}{:>8}", p - f, a - p);
            };
            let of = |counts: &BTreeMap<String, i64>, name: &str| counts.get(name).copied().unwrap_or(0);
            for name in operators {
                row(name, of(&forward, name), of(&plain, name), of(&all, name));
            }
            let total = |counts: &BTreeMap<String, i64>| counts.values().sum();
            row("all", total(&forward), total(&plain), total(&all));
            text.push('\n');
        }
    }
    golden("nodes_resnet.txt", text.trim_end());
}
