//! Fused operators of ONNX Runtime are written out when a model is read: the standard operators compute what ONNX Runtime
//! computes with the fused one, and have derivatives.

#[path = "../common/mod.rs"]
mod common;

use std::path::Path;

use common::judge::{self, Data, Numbers, Problem};
use common::step::exceeds;
use fam_onnx::onnx;
use fam_onnx::ops::Array;

/// Of the largest element; the fused kernels approximate the error function and the hyperbolic tangent.
const TOLERANCE: f64 = 2e-4;

struct Case {
    name: String,
    model: fam_onnx::ir::Model,
    inputs: Data,
    outputs: Data,
}

fn cases(directory: &Path) -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fused/make.py");
    common::run(std::process::Command::new(common::python()).arg(script).arg(directory));
    let entries = std::fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    let mut data: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".data.onnx")).collect();
    data.sort();
    data.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let file = path.to_string_lossy();
    let read = |path: &str| onnx::read(Path::new(path)).unwrap_or_else(|error| panic!("{error}"));
    let model = read(&file.replace(".data.onnx", ".onnx"));
    let data = read(&file);
    let below = |prefix: &str| -> Data {
        let stored = data.graph.values.iter().filter_map(|v| Some((v.name.strip_prefix(prefix)?, v.data.as_ref()?)));
        stored.map(|(name, data)| (name.to_string(), Array::from_tensor(data).expect("numbers"))).collect()
    };
    let name = path.file_name().expect("a name").to_string_lossy().replace(".data.onnx", "");
    Case { name, model, inputs: below("inputs/"), outputs: below("outputs/") }
}

impl Case {
    fn check(&self) -> Result<(), String> {
        let graph = &self.model.graph;
        if let Some(node) = graph.nodes.iter().find(|node| !node.domain.is_empty()) {
            return Err(format!("{} of {:?} is still there", node.op, node.domain));
        }
        if onnx::opset(&self.model) > 21 {
            return Err(format!("opset {}", onnx::opset(&self.model)));
        }
        let found = judge::outputs(&self.model, &self.inputs)?;
        for (name, expected) in &self.outputs {
            close(name, &found[name], expected)?;
        }
        judge::run_and_compare(&self.name, &self.model, &self.inputs)?;
        let real = |id: &&_| graph.value(**id).fact.dtype.is_float();
        let name = |id: &_| graph.name_of(*id).to_string();
        let wrt: Vec<String> = graph.inputs.iter().filter(real).map(name).collect();
        let of = name(&graph.outputs[0]);
        let problem = Problem { model: &self.model, of: &of, wrt: &wrt, at: &self.inputs };
        let derivatives = problem.check(&mut Numbers(3))?;
        judge::run_and_compare("grad", &derivatives.grad.model, &derivatives.data)?;
        judge::run_and_compare("jvp", &derivatives.jvp.model, &derivatives.data)
    }
}

fn close(name: &str, found: &Array, expected: &Array) -> Result<(), String> {
    if (found.dtype, found.shape()) != (expected.dtype, expected.shape()) {
        let fact = |array: &Array| format!("{}{:?}", array.dtype, array.shape());
        return Err(format!("{name} is {}, expected {}", fact(found), fact(expected)));
    }
    let scale = expected.data.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
    for (k, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
        if exceeds((a - b).abs(), TOLERANCE * scale) {
            return Err(format!("{name}: element {k} is {a:e}, ONNX Runtime's fused operator gives {b:e}"));
        }
    }
    Ok(())
}

#[test]
fn fused_operators_are_written_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let cases = cases(directory.path());
    assert!(cases.len() >= 35, "{} cases", cases.len());
    let fault = |case: &Case| case.check().err().map(|fault| format!("{}: {fault}", case.name));
    let faults: Vec<String> = cases.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
