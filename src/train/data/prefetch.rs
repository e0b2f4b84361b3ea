//! Batches, read ahead by a thread while the step before is computed.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel, sync_channel},
    },
    thread,
};

use super::{Dataset, Error, augment::Augmenter};
use crate::tensor::DType;

/// Batches that wait to be taken, at most; one more is being read.
const AHEAD: usize = 2;

/// The samples of a batch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Counted from 0; augmentations differ from epoch to epoch.
    pub epoch: u64,
    pub indices: Vec<usize>,
}

/// What every input takes for the samples of a draw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub samples: usize,
    pub inputs: Vec<Filled>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The graph input.
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Filled {
    /// Shape and bytes of a part of the samples.
    pub fn part(&self, samples: Range<usize>) -> (Vec<usize>, &[u8]) {
        let all = self.shape.first().copied().unwrap_or(1).max(1);
        let row = self.bytes.len() / all;
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = samples.len();
        }
        (shape, self.bytes.get(samples.start * row..samples.end * row).unwrap_or_default())
    }
}

/// Reads batches of a dataset.
#[derive(Debug, Clone)]
pub struct Reader {
    data: Arc<Dataset>,
    augmenter: Option<Augmenter>,
}

impl Reader {
    pub fn new(data: Arc<Dataset>) -> Reader {
        Reader { data, augmenter: None }
    }

    /// As [`Reader::new`], with augmentations of the model's first input.
    pub fn augmented(data: Arc<Dataset>, augmenter: Option<Augmenter>) -> Reader {
        Reader { data, augmenter }
    }

    /// Reads a batch in the place of another one.
    ///
    /// # Errors
    /// As [`Column::read`](super::Column::read).
    pub fn read(&self, draw: &Draw, batch: &mut Batch) -> Result<(), Error> {
        batch.samples = draw.indices.len();
        batch.inputs.resize_with(self.data.columns().len(), || Filled {
            name: String::new(),
            dtype: DType::F32,
            shape: Vec::new(),
            bytes: Vec::new(),
        });
        for (column, filled) in self.data.columns().iter().zip(&mut batch.inputs) {
            filled.name.clone_from(&column.name);
            filled.dtype = column.dtype;
            filled.shape = column.batch_shape(batch.samples);
            filled.bytes.resize(column.row() * batch.samples, 0);
            column.read(&draw.indices, &mut filled.bytes)?;
            if let Some(augmenter) = self.augmenter.as_ref().filter(|augmenter| augmenter.input == column.name) {
                augmenter.apply(draw, &mut filled.bytes);
            }
        }
        Ok(())
    }
}

/// The batches of a sequence of draws, in its order, read by a thread of their own.
#[derive(Debug)]
pub struct Prefetch {
    batches: Receiver<Result<Batch, Error>>,
    spent: Sender<Batch>,
}

impl Prefetch {
    /// # Errors
    /// If no thread can be started.
    pub fn new(reader: Reader, draws: impl Iterator<Item = Draw> + Send + 'static) -> io::Result<Prefetch> {
        let (sender, batches) = sync_channel(AHEAD);
        let (spent, returned) = channel::<Batch>();
        thread::Builder::new().name("data".to_owned()).spawn(move || {
            for draw in draws {
                let mut batch = returned.try_recv().unwrap_or_default();
                let result = reader.read(&draw, &mut batch).map(|()| batch);
                let failed = result.is_err();
                // Nobody takes the batch: the run has ended.
                if sender.send(result).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Prefetch { batches, spent })
    }

    /// Gives back a batch whose memory the next one may take.
    pub fn give_back(&self, batch: Batch) {
        // The thread may have ended with the last draw.
        let _ = self.spent.send(batch);
    }
}

/// Ends with the draws, or after an error.
impl Iterator for Prefetch {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Result<Batch, Error>> {
        self.batches.recv().ok()
    }
}
