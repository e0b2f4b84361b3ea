//! Inputs that mean harm or are broken: each ends with exit code 1 or 2 and a message, in bounded time and memory, with
//! nothing written. `docs/hostile.md` counts them; a test a row keeps it true.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod artifacts;
mod cache;
mod data;
mod external;
mod models;
mod operators;
mod options;
mod parts;
mod place;
mod record;
mod resume;
mod writes;
