//! The table in `docs/hostile.md`: every test of a class checks its own row, and writes it under `UPDATE_EXPECT=1`.

use std::fs::{self, File};
use std::path::Path;

/// Compares the row of `class` with what the test has seen.
#[track_caller]
pub fn row(class: &str, cases: usize, outcome: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/hostile.md");
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile.lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let text = fs::read_to_string(&path).expect("docs/hostile.md");
    let expected = format!("| {class} | {cases} | {outcome} |");
    let start = format!("| {class} |");
    if text.lines().any(|line| line == expected) {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_none() {
        let found = text.lines().find(|line| line.starts_with(&start)).unwrap_or("no row");
        panic!("docs/hostile.md has\n  {found}\nand the test saw\n  {expected}\nrun it with UPDATE_EXPECT=1");
    }
    let (head, rows): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !is_row(line));
    let others = rows.into_iter().filter(|line| !line.starts_with(&start));
    let mut rows: Vec<&str> = others.chain([expected.as_str()]).collect();
    rows.sort_unstable();
    let mut new = String::new();
    for line in head {
        new.push_str(&format!("{line}\n"));
        if line == "|---|---:|---|" {
            rows.iter().for_each(|row| new.push_str(&format!("{row}\n")));
        }
    }
    fs::write(&path, new).expect("docs/hostile.md");
}

/// Of the table of classes, which is the one with a number in its second column.
fn is_row(line: &str) -> bool {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    cells.len() == 5 && cells[2].parse::<usize>().is_ok()
}
