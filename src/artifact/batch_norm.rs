//! Batch normalisation that trains: statistics of the batch in the forward pass, running ones carried as state.

use crate::ir::{Builder, Dim, Graph, Val, Value, count};

/// A running statistic and the value that replaces it after a step, by name.
pub(super) struct Statistic {
    pub old: String,
    new: String,
    /// The tensor that is normalised.
    input: String,
    momentum: f64,
    variance: bool,
}

/// Puts every BatchNormalization into training mode and gives it outputs for the new running statistics.
pub(super) fn train(graph: &mut Graph, notes: &mut Vec<String>) -> Vec<Statistic> {
    let mut statistics = Vec::new();
    for id in graph.node_ids() {
        let node = graph.node(id).clone();
        if node.op != "BatchNormalization" || !node.domain.is_empty() {
            continue;
        }
        let momentum = f64::from(node.attrs.float("momentum").unwrap_or(0.9));
        let input = node.input(0).map(|id| graph.name_of(id).to_string()).unwrap_or_default();
        let mut outputs = vec![node.output(0)];
        for (place, variance) in [(3, false), (4, true)] {
            let Some(statistic) = node.input(place) else { continue };
            let (old, fact) = (graph.name_of(statistic).to_string(), graph.value(statistic).fact.clone());
            let new = format!("{old}.batch");
            let value = Value { name: new.clone(), fact, data: None, producer: Some(id) };
            outputs.push(Some(graph.add_value(value)));
            statistics.push(Statistic { old, new, input: input.clone(), momentum, variance });
        }
        let target = &mut graph.nodes[id.0 as usize];
        target.outputs = outputs;
        target.attrs = std::mem::take(&mut target.attrs).with("training_mode", 1);
    }
    if statistics.is_empty() {
        notes.push(
            "there is no BatchNormalization in this model, so none is trained; exporters fold it into convolutions \
             unless they are told to keep it"
                .to_string(),
        );
    }
    statistics
}

impl Statistic {
    /// The statistic and its new value. PyTorch keeps the unbiased variance of the batch, `n/(n−1)` times the one it
    /// normalises with, where ONNX's operator keeps the biased one.
    pub fn update<'g>(&self, b: &'g Builder) -> Option<(Val<'g>, Val<'g>)> {
        let (old, new) = (b.find(&self.old)?, b.find(&self.new)?);
        if !self.variance {
            return Some((old, new));
        }
        b.scope(&format!("{}.unbiased/", self.old));
        let shape = b.find(&self.input)?.shape();
        let all: Vec<Dim> = shape.iter().enumerate().filter(|(axis, _)| *axis != 1).map(|(_, d)| d.clone()).collect();
        let others = b.dim_scalar(&(count(&all) - Dim::Fixed(1)), old.dtype());
        // `new = μ·old + (1−μ)·v`; of the batch's part there is `1/(n−1)` more.
        let of_batch = new - old * self.momentum;
        Some((old, new + of_batch / others))
    }
}
