//! The figures of a run as files: `metrics.jsonl`, `metrics.csv` and TensorBoard's events. All of them go on where a resumed run
//! does: what belongs to steps after its checkpoint is dropped.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::files;

use super::{
    Error,
    metrics::{Figures, StepRecord, validation_line},
    run::METRICS,
    tensorboard::EventFile,
};

/// The table beside `metrics.jsonl`.
pub const TABLE: &str = "metrics.csv";

/// The files, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    lines: Appended,
    table: Appended,
    columns: Vec<String>,
    events: EventFile,
}

impl Journal {
    /// Opens the files in `directory` at `step`. `columns` are the figures of the table, those of training steps and of
    /// validations under the same names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(directory: &Path, step: u64, columns: Vec<String>) -> Result<Journal, Error> {
        let lines = Appended::open(directory.join(METRICS), |line| step_of_json(line).is_some_and(|s| s <= step))?;
        let header = header(&columns);
        // Under another header, of a run that measures something else now, the rows before it would mean something else.
        let table = Appended::open(directory.join(TABLE), |line| {
            line == header.trim_end() || step_of_row(line).is_some_and(|s| s <= step)
        })?;
        let mut journal = Journal {
            lines,
            table,
            columns,
            events: EventFile::open(directory, step)
                .map_err(|source| Error::Io { path: directory.join(super::tensorboard::FILE), source })?,
        };
        if !journal.table.read()?.starts_with(&header) {
            journal.rewrite_table(&header)?;
        }
        Ok(journal)
    }

    /// The table anew, from the lines.
    fn rewrite_table(&mut self, header: &str) -> Result<(), Error> {
        let text = self.lines.read()?;
        let rows = text.lines().filter_map(|line| Some(row(&self.columns, &serde_json::from_str(line).ok()?)));
        let table = header.to_owned() + &rows.collect::<String>();
        replace(&self.table.path, &table)?;
        self.table = Appended::open(self.table.path.clone(), |_| true)?;
        Ok(())
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn step(&mut self, record: &StepRecord) -> Result<(), Error> {
        self.write(&record.to_json())?;
        self.event(record.step, "train", &record.named())
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn validation(&mut self, step: u64, epoch: u64, figures: &Figures) -> Result<(), Error> {
        self.write(&validation_line(step, epoch, figures))?;
        self.event(step, "validation", &figures.named())
    }

    fn write(&mut self, line: &Value) -> Result<(), Error> {
        self.lines.write(&format!("{line}\n"))?;
        self.table.write(&row(&self.columns, line))
    }

    fn event(&mut self, step: u64, group: &str, figures: &[(&str, f64)]) -> Result<(), Error> {
        let written = self.events.write(step, group, figures);
        written.map_err(|source| Error::Io { path: self.events.path().to_owned(), source })
    }
}

#[derive(Debug)]
struct Appended {
    path: PathBuf,
    file: File,
}

impl Appended {
    /// Opens a file and drops the lines that are not to be kept, and one that is not whole.
    fn open(path: PathBuf, keep: impl Fn(&str) -> bool) -> Result<Appended, Error> {
        let text = if path.exists() { read(&path)? } else { String::new() };
        let whole = text.split_inclusive('\n').filter(|line| line.strip_suffix('\n').is_some_and(&keep));
        let whole: String = whole.collect();
        if whole != text {
            replace(&path, &whole)?;
        }
        match OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => Ok(Appended { path, file }),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    fn read(&self) -> Result<String, Error> {
        read(&self.path)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.file.write_all(text.as_bytes()).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// The text of a file; an end in the middle of a character is no reason to lose the lines before it.
fn read(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file anew, whole or not at all.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    files::write(path, text.as_bytes()).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn step_of_json(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64()
}

fn step_of_row(line: &str) -> Option<u64> {
    line.split(',').next()?.parse().ok()
}

fn header(columns: &[String]) -> String {
    let names = ["step", "epoch", "set"].into_iter().chain(columns.iter().map(String::as_str));
    names.map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

/// The line of the table for one of `metrics.jsonl`; figures that it does not have stay empty.
fn row(columns: &[String], line: &Value) -> String {
    let empty = Map::new();
    let (set, figures) = match line["validation"].as_object() {
        Some(figures) => ("validation", figures),
        None => ("training", line.as_object().unwrap_or(&empty)),
    };
    let cells = columns.iter().map(|name| figures.get(name).map_or(String::new(), Value::to_string));
    let start = [line["step"].to_string(), line["epoch"].to_string(), set.to_owned()];
    start.into_iter().chain(cells).collect::<Vec<_>>().join(",") + "\n"
}

/// A name of a layer may hold a comma.
fn quoted(name: &str) -> String {
    let plain = !name.contains([',', '"', '\n', '\r']);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
