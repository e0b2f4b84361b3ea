//! TensorBoard's event files: records of a length, its checksum, a protobuf message and its checksum.
//!
//! The format: `tensorflow/core/lib/io/record_writer.h` and `tensorflow/core/util/event.proto`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

/// The name that TensorBoard looks for begins so; the number orders the files of a run, which has one.
pub const FILE: &str = "events.out.tfevents.0.fam-onnx";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// Of the first event only.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An event file, open for appending.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens the file in `directory` and drops the events after `step`, as well as what an end in the middle of a record left.
    pub fn open(directory: &Path, step: u64) -> io::Result<EventFile> {
        let path = directory.join(FILE);
        let kept = if path.exists() { kept(&fs::read(&path)?, step) } else { 0 };
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.set_len(kept as u64)?;
        let mut events = EventFile { path, file };
        if kept == 0 {
            let file_version = Some("brain.Event:2".to_owned());
            events.append(&Event { wall_time: now(), step: 0, file_version, summary: None })?;
        }
        Ok(events)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends figures by their tags, `GROUP/NAME`.
    pub fn write(&mut self, step: u64, group: &str, figures: &[(&str, f64)]) -> io::Result<()> {
        let value = figures
            .iter()
            .map(|(name, value)| Scalar { tag: format!("{group}/{name}"), simple_value: *value as f32 })
            .collect();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.append(&Event { wall_time: now(), step, file_version: None, summary: Some(Summary { value }) })
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&message);
        record.extend(masked_crc(&message).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// CRC-32C, rotated and shifted so that the checksum of data that hold checksums stays a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Length of the whole records at the beginning whose step is at most `step`.
fn kept(bytes: &[u8], step: u64) -> usize {
    let mut kept = 0;
    while let Some((record, event)) = first(&bytes[kept..]) {
        if u64::try_from(event.step).is_ok_and(|found| found > step) {
            break;
        }
        kept += record;
    }
    kept
}

/// The first record, if it is whole and sound: its length, and what it says.
fn first(bytes: &[u8]) -> Option<(usize, Event)> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (length_crc, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (message, rest) = rest.split_at_checked(size)?;
    let crc = rest.first_chunk::<4>()?;
    let sound =
        u32::from_le_bytes(*length_crc) == masked_crc(length) && u32::from_le_bytes(*crc) == masked_crc(message);
    sound.then(|| Event::decode(message).ok()).flatten().map(|event| (size + 16, event))
}
