//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019).

use super::{Carried, Step};
use crate::ir::{Builder, DType, Dim, Fact, Val};

/// PyTorch's `Adam`, or with decoupled decay its `AdamW`:
///
/// `t ← t + 1`, `g ← g + decay·w` (Adam) or `w ← (1 − η·decay)·w` (AdamW), `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
/// `w ← w − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub decoupled: bool,
}

/// What the updates of all parameters share.
struct Shared<'g> {
    learning_rate: Val<'g>,
    /// `η/(1 − β₁ᵗ)`
    rate: Val<'g>,
    /// `1/√(1 − β₂ᵗ)`
    spread: Val<'g>,
}

impl Adam {
    pub(super) fn step<'g>(&self, b: &'g Builder, pairs: &[(Val<'g>, Val<'g>)], learning_rate: Val<'g>) -> Step<'g> {
        b.scope("optimizer/");
        let fact = Fact::new(DType::F32, Vec::<Dim>::new());
        let counter = b.input("optimizer.step", fact.clone(), None);
        let t = counter + 1.0;
        let [first, second] = self.betas.map(|beta| bias_correction(beta, t));
        let shared = Shared { learning_rate, rate: learning_rate / first, spread: second.sqrt().reciprocal() };
        let mut step = Step { parameters: Vec::new(), state: Vec::new() };
        for &(parameter, gradient) in pairs {
            let (next, moments) = self.step_of(b, parameter, gradient, &shared);
            step.parameters.push((parameter, next));
            step.state.extend(moments);
        }
        step.state.push(Carried { name: counter.name(), next: t, fact });
        step
    }

    /// The moments of a parameter of half precision are float32: `ε` and small squares do not fit into fewer bits.
    fn step_of<'g>(
        &self,
        b: &'g Builder,
        parameter: Val<'g>,
        gradient: Val<'g>,
        shared: &Shared<'g>,
    ) -> (Val<'g>, [Carried<'g>; 2]) {
        let name = parameter.name();
        b.scope(&format!("{name}.step/"));
        let dtype = match parameter.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let mut w = parameter.cast(dtype);
        let mut g = gradient.cast(dtype);
        if self.weight_decay != 0.0 && self.decoupled {
            w = w * (1.0 - (shared.learning_rate * self.weight_decay)).cast(dtype);
        } else if self.weight_decay != 0.0 {
            g = g + w * self.weight_decay;
        }
        let fact = Fact::new(dtype, parameter.shape());
        let moment = |suffix: &str| b.input(&format!("{name}.{suffix}"), fact.clone(), None);
        let (m, v) = (moment("moment1"), moment("moment2"));
        let [beta1, beta2] = self.betas;
        let m_next = m * beta1 + g * (1.0 - beta1);
        let v_next = v * beta2 + g.square() * (1.0 - beta2);
        let scale = v_next.sqrt() * shared.spread.cast(dtype) + self.eps;
        let next = (w - m_next / scale * shared.rate.cast(dtype)).cast(parameter.dtype());
        let carried = |of: Val<'g>, next: Val<'g>| Carried { name: of.name(), next, fact: fact.clone() };
        (next, [carried(m, m_next), carried(v, v_next)])
    }
}

/// `1 − βᵗ = tanh(y)·(1 + e⁻²ʸ)` with `y = −t·ln β/2`: exact to rounding, where the difference itself would cancel (for
/// `β₂ = 0.999` and `t = 1` all but ten bits of a float32).
fn bias_correction<'g>(beta: f64, t: Val<'g>) -> Val<'g> {
    if beta == 0.0 {
        return t.like(1.0);
    }
    let y = t * (-beta.ln() / 2.0);
    y.tanh() * ((y * -2.0).exp() + 1.0)
}
