//! A session with its binding, and tensors that go from one to another where they lie.

use ort::{session::IoBinding, value::DynTensor};

use super::{
    Error, Session,
    session::{no_tensor, run_error},
    step::feed_buffer,
    value,
};
use crate::tensor::{DType, Tensor, Tensors, elements};

/// Something whose inputs take values for the runs to come.
pub trait Feed {
    /// Whether any graph of it has the input.
    fn has_input(&self, name: &str) -> bool;

    /// Gives an input its value for the next run and those after it. `fill` gets the bytes of a buffer of this type and
    /// shape, which keep their value from the last call with the same shape.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] if there is no such input.
    fn feed(&mut self, name: &str, dtype: DType, shape: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<(), Error>;
}

/// Tensors by name where they lie, on the host or on a device.
pub struct Held<'a>(Vec<(&'a str, &'a DynTensor)>);

impl<'a> Held<'a> {
    pub(super) fn new(tensors: impl Iterator<Item = (&'a str, &'a DynTensor)>) -> Held<'a> {
        Held(tensors.collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a DynTensor)> + '_ {
        self.0.iter().copied()
    }

    /// These tensors, and of `below` those of other names.
    pub fn over(mut self, below: Held<'a>) -> Held<'a> {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        self.0.extend(below.0.into_iter().filter(|(name, _)| !names.contains(name)));
        self
    }

    /// Copies them to the host.
    ///
    /// # Errors
    /// [`Error::Run`] if a copy from the device fails.
    pub fn read(&self) -> Result<Tensors, Error> {
        self.iter().map(|(name, value)| Ok((name.to_owned(), read(name, value)?))).collect()
    }
}

/// A copy on the host.
pub(super) fn read(name: &str, value: &DynTensor) -> Result<Tensor, Error> {
    value::to_tensor(value).map_err(|error| run_error(name, &error))?.ok_or_else(|| no_tensor(name, name))
}

/// A tensor and the buffer for the one that replaces it. ONNX Runtime must not get one buffer as input and output of a run.
pub(super) struct Pair {
    pub now: DynTensor,
    pub next: DynTensor,
}

impl Pair {
    /// What was the next tensor is the present one.
    pub fn turn(&mut self) {
        std::mem::swap(&mut self.now, &mut self.next);
    }
}

pub(super) struct Wired {
    pub session: Session,
    binding: IoBinding,
    feeds: Vec<(String, DynTensor)>,
}

impl Wired {
    pub fn new(session: Session) -> Result<Wired, Error> {
        let binding = session.inner.create_binding().map_err(|error| run_error(&session.graph, &error))?;
        Ok(Wired { session, binding, feeds: Vec::new() })
    }

    pub fn feed(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        let (index, _) = feed_buffer(&self.session, &mut self.feeds, name, dtype, shape)?;
        let value = &mut self.feeds[index].1;
        fill(value::bytes_mut(value, dtype.bytes(elements(shape)).unwrap_or(0)));
        self.binding.bind_input(name, value).map_err(|error| run_error(&self.session.graph, &error))
    }

    pub fn input(&mut self, name: &str, value: &DynTensor) -> Result<(), Error> {
        self.binding.bind_input(name, value).map_err(|error| run_error(&self.session.graph, &error))
    }

    pub fn output(&mut self, name: &str, value: &mut DynTensor) -> Result<(), Error> {
        self.binding.bind_output(name, value).map_err(|error| run_error(&self.session.graph, &error))
    }

    pub fn run(&mut self) -> Result<(), Error> {
        let graph = &self.session.graph;
        self.session.inner.run_binding(&self.binding).map(drop).map_err(|error| run_error(graph, &error))
    }
}
