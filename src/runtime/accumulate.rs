//! A step of several micro-batches: `gradient.onnx` for each, their mean, then `optimizer.onnx`; all on the device.

use std::collections::BTreeMap;

use ort::value::DynTensor;

use super::{
    Blend, Carried, Error, Feed, Held, Row, Session,
    session::run_error,
    step::{buffer, device_allocator, first_value, place_value},
    value,
    wired::{Pair, Wired, read},
};
use crate::tensor::{DType, Tensors};

/// The graphs of such a step and what goes between them.
pub struct Parts {
    pub gradient: Session,
    pub optimizer: Session,
    /// Of [`crate::optim::blend::model`], for the gradients and then the scalars.
    pub sums: Session,
    /// Tensors that either graph reads, and those that the gradient graph renews (running statistics).
    pub statistics: Vec<Carried>,
    /// Tensors that the optimiser renews.
    pub stepped: Vec<Carried>,
    /// Each output of the gradient graph and the optimiser's input that takes its mean.
    pub gradients: Vec<(String, String)>,
    /// Outputs of the gradient graph whose means are figures of the step.
    pub scalars: Vec<String>,
    /// Outputs of the optimiser that are figures of the step too.
    pub figures: Vec<String>,
}

pub struct Accumulation {
    gradient: Wired,
    optimizer: Wired,
    sums: Blend,
    /// What the gradient graph gives for one micro-batch.
    fresh: BTreeMap<String, DynTensor>,
    gradients: Vec<(String, String)>,
    scalars: Vec<String>,
    figures: Vec<(String, DynTensor)>,
    statistics: Vec<(Carried, Pair)>,
    stepped: Vec<(Carried, Pair)>,
    fixed: Vec<(String, DynTensor)>,
    /// Whether micro-batches were added since the last update.
    begun: bool,
}

impl std::fmt::Debug for Accumulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accumulation").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Accumulation {
    /// Carried tensors begin with their values of `initial`; those that no graph reads or renews are left out.
    ///
    /// # Errors
    /// As [`super::Step::new`].
    pub fn new(parts: Parts, initial: &Tensors) -> Result<Accumulation, Error> {
        let Parts { gradient, optimizer, sums, statistics: read_only, stepped, gradients, scalars, figures } = parts;
        let device = device_allocator(&gradient)?;
        let (mut statistics, mut fixed) = (Vec::new(), Vec::new());
        for carried in read_only {
            let reader = [&gradient, &optimizer].into_iter().find(|s| s.has_input(&carried.input));
            let Some(session) = reader.or(carried.output.is_some().then_some(&gradient)) else { continue };
            let value = || place_value(session, &device, first_value(session, &carried.input, initial)?);
            match carried.output {
                None => fixed.push((carried.input.clone(), value()?)),
                Some(_) => statistics.push((carried.clone(), Pair { now: value()?, next: value()? })),
            }
        }
        let pair = |carried: Carried| {
            let first = first_value(&optimizer, &carried.input, initial)?;
            let value = || place_value(&optimizer, &device, first);
            Ok((carried, Pair { now: value()?, next: value()? }))
        };
        let stepped = stepped.into_iter().map(pair).collect::<Result<_, Error>>()?;
        let names: Vec<String> = gradients.iter().map(|(output, _)| output).chain(&scalars).cloned().collect();
        let fresh = names
            .iter()
            .map(|name| Ok((name.clone(), buffer(&gradient, &device, gradient.output(name)?)?)))
            .collect::<Result<_, Error>>()?;
        let figures = figures
            .into_iter()
            .map(|name| {
                let value = buffer(&optimizer, &device, optimizer.output(&name)?)?;
                Ok((name, value))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Accumulation {
            gradient: Wired::new(gradient)?,
            optimizer: Wired::new(optimizer)?,
            sums: Blend::new(sums, &names, &Tensors::new())?,
            fresh,
            gradients,
            scalars,
            figures,
            statistics,
            stepped,
            fixed,
            begun: false,
        })
    }

    /// Runs the micro-batch that was fed. `weight` is its part of the step: the weights of a step sum to 1.
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn add(&mut self, weight: f32) -> Result<(), Error> {
        let stepped = self.stepped.iter().map(|(c, pair)| (c.input.as_str(), &pair.now));
        let fixed = self.fixed.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in stepped.chain(fixed) {
            if self.gradient.session.has_input(name) {
                self.gradient.input(name, value)?;
            }
        }
        for (carried, pair) in &mut self.statistics {
            if self.gradient.session.has_input(&carried.input) {
                self.gradient.input(&carried.input, &pair.now)?;
            }
            if let Some(output) = &carried.output {
                self.gradient.output(output, &mut pair.next)?;
            }
        }
        for (name, value) in &mut self.fresh {
            self.gradient.output(name, value)?;
        }
        self.gradient.run()?;
        self.statistics.iter_mut().for_each(|(_, pair)| pair.turn());
        let fresh = Held::new(self.fresh.iter().map(|(name, value)| (name.as_str(), value)));
        self.sums.add(&fresh, if self.begun { 1.0 } else { 0.0 }, weight)?;
        self.begun = true;
        Ok(())
    }

    /// An empty row of the type that [`Accumulation::put_into`] wants, and how many numbers it puts there.
    pub fn row(&self) -> (Row, usize) {
        let shared = || self.sums.values().chain(renewed(&self.statistics));
        let length =
            |value: &DynTensor| value.shape().iter().map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>();
        (Row::of(shared().filter_map(|value| value::dtype(*value.data_type()))), shared().map(length).sum())
    }

    /// Puts `weight` times what other processes have a part of at the beginning of the row: the mean gradients and figures of
    /// the micro-batches since the last update, and the running statistics after them.
    ///
    /// # Errors
    /// [`Error::Run`] if a copy from the device fails.
    pub fn put_into(&self, row: &mut Row, weight: f64) -> Result<(), Error> {
        let mut at = 0;
        for value in self.sums.values().chain(renewed(&self.statistics)) {
            value::with_bytes(value, |dtype, bytes| at = row.put(at, dtype, bytes, weight))
                .map_err(|error| run_error(&self.gradient.session.graph, &error))?;
        }
        Ok(())
    }

    /// Takes all that back from the beginning of the row.
    ///
    /// # Errors
    /// [`Error::Run`] if a copy to the device fails.
    pub fn take_from(&mut self, row: &Row) -> Result<(), Error> {
        let mut at = 0;
        let Session { host, graph, .. } = &self.gradient.session;
        let statistics = self.statistics.iter_mut().map(|(_, pair)| &mut pair.now).filter(|value| is_float(value));
        for value in self.sums.values_mut().chain(statistics) {
            value::overwrite(host, value, |dtype, bytes| at = row.take(at, dtype, bytes))
                .map_err(|error| run_error(graph, &error))?;
        }
        Ok(())
    }

    /// The optimiser's step by the mean gradient of the micro-batches since the last one.
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn update(&mut self) -> Result<(), Error> {
        let sums = self.sums.held();
        for (name, value) in sums.iter() {
            if let Some((_, input)) = self.gradients.iter().find(|(output, _)| output == name) {
                self.optimizer.input(input, value)?;
            }
        }
        for (carried, pair) in &mut self.stepped {
            self.optimizer.input(&carried.input, &pair.now)?;
            if let Some(output) = &carried.output {
                self.optimizer.output(output, &mut pair.next)?;
            }
        }
        for (name, value) in &mut self.figures {
            self.optimizer.output(name, value)?;
        }
        self.optimizer.run()?;
        self.stepped.iter_mut().for_each(|(_, pair)| pair.turn());
        self.begun = false;
        Ok(())
    }

    /// The figures of the last step, in the order of [`Parts::scalars`] and then [`Parts::figures`].
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn scalars(&self) -> Result<Vec<f64>, Error> {
        let sums = self.sums.held();
        let scalar = |name: &String| {
            let (_, value) = sums
                .iter()
                .find(|(held, _)| held == name)
                .ok_or_else(|| Error::Missing { graph: self.gradient.session.graph.clone(), name: name.clone() })?;
            Ok(read(name, value)?.iter_f64().next().unwrap_or(f64::NAN))
        };
        let figure = |(name, value): &(String, DynTensor)| Ok(read(name, value)?.iter_f64().next().unwrap_or(f64::NAN));
        self.scalars.iter().map(scalar).chain(self.figures.iter().map(figure)).collect()
    }

    /// The carried tensors where they lie, by their inputs' names.
    pub fn held(&self) -> Held<'_> {
        let pairs = self.stepped.iter().chain(&self.statistics).map(|(c, pair)| (c.input.as_str(), &pair.now));
        Held::new(pairs.chain(self.fixed.iter().map(|(name, value)| (name.as_str(), value))))
    }

    pub fn session(&self) -> &Session {
        &self.gradient.session
    }
}

/// Statistics that are float numbers; counters are alike in all processes.
fn renewed(statistics: &[(Carried, Pair)]) -> impl Iterator<Item = &DynTensor> {
    statistics.iter().map(|(_, pair)| &pair.now).filter(|value| is_float(value))
}

fn is_float(value: &DynTensor) -> bool {
    value::dtype(*value.data_type()).is_some_and(DType::is_float)
}

impl Feed for Accumulation {
    fn has_input(&self, name: &str) -> bool {
        self.gradient.session.has_input(name) || self.optimizer.session.has_input(name)
    }

    fn feed(&mut self, name: &str, dtype: DType, shape: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        let target = match self.optimizer.session.has_input(name) && !self.gradient.session.has_input(name) {
            true => &mut self.optimizer,
            false => &mut self.gradient,
        };
        target.feed(name, dtype, shape, fill)
    }
}
