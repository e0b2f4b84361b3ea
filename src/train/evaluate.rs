//! Loss, κ, objective and accuracy over a set of samples, in batches through `evaluate.onnx`.

use std::path::Path;

use super::{
    Error,
    data::{Dataset, Role, Spec},
    metrics::Figures,
    probes::Probes,
};
use crate::{
    artifact::manifest::Manifest,
    runtime::{Bound, Feed, Held, Options, Runtime, Session},
    tensor::{DType, Tensor, Tensors, elements},
};

/// The evaluation graph, ready for a set of parameters.
#[derive(Debug)]
pub struct Evaluator {
    bound: Bound,
    spec: Spec,
    kappa: Vec<String>,
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
        if spec.classes.is_some() {
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
        Ok(Evaluator { bound, spec, kappa: graph.kappa.clone(), probes, lambda })
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
        if let Some(expected) = self.spec.batch.filter(|&expected| expected != batch) {
            return Err(Error::FixedBatch { found: batch, expected });
        }
        self.feed_lambda()?;
        let mut sums = vec![0.0; 2 + self.kappa.len()];
        let (mut samples, mut hits, mut counted) = (0, 0, 0);
        for (position, part) in indices.chunks(batch).enumerate() {
            if self.spec.batch.is_some() && part.len() < batch {
                continue;
            }
            let results = self.run(data, part, position as u64)?;
            samples += part.len();
            for (sum, result) in sums.iter_mut().zip(&results) {
                *sum += part.len() as f64 * result.iter_f64().next().unwrap_or(f64::NAN);
            }
            if let Some(predictions) = results.get(sums.len()) {
                let (h, c) = self.hits(data, part, predictions)?;
                hits += h;
                counted += c;
            }
        }
        if samples == 0 {
            return Err(Error::NoFullBatch { samples: indices.len(), batch });
        }
        let mean = |sum: f64| sum / samples as f64;
        Ok(Figures {
            samples,
            loss: mean(sums[0]),
            objective: mean(sums[1]),
            kappa: self.kappa.iter().cloned().zip(sums[2..].iter().map(|&sum| mean(sum))).collect(),
            accuracy: (counted > 0).then(|| hits as f64 / counted as f64),
        })
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

    /// Labels that the largest prediction along axis 1 hits, and labels that count.
    fn hits(&self, data: &Dataset, part: &[usize], predictions: &Tensor) -> Result<(usize, usize), Error> {
        let Some(column) = data.columns().iter().find(|column| column.role == Role::Labels) else {
            return Ok((0, 0));
        };
        let labels: Vec<i64> = data.gather(column, part)?.iter_i64().collect();
        Ok(count_hits(predictions, &labels, self.spec.ignore_index))
    }
}

/// Predictions `[N, C, …]`, labels `[N, …]` flattened. Predictions of another shape than the labels have no accuracy.
fn count_hits(predictions: &Tensor, labels: &[i64], ignore_index: Option<i64>) -> (usize, usize) {
    let &[samples, classes, ref positions @ ..] = predictions.shape() else {
        return (0, 0);
    };
    let positions = elements(positions);
    if labels.is_empty() || labels.len() != samples * positions {
        return (0, 0);
    }
    let values: Vec<f64> = predictions.iter_f64().collect();
    let (mut hits, mut counted) = (0, 0);
    for (at, &label) in labels.iter().enumerate().filter(|(_, label)| Some(**label) != ignore_index) {
        let first = at / positions * classes * positions + at % positions;
        let score = |class: usize| values[first + class * positions];
        // The first of equal scores, as everywhere.
        let largest = (0..classes).reduce(|best, class| if score(class) > score(best) { class } else { best });
        counted += 1;
        hits += usize::from(largest.is_some_and(|class| usize::try_from(label) == Ok(class)));
    }
    (hits, counted)
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
