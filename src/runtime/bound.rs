//! A session whose inputs are bound one by one and kept between runs: evaluation over many batches with the same parameters.

use ort::{
    memory::MemoryInfo,
    session::IoBinding,
    value::{DynTensor, DynValue},
};

use super::{
    Error, Feed, Held, Session,
    session::{no_tensor, run_error},
    step::feed_buffer,
    value::{self, Place},
};
use crate::tensor::{DType, Tensor, Tensors, elements};

pub struct Bound {
    session: Session,
    binding: IoBinding,
    feeds: Vec<(String, DynTensor)>,
    outputs: Vec<String>,
    host: MemoryInfo<'static>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("session", &self.session).field("outputs", &self.outputs).finish_non_exhaustive()
    }
}

impl Bound {
    /// `outputs` come back from each run, in this order, in host memory.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] for an output that the graph does not have.
    pub fn new(session: Session, outputs: &[&str]) -> Result<Bound, Error> {
        let fail = |error: ort::Error| run_error(&session.graph, &error);
        let binding = session.inner.create_binding().map_err(fail)?;
        let host = Place::Host.memory().map_err(fail)?;
        for name in outputs {
            session.output(name)?;
        }
        let outputs = outputs.iter().map(|&name| name.to_owned()).collect();
        Ok(Bound { session, binding, feeds: Vec::new(), outputs, host })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Binds every tensor that the graph has an input for; the others are passed over.
    ///
    /// # Errors
    /// [`Error::Run`] if ONNX Runtime refuses one.
    pub fn hold(&mut self, tensors: &Tensors) -> Result<(), Error> {
        for (name, tensor) in tensors {
            if self.session.has_input(name) {
                self.feed(name, tensor.dtype(), tensor.shape(), |bytes| bytes.copy_from_slice(tensor.data()))?;
            }
        }
        Ok(())
    }

    /// Binds the tensors where they lie. The next step of what holds them moves on to other buffers, so this is called anew
    /// after it.
    ///
    /// # Errors
    /// [`Error::Run`] if ONNX Runtime refuses one.
    pub fn share(&mut self, tensors: &Held<'_>) -> Result<(), Error> {
        for (name, value) in tensors.iter() {
            if self.session.has_input(name) {
                self.binding.bind_input(name, value).map_err(|error| run_error(&self.session.graph, &error))?;
            }
        }
        Ok(())
    }

    /// Runs the graph; the outputs named in [`Bound::new`], in that order.
    ///
    /// # Errors
    /// [`Error::Run`], for one if an input has no value.
    pub fn run(&mut self) -> Result<Vec<Tensor>, Error> {
        let graph = &self.session.graph;
        // Anew for each run: after one, the output is bound to the buffer and so to the shape that it got.
        for name in &self.outputs {
            self.binding.bind_output_to_device(name.as_str(), &self.host).map_err(|error| run_error(graph, &error))?;
        }
        let mut results = self.session.inner.run_binding(&self.binding).map_err(|error| run_error(graph, &error))?;
        self.outputs
            .iter()
            .map(|name| {
                let value: DynValue = results.remove(name).ok_or_else(|| no_tensor(graph, name))?;
                let value: DynTensor = value.downcast().map_err(|_| no_tensor(graph, name))?;
                value::to_tensor(&value)
                    .map_err(|error| run_error(graph, &error))?
                    .ok_or_else(|| no_tensor(graph, name))
            })
            .collect()
    }
}

impl Feed for Bound {
    fn has_input(&self, name: &str) -> bool {
        self.session.has_input(name)
    }

    fn feed(&mut self, name: &str, dtype: DType, shape: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        let (index, _) = feed_buffer(&self.session, &mut self.feeds, name, dtype, shape)?;
        let value = &mut self.feeds[index].1;
        fill(value::bytes_mut(value, dtype.bytes(elements(shape)).unwrap_or(0)));
        self.binding.bind_input(name, value).map_err(|error| run_error(&self.session.graph, &error))
    }
}
