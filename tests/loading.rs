//! Batches: read ahead as without, changed at random but reproducibly, and out of files that are larger than memory.

mod common;

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use common::{fam_onnx, fixture, npz};
use fam_onnx::{
    tensor::DType,
    train::data::{self, Augment, Augmenter, Batch, Dataset, Draw, Options, Prefetch, Reader, Role, Slot, Spec},
};

const SIDE: usize = 6;

/// Images of one channel, whose pixels are all different and none of them black.
fn images(directory: &Path, samples: usize) -> Arc<Dataset> {
    let path = directory.join("images.npz");
    let pixels: Vec<f32> = (0..samples * SIDE * SIDE).map(|k| 1.0 + k as f32).collect();
    let labels: Vec<i64> = (0..samples as i64).collect();
    let arrays = [("x", npz::f32s(&[samples, 1, SIDE, SIDE], &pixels)), ("labels", npz::i64s(&[samples], &labels))];
    npz::write(&path, &arrays, true);
    bind(&path, &[1, SIDE, SIDE], DType::F32, Some(samples))
}

fn bind(path: &Path, shape: &[usize], dtype: DType, classes: Option<usize>) -> Arc<Dataset> {
    let slot = |name: &str, role, dtype, shape: &[usize]| Slot {
        name: name.to_owned(),
        role,
        dtype,
        shape: shape.iter().map(|&d| Some(d)).collect(),
    };
    let labels = classes.map(|_| slot("labels", Role::Labels, DType::I64, &[]));
    let slots = [slot("x", Role::Input, dtype, shape)].into_iter().chain(labels).collect();
    let spec = Spec { slots, classes, ignore_index: None, label_range: None, batch: None };
    let mut source = data::read(path, &Options::default()).expect("data");
    Arc::new(Dataset::new(&mut source, &spec).expect("samples"))
}

fn draws(samples: usize) -> Vec<Draw> {
    let draw = |epoch: u64, first: usize| Draw { epoch, indices: (0..4).map(|k| (first + 5 * k) % samples).collect() };
    (0..3).flat_map(|epoch| (0..7).map(move |first| draw(epoch, first))).collect()
}

fn augmented(data: &Arc<Dataset>, augment: &str, seed: u64) -> Reader {
    let augment: Augment = augment.parse().expect("augmentations");
    assert_eq!(augment.to_string().parse(), Ok(augment));
    Reader::augmented(data.clone(), Augmenter::new(augment, seed, data).expect("images"))
}

fn read(reader: &Reader, draw: &Draw) -> Batch {
    let mut batch = Batch::default();
    reader.read(draw, &mut batch).expect("a batch");
    batch
}

/// The pixels of each image of a batch.
fn pixels(batch: &Batch) -> Vec<Vec<f32>> {
    let values: Vec<f32> = batch.inputs[0].bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks(SIDE * SIDE).map(<[f32]>::to_vec).collect()
}

#[test]
fn batches_read_ahead_are_those_read_in_turn() {
    let root = tempfile::tempdir().expect("a directory");
    let data = images(root.path(), 20);
    for reader in [Reader::new(data.clone()), augmented(&data, "flip,crop:2,cutout:3", 1)] {
        let mut ahead = Prefetch::new(reader.clone(), draws(20).into_iter()).expect("a thread");
        for (k, draw) in draws(20).iter().enumerate() {
            let batch = ahead.next().expect("as many batches").expect("a batch");
            assert_eq!(batch, read(&reader, draw), "batch {k}");
            assert_eq!(batch.samples, 4);
            ahead.give_back(batch);
        }
        assert!(ahead.next().is_none());
    }
    // A run that ends early leaves no thread waiting.
    drop(Prefetch::new(Reader::new(data), draws(20).into_iter().cycle()).expect("a thread"));
}

#[test]
fn what_goes_wrong_while_reading_ahead_comes_through() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("arrays");
    fs::create_dir(&path).expect("a directory");
    // More than is kept in memory; the bytes that are not written take no room on the disk.
    let samples = 300 << 10;
    let file = path.join("x.npy");
    sparse(&file, "|u1", &[samples, 1024], 1);
    let data = bind(&path, &[1024], DType::F32, None);
    let draw = |index: usize| Draw { epoch: 0, indices: vec![index] };
    let mut batches =
        Prefetch::new(Reader::new(data.clone()), [0, samples - 1].map(draw).into_iter()).expect("a thread");
    assert!(batches.all(|batch| batch.is_ok()));
    File::options().write(true).open(&file).and_then(|file| file.set_len(1 << 20)).expect("a shorter file");
    let mut batches = Prefetch::new(Reader::new(data), [0, samples - 1, 0].map(draw).into_iter()).expect("a thread");
    assert!(batches.next().expect("a first batch").is_ok());
    let error = batches.next().expect("a second one").expect_err("the file is shorter now").to_string();
    assert_eq!(common::text(error.as_bytes(), root.path()), "DIR/arrays: failed to fill whole buffer");
    assert!(batches.next().is_none(), "after an error there is nothing more");
}

#[test]
fn augmentations_follow_from_seed_epoch_and_sample() {
    let root = tempfile::tempdir().expect("a directory");
    let data = images(root.path(), 20);
    let reader = augmented(&data, "flip,crop:2,cutout:3", 7);
    let of =
        |reader: &Reader, epoch, indices: &[usize]| pixels(&read(reader, &Draw { epoch, indices: indices.to_vec() }));
    let whole = of(&reader, 4, &[3, 11, 17]);
    // Whatever the batch, and whatever was read before.
    assert_eq!(of(&reader, 4, &[17])[0], whole[2]);
    assert_eq!(of(&augmented(&data, "cutout:3,crop:2,flip", 7), 4, &[11, 3])[0], whole[1]);
    assert_ne!(of(&reader, 5, &[3, 11, 17]), whole);
    assert_ne!(of(&augmented(&data, "flip,crop:2,cutout:3", 8), 4, &[3, 11, 17]), whole);
    // Labels stay.
    let batch = read(&reader, &Draw { epoch: 4, indices: vec![3, 11] });
    assert_eq!(batch.inputs[1].bytes, [3i64, 11].map(i64::to_le_bytes).concat());
}

#[test]
fn augmentations_are_what_their_names_say() {
    let root = tempfile::tempdir().expect("a directory");
    let data = images(root.path(), 1);
    let plain = pixels(&read(&Reader::new(data.clone()), &Draw { epoch: 0, indices: vec![0] })).remove(0);
    let at = |image: &[f32], y: usize, x: usize| image[y * SIDE + x];
    let epochs = |augment: &str| -> Vec<Vec<f32>> {
        let reader = augmented(&data, augment, 0);
        (0..400).map(|epoch| pixels(&read(&reader, &Draw { epoch, indices: vec![0] })).remove(0)).collect()
    };
    let mirrored: Vec<f32> = (0..SIDE * SIDE).map(|k| at(&plain, k / SIDE, SIDE - 1 - k % SIDE)).collect();
    let flips = epochs("flip");
    assert!(flips.iter().all(|image| *image == plain || *image == mirrored));
    let share = flips.iter().filter(|image| **image == mirrored).count();
    assert!((140..260).contains(&share), "{share} of 400 are mirrored");

    // Every offset of up to two pixels to each side, and nothing else.
    let shifted = |down: i64, right: i64| -> Vec<f32> {
        let pixel = |y: i64, x: i64| {
            let inside = (0..SIDE as i64).contains(&y) && (0..SIDE as i64).contains(&x);
            if inside { at(&plain, y as usize, x as usize) } else { 0.0 }
        };
        (0..(SIDE * SIDE) as i64).map(|k| pixel(k / SIDE as i64 + down, k % SIDE as i64 + right)).collect()
    };
    let offsets: Vec<Vec<f32>> =
        (-2..=2).flat_map(|down| (-2..=2).map(move |right| (down, right))).map(|(d, r)| shifted(d, r)).collect();
    let crops = epochs("crop:2");
    assert!(crops.iter().all(|image| offsets.contains(image)));
    assert!(offsets.iter().all(|image| crops.contains(image)));

    // A square of three pixels to a side around any pixel, less what is outside.
    for image in epochs("cutout:3") {
        let cut: Vec<usize> = (0..SIDE * SIDE).filter(|&k| image[k] != plain[k]).collect();
        assert!(cut.iter().all(|&k| image[k] == 0.0));
        let rows = cut.iter().map(|k| k / SIDE).collect::<std::collections::BTreeSet<_>>();
        let columns = cut.iter().map(|k| k % SIDE).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(cut.len(), rows.len() * columns.len());
        assert!((2..=3).contains(&rows.len()) && (2..=3).contains(&columns.len()), "{rows:?} {columns:?}");
    }
    for (text, error) in [
        ("flop", "`flop` is none of flip, crop:PIXELS and cutout:PIXELS"),
        ("crop:0", "`crop:0` is none of flip, crop:PIXELS and cutout:PIXELS"),
        ("flip:2", "`flip:2` is none of flip, crop:PIXELS and cutout:PIXELS"),
    ] {
        assert_eq!(text.parse::<Augment>(), Err(error.to_owned()));
    }
}

/// An `.npy` file of zeros that takes no room on the disk.
fn sparse(path: &Path, descr: &str, shape: &[usize], size: usize) {
    let mut file = File::create(path).expect("a file");
    let header = npz::npy(descr, false, shape, &[]);
    file.write_all(&header).expect("a header");
    let bytes = shape.iter().product::<usize>() * size;
    file.seek(SeekFrom::Start((header.len() + bytes - 1) as u64)).expect("the last byte");
    file.write_all(&[0]).expect("the last byte");
}

#[cfg(target_os = "linux")]
#[test]
fn data_larger_than_memory_train() {
    let root = tempfile::tempdir().expect("a directory");
    let artifact: PathBuf = root.path().join("lenet.fam");
    let model = fixture("lenet").join("model.onnx");
    common::run(fam_onnx(&["inject", "--layer", "fc2", "--lambda", "0.01", "-q", "-o"]).arg(&artifact).arg(&model));
    let path = root.path().join("arrays");
    fs::create_dir(&path).expect("a directory");
    // Two gigabytes of images as bytes, for a process that may not have one in all, its libraries included.
    let samples = 2_700_000;
    sparse(&path.join("x.npy"), "|u1", &[samples, 1, 28, 28], 1);
    sparse(&path.join("labels.npy"), "|u1", &[samples], 1);
    let mut process = Command::new("sh");
    process.args(["-c", "ulimit -v 1000000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_fam-onnx")]);
    process.args(["train", "--steps", "3", "--batch-size", "16", "--threads", "1", "-q", "--data"]);
    let output = process.arg(&path).arg(&artifact).output().expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
