//! Parameters that no step moves: the loss does not depend on them, or they are behind units that are dead from the beginning.

use std::collections::BTreeMap;

use crate::{
    artifact::manifest::{Manifest, sha256},
    tensor::Tensors,
};

/// Digests of what trains, until they are compared.
#[derive(Debug)]
pub(super) enum Unmoved {
    Open(BTreeMap<String, String>),
    Found(Vec<String>),
}

impl Unmoved {
    /// Remembers the parameters as they are before the first step.
    pub fn new(manifest: &Manifest, tensors: &Tensors) -> Unmoved {
        let trained = manifest.parameters.iter().filter(|parameter| parameter.trainable);
        let digest = |name: &String| Some((name.clone(), sha256(tensors.get(name)?.data())));
        Unmoved::Open(trained.filter_map(|parameter| digest(&parameter.name)).collect())
    }

    pub fn is_open(&self) -> bool {
        matches!(self, Unmoved::Open(_))
    }

    /// Compares with the parameters as they are now; where none has moved (a learning rate of 0), nothing is said of any.
    pub fn close(&mut self, tensors: &Tensors) -> Vec<String> {
        if let Unmoved::Open(before) = self {
            let same = |name: &str, digest: &str| tensors.get(name).is_some_and(|now| sha256(now.data()) == digest);
            let unmoved: Vec<String> =
                before.iter().filter(|(name, digest)| same(name, digest)).map(|(name, _)| name.clone()).collect();
            let all = unmoved.len() == before.len();
            *self = Unmoved::Found(if all { Vec::new() } else { unmoved });
        }
        self.found()
    }

    pub fn found(&self) -> Vec<String> {
        match self {
            Unmoved::Open(_) => Vec::new(),
            Unmoved::Found(parameters) => parameters.clone(),
        }
    }
}
