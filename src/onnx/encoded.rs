//! A message on its way into a file: what it says besides weights as bytes, the weights where they are, so that neither all
//! of its parts nor the weights need be in memory at once.

use super::proto::TensorProto;
use crate::ir::{Bytes, Tensor};
use prost::Message;
use std::io::{self, Write};

/// Fields that hold a message or bytes.
const LENGTH_DELIMITED: u64 = 2;
/// The field of a TensorProto that holds its data.
const RAW_DATA: u32 = 9;
/// Weights of fewer bytes stand among the rest.
const APART_FROM: usize = 4096;

/// An encoded message.
#[derive(Default)]
pub(super) struct Encoded {
    parts: Vec<Part>,
    len: usize,
}

enum Part {
    Said(Vec<u8>),
    Weights(Bytes),
}

impl Encoded {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds what `add` appends.
    fn say(&mut self, add: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.parts.last(), Some(Part::Said(_))) {
            self.parts.push(Part::Said(Vec::new()));
        }
        if let Some(Part::Said(bytes)) = self.parts.last_mut() {
            let before = bytes.len();
            add(bytes);
            self.len += bytes.len() - before;
        }
    }

    /// Fields of the message itself.
    pub(super) fn fields(&mut self, of: &impl Message) {
        // Appending to a growing vector does not fail.
        self.say(|bytes| {
            let _ = of.encode(bytes);
        });
    }

    fn begin(&mut self, field: u32, len: usize) {
        self.say(|bytes| {
            varint(bytes, u64::from(field) << 3 | LENGTH_DELIMITED);
            varint(bytes, len as u64);
        });
    }

    /// A field that holds a message.
    pub(super) fn message(&mut self, field: u32, message: &impl Message) {
        self.begin(field, message.encoded_len());
        self.fields(message);
    }

    /// The same, of one that is encoded.
    pub(super) fn nested(&mut self, field: u32, message: Encoded) {
        self.begin(field, message.len);
        self.append(message);
    }

    pub(super) fn append(&mut self, other: Encoded) {
        for part in other.parts {
            match part {
                Part::Said(more) => self.say(|bytes| bytes.extend_from_slice(&more)),
                Part::Weights(weights) => self.weights(weights),
            }
        }
    }

    fn weights(&mut self, weights: Bytes) {
        self.len += weights.len();
        self.parts.push(Part::Weights(weights));
    }

    /// A field that holds a tensor, as `proto` says, whose data is that of `tensor` where it is inside.
    pub(super) fn tensor(&mut self, field: u32, mut proto: TensorProto, tensor: &Tensor) {
        if tensor.bytes.len() < APART_FROM || proto.raw_data.is_none() {
            return self.message(field, &proto);
        }
        // Of what such a tensor has, its data comes last.
        proto.raw_data = None;
        let mut inner = Encoded::default();
        inner.fields(&proto);
        inner.begin(RAW_DATA, tensor.bytes.len());
        inner.weights(tensor.bytes.clone());
        self.nested(field, inner);
    }

    /// # Errors
    /// Those of writing, and of reading weights that stand in a file.
    pub(super) fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Said(bytes) => file.write_all(bytes)?,
                Part::Weights(weights) => weights.write_to(file)?,
            }
        }
        Ok(())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut all = Vec::new();
        for part in self.parts {
            match part {
                Part::Said(bytes) if all.is_empty() => all = bytes,
                Part::Said(bytes) => all.extend_from_slice(&bytes),
                Part::Weights(weights) => all.extend_from_slice(&weights),
            }
        }
        all
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;
    use crate::onnx::proto::{GraphProto, ModelProto};
    use crate::onnx::tensor;

    #[test]
    fn a_message_in_parts_is_the_message() {
        let small = Tensor::ints(&[3], &[1, -2, 300]);
        let large = Tensor::from_bytes(DType::U8, vec![5000], (0..5000).map(|k| k as u8).collect());
        let protos = || [("small", &small), ("large", &large)].map(|(name, t)| (tensor::encode(name, t), t));
        let graph = GraphProto { initializer: protos().map(|(proto, _)| proto).into(), ..GraphProto::default() };
        let whole = ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() }.encode_to_vec();

        let mut graph = Encoded::default();
        protos().into_iter().for_each(|(proto, tensor)| graph.tensor(5, proto, tensor));
        let mut model = Encoded::default();
        model.fields(&ModelProto { ir_version: Some(8), ..ModelProto::default() });
        model.nested(7, graph);
        let mut written = Vec::new();
        model.write_to(&mut written).expect("a vector");
        assert_eq!((model.len(), &written), (whole.len(), &whole));
        assert_eq!(model.into_bytes(), whole);
    }
}
