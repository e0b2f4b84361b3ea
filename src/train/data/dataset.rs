//! Arrays bound to the graph's inputs: every check that needs the data, and samples in the types that the graph takes.

use std::path::PathBuf;

use rayon::prelude::*;

use super::{
    Array, Content, Error, Fault, Role, Slot, Source, Spec, Stored,
    convert::{Conversion, Misfit, Normalisation, convertible},
    images::Decoder,
    stored::Bytes,
};
use crate::tensor::{DType, Tensor, element_f64, element_i64, elements};

/// Bytes that are looked through at a time.
const CHUNK: usize = 1 << 20;

/// Samples for every input that data fill.
#[derive(Debug)]
pub struct Dataset {
    columns: Vec<Column>,
    samples: usize,
    /// Names of the classes, in the order of their numbers, where the format has names.
    pub classes: Option<Vec<String>>,
}

/// The samples of one input.
#[derive(Debug)]
pub struct Column {
    /// The graph input.
    pub name: String,
    pub role: Role,
    pub dtype: DType,
    /// Of one sample.
    pub shape: Vec<usize>,
    /// Where they come from, for messages.
    path: PathBuf,
    array: String,
    /// Of one sample, as it is stored.
    stored_shape: Vec<usize>,
    rows: Rows,
    pub(super) conversion: Conversion,
}

#[derive(Debug)]
enum Rows {
    Numbers(Bytes),
    Images(Decoder),
}

impl Column {
    /// Shape of a batch of `samples`.
    pub fn batch_shape(&self, samples: usize) -> Vec<usize> {
        std::iter::once(samples).chain(self.shape.iter().copied()).collect()
    }

    /// Bytes of one sample, as the graph takes it.
    pub fn row(&self) -> usize {
        elements(&self.shape) * self.dtype.size()
    }

    fn stored_row(&self) -> usize {
        elements(&self.stored_shape) * self.conversion.from.size()
    }

    /// Reads the samples with these indices into `out`, one after another.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read any more, [`Error::Faults`] if it has changed to what the graph cannot take.
    pub fn read(&self, indices: &[usize], out: &mut [u8]) -> Result<(), Error> {
        let row = self.row();
        if row == 0 {
            return Ok(());
        }
        match &self.rows {
            Rows::Numbers(bytes) => {
                let mut scratch = Vec::new();
                for (&index, out) in indices.iter().zip(out.chunks_exact_mut(row)) {
                    self.read_numbers(bytes, index, 1, &mut scratch, out)?;
                }
                Ok(())
            }
            Rows::Images(decoder) => {
                let rows = out.par_chunks_exact_mut(row);
                indices.par_iter().zip(rows).try_for_each(|(&index, out)| self.read_image(decoder, index, out))
            }
        }
    }

    fn read_numbers(
        &self,
        bytes: &Bytes,
        first: usize,
        count: usize,
        scratch: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let row = self.stored_row();
        let stored = bytes
            .slice((first * row) as u64, count * row, scratch)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.convert(first, stored, out)
    }

    fn read_image(&self, decoder: &Decoder, index: usize, out: &mut [u8]) -> Result<(), Error> {
        let mut stored = vec![0; decoder.row()];
        decoder.decode(index, &mut stored).map_err(|fault| self.faulty(fault))?;
        self.convert(index, &stored, out)
    }

    /// Converts samples from `first` on.
    fn convert(&self, first: usize, stored: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.conversion.apply(stored, out).map_err(|(at, misfit)| {
            let (array, index) = (self.array.clone(), self.index(first, at));
            self.faulty(match misfit {
                Misfit::NotFinite(found) => Fault::NotFinite { array, index, found },
                Misfit::Overflow(found) => Fault::Overflow { array, index, found, expected: self.dtype },
            })
        })
    }

    fn faulty(&self, fault: Fault) -> Error {
        Error::Faults { path: self.path.clone(), faults: vec![fault] }
    }

    /// The index of element `at`, counted from the beginning of sample `first`.
    fn index(&self, first: usize, at: usize) -> Vec<usize> {
        let row = elements(&self.stored_shape).max(1);
        let mut index = unravel(at % row, &self.stored_shape);
        index.insert(0, first + at / row);
        index
    }

    /// Reads everything once, for the first element that the graph cannot take.
    fn check(&self, samples: usize, spec: &Spec) -> Result<(), Error> {
        let limited = self.role == Role::Labels && (spec.classes.is_some() || spec.label_range.is_some());
        let Rows::Numbers(bytes) = &self.rows else {
            return Ok(());
        };
        if self.row() == 0 || (self.conversion.is_total() && !limited) {
            return Ok(());
        }
        let rows = (CHUNK / self.row().max(self.stored_row())).clamp(1, samples.max(1));
        let (mut scratch, mut out) = (Vec::new(), vec![0; rows * self.row()]);
        for first in (0..samples).step_by(rows) {
            let count = rows.min(samples - first);
            let out = &mut out[..count * self.row()];
            self.read_numbers(bytes, first, count, &mut scratch, out)?;
            if limited {
                self.check_labels(first, out, spec)?;
            }
        }
        Ok(())
    }
}

impl Column {
    /// Whether the labels from sample `first` on are such as the loss takes.
    fn check_labels(&self, first: usize, labels: &[u8], spec: &Spec) -> Result<(), Error> {
        let ignore_index = spec.ignore_index;
        if let Some(classes) = spec.classes
            && let Some((at, found)) = outside(self.dtype, labels, classes, ignore_index)
        {
            let (array, index) = (self.array.clone(), self.index(first, at));
            return Err(self.faulty(Fault::Label { array, index, found, classes, ignore_index }));
        }
        if let Some([low, high]) = spec.label_range
            && let Some((at, found)) = out_of_range(self.dtype, labels, low, high)
        {
            let (array, index) = (self.array.clone(), self.index(first, at));
            return Err(self.faulty(Fault::LabelRange { array, index, found, low, high }));
        }
        Ok(())
    }
}

impl Dataset {
    /// Binds the main part of `source`.
    ///
    /// # Errors
    /// [`Error::Faults`] with every fault of every array.
    pub fn new(source: &mut Source, spec: &Spec) -> Result<Dataset, Error> {
        let arrays = std::mem::take(&mut source.arrays);
        bind(arrays, source, spec)
    }

    /// Binds the part of `source` that the format sets apart for evaluation, if there is one.
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn held_out(source: &mut Source, spec: &Spec) -> Result<Option<Dataset>, Error> {
        source.held_out.take().map(|arrays| bind(arrays, source, spec)).transpose()
    }

    pub fn samples(&self) -> usize {
        self.samples
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// One input's samples with these indices.
    ///
    /// # Errors
    /// As [`Column::read`].
    pub fn gather(&self, column: &Column, indices: &[usize]) -> Result<Tensor, Error> {
        let mut tensor = Tensor::zeros(column.dtype, column.batch_shape(indices.len()));
        column.read(indices, tensor.data_mut())?;
        Ok(tensor)
    }
}

fn bind(arrays: Vec<Array>, source: &Source, spec: &Spec) -> Result<Dataset, Error> {
    let mut binding = Binding { source, spec, faults: Vec::new(), lengths: Vec::new(), columns: Vec::new() };
    binding.fill(arrays);
    binding.check_lengths();
    binding.check_classes();
    for (column, (_, samples)) in binding.columns.iter().zip(&binding.lengths) {
        if let Some(column) = column
            && let Err(error) = column.check(*samples, spec)
        {
            match error {
                Error::Faults { faults, .. } => binding.faults.extend(faults),
                other => return Err(other),
            }
        }
    }
    match binding.lengths.first() {
        Some(&(_, samples)) if binding.faults.is_empty() => {
            let columns = binding.columns.into_iter().flatten().collect();
            Ok(Dataset { columns, samples, classes: source.classes.clone() })
        }
        _ => Err(Error::Faults { path: source.path.clone(), faults: binding.faults }),
    }
}

/// What is known on the way from arrays to a dataset.
struct Binding<'a> {
    source: &'a Source,
    spec: &'a Spec,
    faults: Vec<Fault>,
    /// Array and samples, of every array whose length can be known.
    lengths: Vec<(String, usize)>,
    /// One for each of these; `None` for one that does not fit.
    columns: Vec<Option<Column>>,
}

impl Binding<'_> {
    fn fill(&mut self, arrays: Vec<Array>) {
        let names: Vec<String> = arrays.iter().map(|array| array.name.clone()).collect();
        let mut arrays: Vec<Option<Array>> = arrays.into_iter().map(Some).collect();
        for slot in &self.spec.slots {
            let fallbacks = fallbacks(slot, self.spec);
            match std::iter::once(&slot.name).chain(&fallbacks).find_map(|name| take(&mut arrays, name)) {
                Some(array) => self.one(array, slot),
                None => self.faults.push(match &self.source.header {
                    Some(header) if slot.role == Role::Labels => Fault::NoLabelColumn { header: header.clone() },
                    _ => {
                        let (role, name, found) = (slot.role, slot.name.clone(), names.clone());
                        Fault::Missing { role, name, fallbacks, found }
                    }
                }),
            }
        }
    }

    /// Checks one array's header and opens its data.
    fn one(&mut self, array: Array, slot: &Slot) {
        let Array { name, content, image } = array;
        match content {
            Content::Unsupported(found) => {
                self.faults.push(Fault::Unsupported { array: name, found, expected: slot.dtype });
            }
            Content::Numbers(stored) => self.numbers(name, stored, image, slot),
            Content::Images(images) => {
                let samples = images.files.len();
                let column = images.fit(&slot.name, &slot.shape).and_then(|decoder| {
                    let shape = vec![decoder.channels, decoder.height, decoder.width];
                    let rows = match decoder.all()? {
                        Some(bytes) => Rows::Numbers(bytes),
                        None => Rows::Images(decoder),
                    };
                    Ok((shape, rows))
                });
                let column = column.map(|(shape, rows)| {
                    let conversion = conversion(DType::U8, false, slot.dtype, image);
                    self.column(name.clone(), slot, shape.clone(), shape, rows, conversion)
                });
                self.lengths.push((name, samples));
                let column = column.map_err(|faults| self.faults.extend(faults)).ok();
                self.columns.push(column);
            }
        }
    }

    fn numbers(&mut self, array: String, stored: Stored, image: bool, slot: &Slot) {
        let Some((&samples, sample)) = stored.shape.split_first() else {
            return self.faults.push(Fault::Scalar { array });
        };
        if samples == 0 {
            return self.faults.push(Fault::Empty { array });
        }
        self.lengths.push((array.clone(), samples));
        let (sample, from, big_endian) = (sample.to_vec(), stored.dtype, stored.big_endian);
        let shape = fit(&sample, &slot.shape);
        if shape.is_none() {
            let (array, expected) = (array.clone(), slot.shape.clone());
            self.faults.push(Fault::Shape { array, found: sample.clone(), expected });
        }
        if !convertible(from, slot.dtype) {
            self.faults.push(Fault::Type { array: array.clone(), found: from, expected: slot.dtype });
            return self.columns.push(None);
        }
        // Numbers in another shape are looked through too, unless they would have to be unpacked for it.
        let bytes =
            if shape.is_some() || stored.is_in_place() { stored.bytes() } else { return self.columns.push(None) };
        let column = match bytes {
            Ok(bytes) => {
                let conversion = conversion(from, big_endian, slot.dtype, image);
                let shape = shape.unwrap_or_else(|| sample.clone());
                Some(self.column(array, slot, shape, sample, Rows::Numbers(bytes), conversion))
            }
            Err(why) => {
                self.faults.push(Fault::Unreadable { array, why });
                None
            }
        };
        self.columns.push(column);
    }

    fn column(
        &mut self,
        array: String,
        slot: &Slot,
        shape: Vec<usize>,
        stored_shape: Vec<usize>,
        rows: Rows,
        mut conversion: Conversion,
    ) -> Column {
        conversion.normalisation = self.normalisation(slot, &shape);
        Column {
            name: slot.name.clone(),
            role: slot.role,
            dtype: slot.dtype,
            shape,
            path: self.source.path.clone(),
            array,
            stored_shape,
            rows,
            conversion,
        }
    }

    /// Mean and standard deviation, of the model's first input only.
    fn normalisation(&mut self, slot: &Slot, shape: &[usize]) -> Option<Normalisation> {
        let options = &self.source.options;
        let first = self.spec.slots.iter().find(|slot| slot.role == Role::Input);
        if first != Some(slot) || (options.mean.is_empty() && options.std.is_empty()) {
            return None;
        }
        if !slot.dtype.is_float() {
            self.faults.push(Fault::Normalised { input: slot.name.clone(), dtype: slot.dtype });
            return None;
        }
        let channels = shape.first().copied().unwrap_or(1);
        for (option, values) in [("mean", &options.mean), ("std", &options.std)] {
            if values.len() > 1 && values.len() != channels {
                let (found, input) = (values.len(), slot.name.clone());
                self.faults.push(Fault::Channels { option, found, channels, input });
            }
        }
        let plane = shape.iter().skip(1).product();
        Some(Normalisation { mean: options.mean.clone(), std: options.std.clone(), plane })
    }

    fn check_lengths(&mut self) {
        let Some(((other, expected), rest)) = self.lengths.split_first() else {
            return;
        };
        for (array, found) in rest.iter().filter(|(_, found)| found != expected) {
            let (array, other) = (array.clone(), other.clone());
            self.faults.push(Fault::Length { array, found: *found, other, expected: *expected });
        }
    }

    /// Names count the classes: fewer or more of them than the model has would number them otherwise.
    fn check_classes(&mut self) {
        if let (Some(found), Some(expected)) = (&self.source.classes, self.spec.classes)
            && found.len() != expected
        {
            self.faults.push(Fault::Classes { found: found.clone(), expected });
        }
    }
}

fn conversion(from: DType, big_endian: bool, to: DType, image: bool) -> Conversion {
    Conversion { from, big_endian, to, image, normalisation: None }
}

/// An array leaves the list when an input takes it: no array fills two inputs.
fn take(arrays: &mut [Option<Array>], name: &str) -> Option<Array> {
    arrays.iter_mut().find(|array| array.as_ref().is_some_and(|a| a.name == name))?.take()
}

/// Names under which people store the one input and the labels.
fn fallbacks(slot: &Slot, spec: &Spec) -> Vec<String> {
    let single = spec.slots.iter().filter(|s| s.role == Role::Input).count() == 1;
    match slot.role {
        Role::Input if single && slot.name != "x" => vec!["x".to_owned()],
        Role::Labels if slot.name != "y" => vec!["y".to_owned()],
        _ => Vec::new(),
    }
}

/// The shape in which a sample enters the graph, if it is the one stored up to axes of length 1, or up to being flattened.
/// Other rearrangements keep the number of elements and lose their meaning (channels last for channels first).
fn fit(found: &[usize], wanted: &[Option<usize>]) -> Option<Vec<usize>> {
    if found.len() == wanted.len() && found.iter().zip(wanted).all(|(&f, w)| w.is_none_or(|w| w == f)) {
        return Some(found.to_vec());
    }
    let wanted: Vec<usize> = wanted.iter().copied().collect::<Option<_>>()?;
    let squeeze = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    let flat = found.len() == 1 || wanted.len() == 1;
    let same = squeeze(found) == squeeze(&wanted) || (flat && elements(found) == elements(&wanted));
    same.then_some(wanted)
}

/// The first label that is no class, and its position.
fn outside(dtype: DType, labels: &[u8], classes: usize, ignore_index: Option<i64>) -> Option<(usize, i64)> {
    let valid = |label: i64| usize::try_from(label).is_ok_and(|l| l < classes) || Some(label) == ignore_index;
    let labels = labels.chunks_exact(dtype.size()).map(|label| element_i64(dtype, label));
    labels.enumerate().find(|(_, label)| !valid(*label))
}

/// The first label outside the bounds, and its position.
fn out_of_range(dtype: DType, labels: &[u8], low: f64, high: f64) -> Option<(usize, f64)> {
    let labels = labels.chunks_exact(dtype.size()).map(|label| element_f64(dtype, label));
    labels.enumerate().find(|(_, label)| !(low..=high).contains(label))
}

/// The index of the element at a row-major offset.
fn unravel(mut offset: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &dim) in index.iter_mut().zip(shape).rev() {
        *i = offset % dim.max(1);
        offset /= dim.max(1);
    }
    index
}
