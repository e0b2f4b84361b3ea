//! Printer for ONNX's textual syntax, as `onnx.parser` reads it. Names that are no identifiers are quoted; data of
//! more than a few elements is elided unless asked for. Control characters never come out raw.

use super::{since, types, write};
use crate::ir::{Attr, DType, Dim, Fact, Graph, Model, Tensor, ValueId};
use crate::shown;
use std::fmt::Write;

#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// Print all elements of initialisers.
    pub data: bool,
    /// Print node names also where they equal the output's.
    pub names: bool,
}

/// Data of at most this many elements is printed whole.
const SMALL: usize = 8;

/// The model as it would be written: header, and every node in the form of the header's opset.
pub fn text(model: &Model, options: TextOptions) -> String {
    let opset = write::opset(model);
    let mut out = String::from("<\n");
    let domains = model.domains.iter().map(|(d, v)| format!(", {} : {v}", quoted(d)));
    let _ = writeln!(out, "   ir_version: {},", write::ir_version(model, opset));
    let _ = write!(out, "   opset_import: [\"\" : {opset}{}]", domains.collect::<String>());
    let fields =
        [("producer_name", &model.producer.0), ("producer_version", &model.producer.1), ("doc_string", &model.doc)];
    for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(out, ",\n   {key}: {}", quoted(value));
    }
    if !model.metadata.is_empty() {
        let entries: Vec<String> =
            model.metadata.iter().map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect();
        let _ = write!(out, ",\n   metadata_props: [{}]", entries.join(", "));
    }
    out.push_str("\n>\n");
    Printer { out, options, opset: Some(opset) }.graph(&model.graph, 0)
}

/// The graph alone, nodes in the internal form: for goldens.
pub fn compact(graph: &Graph) -> String {
    graph_text(graph, TextOptions::default())
}

pub fn graph_text(graph: &Graph, options: TextOptions) -> String {
    Printer { out: String::new(), options, opset: None }.graph(graph, 0)
}

struct Printer {
    out: String,
    options: TextOptions,
    opset: Option<i64>,
}

impl Printer {
    fn graph(mut self, graph: &Graph, depth: usize) -> String {
        self.print(graph, depth);
        self.out.push('\n');
        self.out
    }

    fn print(&mut self, g: &Graph, depth: usize) {
        let forms = since::forms(g, self.opset);
        let pad = "   ".repeat(depth);
        let inputs: Vec<String> = g.inputs.iter().map(|&id| self.declaration(g, id)).collect();
        let outputs: Vec<String> = g.outputs.iter().map(|&id| typed(g, id)).collect();
        let name = if g.name.is_empty() { "graph" } else { &g.name };
        let _ = write!(self.out, "{} ({}) => ({})", identifier(name), inputs.join(", "), outputs.join(", "));
        let initializers = since::initializers(g, &forms);
        if !initializers.is_empty() {
            let lines: Vec<String> =
                initializers.iter().map(|&id| format!("{pad}   {}", self.declaration(g, id))).collect();
            let _ = write!(self.out, "\n{pad}<\n{}\n{pad}>", lines.join(",\n"));
        }
        let _ = write!(self.out, "\n{pad}{{\n");
        for form in &forms {
            let node = form.node;
            let outputs = list(g, &node.outputs);
            let named = self.options.names || outputs != identifier(&node.name);
            let label = if named { format!("[{}] ", identifier(&node.name)) } else { String::new() };
            let op = if node.domain.is_empty() {
                shown::line(&node.op)
            } else {
                format!("{}.{}", shown::line(&node.domain), shown::line(&node.op))
            };
            let _ = write!(self.out, "{pad}   {label}{outputs} = {op}");
            if !form.attrs.is_empty() {
                self.out.push_str(" <");
                for (i, (name, attr)) in form.attrs.iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    self.attribute(name, attr, depth + 1);
                }
                self.out.push('>');
            }
            let _ = writeln!(self.out, " ({})", list(g, &form.inputs));
        }
        let _ = write!(self.out, "{pad}}}");
    }

    /// `float[2] w = {1.0, 2.0}`
    fn declaration(&self, g: &Graph, id: ValueId) -> String {
        match &g.value(id).data {
            Some(data) => format!("{} = {}", typed(g, id), self.elements(data)),
            None => typed(g, id),
        }
    }

    fn elements(&self, data: &Tensor) -> String {
        if data.len() > SMALL && !self.options.data {
            return "{...}".to_string();
        }
        let elements: Vec<String> = match data.dtype {
            DType::Str => data.strings.iter().map(|s| quoted(s)).collect(),
            DType::F32 => data.to_f64().into_iter().map(|v| format!("{:?}", v as f32)).collect(),
            DType::F64 | DType::F16 | DType::BF16 => data.to_f64().into_iter().map(|v| format!("{v:?}")).collect(),
            DType::U64 => data.bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c).to_string()).collect(),
            dtype if dtype.is_small_float() => data.to_f64().into_iter().map(|v| format!("{v:?}")).collect(),
            _ => data.to_i64().unwrap_or_default().iter().map(i64::to_string).collect(),
        };
        format!("{{{}}}", elements.join(", "))
    }

    fn attribute(&mut self, name: &str, attr: &Attr, depth: usize) {
        fn array<T>(values: &[T], kind: &str, one: impl Fn(&T) -> String) -> (String, String) {
            let kind = if values.is_empty() { format!(": {kind}") } else { String::new() };
            (kind, format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", ")))
        }
        let plain = |value: String| (String::new(), value);
        let (kind, value) = match attr {
            Attr::Int(v) => plain(v.to_string()),
            Attr::Float(v) => plain(format!("{v:?}")),
            Attr::Str(v) => plain(quoted(v)),
            Attr::Tensor(v) => {
                let dims: Vec<String> = v.shape.iter().map(usize::to_string).collect();
                let shape = if dims.is_empty() { String::new() } else { format!("[{}]", dims.join(",")) };
                plain(format!("{}{shape} {}", v.dtype.onnx_name(), self.elements(v)))
            }
            Attr::Ints(v) => array(v, "ints", i64::to_string),
            Attr::Floats(v) => array(v, "floats", |v| format!("{v:?}")),
            Attr::Strs(v) => array(v, "strings", |s| quoted(s)),
            Attr::Graph(g) => {
                let _ = write!(self.out, "{} = ", shown::line(name));
                return self.print(g, depth);
            }
        };
        let _ = write!(self.out, "{}{kind} = {value}", shown::line(name));
    }
}

/// `float[batch,10] x`
fn typed(g: &Graph, id: ValueId) -> String {
    format!("{} {}", fact(&g.value(id).fact), identifier(g.name_of(id)))
}

/// As ONNX has it: `float` is a scalar, `float[]` of unknown rank.
fn fact(fact: &Fact) -> String {
    let dim = |d: &Dim| match d {
        Dim::Fixed(n) => n.to_string(),
        open if types::is_made_up(open) => "?".to_string(),
        symbol => identifier(&symbol.to_string()),
    };
    match &fact.shape {
        None => format!("{}[]", fact.dtype.onnx_name()),
        Some(dims) if dims.is_empty() => fact.dtype.onnx_name().to_string(),
        Some(dims) => format!("{}[{}]", fact.dtype.onnx_name(), dims.iter().map(dim).collect::<Vec<_>>().join(",")),
    }
}

fn list(g: &Graph, ids: &[Option<ValueId>]) -> String {
    let names: Vec<String> =
        ids.iter().map(|id| id.map_or("\"\"".to_string(), |id| identifier(g.name_of(id)))).collect();
    names.join(", ")
}

/// The name as it is where it is an identifier, else quoted.
fn identifier(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') { name.to_string() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        shown::push(&mut out, c);
    }
    out.push('"');
    out
}
