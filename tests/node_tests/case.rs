//! One of ONNX's node tests, and what there is to say of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fam_onnx::ir::{DType, Model, ValueId};
use fam_onnx::onnx;
use fam_onnx::ops::Array;

use crate::common::judge::{Data, Derivatives, Numbers, Problem, outputs, run_and_compare};
use crate::exceptions;

/// What a case shows beside that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reader refuses the model.
    Unread,
    /// The interpreter does not give the expected outputs.
    Forward,
    /// `grad` and `jvp` refuse: an operator has no derivative.
    Refused,
    /// A first or second derivative is wrong.
    Wrong,
    /// There is a kink at the data, and the derivative lies between the one-sided ones.
    Kink,
    /// The derivative is wrong at the data, because there is none, and right close by.
    Moved,
    /// ONNX Runtime does not run one of the models, or computes something else.
    Runtime,
}

pub struct Remark {
    pub kind: Kind,
    pub detail: String,
}

impl Remark {
    fn new(kind: Kind, detail: impl fmt::Display) -> Remark {
        Remark { kind, detail: detail.to_string() }
    }
}

pub struct Case {
    pub name: String,
    pub operator: String,
    directory: PathBuf,
    /// Of the expected outputs, relative and absolute.
    tolerances: (f64, f64),
}

/// How far data are moved off a kink or jump, relative to a random number in −1..1.
const MOVE: f64 = 0.03;

impl Case {
    /// The cases that `collect.py` has written to a directory.
    pub fn all(directory: &Path) -> Vec<Case> {
        let list = std::fs::read_to_string(directory.join("cases.tsv")).expect("the list of cases");
        let case = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, operator, rtol, atol] = fields[..] else { panic!("four fields: {line}") };
            let number = |text: &str| text.parse().expect("a tolerance");
            Case {
                name: name.to_string(),
                operator: operator.to_string(),
                directory: directory.to_path_buf(),
                tolerances: (number(rtol), number(atol)),
            }
        };
        list.lines().map(case).collect()
    }

    /// Bytes of its inputs and expected outputs.
    pub fn size(&self) -> u64 {
        std::fs::metadata(self.path(".data.onnx")).map_or(0, |data| data.len())
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", self.name))
    }

    /// Judges the case; every model that is emitted is written to a directory.
    pub fn judge(&self, emitted: &Path) -> Vec<Remark> {
        let (model, inputs, expected) = match self.read() {
            Ok(read) => read,
            // The name of the file says nothing.
            Err(fam_onnx::Error::InvalidModel { faults, .. }) => {
                return faults.iter().map(|fault| Remark::new(Kind::Unread, fault)).collect();
            }
            Err(error) => return vec![Remark::new(Kind::Unread, error)],
        };
        if let Err(fault) = self.reproduces(&model, &inputs, &expected) {
            return vec![Remark::new(Kind::Forward, fault)];
        }
        let names = |ids: &[ValueId]| -> Vec<String> {
            let real = ids.iter().filter(|&&id| model.graph.value(id).fact.dtype.is_float());
            real.map(|&id| model.graph.name_of(id).to_string()).collect()
        };
        let mut wrt = names(&model.graph.inputs);
        wrt.retain(|name| inputs.contains_key(name) && !exceptions::is_held(&self.operator, name));
        let seed = self.name.bytes().fold(1u64, |h, c| h.wrapping_mul(31).wrapping_add(u64::from(c)));
        let mut judging =
            Judging { case: self, model: &model, wrt, numbers: Numbers(seed), emitted, found: Vec::new() };
        judging.run("forward", &model, &inputs);
        for of in names(&model.graph.outputs) {
            if !judging.wrt.is_empty() {
                judging.output(&of, &inputs);
            }
        }
        judging.found
    }

    fn read(&self) -> fam_onnx::Result<(Model, Data, Data)> {
        let model = onnx::read(&self.path(".onnx"))?;
        let data = onnx::read(&self.path(".data.onnx"))?;
        let below = |prefix: &str| -> Data {
            let stored =
                data.graph.values.iter().filter_map(|v| Some((v.name.strip_prefix(prefix)?, v.data.as_ref()?)));
            stored.map(|(name, data)| (name.to_string(), Array::from_tensor(data).expect("numbers"))).collect()
        };
        Ok((model, below("inputs/"), below("outputs/")))
    }

    /// Whether the interpreter gives the expected outputs.
    fn reproduces(&self, model: &Model, inputs: &Data, expected: &Data) -> Result<(), String> {
        let found = outputs(model, inputs)?;
        // In one order, so that the same output is named each time.
        for (name, expected) in expected.iter().collect::<BTreeMap<_, _>>() {
            let found = found.get(name).ok_or(format!("there is no output {name}"))?;
            if (found.dtype, found.shape()) != (expected.dtype, expected.shape()) {
                let fact = |array: &Array| format!("{}{:?}", array.dtype, array.shape());
                return Err(format!("{name} is {}, expected {}", fact(found), fact(expected)));
            }
            let rounding = match expected.dtype {
                DType::F16 => 1e-2,
                DType::BF16 => 1e-1,
                _ => 1e-6,
            };
            let (rtol, atol) = (self.tolerances.0.max(rounding), self.tolerances.1.max(rounding));
            for (k, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
                let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
                if !same {
                    return Err(format!("{name}: element {k} is {a:e}, expected {b:e}"));
                }
            }
        }
        Ok(())
    }
}

/// A case that is being judged.
struct Judging<'a> {
    case: &'a Case,
    model: &'a Model,
    wrt: Vec<String>,
    numbers: Numbers,
    emitted: &'a Path,
    found: Vec<Remark>,
}

impl Judging<'_> {
    fn say(&mut self, kind: Kind, detail: impl fmt::Display) {
        self.found.push(Remark::new(kind, detail));
    }

    /// The derivatives of one output: first and second.
    fn output(&mut self, of: &str, inputs: &Data) {
        let Some((first, at)) = self.first(of, inputs) else { return };
        self.emit(&format!("{of}.first"), &first);
        if first.kink {
            return self.say(Kind::Kink, "first derivative");
        }
        let wrt = self.wrt.clone();
        let data = at.into_iter().chain(first.data).collect();
        // The gradient of the first of them stands for all: each is a function of all inputs.
        let problem = Problem { model: &first.grad.model, of: &first.grad.outputs[0], wrt: &wrt, at: &data };
        match problem.check(&mut self.numbers) {
            Ok(second) => {
                self.emit(&format!("{of}.second"), &second);
                if second.kink {
                    self.say(Kind::Kink, "second derivative");
                }
            }
            Err(fault) => self.say(Kind::Wrong, format!("second derivative: {fault}")),
        }
    }

    /// The first derivative at the data or, where there is none, close by; and where that is.
    fn first(&mut self, of: &str, inputs: &Data) -> Option<(Derivatives, Data)> {
        let model = self.model;
        let wrt = self.wrt.clone();
        let fault = match (Problem { model, of, wrt: &wrt, at: inputs }).check(&mut self.numbers) {
            Ok(first) => return Some((first, inputs.clone())),
            Err(fault) => fault,
        };
        if fault.contains("no derivative") {
            self.say(Kind::Refused, fault);
            return None;
        }
        let mut moved = inputs.clone();
        for name in &wrt {
            let noise = self.numbers.like(&inputs[name]);
            if let Some(x) = moved.get_mut(name) {
                x.data += &(&noise.data * MOVE);
            }
        }
        match (Problem { model, of, wrt: &wrt, at: &moved }).check(&mut self.numbers) {
            Ok(first) => {
                self.say(Kind::Moved, fault);
                Some((first, moved))
            }
            Err(_) => {
                self.say(Kind::Wrong, fault);
                None
            }
        }
    }

    fn emit(&mut self, what: &str, derivatives: &Derivatives) {
        for (mode, made) in [("grad", &derivatives.grad), ("jvp", &derivatives.jvp)] {
            let opset = onnx::opset(&made.model);
            if opset > self.model.opset.max(21) {
                self.say(Kind::Wrong, format!("{what}.{mode} has opset {opset}"));
            }
            let file = format!("{}.{what}.{mode}.onnx", self.case.name).replace('/', "_");
            std::fs::write(self.emitted.join(file), onnx::to_bytes(&made.model)).expect("a written file");
            self.run(&format!("{what}.{mode}"), &made.model, &derivatives.data);
        }
    }

    fn run(&mut self, what: &str, model: &Model, data: &Data) {
        // What is said of the model itself holds for its derivatives.
        if self.found.iter().all(|remark| remark.kind != Kind::Runtime)
            && let Err(fault) = run_and_compare(what, model, data)
        {
            self.say(Kind::Runtime, format!("{what}: {fault}"));
        }
    }
}
