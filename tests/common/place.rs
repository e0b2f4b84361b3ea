//! The program's command lines in a directory of their own.
#![allow(dead_code)]

use std::path::Path;

use super::{fam_onnx, fixture, text};
use expect_test::Expect;

/// A directory to run in, with fixtures at short names.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new(fixtures: &[&str]) -> Place {
        let place = Place(tempfile::tempdir().expect("a directory"));
        for name in fixtures {
            let to = place.path().join(format!("{name}.onnx"));
            std::fs::copy(fixture(name).join("model.onnx"), to).expect("a copy");
        }
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs a command line: exit code, stdout, stderr.
    pub fn run(&self, line: &str) -> (i32, String, String) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = fam_onnx(&arguments).current_dir(self.path()).output().expect("the program");
        let code = output.status.code().expect("an exit code");
        (code, text(&output.stdout, self.path()), text(&output.stderr, self.path()))
    }

    /// What a command line prints, its exit code, and the files that it leaves beside those that were there.
    pub fn shows(&self, line: &str, expected: Expect) {
        let before = self.files();
        let (code, stdout, stderr) = self.run(line);
        let new: Vec<String> = self.files().into_iter().filter(|name| !before.contains(name)).collect();
        let left = if new.is_empty() { String::new() } else { format!("[left: {}]\n", new.join(", ")) };
        expected.assert_eq(&format!("{stdout}{stderr}[exit {code}]\n{left}"));
    }
}
