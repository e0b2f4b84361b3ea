//! `train --lambda-sweep`.

use std::path::Path;

use super::table::table;
use super::{Error, Output, Result, interrupt, progress};
use crate::runtime::Runtime;
use crate::train::sweep::{Measured, Sweep, TITLES, cells_of, document, rows};

/// Runs what is left of a sweep and prints its table.
pub(super) fn run(runtime: &Runtime, sweep: &Sweep, output: &Output) -> Result<()> {
    let cells = sweep.cells().len();
    output.say(&format!("{cells} runs in {}", sweep.directory.display()));
    let stop = interrupt::catch(output);
    let quiet = Output { quiet: true, ..*output };
    let mut bar = progress::Progress::new(if output.verbose { output } else { &quiet });
    let mut done = 0;
    let all = sweep.run(runtime, stop, &mut |_, _, event| bar.show(event), &mut |measured| {
        done += 1;
        output.say(&line(measured, done, cells));
    });
    bar.finish();
    match all? {
        Some(all) => {
            let rows = rows(&all);
            output.result(&summary(&sweep.directory, &rows), || document(&sweep.directory, &all, &rows))
        }
        None => Err(Error::SweepInterrupted { done, cells, sweep: sweep.directory.clone() }),
    }
}

fn line(measured: &Measured, done: usize, cells: usize) -> String {
    let Measured { lambda, seed, step, loss, kappa, accuracy } = measured;
    let kappa = kappa.map_or(String::new(), |k| format!("  kappa {k:.4}"));
    let accuracy = accuracy.map_or(String::new(), |a| format!("  accuracy {a:.4}"));
    format!("{done}/{cells}  λ {lambda}  seed {seed}  step {step}  loss {loss:.4}{kappa}{accuracy}")
}

fn summary(directory: &Path, rows: &[crate::train::sweep::Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells_of(row).to_vec()).collect();
    format!(
        "{}\nmean ± standard deviation over the seeds, on the validation data\nplot         {}\nfigures      {}\n",
        table(&TITLES, &cells),
        directory.join("sweep.svg").display(),
        directory.join("sweep.json").display()
    )
}
