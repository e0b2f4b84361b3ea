use std::{fs, io, path::PathBuf};

use clap::Args;

use super::{Error, Output, Result, definition};
use crate::files;

/// Print the manual page, or write one for each command
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx man | man -l -
  fam-onnx man -o ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Write fam-onnx.1 and a page for each command into this directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Man {
    pub fn run(self, output: &Output) -> Result<()> {
        let mut command = definition();
        command.build();
        let Some(directory) = self.output else {
            let page = page(command).map_err(Error::Stdout)?;
            return output.print(&String::from_utf8_lossy(&page));
        };
        fs::create_dir_all(&directory).map_err(|source| Error::Io { path: directory.clone(), source })?;
        let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned();
        for command in subcommands.chain([command.clone()]) {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let path = directory.join(format!("{name}.1"));
            page(command).and_then(|page| files::write(&path, &page)).map_err(|source| Error::Io { path, source })?;
        }
        Ok(())
    }
}

fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}
