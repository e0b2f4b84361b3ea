//! What the graph takes, read from the manifest and from the session's own description of it.

use crate::{
    artifact::manifest::Manifest,
    runtime::{Port, Session},
    tensor::DType,
};

use super::Role;
use crate::train::Error;

/// What data must provide.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The model's inputs, then the labels.
    pub slots: Vec<Slot>,
    /// Number of classes, where the labels are class indices.
    pub classes: Option<usize>,
    /// A label that the loss leaves out.
    pub ignore_index: Option<i64>,
    /// The least and the largest label, where the loss has a meaning between them only.
    pub label_range: Option<[f64; 2]>,
    /// The batch size, where the graph fixes it.
    pub batch: Option<usize>,
}

/// One input that data fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub role: Role,
    pub dtype: DType,
    /// Shape of one sample; `None` where any size will do.
    pub shape: Vec<Option<usize>>,
}

impl Spec {
    /// From the inputs of `evaluate.onnx`; those the graph does not read are left out.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the graph lacks an output that the manifest names; [`Error::BatchAxis`] for an input without a
    /// first axis.
    pub fn of(manifest: &Manifest, evaluate: &Session) -> Result<Spec, Error> {
        let inputs = manifest.inputs.iter().map(|name| (name, Role::Input));
        let labels = manifest.labels.iter().map(|name| (name, Role::Labels));
        let mut slots = Vec::new();
        let mut batch = None;
        for (name, role) in inputs.chain(labels) {
            let Some(port) = evaluate.inputs().iter().find(|port| &port.name == name) else {
                continue;
            };
            let (slot, fixed) = slot(port, role)?;
            batch = batch.or(fixed);
            slots.push(slot);
        }
        let labels = manifest.label_spec.as_ref();
        let classes = match labels {
            Some(labels) => labels.classes,
            None => classes(manifest, evaluate, &slots)?,
        };
        let ignore_index = labels.and_then(|labels| labels.ignore_index);
        let label_range = labels.and_then(|labels| labels.range);
        Ok(Spec { slots, classes, ignore_index, label_range, batch })
    }

    pub fn labels(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.role == Role::Labels)
    }
}

fn slot(port: &Port, role: Role) -> Result<(Slot, Option<usize>), Error> {
    let refused = || Error::BatchAxis { input: port.name.clone(), found: port.describe() };
    let dtype = port.dtype.ok_or_else(refused)?;
    let (batch, shape) = port.shape.split_first().ok_or_else(refused)?;
    Ok((Slot { name: port.name.clone(), role, dtype, shape: shape.to_vec() }, *batch))
}

/// Integer labels of a classification loss count along axis 1 of the first prediction.
fn classes(manifest: &Manifest, evaluate: &Session, slots: &[Slot]) -> Result<Option<usize>, Error> {
    let integer = slots.iter().any(|slot| slot.role == Role::Labels && slot.dtype.is_int());
    if !integer || !["softmax-cross-entropy", "nll"].contains(&manifest.loss.as_str()) {
        return Ok(None);
    }
    match manifest.graphs.evaluate.predictions.first() {
        Some(name) => Ok(evaluate.output(name)?.shape.get(1).copied().flatten()),
        None => Ok(None),
    }
}
