//! κ by reverse passes of the head, one for each output of a sample: for heads whose second derivative is zero almost
//! everywhere, and for the Gauss–Newton part of any.
//!
//! With `J_r = ∂f_r/∂z_r` and `S_r = ∂²ℓ/∂f_r²` weighted as in the mean loss, `P_r = J_rᵀ S_r J_r`, and
//! `κ = Σ_r ‖a_r‖² Tr(Wᵀ P_r W)` where positions are independent, or with `G_rc = ∂f_rc/∂W` in place of `a_r ⊗ J_rc`.

use super::curvature::{Around, CLASS_AXIS};
use super::kappa::Measure;
use super::layer::Layer;
use crate::ad::Linearised;
use crate::cost::elements_of;
use crate::ir::{Dim, Tensor, Val, count};
use crate::linear::{Cotangent, with_lead};
use crate::loss::Curvature;

/// What κ of one layer is built from. `weight` is `W[d, m]`; every other value belongs to the forward pass.
pub struct Exact<'a, 'g> {
    pub layer: &'a Layer,
    pub weight: Val<'g>,
    /// The layer's input as the node reads it.
    pub activation: Val<'g>,
    /// The head linearised in the layer's output; `None` if that is the logits.
    pub head: Option<&'a Linearised<'g>>,
    /// What the loss reads.
    pub logits: Val<'g>,
    pub curvature: Curvature<'g>,
    pub samples: Samples,
    pub measure: Measure,
}

/// What counts as a sample: entries of axes that are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Every axis of the layer's output but that of the neurons, with the axis it is in what the loss reads, if any:
    /// the weight acts once a sample.
    pub once: bool,
    /// The layer's axes that count samples, and where each is in what the loss reads.
    pub axes: Vec<(usize, Option<usize>)>,
}

impl Samples {
    /// The axes of what the loss reads that count the outputs of one sample.
    pub fn outputs(&self, rank: usize) -> Vec<usize> {
        (0..rank).filter(|&i| !self.axes.iter().any(|(_, image)| *image == Some(i))).collect()
    }
}

impl<'g> Exact<'_, 'g> {
    /// κ, rank 0.
    pub fn kappa(&self) -> Val<'g> {
        let trace = self.trace();
        match self.measure {
            Measure::Neuronwise => trace,
            Measure::Layerwise => self.weight.square().sum_all() * trace,
        }
    }

    /// `Σ_r ‖a_r‖² Σ_{ee'} S_r,ee' ⟨M_re, M_re'⟩`, `M = J W`
    fn trace(&self) -> Val<'g> {
        let norms = self.samples.once.then(|| self.activation_norms());
        let jacobian = self.jacobian();
        // [R…, E], the samples in the order of the layer's output; 1 where all samples share it.
        let each = self.each(&jacobian);
        let last = each.rank() as i64 - 1;
        let per_sample = match self.curvature {
            Curvature::Diagonal { second } => (self.canonical(second) * each).sum(&[last]),
            Curvature::Softmax { probabilities, weight } => {
                let around = Around::likeliest(probabilities);
                match self.outputs().as_slice() {
                    [CLASS_AXIS] => {
                        let spread = (self.canonical(around.shift) * each).sum(&[last]);
                        self.canonical_weight(weight) * (spread - self.mean(&jacobian, &around))
                    }
                    _ => self.by_place(&jacobian, &around, each, weight),
                }
            }
        };
        norms.map_or(per_sample, |norms| norms * per_sample).sum_all()
    }

    fn outputs(&self) -> Vec<usize> {
        self.samples.outputs(self.logits.rank())
    }

    /// Outputs of a sample.
    fn count(&self) -> i64 {
        let shape = self.logits.shape();
        self.outputs().iter().filter_map(|&i| shape[i].fixed()).product()
    }

    /// `J` as `[E, …z]`, its expansion along samples delayed where the head is affine.
    fn jacobian(&self) -> Cotangent<'g> {
        let b = self.logits.builder();
        let (shape, outputs) = (self.logits.shape(), self.outputs());
        let lead = Dim::Fixed(self.count());
        let n = self.count().max(0) as usize;
        let seed: Vec<Dim> = std::iter::once(lead.clone())
            .chain((0..shape.len()).map(|i| if outputs.contains(&i) { shape[i].clone() } else { Dim::Fixed(1) }))
            .collect();
        let unit = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n)));
        let sizes: Vec<usize> = seed.iter().map(|d| d.fixed().unwrap_or(1).max(0) as usize).collect();
        let value = b.constant(Tensor::from_f64(self.logits.dtype(), &sizes, unit));
        self.pullback(Cotangent { value, shape: with_lead(&shape, Some(&lead)) }, Some(&lead))
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
        let shape = with_lead(&z.shape(), lead);
        Cotangent::new(z.like(0.0).expand(&shape))
    }

    /// `‖Wᵀ J_re‖²` or `‖Wᵀ G_re‖²` as `[R…, E]`.
    fn each(&self, jacobian: &Cotangent<'g>) -> Val<'g> {
        let lead = Dim::Fixed(self.count());
        let norms = if self.samples.once && self.head.is_none() && self.outputs().len() == 1 {
            // J = 1
            let w = self.weight;
            let rows = match self.measure {
                Measure::Neuronwise => w.square().sum(&[1]),
                Measure::Layerwise => self.logits.like(1.0).expand(&[lead]),
            };
            let ones: Vec<Dim> = vec![Dim::Fixed(1); self.samples.axes.len()];
            return rows.reshape(&[ones, vec![Dim::Fixed(self.layer.d)]].concat());
        } else if self.samples.once {
            self.squared_norms(self.neurons_last(jacobian.clone(), true))
        } else {
            self.pulled_norms(self.layer.sample_gradients(self.activation, jacobian.materialise(), Some(&lead)))
        };
        let rank = norms.rank() as i64;
        let perm: Vec<i64> = (1..rank).chain([0]).collect();
        norms.permute(&perm)
    }

    /// With `u = Σ_c δ_rc M_rc` and `M_k` of the likeliest class, `⟨u, 2 M_k + u⟩` as `[R…]`, so that
    /// `Σ_c δ_rc ‖M_rc‖²` less this is the variance of `M_rc`. By the Jacobian where all samples share it, else by two
    /// reverse passes.
    fn mean(&self, jacobian: &Cotangent<'g>, around: &Around<'g>) -> Val<'g> {
        let shape = jacobian.value.shape();
        let shared = match shape.as_slice() {
            [_, one, _] => self.samples.once && one.is_one() && self.logits.rank() == 2,
            _ => false,
        };
        let pulled = |p: Val<'g>| -> Val<'g> {
            if shared {
                return if self.head.is_none() { p } else { p.matmul(jacobian.value.squeeze(&[1])) };
            }
            let mean = self.pullback(Cotangent::new(p), None);
            match self.samples.once {
                true => self.neurons_last(mean, false),
                false => self.layer.sample_gradients(self.activation, mean.materialise(), None),
            }
        };
        let (u, centre) = (pulled(around.shift), pulled(around.centre));
        let other = centre * 2.0 + u;
        if self.samples.once { self.products(u, other) } else { self.pulled_products(u, other) }
    }

    /// The softmax term where each sample has several places, each with its own distribution: `each` is `[R…, E]`, and
    /// the outputs `E` are classes times places.
    fn by_place(&self, jacobian: &Cotangent<'g>, around: &Around<'g>, each: Val<'g>, weight: Val<'g>) -> Val<'g> {
        let (shape, outputs) = (self.logits.shape(), self.outputs());
        let sizes: Vec<Dim> = outputs.iter().map(|&i| shape[i].clone()).collect();
        let class = outputs.iter().position(|&i| i == CLASS_AXIS).unwrap_or(0);
        let places = count(&[&sizes[..class], &sizes[class + 1..]].concat());
        let shift = self.canonical(around.shift);
        let samples = shift.shape()[..shift.rank() - 1].to_vec();
        let r = samples.len() as i64;
        let split = |v: Val<'g>| v.reshape(&[&v.shape()[..v.rank() - 1], sizes.as_slice()].concat());
        let merged = [samples.as_slice(), std::slice::from_ref(&places)].concat();
        let spread = (split(shift) * split(each)).sum(&[r + class as i64]).reshape(&merged);
        let z = jacobian.materialise();
        let z = z.reshape(&[sizes.as_slice(), &z.shape()[1..]].concat());
        // Σ_c p_c J_c, a cotangent a place.
        let pulled = |p: Val<'g>| -> Val<'g> {
            let outward: Vec<i64> = (r..r + sizes.len() as i64).chain(0..r).collect();
            let p = split(self.canonical(p)).permute(&outward);
            let sum = (p.reshape(&self.along_layer(&p.shape(), sizes.len(), &z.shape())) * z).sum(&[class as i64]);
            let to = [std::slice::from_ref(&places), &sum.shape()[sizes.len() - 1..]].concat();
            let mean = Cotangent::new(sum.reshape(&to));
            match self.samples.once {
                true => self.neurons_last(mean, true),
                false => self.layer.sample_gradients(self.activation, mean.materialise(), Some(&places)),
            }
        };
        let (u, centre) = (pulled(around.shift), pulled(around.centre));
        let other = centre * 2.0 + u;
        let norms = if self.samples.once { self.products(u, other) } else { self.pulled_products(u, other) };
        let inward: Vec<i64> = (1..=r).chain([0]).collect();
        (self.weight_by_place(weight, &merged) * (spread - norms.permute(&inward))).sum(&[r])
    }

    /// The shape `[E…, R…]` with axes of size 1 put in, so that it broadcasts to `[E…, …z]`.
    fn along_layer(&self, dims: &[Dim], outputs: usize, z: &[Dim]) -> Vec<Dim> {
        let axes: Vec<usize> = self.samples.axes.iter().map(|(axis, _)| *axis).collect();
        let size = |i: usize| axes.iter().position(|&a| a == i).map_or(Dim::Fixed(1), |k| dims[outputs + k].clone());
        dims[..outputs].iter().cloned().chain((0..z.len() - outputs).map(size)).collect()
    }

    /// Weights as `[R…, places]`.
    fn weight_by_place(&self, weight: Val<'g>, shape: &[Dim]) -> Val<'g> {
        let without_class = |i: usize| if i > CLASS_AXIS { i - 1 } else { i };
        let samples = self.samples.axes.iter().filter_map(|(_, image)| image.map(without_class));
        let rest = self.outputs().into_iter().filter(|&i| i != CLASS_AXIS).map(without_class);
        let perm: Vec<i64> = samples.chain(rest).map(|i| i as i64).collect();
        if perm.len() == weight.rank() { weight.permute(&perm).reshape(shape) } else { weight }
    }

    /// A cotangent of the layer's output with the axis of the neurons last and whole.
    fn neurons_last(&self, ct: Cotangent<'g>, lead: bool) -> Val<'g> {
        let skip = usize::from(lead);
        let rank = ct.shape.len();
        let axis = self.layer.form.feature_axis(rank - skip).unwrap_or(0) + skip;
        let value = ct.with_whole_axis(axis).value;
        let perm: Vec<i64> = (0..rank).filter(|&i| i != axis).chain([axis]).map(|i| i as i64).collect();
        if axis + 1 == rank { value } else { value.permute(&perm) }
    }

    /// A value of the shape of what the loss reads as `[R…, E]`.
    fn canonical(&self, v: Val<'g>) -> Val<'g> {
        let (shape, outputs) = (self.logits.shape(), self.outputs());
        let samples: Vec<usize> = self.samples.axes.iter().filter_map(|(_, image)| *image).collect();
        let perm: Vec<usize> = samples.iter().chain(&outputs).copied().collect();
        let same = perm.iter().enumerate().all(|(i, &p)| i == p);
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        let moved = if same { v } else { v.permute(&perm) };
        let mut to: Vec<Dim> = self.sample_dims(&shape);
        to.push(count(&outputs.iter().map(|&i| shape[i].clone()).collect::<Vec<_>>()));
        moved.reshape(&to)
    }

    /// The samples' axes in the order of the layer's output, 1 where the loss does not see them.
    fn sample_dims(&self, shape: &[Dim]) -> Vec<Dim> {
        let size = |image: &Option<usize>| image.map_or(Dim::Fixed(1), |i| shape[i].clone());
        self.samples.axes.iter().map(|(_, image)| size(image)).collect()
    }

    /// Weights of samples, rank 0 or of the shape of what the loss reads without its classes, as `[R…]`.
    fn canonical_weight(&self, weight: Val<'g>) -> Val<'g> {
        if weight.rank() == 0 {
            return weight;
        }
        let images = self.samples.axes.iter().filter_map(|(_, image)| *image);
        let perm: Vec<i64> = images.map(|i| if i > CLASS_AXIS { i as i64 - 1 } else { i as i64 }).collect();
        let same = perm.iter().enumerate().all(|(i, &p)| i as i64 == p);
        let moved = if same { weight } else { weight.permute(&perm) };
        moved.reshape(&self.sample_dims(&self.logits.shape()))
    }

    /// `‖a_r‖²` as `[R…]`.
    fn activation_norms(&self) -> Val<'g> {
        let norms = self.layer.squared_norms(self.activation);
        let rank = norms.rank();
        let axis = self.layer.form.feature_axis(rank).unwrap_or(rank - 1) as i64;
        norms.squeeze(&[axis])
    }

    /// `‖Wᵀ v‖²` of rows `v[…, d]` (`‖v‖²` for the layerwise measure).
    fn squared_norms(&self, v: Val<'g>) -> Val<'g> {
        if self.measure == Measure::Neuronwise && is_shared(v) {
            return v.matmul(self.weight).square().sum(&[v.rank() as i64 - 1]);
        }
        self.products(v, v)
    }

    /// Whether rows are multiplied by `W Wᵀ` and not by `W`.
    fn by_gram(&self) -> bool {
        let z = elements_of(&self.logits.builder().val(self.layer.output).shape());
        gram_pays(self.layer, z / self.layer.d.max(1) as f64 * self.count() as f64)
    }

    /// `⟨Wᵀ v, Wᵀ u⟩` of rows.
    fn products(&self, v: Val<'g>, u: Val<'g>) -> Val<'g> {
        let w = self.weight;
        let last = [v.rank() as i64 - 1];
        match self.measure {
            Measure::Layerwise => (v * u).sum(&last),
            Measure::Neuronwise if self.by_gram() => {
                let gram = w.matmul(w.transpose());
                (v.matmul(gram) * u).sum(&last)
            }
            Measure::Neuronwise => (v.matmul(w) * u.matmul(w)).sum(&last),
        }
    }

    /// `‖Wᵀ G‖²_F` of each `G[…, d, m]`.
    fn pulled_norms(&self, g: Val<'g>) -> Val<'g> {
        self.pulled_products(g, g)
    }

    /// `⟨Wᵀ G, Wᵀ F⟩_F` of each `G[…, d, m]` and `F`.
    fn pulled_products(&self, g: Val<'g>, f: Val<'g>) -> Val<'g> {
        let axes = [g.rank() as i64 - 2, g.rank() as i64 - 1];
        let w = self.weight;
        match self.measure {
            Measure::Layerwise => (g * f).sum(&axes),
            Measure::Neuronwise if self.layer.d <= self.layer.m => (w.matmul(w.transpose()).matmul(g) * f).sum(&axes),
            Measure::Neuronwise => (w.transpose().matmul(g) * w.transpose().matmul(f)).sum(&axes),
        }
    }
}

/// Whether `R` rows are multiplied by `W Wᵀ` with fewer operations than by `W`, their gradients counted: `2Rd² + 2d²m` against
/// `3Rdm`.
pub(super) fn gram_pays(layer: &Layer, rows: f64) -> bool {
    let (d, m) = (layer.d as f64, layer.m as f64);
    2.0 * d * (rows + m) < 3.0 * rows * m
}

/// Whether `v[E, R…, d]` has no axis of samples.
fn is_shared(v: Val<'_>) -> bool {
    let shape = v.shape();
    shape.len() >= 3 && shape[1..shape.len() - 1].iter().all(Dim::is_one)
}
