//! Which samples train and which validate, and how an epoch is cut into steps.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Config, Error, Group,
    config::Validation,
    data::{self, Augment, Augmenter, Dataset, Draw, Prefetch, Reader},
    sampler,
};

/// What becomes of the samples at the end of an epoch that do not fill a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LastBatch {
    /// They wait for another epoch's order
    #[default]
    Drop,
    /// They make a smaller step
    Keep,
}

/// Some samples of a dataset.
#[derive(Debug)]
pub(super) struct Part {
    pub data: Arc<Dataset>,
    pub indices: Vec<usize>,
}

impl Part {
    fn whole(data: Dataset) -> Part {
        let indices = (0..data.samples()).collect();
        Part { data: data.into(), indices }
    }

    /// This process's samples of every step from the `batch`-th of an epoch on, epoch after epoch without end.
    fn draws(&self, seed: u64, cut: Cut, (epoch, batch): (u64, u64)) -> impl Iterator<Item = Draw> + Send + use<> {
        let indices = self.indices.clone();
        (epoch..).flat_map(move |of| {
            let order = sampler::epoch_order(seed, of, indices.len());
            let first = if of == epoch { batch } else { 0 };
            let draw = |k| {
                let places = order.get(cut.share(k)).unwrap_or_default();
                Draw { epoch: of, indices: places.iter().map(|&i| indices[i]).collect() }
            };
            (first..cut.steps_per_epoch()).map(draw).collect::<Vec<Draw>>()
        })
    }

    /// The batches of these steps, read ahead and changed as `augment` says.
    ///
    /// # Errors
    /// [`data::Error::NoImages`]; [`Error::Reader`].
    pub fn batches(&self, augment: Augment, seed: u64, cut: Cut, from: (u64, u64)) -> Result<Prefetch, Error> {
        let augmenter = Augmenter::new(augment, seed, &self.data)?;
        let reader = Reader::augmented(self.data.clone(), augmenter);
        Prefetch::new(reader, self.draws(seed, cut, from)).map_err(|source| Error::Reader { source })
    }
}

/// An epoch cut into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    samples: usize,
    /// Samples of a step, over all processes.
    pub step: usize,
    last: LastBatch,
    rank: usize,
    ranks: usize,
}

impl Cut {
    pub fn new(config: &Config, samples: usize, group: &Group) -> Cut {
        let (rank, ranks) = (group.rank(), group.size());
        Cut { samples, step: config.step_samples(ranks), last: config.last_batch, rank, ranks }
    }

    pub fn steps_per_epoch(&self) -> u64 {
        let steps = match self.last {
            LastBatch::Drop => self.samples / self.step,
            LastBatch::Keep => self.samples.div_ceil(self.step),
        };
        steps as u64
    }

    /// The places within an epoch's order that the `k`-th step takes.
    pub fn places(&self, k: u64) -> std::ops::Range<usize> {
        let first = k as usize * self.step;
        first..(first + self.step).min(self.samples)
    }

    /// Those of them that are this process's.
    pub fn share(&self, k: u64) -> std::ops::Range<usize> {
        let places = self.places(k);
        let shares = shares(places.len(), self.ranks);
        shares.into_iter().nth(self.rank).map_or(0..0, |share| places.start + share.start..places.start + share.end)
    }

    /// How many samples the micro-batches of the last step of an epoch have that are not of `batch` samples, in all processes.
    pub fn odd_batches(&self, batch: usize) -> Vec<usize> {
        let left = if self.last == LastBatch::Keep { self.samples % self.step } else { 0 };
        shares(left, self.ranks).into_iter().map(|share| share.len() % batch).filter(|&odd| odd > 0).collect()
    }
}

/// `0 .. samples` in as many ranges as there are processes, which differ by one at most.
fn shares(samples: usize, ranks: usize) -> Vec<std::ops::Range<usize>> {
    (0..ranks).map(|rank| rank * samples / ranks..(rank + 1) * samples / ranks).collect()
}

/// Classes are numbered by their names: of other names the same numbers mean something else.
fn check_classes(training: &Dataset, validation: &Dataset, path: &Path) -> Result<(), Error> {
    match (&training.classes, &validation.classes) {
        (Some(expected), Some(found)) if expected != found => {
            let (expected, found) = (expected.join(", "), found.join(", "));
            let why = format!("the classes are {found}; expected those of the training data: {expected}");
            Err(data::Error::File { path: path.to_owned(), why }.into())
        }
        _ => Ok(()),
    }
}

/// The samples to train on, and those to validate with.
///
/// # Errors
/// Faults of the data; [`Error::Fraction`], [`Error::TooFewSamples`].
pub(super) fn load(config: &Config, spec: &data::Spec, group: &Group) -> Result<(Part, Option<Part>), Error> {
    let options = config.data_options();
    let mut source = data::read(&config.data, &options)?;
    let dataset = Dataset::new(&mut source, spec)?;
    let (training, validation) = match &config.val {
        Some(Validation::File(path)) => {
            let mut other = data::read(path, &options)?;
            let other = Dataset::new(&mut other, spec)?;
            check_classes(&dataset, &other, path)?;
            (Part::whole(dataset), Some(Part::whole(other)))
        }
        Some(Validation::Fraction(fraction)) => {
            let samples = dataset.samples();
            let held_out = (samples as f64 * fraction).round() as usize;
            if held_out == 0 || held_out == samples {
                return Err(Error::Fraction { data: config.data.clone(), samples, fraction: *fraction });
            }
            let (rest, apart) = sampler::split(config.seed, samples, held_out);
            let data = Arc::new(dataset);
            (Part { data: data.clone(), indices: rest }, Some(Part { data, indices: apart }))
        }
        None => {
            let held_out = Dataset::held_out(&mut source, spec)?;
            (Part::whole(dataset), held_out.map(Part::whole))
        }
    };
    let cut = Cut::new(config, training.indices.len(), group);
    if cut.steps_per_epoch() == 0 {
        let (data, samples, batch) = (config.data.clone(), training.indices.len(), cut.step);
        return Err(Error::TooFewSamples { data, samples, batch });
    }
    Ok((training, validation))
}
