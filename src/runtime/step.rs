//! A training step that feeds itself: what it carries (parameters, state) stays on the device in two sets of buffers that
//! take turns as inputs and outputs.

use ort::{memory::Allocator, session::IoBinding, value::DynTensor};

use super::{
    Error, Feed, Held, Port, Session,
    session::run_error,
    value::{self, Place},
    wired::read,
};
use crate::tensor::{DType, Tensor, Tensors};

/// A tensor that a step takes and, where `output` is given, renews.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Input of the graph; it names the tensor everywhere.
    pub input: String,
    /// Output of the graph with the value for the next step; `None` where the tensor stays as it is.
    pub output: Option<String>,
}

/// A session whose carried tensors go from each run to the next without a copy.
///
/// Step *k* reads the set `k mod 2` and writes the other. ONNX Runtime must not get one buffer as input and output of a run,
/// so one set would not do.
pub struct Step {
    session: Session,
    /// `bindings[k]` reads `sets[k]` and writes `sets[1 - k]`.
    bindings: [IoBinding; 2],
    sets: [Vec<DynTensor>; 2],
    renewed: Vec<Carried>,
    fixed: Vec<(String, DynTensor)>,
    feeds: Vec<(String, DynTensor)>,
    scalars: Vec<DynTensor>,
    turn: usize,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("session", &self.session).field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl Step {
    /// Binds the carried tensors, with their first values from `initial`, and the scalar outputs to fetch after each run.
    /// A carried name that is no input of the graph is left out if nothing renews it (a parameter that the loss does not
    /// depend on).
    ///
    /// # Errors
    /// [`Error::Missing`] for a name without a first value, [`Error::Tensor`] for a value of the wrong type or shape,
    /// [`Error::NoSuchPort`] and [`Error::Port`] for outputs that are not there or not scalars.
    pub fn new(session: Session, carried: &[Carried], initial: &Tensors, scalars: &[&str]) -> Result<Step, Error> {
        let fail = |error: ort::Error| run_error(&session.graph, &error);
        let place = device_allocator(&session)?;
        let mut bindings =
            [session.inner.create_binding().map_err(fail)?, session.inner.create_binding().map_err(fail)?];
        let mut sets = [Vec::new(), Vec::new()];
        let mut renewed = Vec::new();
        let mut fixed = Vec::new();
        for tensor in carried {
            if !session.has_input(&tensor.input) && tensor.output.is_none() {
                continue;
            }
            let first = first_value(&session, &tensor.input, initial)?;
            let value = place_value(&session, &place, first)?;
            match &tensor.output {
                None => {
                    for binding in &mut bindings {
                        binding.bind_input(tensor.input.as_str(), &value).map_err(fail)?;
                    }
                    fixed.push((tensor.input.clone(), value));
                }
                Some(output) => {
                    session.output(output)?;
                    let mut pair = [value, place_value(&session, &place, first)?];
                    for (k, binding) in bindings.iter_mut().enumerate() {
                        binding.bind_input(tensor.input.as_str(), &pair[k]).map_err(fail)?;
                        binding.bind_output(output.as_str(), &mut pair[1 - k]).map_err(fail)?;
                    }
                    let [first, second] = pair;
                    sets[0].push(first);
                    sets[1].push(second);
                    renewed.push(tensor.clone());
                }
            }
        }
        let mut held = Vec::with_capacity(scalars.len());
        for name in scalars {
            let mut value = scalar_buffer(&session, &place, name)?;
            for binding in &mut bindings {
                binding.bind_output(*name, &mut value).map_err(fail)?;
            }
            held.push(value);
        }
        Ok(Step { session, bindings, sets, renewed, fixed, feeds: Vec::new(), scalars: held, turn: 0 })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Runs one step; the carried tensors move on. The result is the scalar outputs in the order given to [`Step::new`].
    ///
    /// # Errors
    /// [`Error::Run`]; the carried tensors are then still those before the step.
    pub fn run(&mut self) -> Result<Vec<f64>, Error> {
        self.advance()?;
        self.scalars()
    }

    /// [`Step::run`] that leaves the scalars on the device.
    ///
    /// # Errors
    /// As [`Step::run`].
    pub fn advance(&mut self) -> Result<(), Error> {
        let graph = &self.session.graph;
        let binding = &mut self.bindings[self.turn];
        // On the host a binding refers to the buffer of a fed input; to another device it copies, so it is made anew.
        if self.session.place != Place::Host {
            for (name, value) in &self.feeds {
                binding.bind_input(name.as_str(), value).map_err(|error| run_error(graph, &error))?;
            }
        }
        self.session.inner.run_binding(binding).map_err(|error| run_error(graph, &error))?;
        self.turn = 1 - self.turn;
        Ok(())
    }

    /// The scalar outputs of the last step.
    ///
    /// # Errors
    /// [`Error::Run`] if a copy from the device fails.
    pub fn scalars(&self) -> Result<Vec<f64>, Error> {
        let scalar = |value| Ok(read(&self.session.graph, value)?.iter_f64().next().unwrap_or(f64::NAN));
        self.scalars.iter().map(scalar).collect()
    }

    /// Copies every carried tensor to the host, by its input's name.
    ///
    /// # Errors
    /// [`Error::Run`] if a copy from the device fails.
    pub fn read(&self) -> Result<Tensors, Error> {
        self.held().read()
    }

    /// The carried tensors where they lie, by their inputs' names.
    pub fn held(&self) -> Held<'_> {
        let renewed = self.renewed.iter().map(|c| c.input.as_str()).zip(&self.sets[self.turn]);
        Held::new(renewed.chain(self.fixed.iter().map(|(name, value)| (name.as_str(), value))))
    }
}

impl Feed for Step {
    fn has_input(&self, name: &str) -> bool {
        self.session.has_input(name)
    }

    fn feed(&mut self, name: &str, dtype: DType, shape: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        let (index, fresh) = feed_buffer(&self.session, &mut self.feeds, name, dtype, shape)?;
        let value = &mut self.feeds[index].1;
        fill(value::bytes_mut(value, dtype.bytes(crate::tensor::elements(shape)).unwrap_or(0)));
        if fresh && self.session.place == Place::Host {
            for binding in &mut self.bindings {
                binding.bind_input(name, value).map_err(|error| run_error(&self.session.graph, &error))?;
            }
        }
        Ok(())
    }
}

/// Finds or makes the buffer of a fed input: its index within `feeds`, and whether it is a new one.
pub(super) fn feed_buffer(
    session: &Session,
    feeds: &mut Vec<(String, DynTensor)>,
    name: &str,
    dtype: DType,
    shape: &[usize],
) -> Result<(usize, bool), Error> {
    let found = feeds.iter().position(|(fed, _)| fed == name);
    if let Some(index) = found
        && has_type(&feeds[index].1, dtype, shape)
    {
        return Ok((index, false));
    }
    session.input(name)?;
    let value = value::zeros(&session.host, dtype, shape).map_err(|error| run_error(&session.graph, &error))?;
    match found {
        Some(index) => {
            feeds[index].1 = value;
            Ok((index, true))
        }
        None => {
            feeds.push((name.to_owned(), value));
            Ok((feeds.len() - 1, true))
        }
    }
}

fn has_type(value: &DynTensor, dtype: DType, shape: &[usize]) -> bool {
    *value.data_type() == value::element_type(dtype)
        && value.shape().len() == shape.len()
        && value.shape().iter().zip(shape).all(|(&a, &b)| usize::try_from(a) == Ok(b))
}

pub(super) fn first_value<'a>(session: &Session, name: &str, initial: &'a Tensors) -> Result<&'a Tensor, Error> {
    let tensor =
        initial.get(name).ok_or_else(|| Error::Missing { graph: session.graph.clone(), name: name.to_owned() })?;
    let port = session.input(name)?;
    let fits = port.shape.len() == tensor.shape().len()
        && port.shape.iter().zip(tensor.shape()).all(|(want, &have)| want.is_none_or(|want| want == have));
    match port.dtype {
        Some(dtype) if fits && dtype == tensor.dtype() => Ok(tensor),
        _ => Err(Error::Tensor {
            graph: session.graph.clone(),
            name: name.to_owned(),
            found: tensor.shape().to_vec(),
            found_dtype: tensor.dtype(),
            expected: port.shape.iter().map(|d| d.unwrap_or(0)).collect(),
            expected_dtype: port.dtype.unwrap_or(tensor.dtype()),
        }),
    }
}

/// The allocator of the session's device; `None` on the host.
pub(super) fn device_allocator(session: &Session) -> Result<Option<Allocator>, Error> {
    let device = match session.place {
        Place::Host => Ok(None),
        place @ Place::Cuda(_) => place.memory().and_then(|memory| Allocator::new(&session.inner, memory)).map(Some),
    };
    device.map_err(|error| run_error(&session.graph, &error))
}

/// A copy of the tensor where the session computes.
pub(super) fn place_value(session: &Session, device: &Option<Allocator>, tensor: &Tensor) -> Result<DynTensor, Error> {
    let placed = value::from_tensor(&session.host, tensor).and_then(|host| match device {
        None => Ok(host),
        Some(allocator) => {
            let mut value = value::zeros(allocator, tensor.dtype(), tensor.shape())?;
            host.copy_into(&mut value)?;
            Ok(value)
        }
    });
    placed.map_err(|error| run_error(&session.graph, &error))
}

/// Zeros for an input or output of fixed shape, where the session computes.
pub(super) fn buffer(session: &Session, device: &Option<Allocator>, port: &Port) -> Result<DynTensor, Error> {
    let shape: Option<Vec<usize>> = port.shape.iter().copied().collect();
    match (port.dtype, shape) {
        (Some(dtype), Some(shape)) => place_value(session, device, &Tensor::zeros(dtype, shape)),
        _ => Err(unfit(session, port, "a tensor of fixed shape")),
    }
}

/// A buffer for an output of one element.
fn scalar_buffer(session: &Session, device: &Option<Allocator>, name: &str) -> Result<DynTensor, Error> {
    let port = session.output(name)?;
    let single = port.shape.iter().all(|&d| d == Some(1));
    if single { buffer(session, device, port) } else { Err(unfit(session, port, "a scalar")) }
}

fn unfit(session: &Session, port: &Port, expected: &str) -> Error {
    Error::Port {
        graph: session.graph.clone(),
        what: "output",
        name: port.name.clone(),
        found: port.describe(),
        expected: expected.to_owned(),
    }
}
