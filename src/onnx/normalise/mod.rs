//! Any opset from 7 on → one internal form, the newest of each operator. One operator or tight family a file.
//!
//! A rule changes the draft of one node in place; where one node is not enough it emits helpers in front and makes the
//! draft the last of them, so that the model's tensor names stay.

mod axes;
mod axis;
mod batch_norm;
mod cast;
mod clip;
mod conv;
mod dft;
mod dropout;
mod gemm;
mod grid_sample;
mod group_norm;
mod pad;
mod pool;
mod reduce;
mod resize;
mod roi_align;
mod scan;
mod scatter;
mod slice;
mod softmax;
mod spatial;
mod split;
mod top_k;
mod transpose;

use crate::error::Error;
use crate::ir::{Attr, Attrs, Builder, Dim, Fact, Node, Val};
use crate::ops::Fault;

/// A node on its way into the graph.
pub(super) struct Draft<'g> {
    pub builder: &'g Builder,
    pub name: String,
    pub op: String,
    pub inputs: Vec<Option<Val<'g>>>,
    /// Names; `None`: left out.
    pub outputs: Vec<Option<String>>,
    pub attrs: Attrs,
    /// The version of the standard operators that the node is written in.
    pub opset: i64,
    pub metadata: Vec<(String, String)>,
    /// Inputs whose element type is assumed, not known.
    pub doubtful: Vec<usize>,
    /// Values of the model that helpers compute.
    pub made: Vec<(String, Val<'g>)>,
}

type Rule = for<'g> fn(&mut Draft<'g>) -> Result<(), Fault>;

/// Brings a node of the standard domain into the internal form.
pub(super) fn normalise(draft: &mut Draft) -> Result<(), Fault> {
    match rule(&draft.op) {
        Some(rule) => rule(draft),
        None => Ok(()),
    }
}

fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Squeeze" => axes::squeeze,
        "Unsqueeze" => axes::unsqueeze,
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce::reduce,
        "Concat" | "Gather" | "GatherElements" | "ArgMax" | "ArgMin" | "Flatten" | "LayerNormalization"
        | "RMSNormalization" | "LpNormalization" => axis::axis,
        "Scatter" | "ScatterElements" => scatter::scatter,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax::softmax,
        "Split" => split::split,
        "Slice" => slice::slice,
        "Pad" => pad::pad,
        "Clip" => clip::clip,
        "Dropout" => dropout::dropout,
        "TopK" => top_k::top_k,
        "Upsample" | "Resize" => resize::resize,
        "BatchNormalization" => batch_norm::batch_norm,
        "GroupNormalization" => group_norm::group_norm,
        "Conv" => conv::conv,
        "ConvTranspose" => conv::conv_transpose,
        "MaxPool" | "AveragePool" | "LpPool" => pool::pool,
        "Gemm" => gemm::gemm,
        "Transpose" => transpose::transpose,
        "Cast" | "CastLike" => cast::cast,
        "GridSample" => grid_sample::grid_sample,
        "DFT" => dft::dft,
        "RoiAlign" => roi_align::roi_align,
        "Scan" => scan::scan,
        "Reshape" => |d| {
            d.drop_default("allowzero", 0);
            Ok(())
        },
        _ => return None,
    })
}

impl<'g> Draft<'g> {
    pub fn input(&self, i: usize) -> Option<Val<'g>> {
        self.inputs.get(i).copied().flatten()
    }

    pub fn fact(&self, i: usize) -> Option<Fact> {
        self.input(i).map(Val::fact)
    }

    pub fn shape(&self, i: usize) -> Option<Vec<Dim>> {
        self.fact(i)?.shape
    }

    pub fn rank(&self, i: usize) -> Option<i64> {
        self.shape(i).map(|s| s.len() as i64)
    }

    /// The elements of an integer input, where they are known.
    pub fn known_ints(&self, i: usize) -> Option<Vec<i64>> {
        self.input(i).and_then(Val::known_ints)
    }

    pub fn needs(&self, index: usize, needs: &'static str) -> Result<Val<'g>, Fault> {
        self.input(index).ok_or(Fault::Missing { index, needs })
    }

    pub fn set_input(&mut self, i: usize, val: Val<'g>) {
        while self.inputs.len() <= i {
            self.inputs.push(None);
        }
        self.inputs[i] = Some(val);
    }

    /// Nothing says more about an input left out at the end than its absence.
    pub fn drop_absent(&mut self) {
        while self.inputs.last().is_some_and(Option::is_none) {
            self.inputs.pop();
        }
    }

    pub fn set_ints(&mut self, i: usize, values: &[i64]) {
        self.set_input(i, self.builder.ints(values));
    }

    pub fn take(&mut self, attr: &str) -> Option<Attr> {
        self.attrs.remove(attr)
    }

    pub fn take_int(&mut self, attr: &str) -> Option<i64> {
        match self.take(attr) {
            Some(Attr::Int(v)) => Some(v),
            _ => None,
        }
    }

    pub fn take_float(&mut self, attr: &str) -> Option<f32> {
        match self.take(attr) {
            Some(Attr::Float(v)) => Some(v),
            _ => None,
        }
    }

    pub fn take_ints(&mut self, attr: &str) -> Option<Vec<i64>> {
        match self.take(attr) {
            Some(Attr::Ints(v)) => Some(v),
            _ => None,
        }
    }

    pub fn take_str(&mut self, attr: &str) -> Option<String> {
        match self.take(attr) {
            Some(Attr::Str(v)) => Some(v),
            _ => None,
        }
    }

    pub fn set(&mut self, attr: &str, value: impl Into<Attr>) {
        self.attrs.insert(attr, value.into());
    }

    /// Writes the default out where the attribute is absent.
    pub fn fill(&mut self, attr: &str, default: impl Into<Attr>) {
        if self.attrs.get(attr).is_none() {
            self.set(attr, default);
        }
    }

    /// Removes an integer attribute that says the default: older opsets do not have it.
    pub fn drop_default(&mut self, attr: &str, default: i64) {
        if self.attrs.int(attr) == Some(default) {
            self.attrs.remove(attr);
        }
    }

    /// Adds a helper node in front. Its name and its output's are made from the node's.
    pub fn emit(&self, op: &str, inputs: &[Option<Val<'g>>], attrs: Attrs) -> Option<Val<'g>> {
        let name = self.builder.fresh_name(&format!("{}/{op}", self.name));
        self.emit_as(op, inputs, attrs, &[Some(name.clone())], &name).into_iter().next().flatten()
    }

    pub fn emit_as(
        &self,
        op: &str,
        inputs: &[Option<Val<'g>>],
        attrs: Attrs,
        outputs: &[Option<String>],
        name: &str,
    ) -> Vec<Option<Val<'g>>> {
        let node = Node {
            name: name.to_string(),
            op: op.to_string(),
            inputs: inputs.iter().map(|v| v.map(Val::id)).collect(),
            attrs,
            metadata: self.metadata.clone(),
            ..Node::default()
        };
        let types = super::facts::dtypes(&node, inputs);
        let declared: Vec<Option<Fact>> = (0..outputs.len()).map(|k| Some(Fact::unknown(types.output(k)))).collect();
        self.builder.import(node, outputs, &declared)
    }

    /// The draft becomes another node with the same outputs.
    pub fn become_op(&mut self, op: &str, inputs: Vec<Option<Val<'g>>>, attrs: Attrs) {
        self.op = op.to_string();
        self.inputs = inputs;
        self.attrs = attrs;
    }

    pub fn error(&self, fault: Fault) -> Error {
        let seen = self.inputs.iter().map(|v| v.map_or("-".to_string(), |v| format!("{v:?}")));
        Error::Operator { node: self.name.clone(), op: self.op.clone(), inputs: seen.collect(), fault }
    }
}

/// An axis counted from the front, in `0..rank` or with `end` in `0..=rank`.
fn from_front(axis: i64, rank: i64) -> Result<i64, Fault> {
    let at = if axis < 0 { axis + rank } else { axis };
    if (0..rank.max(1)).contains(&at) {
        return Ok(at);
    }
    Err(Fault::Attribute { name: "axis", found: axis.to_string(), expected: format!("{}..{rank}", -rank) })
}

fn all_from_front(axes: &[i64], rank: i64) -> Result<Vec<i64>, Fault> {
    axes.iter().map(|&a| from_front(a, rank)).collect()
}

fn unsupported(what: &str) -> Fault {
    Fault::Unsupported { what: what.to_string() }
}
