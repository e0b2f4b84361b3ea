//! What goes to stdout and what to stderr.

use std::io::{IsTerminal, Write};

use anstream::ColorChoice;
use clap::builder::styling::{AnsiColor, Style};

use super::{Common, Error, Result};
use crate::shown;

/// How much is printed, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub quiet: bool,
    pub verbose: bool,
    pub json: bool,
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

impl Output {
    pub fn new(common: &Common) -> Output {
        match common.color {
            clap::ColorChoice::Auto => ColorChoice::Auto,
            clap::ColorChoice::Always => ColorChoice::Always,
            clap::ColorChoice::Never => ColorChoice::Never,
        }
        .write_global();
        Output { quiet: common.quiet, verbose: common.verbose, json: common.json }
    }

    /// A line for people, on stderr.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            to_stderr(&shown::short_lines(text));
        }
    }

    /// As [`Output::say`], with `--verbose` only.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            to_stderr(&shown::short_lines(text));
        }
    }

    /// The result: `text` for people or, with `--json`, the document.
    pub fn result(&self, text: &str, json: impl FnOnce() -> serde_json::Value) -> Result<()> {
        if self.json { self.print(&format!("{}\n", shown::json(&json()))) } else { self.print(&shown::lines(text)) }
    }

    /// Text on stdout, as it is.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut stdout = anstream::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Stdout)
    }

    /// Whether a progress bar is wanted and can be drawn.
    pub fn draws(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// If stderr is gone there is nowhere to complain.
fn to_stderr(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// An error and what the command line offers against it. Names out of files pass, terminal commands in them do not.
pub(super) fn report(error: &str, hint: Option<&str>) {
    to_stderr(&format!("{ERROR}error:{ERROR:#} {}", shown::short_lines(error)));
    if let Some(hint) = hint {
        to_stderr(&format!("{HINT}hint:{HINT:#} {}", shown::short_lines(hint)));
    }
}
