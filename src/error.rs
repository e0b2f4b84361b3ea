//! Typed errors. Each room has its own; this one wraps them. Each variant carries the facts of its fault as fields; its
//! message names the thing, what was found, what was expected and what to do. Hints that concern the command line are
//! added by `cli`.

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Manifest(#[from] crate::artifact::manifest::Error),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    #[error(transparent)]
    Tensor(#[from] crate::tensor::Error),
    #[error(transparent)]
    Train(#[from] crate::train::Error),
}
