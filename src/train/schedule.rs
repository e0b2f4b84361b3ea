//! The learning rate as a function of the step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate moves after the warm-up, over the steps that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Stays as it is.
    #[default]
    Constant,
    /// Half a cosine, from --lr down to 0.
    Cosine,
    /// A tenth after one third of the steps, a hundredth after two thirds.
    Step,
    /// Up from --lr/25 to --lr and down to --lr/250000, each half a cosine; --warmup is the length of the way up (default 30 %).
    OneCycle,
    /// A straight line from --lr down to 0.
    Linear,
}

/// Part of the steps that [`Schedule::OneCycle`] rises where no warm-up is given.
const RISE: f64 = 0.3;
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
const ONE_CYCLE_END: f64 = ONE_CYCLE_START / 1e4;

impl Schedule {
    /// The learning rate of the step that `step` steps precede, out of `total`. During the first `warmup` steps it rises
    /// in a straight line and reaches `peak` with the last of them.
    pub fn learning_rate(self, peak: f64, step: u64, total: u64, warmup: u64) -> f64 {
        if self == Schedule::OneCycle {
            return peak * one_cycle(step, total, warmup);
        }
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let done = fraction(step - warmup, total.saturating_sub(warmup));
        peak * match self {
            Schedule::Constant | Schedule::OneCycle => 1.0,
            Schedule::Cosine => (1.0 + (PI * done).cos()) / 2.0,
            Schedule::Step if done < 1.0 / 3.0 => 1.0,
            Schedule::Step if done < 2.0 / 3.0 => 0.1,
            Schedule::Step => 0.01,
            Schedule::Linear => 1.0 - done,
        }
    }
}

fn fraction(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64).min(1.0)
}

fn one_cycle(step: u64, total: u64, warmup: u64) -> f64 {
    let last = total.saturating_sub(1) as f64;
    let top = if warmup > 0 { warmup as f64 } else { (RISE * total as f64 - 1.0).max(0.0) };
    let step = step as f64;
    if step <= top {
        cosine(ONE_CYCLE_START, 1.0, if top > 0.0 { step / top } else { 1.0 })
    } else {
        cosine(1.0, ONE_CYCLE_END, ((step - top) / (last - top).max(1.0)).min(1.0))
    }
}

/// From `a` to `b` along half a cosine as `t` goes from 0 to 1.
fn cosine(a: f64, b: f64, t: f64) -> f64 {
    b + (a - b) * (1.0 + (PI * t).cos()) / 2.0
}

/// λ as a part of its value: it rises in a straight line over `warmup` steps.
pub fn lambda_factor(step: u64, warmup: u64) -> f64 {
    if warmup == 0 { 1.0 } else { fraction(step + 1, warmup) }
}
