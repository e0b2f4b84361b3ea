//! κ in closed form, for heads whose second derivative is zero almost everywhere.
//!
//! With `J_r = ∂f_r/∂z_r` and `S_r = ∂²ℓ/∂f_r²` weighted as in the mean loss, `P_r = J_rᵀ S_r J_r` exactly, and
//! `κ = Σ_r ‖a_r‖² Tr(Wᵀ P_r W)` (one position a sample), or with `G_rc = ∂f_rc/∂W` in place of `a_r ⊗ J_rc`.

use super::layer::{Form, Layer};
use crate::ad::Linearised;
use crate::ir::{Dim, Tensor, Val};
use crate::linear::Cotangent;
use crate::loss::Curvature;

/// `Σ_s ⟨w_s, w_s'⟩ Tr H_{s,s'}` or `‖W‖² Tr H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Neuronwise,
    Layerwise,
}

/// What κ of one layer is built from. `weight` is `W[d, m]`; every other value belongs to the forward pass.
pub struct Exact<'a, 'g> {
    pub layer: &'a Layer,
    pub weight: Val<'g>,
    /// The layer's input as the node reads it.
    pub activation: Val<'g>,
    /// The head linearised in the layer's output; `None` if that is the logits.
    pub head: Option<&'a Linearised<'g>>,
    /// `f[N, C]`
    pub logits: Val<'g>,
    pub curvature: Curvature<'g>,
    pub single_position: bool,
    pub measure: Measure,
}

impl<'g> Exact<'_, 'g> {
    /// κ, rank 0.
    pub fn kappa(&self) -> Val<'g> {
        let trace = if self.single_position { self.one_position() } else { self.many_positions() };
        match self.measure {
            Measure::Neuronwise => trace,
            Measure::Layerwise => self.weight.square().sum_all() * trace,
        }
    }

    /// `Σ_r ‖a_r‖² Σ_{cc'} S_r,cc' ⟨M_rc, M_rc'⟩`, `M = J W`
    fn one_position(&self) -> Val<'g> {
        let a = match self.layer.form {
            Form::Rows { alpha, .. } if alpha != 1.0 => self.activation * f64::from(alpha),
            _ => self.activation,
        };
        let norms = a.square().sum(&[1]);
        let jacobian = self.jacobian().with_whole_last_axis();
        // [C, N or 1]
        let each = self.squared_norms(jacobian.value);
        let per_sample = match self.curvature {
            Curvature::Diagonal { second } => (second * each.transpose()).sum(&[1]),
            Curvature::Softmax { probabilities: p, weight } => {
                let spread = (p * each.transpose()).sum(&[1]);
                weight * (spread - self.squared_norms(self.mean_pullback(&jacobian, p)))
            }
        };
        (norms * per_sample).sum_all()
    }

    /// `Σ_r Σ_{cc'} S_r,cc' ⟨Wᵀ G_rc, Wᵀ G_rc'⟩`, `G_rc = Σ_p J_rcp ⊗ a_rp`
    fn many_positions(&self) -> Val<'g> {
        let a = self.layer.activations(self.activation);
        let jacobian = self.jacobian();
        let each = self.pulled_norms(self.gradients(jacobian.materialise(), a, true));
        match self.curvature {
            Curvature::Diagonal { second } => (second * each.transpose()).sum_all(),
            Curvature::Softmax { probabilities: p, weight } => {
                let spread = (p * each.transpose()).sum(&[1]);
                let mean = self.pullback(Cotangent::new(p), None).materialise();
                (weight * (spread - self.pulled_norms(self.gradients(mean, a, false)))).sum_all()
            }
        }
    }

    /// `J` as `[C, N, …z]`, its expansion along samples delayed where the head is affine.
    fn jacobian(&self) -> Cotangent<'g> {
        let b = self.logits.builder();
        let classes = self.classes();
        let n = classes as usize;
        let unit = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n)));
        let seed = b.constant(Tensor::from_f64(self.logits.dtype(), &[n, 1, n], unit));
        let lead = Dim::Fixed(classes);
        let shape = crate::linear::with_lead(&self.logits.shape(), Some(&lead));
        self.pullback(Cotangent { value: seed, shape }, Some(&lead))
    }

    fn classes(&self) -> i64 {
        self.logits.dim(-1).fixed().unwrap_or(1)
    }

    fn pullback(&self, ct: Cotangent<'g>, lead: Option<&Dim>) -> Cotangent<'g> {
        match self.head {
            None => ct,
            Some(head) => head.vjp(&[Some(ct)], lead).pop().flatten().unwrap_or_else(|| self.no_slope(lead)),
        }
    }

    /// The cotangent of a layer that moves the head by jumps only.
    fn no_slope(&self, lead: Option<&Dim>) -> Cotangent<'g> {
        let z = self.logits.builder().val(self.layer.output);
        let shape = crate::linear::with_lead(&z.shape(), lead);
        Cotangent::new(z.like(0.0).expand(&shape))
    }

    /// `Σ_c p_rc J_rc`: by the Jacobian where all samples share it, else one reverse pass.
    fn mean_pullback(&self, jacobian: &Cotangent<'g>, p: Val<'g>) -> Val<'g> {
        let shape = jacobian.value.shape();
        match shape.as_slice() {
            [_, one, _] if one.is_one() => p.matmul(jacobian.value.squeeze(&[1])),
            _ => self.pullback(Cotangent::new(p), None).materialise(),
        }
    }

    /// `‖Wᵀ v‖²` of rows `v[…, d]` (`‖v‖²` for the layerwise measure).
    fn squared_norms(&self, v: Val<'g>) -> Val<'g> {
        let w = self.weight;
        match self.measure {
            Measure::Layerwise => v.square().sum(&[v.rank() as i64 - 1]),
            Measure::Neuronwise if self.layer.d < self.layer.m && !self.shared(v) => {
                let gram = w.matmul(w.transpose());
                (v.matmul(gram) * v).sum(&[v.rank() as i64 - 1])
            }
            Measure::Neuronwise => v.matmul(w).square().sum(&[v.rank() as i64 - 1]),
        }
    }

    /// Whether `v` has no axis of samples.
    fn shared(&self, v: Val<'g>) -> bool {
        v.rank() == 3 && v.dim(1).is_one()
    }

    /// `G[…, d, m] = Σ_p J[…, p, d] a[p, m]` of each sample, from cotangents of the layer's output.
    fn gradients(&self, ct: Val<'g>, a: Val<'g>, lead: bool) -> Val<'g> {
        let skip = usize::from(lead);
        let shape = ct.shape();
        let d = Dim::Fixed(self.layer.d);
        match &self.layer.form {
            Form::Rows { .. } | Form::Columns => {
                let positions = a.dim(1);
                let mut to = shape[..=skip].to_vec();
                to.extend([positions, d]);
                let rows = if self.layer.form == Form::Columns { ct.transpose() } else { ct };
                rows.reshape(&to).transpose().matmul(a)
            }
            Form::Conv(g) => {
                let mut to = shape[..=skip].to_vec();
                let each = Dim::Fixed(self.layer.d / g.group.max(1));
                to.extend([Dim::Fixed(g.group), each, a.dim(2)]);
                let product = ct.reshape(&to).matmul(a);
                let mut merged = shape[..=skip].to_vec();
                merged.extend([d, Dim::Fixed(self.layer.m)]);
                product.reshape(&merged)
            }
        }
    }

    /// `‖Wᵀ G‖²_F` of each `G[…, d, m]`.
    fn pulled_norms(&self, g: Val<'g>) -> Val<'g> {
        let axes = [g.rank() as i64 - 2, g.rank() as i64 - 1];
        let w = self.weight;
        match self.measure {
            Measure::Layerwise => g.square().sum(&axes),
            Measure::Neuronwise if self.layer.d <= self.layer.m => (w.matmul(w.transpose()).matmul(g) * g).sum(&axes),
            Measure::Neuronwise => w.transpose().matmul(g).square().sum(&axes),
        }
    }
}
