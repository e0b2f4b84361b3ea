//! The optimiser's options.

use clap::{Args, ValueEnum};

use super::{Error, Result, finite_in, positive};
use crate::optim::{Adam, Optimizer, Sgd};

#[derive(Debug, Args)]
pub(super) struct OptimizerArgs {
    /// What makes steps of gradients
    #[arg(long, value_enum, default_value_t = Kind::Sgd)]
    optimizer: Kind,
    /// sgd: how much of the last direction a step keeps, 0 to 1 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// sgd: look ahead along the momentum
    #[arg(long, requires = "momentum")]
    nesterov: bool,
    /// adam, adamw: how much the averages of the gradient and of its square keep [default: 0.9,0.999]
    #[arg(long, value_name = "X,X", value_delimiter = ',', allow_negative_numbers = true)]
    betas: Option<Vec<f64>>,
    /// adam, adamw: added to the root of the squares' average [default: 1e-8]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    eps: Option<f64>,
    /// Times the parameter: added to the gradient, or with adamw taken off the parameter itself [default: 0; adamw 0.01]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Limit of the gradients' joint norm
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    clip_norm: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Stochastic gradient descent
    Sgd,
    /// Adam; the weight decay is part of the gradient
    Adam,
    /// Adam with decoupled weight decay
    Adamw,
}

impl OptimizerArgs {
    pub fn optimizer(&self) -> Result<Optimizer> {
        let default_decay = if self.optimizer == Kind::Adamw { 0.01 } else { 0.0 };
        let weight_decay = finite_in("--weight-decay", self.weight_decay.unwrap_or(default_decay), 0.0, f64::INFINITY)?;
        let foreign = |name: &str, given: bool, of: &str| match given {
            true => Err(Error::Usage { message: format!("{name} is an option of {of}") }),
            false => Ok(()),
        };
        if self.optimizer == Kind::Sgd {
            foreign("--betas", self.betas.is_some(), "--optimizer adam and adamw")?;
            foreign("--eps", self.eps.is_some(), "--optimizer adam and adamw")?;
            let momentum = finite_in("--momentum", self.momentum.unwrap_or(0.0), 0.0, 1.0)?;
            return Ok(Optimizer::Sgd(Sgd { momentum, nesterov: self.nesterov, weight_decay }));
        }
        foreign("--momentum", self.momentum.is_some(), "--optimizer sgd; for adam there are --betas")?;
        let betas = match self.betas.as_deref() {
            None => [0.9, 0.999],
            Some(&[first, second]) => [beta(first)?, beta(second)?],
            Some(given) => {
                let message = format!("--betas has {} numbers, expected two such as 0.9,0.999", given.len());
                return Err(Error::Usage { message });
            }
        };
        let eps = finite_in("--eps", self.eps.unwrap_or(1e-8), 0.0, f64::INFINITY)?;
        Ok(Optimizer::Adam(Adam { betas, eps, weight_decay, decoupled: self.optimizer == Kind::Adamw }))
    }

    pub fn clip_norm(&self) -> Result<Option<f64>> {
        self.clip_norm.map(|limit| positive("--clip-norm", limit)).transpose()
    }
}

fn beta(value: f64) -> Result<f64> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err(Error::Usage { message: format!("--betas has {value}, expected numbers from 0 to below 1") })
}
