//! Arrays bound to the graph's inputs: every check that needs the data, and the types that the graph takes.

use half::{bf16, f16};

use super::{Array, Content, Error, Fault, Role, Slot, Source, Spec};
use crate::tensor::{DType, Tensor, element_f64, element_i64, elements};

/// Samples for every input that data fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    columns: Vec<Column>,
    samples: usize,
}

/// The samples of one input, first axis = samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The graph input.
    pub name: String,
    pub role: Role,
    pub tensor: Tensor,
}

impl Column {
    /// Shape of a batch of `samples`.
    pub fn batch_shape(&self, samples: usize) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        shape[0] = samples;
        shape
    }

    /// Copies the samples with these indices into `out`, one after another.
    pub fn gather(&self, indices: &[usize], out: &mut [u8]) {
        let row = self.tensor.data().len() / self.tensor.shape()[0].max(1);
        if row == 0 {
            return;
        }
        for (&index, target) in indices.iter().zip(out.chunks_exact_mut(row)) {
            target.copy_from_slice(&self.tensor.data()[index * row..(index + 1) * row]);
        }
    }
}

impl Dataset {
    /// Binds the main part of `source`.
    ///
    /// # Errors
    /// [`Error::Faults`] with every fault of every array.
    pub fn new(source: &mut Source, spec: &Spec) -> Result<Dataset, Error> {
        let arrays = std::mem::take(&mut source.arrays);
        bind(arrays, spec).map_err(|faults| Error::Faults { path: source.path.clone(), faults })
    }

    /// Binds the part of `source` that the format sets apart for evaluation, if there is one.
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn held_out(source: &mut Source, spec: &Spec) -> Result<Option<Dataset>, Error> {
        source
            .held_out
            .take()
            .map(|arrays| bind(arrays, spec).map_err(|faults| Error::Faults { path: source.path.clone(), faults }))
            .transpose()
    }

    pub fn samples(&self) -> usize {
        self.samples
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}

fn bind(arrays: Vec<Array>, spec: &Spec) -> Result<Dataset, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut lengths: Vec<(String, usize)> = Vec::new();
    let mut columns = Vec::new();
    let names: Vec<String> = arrays.iter().map(|array| array.name.clone()).collect();
    let mut arrays: Vec<Option<Array>> = arrays.into_iter().map(Some).collect();
    for slot in &spec.slots {
        let fallbacks = fallbacks(slot, spec);
        let Some(array) = std::iter::once(&slot.name).chain(&fallbacks).find_map(|name| take(&mut arrays, name)) else {
            faults.push(Fault::Missing { role: slot.role, name: slot.name.clone(), fallbacks, found: names.clone() });
            continue;
        };
        let name = array.name.clone();
        if let Some(tensor) = bind_one(array, slot, spec, &mut faults) {
            lengths.push((name, tensor.shape()[0]));
            columns.push(Column { name: slot.name.clone(), role: slot.role, tensor });
        }
    }
    check_lengths(&lengths, &mut faults);
    match lengths.first() {
        Some((_, samples)) if faults.is_empty() => Ok(Dataset { columns, samples: *samples }),
        _ => Err(faults),
    }
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

fn check_lengths(lengths: &[(String, usize)], faults: &mut Vec<Fault>) {
    let Some((other, expected)) = lengths.first() else {
        return;
    };
    for (array, found) in &lengths[1..] {
        if found != expected {
            faults.push(Fault::Length {
                array: array.clone(),
                found: *found,
                other: other.clone(),
                expected: *expected,
            });
        }
    }
}

/// Checks and converts one array. Every fault goes to the list; a tensor comes back wherever its length can be known.
fn bind_one(array: Array, slot: &Slot, spec: &Spec, faults: &mut Vec<Fault>) -> Option<Tensor> {
    let Array { name: array, content, image } = array;
    let tensor = match content {
        Content::Tensor(tensor) => tensor,
        Content::Unsupported(found) => {
            faults.push(Fault::Unsupported { array, found, expected: slot.dtype });
            return None;
        }
    };
    let Some((&samples, sample)) = tensor.shape().split_first() else {
        faults.push(Fault::Scalar { array });
        return None;
    };
    if samples == 0 {
        faults.push(Fault::Empty { array });
        return None;
    }
    let fitted = fit(sample, &slot.shape);
    if fitted.is_none() {
        faults.push(Fault::Shape { array: array.clone(), found: sample.to_vec(), expected: slot.shape.clone() });
    }
    let original = tensor.shape().to_vec();
    let tensor = match convert(&array, tensor, slot.dtype, image) {
        Ok(tensor) => tensor,
        Err(fault) => {
            faults.push(fault);
            return Some(Tensor::zeros(DType::Bool, vec![samples]));
        }
    };
    if slot.role == Role::Labels
        && let Some(classes) = spec.classes
        && let Some(fault) = outside(&array, &tensor, classes, spec.ignore_index)
    {
        faults.push(fault);
    }
    if slot.role == Role::Labels
        && let Some(range) = spec.label_range
        && let Some(fault) = out_of_range(&array, &tensor, range)
    {
        faults.push(fault);
    }
    let shape = fitted.map_or(original, |sample| std::iter::once(samples).chain(sample).collect());
    tensor.reshape(shape).ok()
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

/// Converts to the type that the graph takes: any number to a float, whole numbers and `bool` to an integer.
fn convert(array: &str, tensor: Tensor, to: DType, image: bool) -> Result<Tensor, Fault> {
    let from = tensor.dtype();
    if from.is_float()
        && let Some((at, found)) = tensor.iter_f64().enumerate().find(|(_, value)| !value.is_finite())
    {
        return Err(Fault::NotFinite { array: array.to_owned(), index: unravel(at, tensor.shape()), found });
    }
    if from == to {
        return Ok(tensor);
    }
    let convertible = to.is_float() || (to.is_int() && !from.is_float());
    if !convertible {
        return Err(Fault::Type { array: array.to_owned(), found: from, expected: to });
    }
    let scale = if image { 1.0 / 255.0 } else { 1.0 };
    let mut data = Vec::with_capacity(tensor.len() * to.size());
    for (at, bytes) in tensor.data().chunks_exact(from.size()).enumerate() {
        let stored = if to.is_float() {
            push_float(&mut data, to, element_f64(from, bytes) * scale)
        } else {
            push_integer(&mut data, to, integer(from, bytes))
        };
        if !stored {
            let found = if from.is_float() {
                format!("{:?}", element_f64(from, bytes))
            } else {
                integer(from, bytes).to_string()
            };
            let index = unravel(at, tensor.shape());
            return Err(Fault::Overflow { array: array.to_owned(), index, found, expected: to });
        }
    }
    let shape = tensor.shape().to_vec();
    Tensor::new(to, shape, data).map_err(|_| Fault::Type { array: array.to_owned(), found: from, expected: to })
}

fn integer(dtype: DType, bytes: &[u8]) -> i128 {
    match (dtype, bytes.first_chunk::<8>()) {
        (DType::U64, Some(bytes)) => u64::from_le_bytes(*bytes).into(),
        _ => element_i64(dtype, bytes).into(),
    }
}

/// Appends a finite number; false if it becomes infinite in the type.
fn push_float(data: &mut Vec<u8>, dtype: DType, value: f64) -> bool {
    match dtype {
        DType::F16 => data.extend(f16::from_f64(value).to_le_bytes()),
        DType::BF16 => data.extend(bf16::from_f64(value).to_le_bytes()),
        DType::F32 => data.extend((value as f32).to_le_bytes()),
        _ => data.extend(value.to_le_bytes()),
    }
    let stored = &data[data.len() - dtype.size()..];
    element_f64(dtype, stored).is_finite()
}

/// Appends a whole number; false if the type cannot hold it.
fn push_integer(data: &mut Vec<u8>, dtype: DType, value: i128) -> bool {
    let (low, high) = dtype.int_range().unwrap_or((0, 1));
    data.extend(&value.to_le_bytes()[..dtype.size()]);
    (low..=high).contains(&value)
}

/// The first label that is no class.
fn outside(array: &str, labels: &Tensor, classes: usize, ignore_index: Option<i64>) -> Option<Fault> {
    let valid = |label: i64| usize::try_from(label).is_ok_and(|l| l < classes) || Some(label) == ignore_index;
    labels.iter_i64().enumerate().find(|(_, label)| !valid(*label)).map(|(at, found)| Fault::Label {
        array: array.to_owned(),
        index: unravel(at, labels.shape()),
        found,
        classes,
        ignore_index,
    })
}

/// The first label outside the bounds.
fn out_of_range(array: &str, labels: &Tensor, [low, high]: [f64; 2]) -> Option<Fault> {
    let outside = |value: &f64| !(low..=high).contains(value);
    let (at, found) = labels.iter_f64().enumerate().find(|(_, value)| outside(value))?;
    Some(Fault::LabelRange { array: array.to_owned(), index: unravel(at, labels.shape()), found, low, high })
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
