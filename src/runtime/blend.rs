//! Running sums on the device.

use ort::value::DynTensor;

use super::{
    Error, Session,
    step::{buffer, device_allocator, place_value},
    wired::{Held, Pair, Wired},
};
use crate::{
    optim::blend::{KEEP, WEIGHT, names},
    tensor::{DType, Tensors},
};

/// Sums of named tensors, `s ← keep·s + weight·x`.
pub struct Blend {
    wired: Wired,
    sums: Vec<(String, Pair)>,
}

impl Blend {
    /// Sums of the tensors of these names with a graph of [`crate::optim::blend::model`], in its order. A sum begins with its
    /// tensor of `initial`, or else with zeros.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] if the graph is none for as many tensors; [`Error::Run`].
    pub fn new(session: Session, tensors: &[String], initial: &Tensors) -> Result<Blend, Error> {
        let device = device_allocator(&session)?;
        let mut sums = Vec::with_capacity(tensors.len());
        for (k, name) in tensors.iter().enumerate() {
            let [_, sum, _] = names(k);
            let port = session.input(&sum)?;
            let now = match initial.get(name) {
                Some(tensor) => place_value(&session, &device, tensor)?,
                None => buffer(&session, &device, port)?,
            };
            let next = buffer(&session, &device, port)?;
            sums.push((name.clone(), Pair { now, next }));
        }
        Ok(Blend { wired: Wired::new(session)?, sums })
    }

    /// Adds tensors of `of`, which must hold them all.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Run`].
    pub fn add(&mut self, of: &Held<'_>, keep: f32, weight: f32) -> Result<(), Error> {
        for (name, value) in [(KEEP, keep), (WEIGHT, weight)] {
            self.wired.feed(name, DType::F32, &[], |bytes| bytes.copy_from_slice(&value.to_le_bytes()))?;
        }
        for (k, (name, pair)) in self.sums.iter_mut().enumerate() {
            let [x, sum, next] = names(k);
            let found: Option<&DynTensor> = of.iter().find(|(held, _)| held == name).map(|(_, value)| value);
            let graph = || self.wired.session.graph.clone();
            let value = found.ok_or_else(|| Error::Missing { graph: graph(), name: name.clone() })?;
            self.wired.input(&x, value)?;
            self.wired.input(&sum, &pair.now)?;
            self.wired.output(&next, &mut pair.next)?;
        }
        self.wired.run()?;
        self.sums.iter_mut().for_each(|(_, pair)| pair.turn());
        Ok(())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &DynTensor> {
        self.sums.iter().map(|(_, pair)| &pair.now)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut DynTensor> {
        self.sums.iter_mut().map(|(_, pair)| &mut pair.now)
    }

    /// The sums by their tensors' names.
    pub fn held(&self) -> Held<'_> {
        Held::new(self.sums.iter().map(|(name, pair)| (name.as_str(), &pair.now)))
    }
}

impl std::fmt::Debug for Blend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blend").field("sums", &self.sums.len()).finish_non_exhaustive()
    }
}
