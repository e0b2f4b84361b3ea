//! Node attributes.

use super::{Graph, Tensor};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Tensor(Tensor),
    /// The body of a control flow operator.
    Graph(Arc<Graph>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
}

/// Attributes by name, sorted, so that equal nodes compare and print equal. Copies share them until one changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attrs(Option<Arc<Vec<(String, Attr)>>>);

impl Attrs {
    pub fn new() -> Attrs {
        Attrs::default()
    }

    /// `Attrs::new().with("axis", 1).with("mode", "edge")`
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Attrs {
        self.insert(name, value.into());
        self
    }

    fn all(&self) -> &[(String, Attr)] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    fn all_mut(&mut self) -> &mut Vec<(String, Attr)> {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.all().binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.all().iter().map(|(name, attr)| (name.as_str(), attr))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &Attr> {
        self.iter().map(|(_, attr)| attr)
    }

    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.place(name).ok().map(|at| &self.all()[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Attr> {
        let at = self.place(name).ok()?;
        Some(&mut self.all_mut()[at].1)
    }

    /// What the name stood for before.
    pub fn insert(&mut self, name: &str, value: Attr) -> Option<Attr> {
        match self.place(name) {
            Ok(at) => Some(std::mem::replace(&mut self.all_mut()[at].1, value)),
            Err(at) => {
                let all = self.all_mut();
                // Most nodes have one or two.
                all.reserve_exact(1);
                all.insert(at, (name.to_string(), value));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Attr> {
        let at = self.place(name).ok()?;
        let (_, attr) = self.all_mut().remove(at);
        if self.is_empty() {
            self.0 = None;
        }
        Some(attr)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Attr::Int(v)) => Some(*v),
            _ => None,
        }
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name) {
            Some(Attr::Float(v)) => Some(*v),
            _ => None,
        }
    }

    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Attr::Str(v)) => Some(v),
            _ => None,
        }
    }

    pub fn graph(&self, name: &str) -> Option<&Arc<Graph>> {
        match self.get(name) {
            Some(Attr::Graph(v)) => Some(v),
            _ => None,
        }
    }

    /// The bodies, in the order of their attributes' names.
    pub fn graphs(&self) -> impl Iterator<Item = &Arc<Graph>> {
        self.values().filter_map(|attr| match attr {
            Attr::Graph(graph) => Some(graph),
            _ => None,
        })
    }

    pub fn graphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        // What holds no body stays shared.
        let any = self.graphs().next().is_some();
        let attrs = if any { self.all_mut().as_mut_slice() } else { &mut [] };
        attrs.iter_mut().filter_map(|(_, attr)| match attr {
            Attr::Graph(graph) => Some(Arc::make_mut(graph)),
            _ => None,
        })
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name) {
            Some(Attr::Ints(v)) => Some(v),
            _ => None,
        }
    }
}

impl FromIterator<(String, Attr)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (String, Attr)>>(attrs: I) -> Attrs {
        let mut all = Attrs::new();
        for (name, attr) in attrs {
            all.insert(&name, attr);
        }
        all
    }
}

// Floats compare by their bits: two nodes are one only if they compute the same.
impl PartialEq for Attr {
    fn eq(&self, other: &Attr) -> bool {
        match (self, other) {
            (Attr::Int(a), Attr::Int(b)) => a == b,
            (Attr::Float(a), Attr::Float(b)) => a.to_bits() == b.to_bits(),
            (Attr::Str(a), Attr::Str(b)) => a == b,
            (Attr::Tensor(a), Attr::Tensor(b)) => a == b,
            (Attr::Ints(a), Attr::Ints(b)) => a == b,
            (Attr::Floats(a), Attr::Floats(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (Attr::Strs(a), Attr::Strs(b)) => a == b,
            // Subgraphs are never merged.
            _ => false,
        }
    }
}

impl Eq for Attr {}

impl Hash for Attr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Attr::Int(v) => v.hash(state),
            Attr::Float(v) => v.to_bits().hash(state),
            Attr::Str(v) => v.hash(state),
            Attr::Tensor(v) => v.hash(state),
            Attr::Graph(_) => {}
            Attr::Ints(v) => v.hash(state),
            Attr::Floats(v) => v.iter().for_each(|v| v.to_bits().hash(state)),
            Attr::Strs(v) => v.hash(state),
        }
    }
}

impl From<i64> for Attr {
    fn from(v: i64) -> Attr {
        Attr::Int(v)
    }
}

impl From<f32> for Attr {
    fn from(v: f32) -> Attr {
        Attr::Float(v)
    }
}

impl From<&str> for Attr {
    fn from(v: &str) -> Attr {
        Attr::Str(v.to_string())
    }
}

impl From<Vec<i64>> for Attr {
    fn from(v: Vec<i64>) -> Attr {
        Attr::Ints(v)
    }
}

impl From<&[i64]> for Attr {
    fn from(v: &[i64]) -> Attr {
        Attr::Ints(v.to_vec())
    }
}

impl<const N: usize> From<[i64; N]> for Attr {
    fn from(v: [i64; N]) -> Attr {
        Attr::Ints(v.to_vec())
    }
}

impl From<Graph> for Attr {
    fn from(v: Graph) -> Attr {
        Attr::Graph(Arc::new(v))
    }
}

impl From<Tensor> for Attr {
    fn from(v: Tensor) -> Attr {
        Attr::Tensor(v)
    }
}
