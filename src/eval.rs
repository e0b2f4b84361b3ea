//! A slow, obvious interpreter in f64: the oracle of every rule, and the constant folder.

use crate::error::{Error, Result};
use crate::ir::{Attrs, DType, Fact, Graph, Tensor, ValueId};
use crate::ops::{self, Array, EvalCx};
use std::collections::HashMap;

/// Runs a graph. `inputs` by name; initialisers stand in the graph. Gives every value that was computed.
pub fn evaluate(graph: &Graph, inputs: &HashMap<String, Array>) -> Result<HashMap<ValueId, Array>> {
    let fault =
        |node: &str, op: &str, fault| Error::Operator { node: node.into(), op: op.into(), inputs: Vec::new(), fault };
    let mut values: HashMap<ValueId, Array> = HashMap::new();
    for id in graph.value_ids() {
        let value = graph.value(id);
        if let Some(given) = inputs.get(&value.name) {
            values.insert(id, given.clone());
        } else if let Some(data) = &value.data {
            values.insert(id, Array::from_tensor(data).map_err(|f| fault(&value.name, "initializer", f))?);
        }
    }
    for node in &graph.nodes {
        let Some(op) = ops::lookup(&node.op).filter(|_| node.domain.is_empty()) else {
            return Err(Error::UnknownOperator { op: node.op.clone() });
        };
        let mut arrays = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            arrays.push(match input {
                None => None,
                Some(id) => match values.get(id) {
                    Some(array) => Some(array.clone()),
                    None => return Err(Error::MissingInput { tensor: graph.name_of(*id).to_string() }),
                },
            });
        }
        let named = |id: &ValueId| values.get(id).map(|array| (graph.name_of(*id).to_string(), array.clone()));
        let captured = node.captures.iter().filter_map(named).collect();
        let (attrs, outputs) = (&node.attrs, node.outputs.len());
        let cx = EvalCx { op: &node.op, inputs: &arrays, attrs, outputs, captured: &captured };
        let results = (op.eval)(&cx).map_err(|f| fault(&node.name, &node.op, f))?;
        for (out, array) in node.outputs.iter().zip(results) {
            if let Some(out) = out {
                values.insert(*out, array);
            }
        }
    }
    Ok(values)
}

/// The outputs of one node with constant inputs; `None` if it cannot be computed.
pub fn fold(op: &str, inputs: &[Option<Tensor>], attrs: &Attrs, facts: &[Fact]) -> Option<Vec<Tensor>> {
    let arrays: Vec<Option<Array>> = inputs
        .iter()
        .map(|t| match t {
            None => Some(None),
            // 2⁵³ bounds what f64 holds exactly.
            Some(t) if t.dtype == DType::I64 && t.to_i64()?.iter().any(|v| v.unsigned_abs() > 1 << 53) => None,
            Some(t) => Array::from_tensor(t).ok().map(Some),
        })
        .collect::<Option<_>>()?;
    let cx = EvalCx { op, inputs: &arrays, attrs, outputs: facts.len(), captured: &HashMap::new() };
    let results = (ops::lookup(op)?.eval)(&cx).ok()?;
    let typed = results.into_iter().zip(facts).map(|(array, fact)| Array { dtype: fact.dtype, ..array });
    Some(typed.map(|array| array.to_tensor()).collect())
}
