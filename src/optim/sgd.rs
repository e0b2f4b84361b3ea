//! Stochastic gradient descent.

use super::{Carried, Step};
use crate::ir::{Builder, Fact, Val};

/// PyTorch's `SGD`: `g ← g + decay·w`, `v ← μ·v + g`, `w ← w − η·(v, or g + μ·v with Nesterov)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
}

impl Sgd {
    pub(super) fn step<'g>(&self, b: &'g Builder, pairs: &[(Val<'g>, Val<'g>)], learning_rate: Val<'g>) -> Step<'g> {
        let mut step = Step { parameters: Vec::new(), state: Vec::new() };
        for &(parameter, gradient) in pairs {
            let (next, velocity) = self.step_of(b, parameter, gradient, learning_rate);
            step.parameters.push((parameter, next));
            step.state.extend(velocity);
        }
        step
    }

    fn step_of<'g>(
        &self,
        b: &'g Builder,
        parameter: Val<'g>,
        gradient: Val<'g>,
        learning_rate: Val<'g>,
    ) -> (Val<'g>, Option<Carried<'g>>) {
        let name = parameter.name();
        b.scope(&format!("{name}.step/"));
        let rate = learning_rate.cast(parameter.dtype());
        let gradient = if self.weight_decay == 0.0 { gradient } else { gradient + parameter * self.weight_decay };
        if self.momentum == 0.0 {
            return (parameter - gradient * rate, None);
        }
        let fact = Fact::new(parameter.dtype(), parameter.shape());
        let velocity = b.input(&format!("{name}.momentum"), fact.clone(), None);
        let next = velocity * self.momentum + gradient;
        let direction = if self.nesterov { gradient + next * self.momentum } else { next };
        let state = Carried { name: velocity.name(), next, fact };
        (parameter - direction * rate, Some(state))
    }
}
