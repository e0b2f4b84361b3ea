//! Several processes that fill one cache with a runtime.

use crate::common::{fam_onnx, ort};
use crate::record::row;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A Python that has no packages, and whose `pip download` copies a wheel.
fn python(place: &Path, wheel: &Path) -> PathBuf {
    let bin = place.join("bin");
    fs::create_dir(&bin).expect("a directory");
    let script = format!(
        "#!/bin/bash\nwhile [ $# -gt 0 ]; do\n  if [ \"$1\" = --dest ]; then exec cp '{}' \"$2/\"; fi\n  shift\ndone\n",
        wheel.display()
    );
    for name in ["python3", "python"] {
        fs::write(bin.join(name), &script).expect("a script");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    bin
}

fn wheel(place: &Path, library: &[u8]) -> PathBuf {
    let path = place.join("onnxruntime-1.99.0-cp312-none-any.whl");
    let mut archive = ZipWriter::new(fs::File::create(&path).expect("a wheel"));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [
        ("onnxruntime/capi/libonnxruntime.so.1.99.0", library),
        ("onnxruntime/capi/../../../libonnxruntime_providers_shared.so", b"elsewhere"),
        ("onnxruntime/__init__.py", b"code"),
    ] {
        archive.start_file(name, options).expect("an entry");
        archive.write_all(bytes).expect("bytes");
    }
    archive.finish().expect("an archive");
    path
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn one_cache() {
    let place = tempfile::tempdir().expect("a directory");
    let library = fs::read(ort()).expect("a library");
    let bin = python(place.path(), &wheel(place.path(), &library));
    let install = |cache: &Path| {
        let mut command: Command = fam_onnx(&["runtime", "install"]);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        command.env("XDG_CACHE_HOME", cache).env("PATH", path).env_remove("ORT_DYLIB_PATH");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("a process")
    };
    let mut cases = 0;
    for round in 0..6u64 {
        let root = place.path().join(format!("cache-{round}"));
        let cache = root.join("fam-onnx");
        let mut processes: Vec<_> = (0..3).map(|_| install(&root)).collect();
        let killed = round % 2 == 1;
        if killed {
            std::thread::sleep(Duration::from_millis(40 * round));
            let mut one = processes.remove(0);
            let _ = one.kill();
            one.wait().expect("an end");
            cases += 1;
        }
        for process in processes {
            let output = process.wait_with_output().expect("an end");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            cases += 1;
        }
        let target = cache.join("onnxruntime-1.99.0");
        let shown: Vec<String> = names(&cache).into_iter().filter(|name| !(killed && name.starts_with('.'))).collect();
        assert_eq!(shown, ["onnxruntime-1.99.0"]);
        let held = names(&target);
        assert_eq!(held, ["libonnxruntime.so.1.99.0"]);
        assert!(fs::read(target.join(&held[0])).expect("a library") == library);
        fs::remove_dir_all(root).expect("removed");
    }
    assert!(names(place.path()).iter().all(|name| !name.starts_with("libonnxruntime")));
    row(
        "three processes that fill one cache with a runtime, some of them killed",
        cases,
        "one whole copy, which all that live use",
    );
}
