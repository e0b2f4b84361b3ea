//! κ estimated by random directions (Hutchinson 1990): `E ⟨WR, H[WR]⟩ = κ` for signs `R`.
//!
//! `R` need not have full rank: `R = r qᵀ` with signs `r, q` is unbiased too. Where positions are independent they need
//! not share `R`: `δz_r = ‖a_r‖ W ξ_r`, with signs `ξ_r` of their own or the same for all.

use super::directions::{Quadratic, Stored, norms};
use super::kappa::Measure;
use super::layer::Layer;
use crate::ad::Tape;
use crate::error::Result;
use crate::ir::{Builder, Dim, Fact, Val};
use crate::linear::with_lead;

/// A graph input that is filled with random signs before every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub name: String,
    pub shape: Vec<Dim>,
}

/// How random directions are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// `ξ_r`: signs of its own for each sample.
    PerSample,
    /// `ξ`: one vector of signs for all samples.
    Shared,
    /// `r qᵀ`
    LowRank,
    /// `R`
    Full,
}

impl Probes {
    pub const ALL: [Probes; 4] = [Probes::PerSample, Probes::Shared, Probes::LowRank, Probes::Full];

    pub fn name(self) -> &'static str {
        match self {
            Probes::PerSample => "per-sample",
            Probes::Shared => "shared",
            Probes::LowRank => "low-rank",
            Probes::Full => "full",
        }
    }

    /// Directions in the layer's output, for independent positions only.
    pub fn by_position(self) -> bool {
        matches!(self, Probes::PerSample | Probes::Shared)
    }
}

/// An unbiased estimate of κ (of `Tr H`·‖W‖² for the layerwise measure): the mean over `samples` directions.
pub struct Hutchinson<'a, 'g> {
    pub layer: &'a Layer,
    pub root: Val<'g>,
    /// `W[d, m]`
    pub weight: Val<'g>,
    pub measure: Measure,
    pub probes: Probes,
    /// Whether `form` is one in the initialiser rather than in the layer's output.
    pub in_weight: bool,
    pub samples: i64,
}

impl<'g> Hutchinson<'_, 'g> {
    /// The estimate, rank 0, and the inputs it takes.
    ///
    /// # Errors
    /// As [`crate::ad::linearise`].
    pub fn kappa(&self, form: &Quadratic<'_, 'g>) -> Result<(Val<'g>, Vec<Probe>)> {
        let b = self.weight.builder();
        let many = Dim::Fixed(self.samples);
        let lead = (self.samples > 1).then_some(&many);
        let (direction, probes) = self.direction(lead)?;
        let sum = form.along(b, direction, direction, lead);
        b.scope(&format!("kappa/{}/", self.layer.name));
        let mean = if lead.is_some() { sum * (1.0 / self.samples as f64) } else { sum };
        let value = match self.measure {
            Measure::Neuronwise => mean,
            Measure::Layerwise => self.weight.square().sum_all() * mean,
        };
        Ok((value, probes))
    }

    fn direction(&self, lead: Option<&Dim>) -> Result<(Val<'g>, Vec<Probe>)> {
        let b = self.weight.builder();
        let (d, m) = (Dim::Fixed(self.layer.d), Dim::Fixed(self.layer.m));
        // Signs that W turns into a direction of the neurons, or that are one.
        let inner = match self.measure {
            Measure::Neuronwise => m.clone(),
            Measure::Layerwise => d,
        };
        let input = |suffix: &str, shape: &[Dim]| self.input(suffix, &with_lead(shape, lead));
        let a = b.val(self.layer.activation);
        match self.probes {
            Probes::PerSample => {
                let signs = input("", &[a.dim(0), inner]);
                Ok((norms(self.layer.squared_norms(a)) * self.turned(signs), vec![probe(signs)]))
            }
            Probes::Shared => {
                let signs = input("", &[inner]);
                let row = self.row(self.turned(signs), lead);
                Ok((norms(self.layer.squared_norms(a)) * row, vec![probe(signs)]))
            }
            Probes::LowRank => {
                let (r, q) = (input(".left", &[inner]), input(".right", &[m]));
                let probes = vec![probe(r), probe(q)];
                let p = self.turned(r);
                let in_output = (!self.in_weight).then(|| self.layer.rank_one(a, p, q, lead)).flatten();
                let direction = match in_output {
                    Some(direction) => direction,
                    None => {
                        let last = p.rank() as i64;
                        self.stored(p.unsqueeze(&[last]) * q.unsqueeze(&[last - 1]), lead)?
                    }
                };
                Ok((direction, probes))
            }
            Probes::Full => {
                let signs = input("", &[inner, m]);
                let v = match self.measure {
                    Measure::Neuronwise => self.weight.matmul(signs),
                    Measure::Layerwise => signs,
                };
                Ok((self.stored(v, lead)?, vec![probe(signs)]))
            }
        }
    }

    fn input(&self, suffix: &str, shape: &[Dim]) -> Val<'g> {
        let b: &'g Builder = self.weight.builder();
        let dtype = self.weight.dtype();
        let input = b.input(&format!("probe.{}{suffix}", self.layer.name), Fact::new(dtype, shape.to_vec()), None);
        b.scope(&format!("kappa/{}/", self.layer.name));
        input
    }

    /// `W ξ` of rows `ξ`, or `ξ` for the layerwise measure.
    fn turned(&self, signs: Val<'g>) -> Val<'g> {
        match self.measure {
            Measure::Neuronwise if signs.rank() == 1 => {
                signs.unsqueeze(&[0]).matmul(self.weight.transpose()).squeeze(&[0])
            }
            Measure::Neuronwise => signs.matmul(self.weight.transpose()),
            Measure::Layerwise => signs,
        }
    }

    /// `[…, d]` as it stands in the layer's output.
    fn row(&self, v: Val<'g>, lead: Option<&Dim>) -> Val<'g> {
        let rank = v.builder().val(self.layer.output).rank();
        let mut shape = vec![Dim::Fixed(1); rank];
        if let Some(axis) = self.layer.form.feature_axis(rank) {
            shape[axis] = Dim::Fixed(self.layer.d);
        }
        v.reshape(&with_lead(&shape, lead))
    }

    /// A direction of the weight as one of what `form` is differentiated in.
    fn stored(&self, v: Val<'g>, lead: Option<&Dim>) -> Result<Val<'g>> {
        let b = self.weight.builder();
        let tape = Tape::new(b);
        let stored = Stored::new(&tape, self.layer, self.root)?;
        Ok(b.val(stored.of(v, lead).id()))
    }
}

fn probe(input: Val<'_>) -> Probe {
    Probe { name: input.name(), shape: input.shape() }
}
