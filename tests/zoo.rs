//! Derivatives of whole models with respect to all parameters and real inputs. `zoo/make.py` makes the models: a few small
//! ones stay in `zoo/small`. Each is judged by the interpreter's differences in double precision, by ONNX Runtime, and by
//! torch's own gradients where the model comes from torch.
//!
//! `ZOO=DIRECTORY cargo test --test zoo -- --ignored` judges the models that `make.py` has written there, and writes
//! `docs/zoo.md`. The interpreter is slow: `CARGO_PROFILE_DEV_OPT_LEVEL=2` makes it ten times faster.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::judge::{Data, Numbers, Problem, feeds, run, run_and_compare};
use common::step::{exceeds, norm};
use fam_onnx::ad::{Differentiated, grad_model, jvp_model};
use fam_onnx::ir::ValueId;
use fam_onnx::onnx;
use fam_onnx::ops::Array;

/// How far a gradient in float32 may be from torch's, relative to its norm or a hundredth of the norm of all.
const TORCH: f64 = 1e-3;
/// Nodes that a gradient adds for each of the model's, at most by the median.
const RATIO: f64 = 2.5;

/// The data that a model comes with.
#[derive(Default)]
struct Sample {
    inputs: Data,
    cotangent: Option<Array>,
    /// torch's gradients by the names of parameters and inputs.
    grads: Data,
}

fn sample(path: &Path) -> Sample {
    let data = onnx::read(path).unwrap_or_else(|error| panic!("{error}"));
    let mut sample = Sample::default();
    for value in &data.graph.values {
        let Some(tensor) = &value.data else { continue };
        let array = Array::from_tensor(tensor).expect("numbers");
        match value.name.split_once('/') {
            Some(("inputs", name)) => drop(sample.inputs.insert(name.to_string(), array)),
            Some(("grads", name)) => drop(sample.grads.insert(name.to_string(), array)),
            _ => sample.cotangent = Some(array),
        }
    }
    sample
}

/// What is found of one model.
#[derive(Default)]
struct Row {
    name: String,
    /// Nodes of the model by operator.
    operators: BTreeMap<String, usize>,
    forward: usize,
    /// Nodes with the gradient of every parameter; none of a model that is refused.
    gradient: Option<usize>,
    /// Of reading and differentiating.
    seconds: f64,
    parameters: usize,
    /// Gradients that torch knows under the same name.
    compared: usize,
    faults: Vec<String>,
}

impl Row {
    fn of(directory: &Path) -> Row {
        let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
        let mut row = Row { name, ..Row::default() };
        if let Err(fault) = row.judge(directory) {
            row.faults.insert(0, fault);
        }
        row
    }

    /// Nodes that the gradient adds for each of the model's; none of a model that is refused.
    fn ratio(&self) -> Option<f64> {
        let added = self.gradient? as f64 - self.forward as f64;
        Some(added / self.forward.max(1) as f64)
    }

    fn judge(&mut self, directory: &Path) -> Result<(), String> {
        let start = Instant::now();
        let model = onnx::read(&directory.join("model.onnx")).map_err(|e| format!("not read: {e}"))?;
        let graph = &model.graph;
        self.forward = graph.nodes.len();
        for node in &graph.nodes {
            *self.operators.entry(node.op.clone()).or_default() += 1;
        }
        let is_real = |id: &&ValueId| graph.value(**id).fact.dtype.is_float();
        let of = graph.outputs.iter().find(is_real).map(|&id| graph.name_of(id).to_string());
        let of = of.ok_or("it has no real output")?;
        let grad = |wrt: &[String]| grad_model(&model, &of, wrt).map_err(|e| format!("grad: {e}"));
        let mut wrt = vec!["parameters".to_string()];
        let to_parameters = grad(&wrt)?;
        self.seconds = start.elapsed().as_secs_f64();
        (self.gradient, self.parameters) = (Some(to_parameters.model.graph.nodes.len()), to_parameters.outputs.len());
        wrt.extend(graph.inputs.iter().find(is_real).map(|_| "inputs".to_string()));
        let grad = grad(&wrt)?;
        let jvp = jvp_model(&model, &of, &wrt).map_err(|e| format!("jvp: {e}"))?;
        let sample = sample(&directory.join("data.onnx"));
        let names: Vec<String> = grad.outputs.iter().map(|name| name.trim_end_matches(".grad").to_string()).collect();
        let problem = Problem { model: &model, of: &of, wrt: &names, at: &sample.inputs };
        let data = problem.along_one_direction(&grad, &jvp, &mut Numbers(self.name.len() as u64))?;
        run_and_compare("the model", &model, &sample.inputs)?;
        run_and_compare("the gradient", &grad.model, &data)?;
        run_and_compare("the tangent", &jvp.model, &data)?;
        self.compare(&grad, sample)
    }

    /// What ONNX Runtime computes, against torch.
    fn compare(&mut self, grad: &Differentiated, sample: Sample) -> Result<(), String> {
        let Some(cotangent) = sample.cotangent else { return Ok(()) };
        let mut data = sample.inputs;
        data.extend(grad.inputs.first().map(|name| (name.clone(), cotangent)));
        let found = run("the gradient", &grad.model, &feeds(&data))?;
        let size = |array: &Array| norm(&array.data.iter().copied().collect::<Vec<_>>());
        let whole = norm(&sample.grads.values().map(size).collect::<Vec<_>>());
        for output in &grad.outputs {
            let (name, found) = (output.trim_end_matches(".grad"), &found[output]);
            // Exporters transpose and rename: what keeps its name and shape is compared.
            let Some(expected) = sample.grads.get(name).filter(|e| e.shape() == found.shape()) else { continue };
            self.compared += 1;
            let difference: Vec<f64> = found.iter_f64().zip(&expected.data).map(|(a, b)| a - b).collect();
            let (off, of) = (norm(&difference), size(expected));
            if exceeds(off, TORCH * of.max(1e-2 * whole)) {
                self.faults.push(format!("{output} is off torch's by {off:.1e} of {of:.1e}"));
            }
        }
        Ok(())
    }
}

fn models(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.join("model.onnx").exists()).collect();
    all.sort();
    all
}

#[test]
fn small_models() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo/small");
    let rows: Vec<Row> = models(&directory).iter().map(|path| Row::of(path)).collect();
    assert!(rows.len() >= 5, "{} models", rows.len());
    let faults: Vec<String> = rows.iter().flat_map(|r| r.faults.iter().map(|f| format!("{}: {f}", r.name))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "ZOO=DIRECTORY: the models that zoo/make.py has written"]
fn the_zoo() {
    let directory = PathBuf::from(std::env::var("ZOO").expect("ZOO=DIRECTORY"));
    let mut rows = Vec::new();
    for path in models(&directory) {
        let row = Row::of(&path);
        eprintln!("{}: {}", row.name, if row.faults.is_empty() { "right".to_string() } else { row.faults.join("; ") });
        rows.push((row, about(&path.join("about.json"))));
    }
    let unexported = about(&directory.join("failed.json"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/zoo.md");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
    std::fs::write(&path, report(&rows, &unexported)).expect("a written file");
    let median = median(&rows);
    assert!(median <= RATIO, "the median of the ratios is {median}");
}

fn about(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn median(rows: &[(Row, serde_json::Value)]) -> f64 {
    let mut ratios: Vec<f64> = rows.iter().filter_map(|(row, _)| row.ratio()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(0.0)
}

/// `docs/zoo.md`.
fn report(rows: &[(Row, serde_json::Value)], unexported: &serde_json::Value) -> String {
    let right = rows.iter().filter(|(row, _)| row.faults.is_empty()).count();
    let operators: BTreeSet<&String> = rows.iter().flat_map(|(row, _)| row.operators.keys()).collect();
    let compared: usize = rows.iter().map(|(row, _)| row.compared).sum();
    let mut text = format!(
        "# The zoo\n\n\
         Made by `zoo/make.py` and judged by `tests/zoo.rs`; its head says how to write this file anew. Random weights,\n\
         small sizes.\n\n\
         {} models, {} operators; the derivatives of {right} are right: `grad` and `jvp` with respect to all parameters\n\
         and real inputs agree with central differences in float64 along a random direction (1e-4 of the norm) and with\n\
         each other (1e-6); ONNX Runtime computes what the interpreter does; {compared} gradients in float32 agree with\n\
         torch's own (1e-3). The other gradients have other names or shapes in the file, hold a folded norm, or are of half precision.\n\n\
         *Nodes*: of the model as it is read, and with the gradient of every parameter. *Added*: nodes that the gradient\n\
         adds for each of the model's; the median is {:.2}. *Seconds*: to read and differentiate, without optimisation of\n\
         the program by its compiler beyond level 2.\n\n\
         | model | family | exporter | opset | operators | nodes | with gradient | added | parameters | compared | seconds | outcome |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        rows.len(),
        operators.len(),
        median(rows)
    );
    for (row, about) in rows {
        let said = |key: &str| about[key].as_str().unwrap_or("").to_string();
        let gradient = row.gradient.map_or("–".to_string(), |nodes| nodes.to_string());
        let ratio = row.ratio().map_or("–".to_string(), |ratio| format!("{ratio:.1}"));
        let outcome = match row.faults.first() {
            None => "right".to_string(),
            Some(fault) => fault.replace('\n', " ").replace('|', "/"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {gradient} | {ratio} | {} | {} | {:.2} | {outcome} |",
            row.name,
            said("family"),
            said("exporter"),
            about["opset"],
            row.operators.len(),
            row.forward,
            row.parameters,
            row.compared,
            row.seconds
        );
    }
    text.push_str(WHY);
    for (name, reason) in unexported.as_object().into_iter().flatten() {
        let _ = writeln!(text, "- {name}: {}", reason.as_str().unwrap_or(""));
    }
    text
}

const WHY: &str = "
What lies above 4 are convolutional networks, whose nodes are few and large, and single recurrent nodes. A convolution with
its activation is two nodes. Of ResNet-18's 231 added nodes its 20 convolutions have about ten each: the cotangent of the
image (a `ConvTranspose`), that of the bias, and for the filter's gradient the windows of the image as columns (a `Conv` with
constant taps), two matrices by `Reshape` and `Transpose`, and their product. One `Conv` between two `Transpose` would say the
same; ONNX Runtime 1.23 takes twice as long with it (43 against 20 ms for 8 images of 64 × 32 × 32, 64 filters of 3 × 3, one
thread). Each activation adds a comparison and a `Where`, a `Clip` three and a `Where`. Batch norm kept as one node adds
twelve: six for `γ/√(σ² + ε)` and `x − μ`, four products and two sums.
An `InstanceNormalization` (`unet-3d`) is written out and differentiated through its mean and variance, and a trilinear
`Resize` goes back through a product an axis. An `LSTM` node becomes a `Scan` a direction, with another `Scan` backwards;
nodes in bodies are not counted, neither the model's nor the gradient's. In half precision sums are taken in single
precision, between two `Cast` each.

Models that their exporter refuses, which are not counted:

";
