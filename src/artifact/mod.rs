//! What `inject` writes: a directory of graphs, their parameters and a manifest that names everything by role.

pub mod manifest;
