//! The checkpoint file of ONNX Runtime's training API: a flatbuffer with the identifier `ODTC`.

use super::tables::{self, slot};
use crate::error::{Error, Result};
use crate::ir::{DType, Tensor};
use crate::onnx;
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, VerifierOptions, WIPOffset};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

const IDENTIFIER: &str = "ODTC";
/// The version of the format that is written, and that ONNX Runtime 1.19.2 writes.
const VERSION: i32 = 2;
/// Flatbuffers end at 2 GB; some room is left for what is not weights.
const INLINE_LIMIT: usize = (2 << 30) - (64 << 20);

/// Where tensors' data are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum External {
    /// Beside the checkpoint, in `NAME.data`, if they take more than 2 GB.
    Auto,
    Always,
}

/// Parameters by name, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    pub trainable: Vec<(String, Tensor)>,
    pub frozen: Vec<(String, Tensor)>,
    /// Those that are strings.
    pub properties: BTreeMap<String, String>,
    /// Steps that the optimiser has made. The first is still to come in what is written here.
    pub step: u64,
}

type Offset = WIPOffset<TableFinishedWIPOffset>;

impl Checkpoint {
    /// Writes the file and, where data are external, the one beside it; the paths of both.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, external: External) -> Result<Vec<PathBuf>> {
        let tensors = || self.trainable.iter().chain(&self.frozen);
        let size: usize = tensors().map(|(_, t)| t.bytes.len()).sum();
        if external == External::Auto && size <= INLINE_LIMIT {
            onnx::save(&self.encode(None), path)?;
            return Ok(vec![path.to_owned()]);
        }
        let data = external_path(path);
        let offsets = write_data(&data, tensors()).map_err(|source| Error::Io { path: data.clone(), source })?;
        onnx::save(&self.encode(Some(&offsets)), path)?;
        Ok(vec![path.to_owned(), data])
    }

    /// The flatbuffer; with `offsets`, one a tensor, the data stand in another file.
    fn encode(&self, offsets: Option<&[u64]>) -> Vec<u8> {
        let mut b = FlatBufferBuilder::new();
        let (first, rest) = offsets.map_or((None, None), |o| {
            let (first, rest) = o.split_at(self.trainable.len().min(o.len()));
            (Some(first), Some(rest))
        });
        let trainable = tensors(&mut b, &self.trainable, first);
        let frozen = tensors(&mut b, &self.frozen, rest);
        let start = b.start_table();
        b.push_slot_always(slot(0), trainable);
        b.push_slot_always(slot(1), frozen);
        b.push_slot(slot(2), false, false);
        b.push_slot(slot(3), offsets.is_some(), false);
        let module = b.end_table(start);
        let properties = property_bag(&mut b, &self.properties);
        let start = b.start_table();
        b.push_slot_always(slot(0), VERSION);
        b.push_slot_always(slot(1), module);
        b.push_slot_always(slot(3), properties);
        let root = b.end_table(start);
        b.finish(root, Some(IDENTIFIER));
        b.finished_data().to_vec()
    }

    /// Reads a checkpoint, the parameters of it and not the optimiser's state.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] where the file is none, is damaged, or holds no values.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let map = map(path)?;
        let fault = |why: String| Error::Checkpoint { path: path.to_owned(), why };
        if map.len() < 8 || !flatbuffers::buffer_has_identifier(&map, IDENTIFIER, false) {
            return Err(fault(format!(
                "it does not begin as a checkpoint of ONNX Runtime's training API does (\"{IDENTIFIER}\")"
            )));
        }
        let options = VerifierOptions { max_apparent_size: usize::MAX, ..VerifierOptions::default() };
        let root = flatbuffers::root_with_opts::<tables::Checkpoint>(&options, &map)
            .map_err(|error| fault(format!("damaged: {}", error.to_string().trim_end())))?;
        let version = root.version().unwrap_or(0);
        if version > VERSION {
            return Err(fault(format!("version {version} of the format; expected {VERSION} or before")));
        }
        let state = root.module_state().ok_or_else(|| fault("it holds no parameters".to_owned()))?;
        if state.is_nominal_state() == Some(true) {
            return Err(fault("it is nominal: names without values".to_owned()));
        }
        let data = match state.has_external_data() {
            Some(true) => Some(self::map(&external_path(path))?),
            _ => None,
        };
        let decode = |list: Option<flatbuffers::Vector<'_, ForwardsUOffset<tables::Tensor<'_>>>>| {
            list.into_iter().flatten().map(|t| decode(&t, data.as_deref())).collect::<Result<Vec<_>, String>>()
        };
        let strings = root.property_bag().and_then(|bag| bag.strings()).into_iter().flatten();
        let groups = root.optimizer_groups().into_iter().flatten();
        Ok(Checkpoint {
            trainable: decode(state.requires_grad_params()).map_err(fault)?,
            frozen: decode(state.frozen_params()).map_err(fault)?,
            properties: strings.filter_map(|p| Some((p.name()?.to_owned(), p.value()?.to_owned()))).collect(),
            step: groups.filter_map(|g| g.step()).max().map_or(0, |step| step.max(0) as u64),
        })
    }
}

/// The file that holds the data of a checkpoint whose data are external.
fn external_path(checkpoint: &Path) -> PathBuf {
    let mut name = checkpoint.file_name().unwrap_or_default().to_os_string();
    name.push(".data");
    checkpoint.with_file_name(name)
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap> {
    let fault = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(fault)?;
    // SAFETY: as with any mapped file, nothing may change it while it is read.
    unsafe { Mmap::map(&file) }.map_err(fault)
}

/// Writes the tensors' bytes one behind the other; where each begins.
fn write_data<'t>(path: &Path, tensors: impl Iterator<Item = &'t (String, Tensor)>) -> std::io::Result<Vec<u64>> {
    const ALIGNMENT: u64 = 8;
    let mut file = File::create(path)?;
    let mut offsets = Vec::new();
    for (_, tensor) in tensors {
        let at = file.stream_position()?;
        let offset = at.next_multiple_of(ALIGNMENT);
        file.write_all(&vec![0; (offset - at) as usize])?;
        tensor.bytes.write_to(&mut file)?;
        offsets.push(offset);
    }
    file.sync_all()?;
    Ok(offsets)
}

fn tensors<'f>(
    b: &mut FlatBufferBuilder<'f>,
    named: &[(String, Tensor)],
    offsets: Option<&[u64]>,
) -> WIPOffset<flatbuffers::Vector<'f, ForwardsUOffset<TableFinishedWIPOffset>>> {
    let at = |i: usize| offsets.map(|o| o.get(i).copied().unwrap_or_default());
    let tables: Vec<Offset> = named.iter().enumerate().map(|(i, (name, t))| tensor(b, name, t, at(i))).collect();
    b.create_vector(&tables)
}

fn tensor(b: &mut FlatBufferBuilder<'_>, name: &str, tensor: &Tensor, external: Option<u64>) -> Offset {
    let name = b.create_string(name);
    let dims: Vec<i64> = tensor.shape.iter().map(|&n| n as i64).collect();
    let dims = b.create_vector(&dims);
    let data = external.is_none().then(|| b.create_vector::<u8>(&tensor.bytes));
    let start = b.start_table();
    b.push_slot_always(slot(0), name);
    b.push_slot_always(slot(2), dims);
    b.push_slot_always(slot(3), tensor.dtype.code());
    if let Some(data) = data {
        b.push_slot_always(slot(4), data);
    }
    // What ONNX Runtime takes for "inside" is −1, the schema's default.
    b.push_slot(slot(6), external.map_or(-1, |at| at as i64), -1);
    b.end_table(start)
}

fn property_bag(b: &mut FlatBufferBuilder<'_>, properties: &BTreeMap<String, String>) -> Offset {
    let mut property = |(name, value): (&String, &String)| {
        let (name, value) = (b.create_string(name), b.create_string(value));
        let start = b.start_table();
        b.push_slot_always(slot(0), name);
        b.push_slot_always(slot(1), value);
        b.end_table(start)
    };
    let strings: Vec<Offset> = properties.iter().map(&mut property).collect();
    let none: [Offset; 0] = [];
    let (ints, floats, strings) = (b.create_vector(&none), b.create_vector(&none), b.create_vector(&strings));
    let start = b.start_table();
    b.push_slot_always(slot(0), ints);
    b.push_slot_always(slot(1), floats);
    b.push_slot_always(slot(2), strings);
    b.end_table(start)
}

/// Name and value, checked against each other; else why not.
fn decode(table: &tables::Tensor, external: Option<&[u8]>) -> Result<(String, Tensor), String> {
    let name = table.name().ok_or("a tensor has no name")?.to_owned();
    let code = table.data_type().unwrap_or_default();
    let dtype = DType::from_code(code).filter(|d| *d != DType::Str);
    let dtype = dtype.ok_or_else(|| format!("tensor {name:?} has the element type {code}; expected a number"))?;
    let shape: Option<Vec<usize>> = table.dims().into_iter().flatten().map(|d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(|| format!("tensor {name:?} has a negative dimension"))?;
    let expected = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    let expected = expected.ok_or_else(|| format!("tensor {name:?} has the impossible shape {shape:?}"))?;
    let bytes = match external {
        None => table.raw_data().map_or(&[][..], |data| data.bytes()),
        Some(data) => {
            let from = table.external_data_offset().and_then(|at| usize::try_from(at).ok());
            let range = from.and_then(|from| data.get(from..from.checked_add(expected)?));
            range.ok_or_else(|| format!("the data of tensor {name:?} reach beyond the data file"))?
        }
    };
    if bytes.len() != expected {
        return Err(format!("tensor {name:?} takes {expected} bytes, not {}", bytes.len()));
    }
    Ok((name, Tensor::from_bytes(dtype, shape, bytes.to_vec())))
}
