//! A model's inputs and outputs, without its graph.

use super::dims::Symbols;
use super::fault::NotOnnx;
use super::proto::{ModelProto, ValueInfoProto};
use super::{read, types};
use crate::error::{Error, Result};
use crate::ir::Fact;
use prost::Message;
use std::collections::HashSet;
use std::path::Path;

/// What goes into a model and comes out; `None` where the file does not say what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Name, type, and whether the input has a default.
    pub inputs: Vec<(String, Option<Fact>, bool)>,
    pub outputs: Vec<(String, Option<Fact>)>,
}

/// The signature of a model file.
///
/// # Errors
/// [`Error::Io`], [`Error::NotOnnx`]; [`Error::InvalidModel`] for types that are none.
pub fn signature(path: &Path) -> Result<Signature> {
    let file = || path.display().to_string();
    let reason = |e: prost::DecodeError| NotOnnx::Protobuf { reason: e.to_string() };
    let model = ModelProto::decode(read::file_bytes(path)?.bytes);
    let model = model.map_err(|e| Error::NotOnnx { file: file(), reason: reason(e) })?;
    let graph = model.graph.ok_or_else(|| Error::NotOnnx { file: file(), reason: NotOnnx::NoGraph })?;
    let symbols = Symbols::of(&graph.input);
    let mut faults = Vec::new();
    let mut fact = |info: &ValueInfoProto| {
        let made_up = |axis| format!("?{}.{axis}", info.name());
        types::fact(info, &symbols, made_up).unwrap_or_else(|fault| {
            faults.push(fault);
            None
        })
    };
    let defaults: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let inputs = graph.input.iter().map(|i| (i.name().to_string(), fact(i), defaults.contains(i.name()))).collect();
    let outputs = graph.output.iter().map(|o| (o.name().to_string(), fact(o))).collect();
    if faults.is_empty() {
        Ok(Signature { inputs, outputs })
    } else {
        Err(Error::InvalidModel { file: file(), faults })
    }
}
