//! Optimisers as graphs: parameters, gradients and state in, new parameters and state out.

mod adam;
pub mod blend;
mod clip;
mod sgd;

pub use adam::Adam;
pub use clip::{clip_by_norm, gradient_norm};
pub use sgd::Sgd;

use crate::ir::{Builder, Fact, Val};
use serde_json::{Value, json};

/// What makes a step of the gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    Sgd(Sgd),
    Adam(Adam),
}

/// A tensor that a step carries: its value now and after the step.
pub struct Carried<'g> {
    pub name: String,
    pub next: Val<'g>,
    /// State beside the parameter itself starts at zero.
    pub fact: Fact,
}

/// A step of all parameters.
pub struct Step<'g> {
    /// Each parameter and its new value.
    pub parameters: Vec<(Val<'g>, Val<'g>)>,
    pub state: Vec<Carried<'g>>,
}

impl Optimizer {
    /// The update of each parameter by its gradient; makes the inputs for the state it needs.
    pub fn step<'g>(&self, b: &'g Builder, pairs: &[(Val<'g>, Val<'g>)], learning_rate: Val<'g>) -> Step<'g> {
        match self {
            Optimizer::Sgd(sgd) => sgd.step(b, pairs, learning_rate),
            Optimizer::Adam(adam) => adam.step(b, pairs, learning_rate),
        }
    }

    /// The optimiser as a manifest keeps it.
    pub fn record(&self) -> Value {
        match *self {
            Optimizer::Sgd(Sgd { momentum, nesterov, weight_decay }) => {
                json!({"name": "sgd", "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
            }
            Optimizer::Adam(Adam { betas, eps, weight_decay, decoupled }) => {
                let name = if decoupled { "adamw" } else { "adam" };
                json!({"name": name, "betas": betas, "eps": eps, "weight_decay": weight_decay})
            }
        }
    }
}
