//! Loss, κ, objective and accuracy over a set of samples, in batches through `evaluate.onnx`.

use std::path::Path;

use super::{
    Error, Group,
    data::{Dataset, Role, Spec},
    metrics::Figures,
    probes::Probes,
    scores::{Scores, Task},
};
use crate::{
    artifact::manifest::Manifest,
    runtime::{Bound, Feed, Held, Options, Runtime, Session},
    tensor::{DType, Tensor, Tensors},
};

/// The evaluation graph, ready for a set of parameters.
#[derive(Debug)]
pub struct Evaluator {
    bound: Bound,
    spec: Spec,
    task: Option<Task>,
    kappa: Vec<String>,
    /// Those of `kappa` that are estimates.
    estimated: Vec<String>,
    probes: Probes,
    lambda: Vec<(String, f64)>,
}

impl Evaluator {
    /// Opens `evaluate.onnx` in `graphs`. `lambda` replaces the manifest's λ of every layer.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the graph cannot be opened or lacks what the manifest names; [`Error::NoLambda`] if it has no λ
    /// to replace.
    pub fn open(
        runtime: &Runtime,
        manifest: &Manifest,
        graphs: &Path,
        options: &Options,
        seed: u64,
        lambda: Option<f64>,
    ) -> Result<Evaluator, Error> {
        let graph = &manifest.graphs.evaluate;
        let session = Session::from_file(runtime, &graphs.join(&graph.path), options)?;
        let spec = Spec::of(manifest, &session)?;
        let probes = Probes::for_evaluation(manifest, &session, seed)?;
        let mut outputs = vec![graph.loss.as_str(), graph.objective.as_str()];
        outputs.extend(graph.kappa.iter().map(String::as_str));
        let task = Task::of_artifact(manifest, &spec);
        if task.is_some() {
            outputs.extend(graph.predictions.first().map(String::as_str));
        }
        let wanted = lambda;
        let lambda = lambdas(manifest, &session, wanted);
        if let Some(wanted) = wanted
            && lambda.is_empty()
        {
            return Err(Error::NoLambda { artifact: graphs.to_owned(), lambda: wanted });
        }
        let bound = Bound::new(session, &outputs)?;
        let (kappa, estimated) = (graph.kappa.clone(), estimated(manifest));
        Ok(Evaluator { bound, spec, task, kappa, estimated, probes, lambda })
    }

    /// What data must provide.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Takes parameters from host memory.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn hold(&mut self, tensors: &Tensors) -> Result<(), Error> {
        Ok(self.bound.hold(tensors)?)
    }

    /// Takes parameters where they lie; see [`Bound::share`].
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn share(&mut self, tensors: &Held<'_>) -> Result<(), Error> {
        Ok(self.bound.share(tensors)?)
    }

    /// Means over the samples `indices`, each sample with the same weight; the last batch may be smaller, except where the
    /// graph fixes the size: then the samples that do not fill a batch are left out.
    ///
    /// The loss is the mean of the batches' losses, so with class weights or ignored labels it is not exactly the loss of
    /// the whole set.
    ///
    /// # Errors
    /// [`Error::Runtime`]; [`Error::FixedBatch`] if the graph fixes another size; [`Error::NoFullBatch`] if no sample is left.
    pub fn evaluate(&mut self, data: &Dataset, indices: &[usize], batch: usize) -> Result<Figures, Error> {
        self.evaluate_with(&Group::alone(), data, indices, batch)
    }

    /// The same by several processes, each for a part of the batches; all get the figures.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`]; [`Error::Peer`].
    pub(super) fn evaluate_with(
        &mut self,
        group: &Group,
        data: &Dataset,
        indices: &[usize],
        batch: usize,
    ) -> Result<Figures, Error> {
        let own = self.add_up(group, data, indices, batch);
        let (own, scores) = group.agree(own)?;
        let classes = group.largest(scores.classes());
        let mut row: Vec<f64> = own.into_iter().chain(scores.to_row(classes)).collect();
        group.sum(&mut row);
        let (samples, scores) = (row[0], Scores::of_row(&row[3 + self.kappa.len()..]));
        if samples == 0.0 {
            return Err(Error::NoFullBatch { samples: indices.len(), batch });
        }
        let mean = |sum: f64| sum / samples;
        let mut figures = Figures {
            samples: samples as usize,
            loss: mean(row[1]),
            objective: mean(row[2]),
            kappa: self.kappa.iter().cloned().zip(row[3..].iter().map(|&sum| mean(sum))).collect(),
            estimated: self.estimated.clone(),
            ..Figures::default()
        };
        if let Some(task) = self.task {
            scores.finish(task, &mut figures);
        }
        Ok(figures)
    }

    /// The number of samples, the sums of loss, objective and κ over them, and their scores, of this process's batches.
    fn add_up(
        &mut self,
        group: &Group,
        data: &Dataset,
        indices: &[usize],
        batch: usize,
    ) -> Result<(Vec<f64>, Scores), Error> {
        if let Some(expected) = self.spec.batch.filter(|&expected| expected != batch) {
            return Err(Error::FixedBatch { found: batch, expected });
        }
        self.feed_lambda()?;
        let mut sums = vec![0.0; 3 + self.kappa.len()];
        let mut scores = Scores::default();
        for (position, part) in indices.chunks(batch).enumerate().skip(group.rank()).step_by(group.size()) {
            if self.spec.batch.is_some() && part.len() < batch {
                continue;
            }
            let results = self.run(data, part, position as u64)?;
            sums[0] += part.len() as f64;
            for (sum, result) in sums[1..].iter_mut().zip(&results) {
                *sum += part.len() as f64 * result.iter_f64().next().unwrap_or(f64::NAN);
            }
            if let Some(predictions) = results.get(sums.len() - 1) {
                self.count(data, part, predictions, &mut scores)?;
            }
        }
        Ok((sums, scores))
    }

    /// Loss, objective and κ of one batch, in that order. Where κ is estimated, `position` decides the probes.
    ///
    /// # Errors
    /// [`Error::Runtime`]; [`Error::FixedBatch`] if the graph fixes another size.
    pub fn batch(&mut self, data: &Dataset, part: &[usize], position: u64) -> Result<Vec<f64>, Error> {
        if let Some(expected) = self.spec.batch.filter(|&expected| expected != part.len()) {
            return Err(Error::FixedBatch { found: part.len(), expected });
        }
        self.feed_lambda()?;
        let results = self.run(data, part, position)?;
        let scalars = results.iter().take(2 + self.kappa.len());
        Ok(scalars.map(|result| result.iter_f64().next().unwrap_or(f64::NAN)).collect())
    }

    fn feed_lambda(&mut self) -> Result<(), Error> {
        for (name, value) in &self.lambda {
            let value = (*value as f32).to_le_bytes();
            self.bound.feed(name, DType::F32, &[], |bytes| bytes.copy_from_slice(&value))?;
        }
        Ok(())
    }

    fn run(&mut self, data: &Dataset, part: &[usize], position: u64) -> Result<Vec<Tensor>, Error> {
        for column in data.columns() {
            let shape = column.batch_shape(part.len());
            let mut read = Ok(());
            self.bound.feed(&column.name, column.dtype, &shape, |bytes| read = column.read(part, bytes))?;
            read?;
        }
        self.probes.feed(&mut self.bound, position, part.len())?;
        Ok(self.bound.run()?)
    }

    /// Counts what the predictions of a batch are worth.
    fn count(&self, data: &Dataset, part: &[usize], predictions: &Tensor, scores: &mut Scores) -> Result<(), Error> {
        let column = data.columns().iter().find(|column| column.role == Role::Labels);
        if let Some((column, task)) = column.zip(self.task) {
            scores.add(task, predictions, &data.gather(column, part)?);
        }
        Ok(())
    }
}

/// The figures of κ that come from random probes.
fn estimated(manifest: &Manifest) -> Vec<String> {
    let layers = manifest.graphs.evaluate.kappa.iter().zip(&manifest.layers);
    layers.filter(|(_, layer)| layer.estimator != "exact").map(|(name, _)| name.clone()).collect()
}

/// The λ inputs that a graph has, each with `lambda` or the manifest's own value.
pub(super) fn lambdas(manifest: &Manifest, session: &Session, lambda: Option<f64>) -> Vec<(String, f64)> {
    let mut inputs: Vec<(String, f64)> = Vec::new();
    for layer in &manifest.layers {
        if let Some(name) = &layer.lambda_input
            && session.has_input(name)
            && inputs.iter().all(|(known, _)| known != name)
        {
            inputs.push((name.clone(), lambda.unwrap_or(layer.lambda)));
        }
    }
    inputs
}
