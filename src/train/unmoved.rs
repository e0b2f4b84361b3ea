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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn after(values: [f32; 2]) -> Vec<String> {
        let digest = |value: f32| sha256(Tensor::scalar(value).data());
        let before = BTreeMap::from([("a".to_owned(), digest(1.0)), ("b".to_owned(), digest(2.0))]);
        let now = ["a", "b"].map(str::to_owned).into_iter().zip(values.map(Tensor::scalar)).collect();
        Unmoved::Open(before).close(&now)
    }

    #[test]
    fn what_stays_is_named_unless_everything_does() {
        assert_eq!(after([1.0, 3.0]), ["a"]);
        assert!(after([1.5, 3.0]).is_empty());
        assert!(after([1.0, 2.0]).is_empty());
    }
}
