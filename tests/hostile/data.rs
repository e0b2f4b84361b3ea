//! Data files: cut short, changed, or with sizes that lie. All of it happens in a process with little memory.

use crate::common::npz;
use crate::place::bounded_with;
use crate::record::row;
use fam_onnx::tensor::DType;
use fam_onnx::train::data::{self, Dataset, Options, Role, Slot, Spec};
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const WORKER: &str = "HOSTILE_DATA";

/// What reading gives, for a model of inputs `float[4]` (or images) and three classes.
fn read(path: &Path, shape: &[usize]) -> Result<usize, String> {
    let slot = |name: &str, role, dtype, shape: &[usize]| Slot {
        name: name.to_owned(),
        role,
        dtype,
        shape: shape.iter().map(|&d| Some(d)).collect(),
    };
    let slots = vec![slot("x", Role::Input, DType::F32, shape), slot("labels", Role::Labels, DType::I64, &[])];
    let spec = Spec { slots, classes: Some(3), ignore_index: None, label_range: None, batch: None };
    let options = Options { max_unpacked: 64 << 20, ..Options::default() };
    let mut source = data::read(path, &options).map_err(|e| e.to_string())?;
    Dataset::new(&mut source, &spec).map(|data| data.samples()).map_err(|e| e.to_string())
}

type Make = fn(&Path);

fn arrays() -> [(&'static str, Vec<u8>); 2] {
    [("x", npz::f32s(&[3, 4], &[0.5; 12])), ("labels", npz::i64s(&[3], &[0, 1, 2]))]
}

fn idx(rank_and_dims: &[u32], code: u8, data: &[u8]) -> Vec<u8> {
    let dims = rank_and_dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, code, rank_and_dims.len() as u8].into_iter().chain(dims).chain(data.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip")
}

/// A small set of samples in each format: the file that is changed, and what is read.
fn formats() -> Vec<(&'static str, &'static str, &'static str, Make)> {
    vec![
        ("npz", "a.npz", "a.npz", |at| npz::write(&at.join("a.npz"), &arrays(), false)),
        ("npz deflated", "b.npz", "b.npz", |at| npz::write(&at.join("b.npz"), &arrays(), true)),
        ("npy", "npy/x.npy", "npy", |at| {
            fs::create_dir_all(at.join("npy")).expect("a directory");
            arrays()
                .iter()
                .for_each(|(name, bytes)| fs::write(at.join(format!("npy/{name}.npy")), bytes).expect("a file"));
        }),
        ("idx", "idx/train-images-idx2", "idx", |at| {
            fs::create_dir_all(at.join("idx")).expect("a directory");
            fs::write(at.join("idx/train-images-idx2"), idx(&[3, 4], 0x08, &[7; 12])).expect("a file");
            fs::write(at.join("idx/train-labels-idx1"), idx(&[3], 0x08, &[0, 1, 2])).expect("a file");
        }),
        ("idx gzip", "gz/train-images-idx2.gz", "gz", |at| {
            fs::create_dir_all(at.join("gz")).expect("a directory");
            fs::write(at.join("gz/train-images-idx2.gz"), gzip(&idx(&[3, 4], 0x08, &[7; 12]))).expect("a file");
            fs::write(at.join("gz/train-labels-idx1"), idx(&[3], 0x08, &[0, 1, 2])).expect("a file");
        }),
        ("safetensors", "a.safetensors", "a.safetensors", |at| {
            let header = r#"{"x":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},"labels":{"dtype":"I64","shape":[3],"data_offsets":[48,72]}}"#;
            let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &[0; 72]].concat();
            fs::write(at.join("a.safetensors"), bytes).expect("a file");
        }),
        ("csv", "a.csv", "a.csv", |at| {
            fs::write(at.join("a.csv"), "a,b,c,d,label\n1,2,3,4,0\n5,6,7,8,1\n\"9\",1e3,-2,.5,2\n").expect("a file");
        }),
    ]
}

/// Each file cut short at, and changed in, every byte.
fn broken(at: &Path) -> Vec<(String, usize, usize)> {
    let mut counts = Vec::new();
    for (name, file, whole, make) in formats() {
        make(at);
        let bytes = fs::read(at.join(file)).expect("a file");
        assert_eq!(read(&at.join(whole), &[4]), Ok(3), "{name}");
        let cut = (0..bytes.len()).map(|n| bytes[..n].to_vec());
        let changed = (0..bytes.len()).flat_map(|k| [0x01u8, 0x80, 0xff].map(|flip| (k, flip))).map(|(k, flip)| {
            let mut changed = bytes.clone();
            changed[k] ^= flip;
            changed
        });
        let (mut cases, mut accepted) = (0, 0);
        for broken in cut.chain(changed) {
            fs::write(at.join(file), &broken).expect("a file");
            let outcome = catch_unwind(AssertUnwindSafe(|| read(&at.join(whole), &[4])));
            let outcome = outcome.unwrap_or_else(|_| panic!("{name}: {broken:?}"));
            cases += 1;
            accepted += usize::from(outcome.is_ok());
        }
        counts.push((name.to_owned(), cases, accepted));
    }
    counts
}

/// Files that say more than they hold, or hold more than they should.
fn lies(at: &Path) -> usize {
    let shapes = [
        "(1000000000000, 4)",
        "(9223372036854775807, 9223372036854775807)",
        "(18446744073709551615,)",
        "(0, 18446744073709551615)",
        "(-1, 4)",
        "(3, 4",
        "3",
        "()",
        "(3.5, 4)",
    ];
    let mut cases = 0;
    let mut refused = |name: &str, shape: &[usize]| {
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&at.join(name), shape)));
        let outcome = outcome.unwrap_or_else(|_| panic!("{name}"));
        assert!(outcome.is_err(), "{name} is read: {outcome:?}");
        cases += 1;
    };
    for shape in shapes {
        for deflate in [false, true] {
            let good = String::from_utf8_lossy(&npz::f32s(&[3, 4], &[])).into_owned();
            let text =
                good.split_once('{').map(|(_, rest)| format!("{{{rest}")).expect("a header").replace("(3, 4,)", shape);
            let header =
                [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes(), &[0; 48]]
                    .concat();
            npz::write(&at.join("lie.npz"), &[("x", header), ("labels", npz::i64s(&[3], &[0, 1, 2]))], deflate);
            refused("lie.npz", &[4]);
        }
    }
    for descr in ["|O", "<U8", "<c8", "<f16", "<V4", "x", "", "\u{1b}[31m", "<M8[ns]"] {
        npz::write(
            &at.join("type.npz"),
            &[("x", npz::npy(descr, false, &[3, 4], &[0; 48])), ("labels", npz::i64s(&[3], &[0, 1, 2]))],
            false,
        );
        refused("type.npz", &[4]);
    }
    // A hundred megabytes of zeros in a hundred kilobytes.
    npz::write(
        &at.join("bomb.npz"),
        &[("x", npz::f32s(&[25 << 20, 4], &vec![0.0; 100 << 20 >> 2])), ("labels", npz::i64s(&[3], &[0, 1, 2]))],
        true,
    );
    refused("bomb.npz", &[4]);
    npz::write(
        &at.join("columns.npz"),
        &[("x", npz::npy("<f4", true, &[20 << 20, 1], &vec![0; 80 << 20])), ("labels", npz::i64s(&[3], &[0, 1, 2]))],
        false,
    );
    refused("columns.npz", &[1]);
    let values =
        |x: f32, label: i64| [("x", npz::f32s(&[3, 4], &[x; 12])), ("labels", npz::i64s(&[3], &[0, 1, label]))];
    for (x, label) in
        [(f32::NAN, 0), (f32::INFINITY, 0), (-f32::INFINITY, 0), (0.0, 3), (0.0, -1), (0.0, i64::MAX), (0.0, i64::MIN)]
    {
        npz::write(&at.join("values.npz"), &values(x, label), true);
        refused("values.npz", &[4]);
    }
    npz::write(&at.join("none.npz"), &[("x", npz::f32s(&[0, 4], &[])), ("labels", npz::i64s(&[0], &[]))], true);
    refused("none.npz", &[4]);
    npz::write(
        &at.join("lengths.npz"),
        &[("x", npz::f32s(&[2, 4], &[0.0; 8])), ("labels", npz::i64s(&[3], &[0, 1, 2]))],
        true,
    );
    refused("lengths.npz", &[4]);

    fs::create_dir(at.join("lie")).expect("a directory");
    fs::write(at.join("lie/train-labels-idx1"), idx(&[3], 0x08, &[0, 1, 2])).expect("a file");
    let images = [
        idx(&[u32::MAX; 3], 0x08, &[0; 12]),
        idx(&[3, 4], 0x0E, &[0; 12]),
        idx(&[u32::MAX; 255], 0x08, &[]),
        idx(&[3, 5], 0x08, &[0; 12]),
    ];
    for (k, bytes) in images.iter().enumerate() {
        for packed in [false, true] {
            let name = if packed { "lie/train-images-idx3.gz" } else { "lie/train-images-idx3" };
            fs::write(at.join(name), if packed { gzip(bytes) } else { bytes.clone() }).expect("a file");
            refused("lie", &[4]);
            fs::remove_file(at.join(name)).unwrap_or_else(|_| panic!("image {k}"));
        }
    }
    let long = format!("a,b,c,d,label\n1,2,3,\"{}\",0\n", "9".repeat(1 << 20));
    let wide = format!("{}\n", (0..100_000).map(|k| format!("c{k}")).collect::<Vec<_>>().join(","));
    let tables = [
        "",
        "\n\n",
        "a,b,c,d,label\n",
        "a,b,c,d,label\n1,2,3\n",
        "a,b,c,d,label\n1,2,3,4,0,9\n",
        "a,b,c,d,label\n1,2,NaN,4,0\n",
        "a,b,c,d,label\n1,2,inf,4,0\n",
        "a,b,c,d,label\n1,2,x,4,0\n",
        "a,b,c,d,label\n1,2,3,4,1.5\n",
        "a,b,c,d,label\n1,2,3,4,7\n",
        "a,a,c,d,label\n1,2,3,4,0\n",
        "a,b,c,d,label\n\"1,2,3,4,0\n",
        "\0\0\0\0",
        long.as_str(),
        wide.as_str(),
    ];
    for table in tables {
        fs::write(at.join("lie.csv"), table).expect("a file");
        refused("lie.csv", &[4]);
    }
    let headers = [
        "{}",
        "[]",
        "{\"x\":1}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[0,9223372036854775807]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615,18446744073709551615],\"data_offsets\":[0,48]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[48,0]}}",
    ];
    for header in headers {
        let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &[0; 48]].concat();
        fs::write(at.join("lie.safetensors"), bytes).expect("a file");
        refused("lie.safetensors", &[4]);
    }
    fs::write(at.join("lie.safetensors"), u64::MAX.to_le_bytes()).expect("a file");
    refused("lie.safetensors", &[4]);
    cases
}

/// Images that are none, that claim to be huge, and directories that contain themselves.
fn images(at: &Path) -> usize {
    let classes = ["a", "b", "c"].map(|class| at.join("images").join(class));
    let mut png = Vec::new();
    let pixel = image::RgbImage::new(2, 2);
    pixel.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).expect("an image");
    for class in &classes {
        fs::create_dir_all(class).expect("a directory");
        fs::write(class.join("0.png"), &png).expect("a file");
    }
    let whole = at.join("images");
    assert_eq!(read(&whole, &[3, 2, 2]), Ok(3));
    let victim = classes[0].join("0.png");
    let mut huge = png.clone();
    // Width and height stand at 16; the checksum behind the header covers them.
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut hash = flate2::Crc::new();
    hash.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&hash.sum().to_be_bytes());
    let mut cases = 0;
    let cut = (0..png.len()).map(|n| png[..n].to_vec());
    let changed = (0..png.len()).map(|k| {
        let mut changed = png.clone();
        changed[k] ^= 0xff;
        changed
    });
    for bytes in
        cut.chain(changed).chain([huge, b"GIF89a\xff\xff\xff\xff".to_vec(), b"BM".to_vec(), vec![0xff, 0xd8, 0xff]])
    {
        fs::write(&victim, &bytes).expect("a file");
        assert!(catch_unwind(AssertUnwindSafe(|| read(&whole, &[3, 2, 2]))).is_ok(), "{bytes:?}");
        cases += 1;
    }
    fs::write(&victim, &png).expect("a file");
    for shape in [[3, 1 << 40, 1 << 40], [3, 1 << 31, 1 << 31], [1, 60_000, 60_000], [3, 0, 0]] {
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&whole, &shape)));
        assert!(outcome.is_ok_and(|outcome| outcome.is_err()), "{shape:?}");
        cases += 1;
    }
    for name in ["self", "again"] {
        std::os::unix::fs::symlink(&classes[0], classes[0].join(name)).expect("a link");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| read(&whole, &[3, 2, 2])));
    assert_eq!(outcome.expect("an end"), Ok(3));
    cases + 1
}

/// An archive with all the records of zip64, though nothing in it is large; `change` may make its numbers lies.
fn zip64(files: &[(&str, Vec<u8>)], change: impl Fn(usize, u64) -> u64) -> Vec<u8> {
    let (mut archive, mut directory, mut number) = (Vec::new(), Vec::new(), 0);
    let mut next = |value: usize| {
        number += 1;
        change(number - 1, value as u64).to_le_bytes()
    };
    for (name, bytes) in files {
        let (name, at) = (format!("{name}.npy"), archive.len());
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        // Version, flags, method, time, date, checksum, sizes that stand elsewhere, length of the name.
        let mut entry = vec![45, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        entry.extend(crc.sum().to_le_bytes());
        entry.extend([0xff; 8]);
        entry.extend((name.len() as u16).to_le_bytes());
        let sizes = [next(bytes.len()), next(bytes.len())].concat();
        let field = |parts: &[u8]| [&[1, 0], &(parts.len() as u16).to_le_bytes()[..], parts].concat();
        let own = field(&sizes);
        archive.extend([b"PK\x03\x04", &entry[..], &(own.len() as u16).to_le_bytes(), name.as_bytes(), &own].concat());
        archive.extend(bytes);
        let listed = field(&[&sizes[..], &next(at)].concat());
        let rest = [&(listed.len() as u16).to_le_bytes()[..], &[0; 10], &[0xff; 4], name.as_bytes(), &listed].concat();
        directory.extend([b"PK\x01\x02\x2d\x00", &entry[..], &rest].concat());
    }
    let (at, size) = (archive.len(), directory.len());
    archive.extend(directory);
    let end = archive.len();
    archive.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[45, 0, 45, 0], &[0; 8]].concat());
    for value in [files.len(), files.len(), size, at] {
        archive.extend(next(value));
    }
    archive.extend([b"PK\x06\x07", &[0; 4], &next(end)[..], &[1, 0, 0, 0]].concat());
    archive.extend([b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0, 0]].concat());
    archive
}

/// Records of zip64 that are true, and each of their numbers as a lie.
fn large_archives(at: &Path) -> usize {
    let path = at.join("large.npz");
    fs::write(&path, zip64(&arrays(), |_, value| value)).expect("a file");
    read(&path, &[4]).expect("arrays as of any archive");
    let mut cases = 1;
    for number in 0..11 {
        for lie in [0, 1, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX] {
            let changed = zip64(&arrays(), |k, value| if k == number { lie } else { value });
            fs::write(&path, changed).expect("a file");
            let outcome = catch_unwind(AssertUnwindSafe(|| read(&path, &[4])));
            assert!(outcome.is_ok(), "{number}: {lie}");
            cases += 1;
        }
    }
    fs::remove_file(path).expect("removed");
    cases
}

/// Archives whose directories do not tell the truth: sizes and places that only zip64 could have, entries on top of each
/// other, more or fewer of them than are there, twice one name, names that lead out of the archive.
fn archives(at: &Path) -> usize {
    let path = at.join("lie.npz");
    npz::write(&path, &arrays(), false);
    let good = fs::read(&path).expect("a file");
    let find = |mark: &[u8], from: usize| from + good[from..].windows(4).position(|w| w == mark).expect("a record");
    let first = find(b"PK\x01\x02", 0);
    let (second, end) = (find(b"PK\x01\x02", first + 4), find(b"PK\x05\x06", 0));
    let mut changed = Vec::new();
    // Packed size, size, and place of an entry; entries on the disk and in all, bytes and place of the directory.
    let fields = [first, second].into_iter().flat_map(|entry| [(entry + 20, 4), (entry + 24, 4), (entry + 42, 4)]);
    for (field, size) in fields.chain([(end + 8, 2), (end + 10, 2), (end + 12, 4), (end + 16, 4)]) {
        for value in [0, 1, 30, 1 << 15, 1 << 31, u32::MAX - 1, u32::MAX] {
            let mut bytes = good.clone();
            bytes[field..field + size].copy_from_slice(&value.to_le_bytes()[..size]);
            changed.push(bytes);
        }
    }
    // Both entries are the first.
    let mut overlapping = good.clone();
    overlapping.copy_within(first + 42..first + 46, second + 42);
    changed.push(overlapping);
    let mut cases = 0;
    for bytes in changed {
        fs::write(&path, &bytes).expect("a file");
        assert!(catch_unwind(AssertUnwindSafe(|| read(&path, &[4]))).is_ok());
        cases += 1;
    }
    let [(_, x), (_, labels)] = arrays();
    for name in ["../x", "/x", "a/../x", "..", "x\0", "x\u{1b}[2J", "C:\\x", "labels"] {
        npz::write(&path, &[(name, x.clone()), ("labels2", labels.clone())], false);
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&path, &[4])));
        assert!(outcome.is_ok_and(|outcome| outcome.is_err()), "{name:?}");
        assert_eq!(fs::read_dir(at).expect("a directory").count(), 1, "{name:?}");
        cases += 1;
    }
    cases
}

#[test]
fn one_place() {
    let Some(kind) = std::env::var_os(WORKER) else { return };
    let place = tempfile::tempdir().expect("a directory");
    match kind.to_string_lossy().as_ref() {
        "broken" => {
            broken(place.path()).iter().for_each(|(name, cases, read)| println!("counted {name}: {cases} {read}"))
        }
        "archives" => println!("counted {}", archives(place.path()) + large_archives(place.path())),
        "lies" => println!("counted {}", lies(place.path())),
        _ => println!("counted {}", images(place.path())),
    }
}

fn counted(kind: &str) -> Vec<String> {
    let program = std::env::current_exe().expect("this program");
    let arguments = ["--exact", "data::one_place", "--nocapture"];
    let directory = tempfile::tempdir().expect("a directory");
    let ended = bounded_with(&program, &arguments, directory.path(), 2 << 10, 240, &[(WORKER, kind)]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    ended.stdout.lines().filter_map(|line| line.split_once("counted ").map(|(_, rest)| rest.to_owned())).collect()
}

#[test]
fn broken_files() {
    let mut cases = 0;
    for line in counted("broken") {
        cases += line.rsplit(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number");
    }
    row("data in seven formats, cut short at and changed in every byte", cases, "refused, or other numbers");
}

#[test]
fn files_that_lie() {
    let cases = counted("lies")[0].parse().expect("a number");
    row(
        "data whose headers lie, of no use, of object types, that unpack to too much, not finite, outside of the classes, ragged",
        cases,
        "refused by name",
    );
}

#[test]
fn archives_that_lie() {
    let cases = counted("archives")[0].parse().expect("a number");
    row(
        "archives with sizes and places of zip64, entries on top of each other, other counts, names that lead out of them",
        cases,
        "refused, or read as arrays; nothing is unpacked to a name",
    );
}

#[test]
fn broken_images() {
    let cases = counted("images")[0].parse().expect("a number");
    row(
        "images cut short, changed, of 60,000 × 60,000 pixels, in directories that contain themselves",
        cases,
        "refused, or read",
    );
}
