//! A graph as a list of steps with their values, from which the same function is built in several ways.

use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Model, Node, Val, ValueId};
use fam_onnx::onnx::{self, TextOptions};
use fam_onnx::ops::{Array, EvalCx, lookup};
use std::collections::{BTreeSet, HashMap};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// An input; these of its dimensions are symbols.
    Input {
        symbols: Vec<Option<&'static str>>,
    },
    /// An initialiser.
    Stored,
    Step,
}

#[derive(Clone, Debug)]
pub struct Value {
    pub kind: Kind,
    /// What it is for the inputs' data.
    pub array: Array,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub op: &'static str,
    pub inputs: Vec<Option<usize>>,
    pub attrs: Attrs,
    pub outputs: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub values: Vec<Value>,
    pub steps: Vec<Step>,
    /// Further outputs than the values that nothing reads.
    pub extra: Vec<usize>,
}

/// How a plan becomes a graph: all of these are the same function.
#[derive(Clone, Default)]
pub struct Variant {
    /// The type of its reals, which are float64 in the plan.
    pub single: bool,
    /// Each step as late as it can be, instead of as planned.
    pub late: bool,
    /// Names made of this text.
    pub names: Option<&'static str>,
}

/// The value of each symbol is the number it ends in. None is 0: a Reshape whose −1 could be anything then is refused where it
/// runs.
pub const SYMBOLS: [[&str; 2]; 4] = [["N1", "M1"], ["N2", "M2"], ["N3", "M3"], ["N4", "M4"]];

impl Plan {
    pub fn add(&mut self, kind: Kind, array: Array) -> usize {
        self.values.push(Value { kind, array });
        self.values.len() - 1
    }

    pub fn stored_ints(&mut self, shape: &[usize], values: &[i64]) -> usize {
        // Larger numbers are no float64; the interpreter reads the rounded ones too.
        let data = values.iter().map(|&v| v as f64).collect();
        self.add(Kind::Stored, Array::from_vec(DType::I64, shape, data).expect("as many as the shape says"))
    }

    /// Adds a node if the interpreter computes it, and to numbers that can be compared; gives its outputs.
    pub fn step(&mut self, op: &str, inputs: &[Option<usize>], attrs: Attrs, outputs: usize) -> Option<Vec<usize>> {
        let op = lookup(op)?;
        let arrays: Vec<Option<Array>> = inputs.iter().map(|i| i.map(|i| self.values[i].array.clone())).collect();
        if !self.is_accepted(op.name, inputs, &attrs, outputs) {
            return None;
        }
        let cx = EvalCx { op: op.name, inputs: &arrays, attrs: &attrs, outputs, captured: &HashMap::new() };
        let results = (op.eval)(&cx).ok().filter(|results| results.len() >= outputs)?;
        let tame = |a: &Array| a.data.len() <= 4096 && a.data.ndim() <= 8 && a.data.iter().all(|v| v.abs() <= 1e4);
        if !results.iter().take(outputs).all(tame) {
            return None;
        }
        let ids: Vec<usize> = results.into_iter().take(outputs).map(|array| self.add(Kind::Step, array)).collect();
        self.steps.push(Step { op: op.name, inputs: inputs.to_vec(), attrs, outputs: ids.clone() });
        Some(ids)
    }

    /// Whether the operator's facts take such inputs.
    fn is_accepted(&self, op: &str, inputs: &[Option<usize>], attrs: &Attrs, outputs: usize) -> bool {
        let b = Builder::new();
        let leaf = |id: usize| {
            let Value { kind, array } = &self.values[id];
            let dims: Vec<Dim> = array.shape().iter().map(|&n| Dim::from(n)).collect();
            match kind {
                Kind::Stored => b.initializer("w", array.to_tensor()),
                _ => b.input("x", Fact::new(array.dtype, dims), None),
            }
        };
        let inputs = inputs.iter().map(|id| id.map(|id| leaf(id).id())).collect();
        let node = Node { name: "n".into(), op: op.into(), inputs, attrs: attrs.clone(), ..Node::default() };
        b.import(node, &vec![None; outputs], &[]);
        b.check().is_ok()
    }

    /// What the graph puts out: all that nothing reads, and the extra ones.
    pub fn outputs(&self) -> Vec<usize> {
        let read: BTreeSet<usize> = self.steps.iter().flat_map(|s| s.inputs.iter().flatten().copied()).collect();
        let made = self.steps.iter().flat_map(|s| s.outputs.iter().copied());
        made.filter(|id| !read.contains(id) || self.extra.contains(id)).collect()
    }

    /// The real inputs and initialisers that some step reads.
    pub fn reals(&self) -> Vec<usize> {
        let read: BTreeSet<usize> = self.steps.iter().flat_map(|s| s.inputs.iter().flatten().copied()).collect();
        let real = |id: &usize| self.values[*id].kind != Kind::Step && self.values[*id].array.dtype == DType::F64;
        read.into_iter().filter(real).collect()
    }

    pub fn name(&self, id: usize, variant: &Variant) -> String {
        let plain = match self.values[id].kind {
            Kind::Input { .. } => format!("x{id}"),
            Kind::Stored => format!("w{id}"),
            Kind::Step => format!("v{id}"),
        };
        match variant.names {
            // Later values get smaller numbers, so that an order by names is another one.
            Some(text) => format!("{text}{}", self.values.len() - id),
            None => plain,
        }
    }

    /// Whether some step is of one of these operators.
    pub fn has(&self, op: impl Fn(&str) -> bool) -> bool {
        self.steps.iter().any(|s| op(s.op))
    }

    /// Indices of steps in the order of the variant.
    fn order(&self, variant: &Variant) -> Vec<usize> {
        if !variant.late {
            return (0..self.steps.len()).collect();
        }
        // From the back, the first that all its readers stand behind already.
        let mut left: Vec<usize> = (0..self.steps.len()).collect();
        let mut order = Vec::new();
        while !left.is_empty() {
            let reads = |k: usize, id: usize| self.steps[k].inputs.contains(&Some(id));
            let last = |&k: &usize| !left.iter().any(|&r| self.steps[k].outputs.iter().any(|&id| reads(r, id)));
            let at = left.iter().position(last).expect("no cycle");
            order.push(left.remove(at));
        }
        order.reverse();
        order
    }

    /// # Errors
    /// What the builder refuses, though the interpreter computes it.
    pub fn build(&self, variant: &Variant) -> Result<Model, String> {
        let b = Builder::new();
        let mut vals: HashMap<usize, Val> = HashMap::new();
        let used: BTreeSet<usize> = self.steps.iter().flat_map(|s| s.inputs.iter().flatten().copied()).collect();
        for &id in &used {
            let Value { kind, array } = &self.values[id];
            let array = retyped(array, variant);
            let name = self.name(id, variant);
            let val = match kind {
                Kind::Step => continue,
                Kind::Input { symbols } => {
                    let dim = |(&n, symbol): (&usize, &Option<&str>)| symbol.map_or(Dim::from(n), Dim::symbol);
                    let dims: Vec<Dim> = array.shape().iter().zip(symbols).map(dim).collect();
                    b.input(&name, Fact::new(array.dtype, dims), None)
                }
                Kind::Stored => b.initializer(&name, array.to_tensor()),
            };
            vals.insert(id, val);
        }
        for k in self.order(variant) {
            let step = &self.steps[k];
            let names: Vec<Option<String>> = step.outputs.iter().map(|&id| Some(self.name(id, variant))).collect();
            let node = Node {
                name: format!("{}n{k}", variant.names.unwrap_or_default()),
                op: step.op.to_string(),
                inputs: step.inputs.iter().map(|id| id.map(|id| vals[&id].id())).collect(),
                attrs: step.attrs.clone(),
                ..Node::default()
            };
            let made = b.import(node, &names, &[]);
            b.check()
                .map_err(|e| format!("{} is computed by the interpreter and refused by its facts: {e}", step.op))?;
            vals.extend(step.outputs.iter().copied().zip(made.into_iter().flatten()));
        }
        for id in self.outputs() {
            b.output(vals[&id], &self.name(id, variant));
        }
        let graph = b.finish().map_err(|e| e.to_string())?;
        Ok(Model { graph, opset: 17, ir_version: 8, ..Model::default() })
    }

    /// The data of the inputs, by name.
    pub fn feeds(&self, variant: &Variant) -> HashMap<String, Array> {
        let read: BTreeSet<usize> = self.steps.iter().flat_map(|s| s.inputs.iter().flatten().copied()).collect();
        let inputs = read.into_iter().filter(|&id| matches!(self.values[id].kind, Kind::Input { .. }));
        inputs.map(|id| (self.name(id, variant), retyped(&self.values[id].array, variant))).collect()
    }

    /// The graph in ONNX's textual syntax and the inputs' data.
    pub fn show(&self) -> String {
        let variant = Variant::default();
        let text = match self.build(&variant) {
            Ok(model) => onnx::text(&model, TextOptions { data: true, names: false }),
            Err(_) => format!("{:#?}", self.steps),
        };
        let mut feeds: Vec<String> = self
            .feeds(&variant)
            .iter()
            .map(|(name, a)| format!("{name}: {}{:?} = {:?}", a.dtype, a.shape(), a.data.iter().collect::<Vec<_>>()))
            .collect();
        feeds.sort();
        format!("{text}\n{}", feeds.join("\n"))
    }
}

fn retyped(array: &Array, variant: &Variant) -> Array {
    let single = variant.single && array.dtype == DType::F64;
    Array { dtype: if single { DType::F32 } else { array.dtype }, data: array.data.clone() }
}

/// Values of a graph by name.
pub fn named(model: &Model, values: &HashMap<ValueId, Array>) -> HashMap<String, Array> {
    values.iter().map(|(id, array)| (model.graph.name_of(*id).to_string(), array.clone())).collect()
}
