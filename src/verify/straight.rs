//! Rounding as it is differentiated: `q = clip(round(x/s) + z)` as the line through what it is at one point, with the slope
//! `1/s` where nothing is clipped. Differences of a graph of such lines are what its gradient stands for.

use super::double::{Feeds, wide_arrays};
use crate::error::Result;
use crate::eval;
use crate::ir::{Attrs, Builder, DType, Dim, Graph, Node, Tensor, Val, ValueId};
use crate::ops::Array;
use std::collections::HashMap;

const QUANTIZE: &str = "QuantizeLinear";

/// `q ≈ q₀ + k (x − x₀)`, element by element.
struct Line {
    x: Vec<f64>,
    q: Vec<f64>,
    k: Vec<f64>,
    shape: Vec<usize>,
}

/// The graph, in float64 and of fixed shapes, with every QuantizeLinear a line through its value at `feeds`.
///
/// # Errors
/// What the interpreter says of the graph.
pub(super) fn through(graph: Graph, feeds: Feeds<'_>) -> Result<Graph> {
    if !graph.nodes.iter().any(|node| node.op == QUANTIZE) {
        return Ok(graph);
    }
    let values = eval::evaluate(&graph, &wide_arrays(&graph, feeds))?;
    let b = Builder::new();
    let mut made: HashMap<ValueId, Val> = HashMap::new();
    let inputs = graph.input_set();
    for id in graph.value_ids().filter(|&id| graph.value(id).producer.is_none()) {
        let value = graph.value(id);
        let val = match &value.data {
            Some(data) if !inputs.contains(&id) => b.initializer(&value.name, data.clone()),
            data => b.input(&value.name, value.fact.clone(), data.clone()),
        };
        made.insert(id, val);
    }
    for node in &graph.nodes {
        match line(node, &values) {
            Some(line) if node.op == QUANTIZE => {
                let x = node.input(0).and_then(|id| made.get(&id).copied());
                let out = node.output(0);
                b.scope(&node.name);
                made.extend(out.zip(x).map(|(out, x)| (out, line.at(&b, x))));
            }
            _ => {
                b.scope(&node.name);
                let read: Vec<Option<Val>> = node.inputs.iter().map(|id| made.get(id.as_ref()?).copied()).collect();
                let outputs = b.node(&node.op, &read, node.attrs.clone(), node.outputs.len());
                made.extend(node.outputs.iter().zip(outputs).filter_map(|(id, v)| Some(((*id)?, v))));
            }
        }
        b.check()?;
    }
    for id in &graph.outputs {
        if let Some(val) = made.get(id) {
            b.output(*val, graph.name_of(*id));
        }
    }
    b.finish()
}

fn line(node: &Node, values: &HashMap<ValueId, Array>) -> Option<Line> {
    let value = |i: usize| values.get(&node.input(i)?);
    let (x, scale) = (value(0)?, value(1)?);
    let q = values.get(&node.output(0)?)?;
    let shape = x.data.shape().to_vec();
    let numbers = |array: &Array| array.data.iter().copied().collect::<Vec<f64>>();
    // 1 and q, dequantised: the scale of each element, and the number that it is rounded to.
    let dequantised = |of: Tensor, zero: Option<Tensor>| {
        let mut attrs = Attrs::new();
        for name in ["axis", "block_size"] {
            if let Some(value) = node.attrs.int(name) {
                attrs = attrs.with(name, value);
            }
        }
        let fact = crate::ir::Fact::new(DType::F64, shape.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>());
        let inputs = [Some(of), Some(scale.to_tensor()), zero];
        Some(eval::fold("DequantizeLinear", &inputs, &attrs, &[fact])?.pop()?.to_f64())
    };
    let ones = Tensor::from_f64(DType::I8, &shape, (0..q.data.len()).map(|_| 1.0));
    let scales = dequantised(ones, None)?;
    let rounded = dequantised(q.to_tensor(), node.input(2).and_then(|id| values.get(&id)).map(Array::to_tensor))?;
    let x = numbers(x);
    let slope = |i: usize| f64::from(u8::from((x[i] - rounded[i]).abs() <= 0.5 * scales[i] * (1.0 + 1e-9))) / scales[i];
    let k = (0..x.len()).map(slope).collect();
    Some(Line { x, q: numbers(q), k, shape })
}

impl Line {
    fn at<'g>(&self, b: &'g Builder, x: Val<'g>) -> Val<'g> {
        let constant = |values: &[f64]| b.constant(Tensor::from_f64(DType::F64, &self.shape, values.iter().copied()));
        constant(&self.q) + constant(&self.k) * (x - constant(&self.x))
    }
}
