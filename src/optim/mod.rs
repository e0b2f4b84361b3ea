//! Optimisers as graphs: parameters, gradients and state in, new parameters and state out.

use crate::ir::{Attrs, Builder, DType, Fact, Val};

/// Stochastic gradient descent as PyTorch's `SGD`:
/// `g ← g + decay·w`, `v ← μ·v + g`, `w ← w − η·(v, or g + μ·v with Nesterov)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
}

/// A tensor that a step carries: its value now and after the step.
pub struct Carried<'g> {
    pub name: String,
    pub next: Val<'g>,
    /// State beside the parameter itself starts at zero.
    pub fact: Fact,
}

/// One parameter's step.
pub struct Step<'g> {
    pub parameter: Val<'g>,
    pub state: Vec<Carried<'g>>,
}

impl Sgd {
    /// The update of `parameter` by `gradient`; makes the inputs for the state it needs.
    pub fn step<'g>(&self, b: &'g Builder, parameter: Val<'g>, gradient: Val<'g>, learning_rate: Val<'g>) -> Step<'g> {
        let name = parameter.name();
        b.scope(&format!("{name}.step/"));
        let rate = learning_rate.cast(parameter.dtype());
        let gradient = if self.weight_decay == 0.0 { gradient } else { gradient + parameter * self.weight_decay };
        if self.momentum == 0.0 {
            return Step { parameter: parameter - gradient * rate, state: Vec::new() };
        }
        let fact = Fact::new(parameter.dtype(), parameter.shape());
        let velocity = b.input(&format!("{name}.momentum"), fact.clone(), None);
        let next = velocity * self.momentum + gradient;
        let direction = if self.nesterov { gradient + next * self.momentum } else { next };
        let state = Carried { name: velocity.name(), next, fact };
        Step { parameter: parameter - direction * rate, state: vec![state] }
    }
}

/// The gradients scaled so that their joint norm is at most `limit`, as PyTorch's `clip_grad_norm_`:
/// `g · min(1, limit / (‖g‖ + 1e-6))`.
pub fn clip_by_norm<'g>(b: &'g Builder, gradients: &[Val<'g>], limit: f64) -> Vec<Val<'g>> {
    b.scope("clip/");
    let squares = gradients.iter().map(|g| g.square().sum_all().cast(DType::F32));
    let Some(total) = squares.reduce(|sum, square| sum + square) else { return Vec::new() };
    let ratio = limit / (total.sqrt() + 1e-6);
    let scale = b.op("Min", &[ratio, ratio.like(1.0)], Attrs::new());
    gradients.iter().map(|g| *g * scale.cast(g.dtype())).collect()
}
