//! `.csv`: a header, then a line a sample; one column holds the labels, the others are the features in their order.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
};

use csv_core::{ReadFieldResult, Reader};

use super::{
    Array, Content, Error, Options, Source, Stored, has_extension,
    stored::{Bytes, Place, finish, spooled},
};
use crate::tensor::{DType, Tensor};

/// Names of the column of labels, where none is chosen.
pub(super) const LABELS: [&str; 5] = ["labels", "label", "y", "target", "class"];

/// Cells without a number that are told of at most.
const TOLD: usize = 10;

/// Bytes of a cell at most: a quotation mark that is never closed takes the rest of the file into one.
const LONGEST_CELL: usize = 1 << 16;

pub(super) fn matches(path: &Path) -> bool {
    has_extension(path, "csv")
}

pub(super) fn read(path: &Path, options: &Options) -> Result<Source, Error> {
    let bad = |why: String| Error::File { path: path.to_owned(), why };
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let mut records = Records { file: BufReader::new(file), parser: Reader::new(), newlines: 0, line: 1 };
    let header = records.next().map_err(bad)?.unwrap_or_default();
    check_header(&header).map_err(bad)?;
    let label = label_column(&header, options).map_err(bad)?;
    let table = Table::read(&mut records, &header, label).map_err(bad)?;
    let shape = vec![table.labels.len(), header.len() - usize::from(label.is_some())];
    let x = Stored {
        dtype: DType::F64,
        shape,
        big_endian: false,
        column_major: false,
        place: Place::Ready(table.features),
    };
    let array = |name: &str, stored| Array { name: name.to_owned(), content: Content::Numbers(stored), image: false };
    let mut arrays = vec![array("x", x)];
    if label.is_some() {
        arrays.push(array("y", labels(&table.labels).map_err(bad)?));
    }
    Ok(Source { header: Some(header), ..Source::new(path, arrays) })
}

fn check_header(header: &[String]) -> Result<(), String> {
    if header.is_empty() || header.iter().all(|name| name.parse::<f64>().is_ok()) {
        return Err("the first line holds no names; expected a header that names the columns".to_owned());
    }
    let mut seen = HashSet::new();
    match header.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(format!("two columns are named `{twice}`; expected different names")),
        None => Ok(()),
    }
}

fn label_column(header: &[String], options: &Options) -> Result<Option<usize>, String> {
    let position = |wanted: &str| header.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    match &options.label_column {
        None => Ok(LABELS.iter().find_map(|name| position(name))),
        Some(name) => position(name)
            .map(Some)
            .ok_or_else(|| format!("no column is named `{name}`; the columns are {}", header.join(", "))),
    }
}

/// The records of a file, with the white space around their cells left out.
struct Records {
    file: BufReader<File>,
    parser: Reader,
    newlines: u64,
    /// The line in which the last record began, counted from 1.
    line: u64,
}

fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl Records {
    fn skip_empty_lines(&mut self) -> Result<(), String> {
        loop {
            let input = self.file.fill_buf().map_err(|error| error.to_string())?;
            let ends = input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            if ends == 0 {
                return Ok(());
            }
            self.newlines += count(&input[..ends]);
            self.file.consume(ends);
        }
    }

    fn next(&mut self) -> Result<Option<Vec<String>>, String> {
        self.skip_empty_lines()?;
        self.line = self.newlines + 1;
        let (mut record, mut cell, mut out) = (Vec::new(), Vec::new(), [0; 256]);
        loop {
            let input = self.file.fill_buf().map_err(|error| error.to_string())?;
            let (result, read, written) = self.parser.read_field(input, &mut out);
            self.newlines += count(&input[..read]);
            self.file.consume(read);
            cell.extend_from_slice(&out[..written]);
            if cell.len() > LONGEST_CELL {
                return Err(format!(
                    "line {}: a cell of more than {LONGEST_CELL} bytes; is a quotation mark open?",
                    self.line
                ));
            }
            match result {
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::Field { record_end } => {
                    record.push(String::from_utf8_lossy(&cell).trim().to_owned());
                    cell.clear();
                    if record_end {
                        return Ok(Some(record));
                    }
                }
                ReadFieldResult::End => return Ok(None),
            }
        }
    }
}

struct Table {
    /// f64, a sample after the other.
    features: Bytes,
    /// One a sample; 0 where there is no such column.
    labels: Vec<f64>,
}

impl Table {
    fn read(records: &mut Records, header: &[String], label: Option<usize>) -> Result<Table, String> {
        let mut sink = spooled();
        let (mut labels, mut faults) = (Vec::new(), Vec::new());
        while faults.len() < TOLD
            && let Some(record) = records.next()?
        {
            let line = records.line;
            if record.len() != header.len() {
                faults.push(format!("line {line}: {} cells; expected {}", record.len(), header.len()));
                continue;
            }
            labels.push(0.0);
            for (column, (cell, name)) in record.iter().zip(header).enumerate() {
                let Ok(value) = cell.parse::<f64>() else {
                    faults.push(format!("line {line}, column `{name}`: `{cell}`; expected a number"));
                    continue;
                };
                match labels.last_mut() {
                    Some(target) if label == Some(column) => *target = value,
                    _ => sink.write_all(&value.to_le_bytes()).map_err(|error| error.to_string())?,
                }
            }
        }
        if !faults.is_empty() {
            return Err(format!("not a table of numbers:\n  {}", faults.join("\n  ")));
        }
        let features = finish(sink).map_err(|error| error.to_string())?;
        Ok(Table { features, labels })
    }
}

/// Whole numbers as integers, which classes are.
fn labels(values: &[f64]) -> Result<Stored, String> {
    let whole = values.iter().all(|value| value.fract() == 0.0 && value.abs() < (1u64 << 53) as f64);
    let (dtype, data): (DType, Vec<u8>) = if whole {
        (DType::I64, values.iter().flat_map(|value| (*value as i64).to_le_bytes()).collect())
    } else {
        (DType::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    Tensor::new(dtype, vec![values.len()], data).map(Stored::of).map_err(|error| error.to_string())
}
