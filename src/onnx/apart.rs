//! tract in a process of its own. It computes with constants of the file, so that a file can make it take all memory, run
//! for ever, or abort; then only that process ends, and less is known of the model.

use super::dims::Symbols;
use super::facts::{self, Declared};
use crate::ir::{DType, Dim, Fact};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long shapes are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that it can have to say.
const LONGEST: u64 = 64 << 20;
/// The argument that makes the program do nothing but this.
pub const ARGUMENT: &str = "infer-shapes-apart";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From here on `program ARGUMENT [FOLDER]`, which calls [`answer`], is asked instead of this process.
pub fn infer_apart(program: PathBuf) {
    // The first one stays.
    let _ = PROGRAM.set(program);
}

pub(super) fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

/// Reads a model from stdin and prints what is inferred: `{"NAME": [TYPE, "DIM", …], …}`.
pub fn answer(dir: Option<&Path>) {
    let mut bytes = Vec::new();
    if std::io::stdin().lock().read_to_end(&mut bytes).is_err() {
        return;
    }
    let found = facts::infer(&bytes, dir, &Symbols::default()).unwrap_or_default();
    let said = found.iter().filter_map(|(name, fact)| {
        let dims = fact.shape.as_ref()?.iter().map(|dim| json!(dim.to_string()));
        Some((name.clone(), [json!(fact.dtype.code())].into_iter().chain(dims).collect::<Value>()))
    });
    // Whoever does not wait for the answer does without it.
    let _ = writeln!(std::io::stdout(), "{}", said.collect::<serde_json::Map<_, _>>().into_iter().collect::<Value>());
}

pub(super) fn ask(program: &Path, bytes: &[u8], dir: Option<&Path>, symbols: &Symbols) -> Option<Declared> {
    let mut child = Command::new(program)
        .arg(ARGUMENT)
        .args(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
    let mut text = String::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A process that has ended reads no more.
            let _ = stdin.write_all(bytes);
        });
        let reader = scope.spawn(|| stdout.take(LONGEST).read_to_string(&mut text));
        let start = Instant::now();
        while child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = reader.join();
    });
    let said: serde_json::Map<String, Value> = serde_json::from_str(&text).ok()?;
    Some(said.iter().filter_map(|(name, value)| Some((name.clone(), fact(value, symbols)?))).collect())
}

fn fact(value: &Value, symbols: &Symbols) -> Option<Fact> {
    let [code, dims @ ..] = value.as_array()?.as_slice() else { return None };
    let dtype = DType::from_code(i32::try_from(code.as_i64()?).ok()?)?;
    let dim = |dim: &Value| {
        let text = dim.as_str()?;
        Some(text.parse().map_or_else(|_| symbols.dim(text), Dim::Fixed))
    };
    Some(Fact::new(dtype, dims.iter().map(dim).collect::<Option<Vec<_>>>()?)).filter(Fact::is_possible)
}
