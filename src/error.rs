//! Typed errors. Each variant carries the facts of its fault as fields; its message names the thing, what was found,
//! what was expected and what to do. Hints that concern the command line are added by `cli`.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;
