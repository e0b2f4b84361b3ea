//! ImageDecoder: bytes of a file to bytes of an image.

use super::{Fault, Op, Tangent};
use crate::ir::{DType, Dim, Fact};

pub static IMAGE_DECODER: Op = Op {
    name: "ImageDecoder",
    facts: |c| {
        c.input(0)?;
        let channels = if c.attrs.str("pixel_format") == Some("Grayscale") { 1 } else { 3 };
        Ok(vec![Fact::new(DType::U8, [c.unknown(0), c.unknown(1), Dim::Fixed(channels)])])
    },
    tangent: Tangent::Zero,
    eval: |_| Err(Fault::Unsupported { what: "image files are not decoded here".into() }),
    cases: Vec::new,
};
