//! Every format of data, and what is wrong with files that are none: whole messages.

mod common;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use common::npz;
use expect_test::{Expect, expect};
use fam_onnx::{
    tensor::{DType, Tensor, Tensors, encode_safetensors},
    train::data::{self, Dataset, Options, Role, Slot, Spec},
};
use image::{GrayImage, Luma, Rgb, RgbImage};

fn slot(name: &str, role: Role, dtype: DType, shape: &[usize]) -> Slot {
    Slot { name: name.to_owned(), role, dtype, shape: shape.iter().map(|&d| Some(d)).collect() }
}

/// A classifier's inputs.
fn spec(shape: &[usize], classes: usize) -> Spec {
    let slots = vec![slot("x", Role::Input, DType::F32, shape), slot("labels", Role::Labels, DType::I64, &[])];
    Spec { slots, classes: Some(classes), ignore_index: None, label_range: None, batch: None }
}

/// Reads and binds, and shows every sample.
fn bound(path: &Path, options: &Options, spec: &Spec) -> Result<String, data::Error> {
    let mut source = data::read(path, options)?;
    let dataset = Dataset::new(&mut source, spec)?;
    let held_out = Dataset::held_out(&mut source, spec)?;
    let mut text = dataset.classes.iter().map(|names| format!("classes {}\n", names.join(", "))).collect::<String>();
    for (part, dataset) in [("", Some(&dataset)), ("held out ", held_out.as_ref())] {
        for column in dataset.iter().flat_map(|dataset| dataset.columns()) {
            let samples: Vec<usize> = (0..dataset.map_or(0, Dataset::samples)).collect();
            let tensor = dataset.expect("a dataset").gather(column, &samples)?;
            let values: Vec<String> = tensor.iter_f64().map(|v| format!("{v:.4}")).collect();
            text += &format!("{part}{}: {}{:?} = {}\n", column.name, tensor.dtype(), tensor.shape(), values.join(" "));
        }
    }
    Ok(text)
}

#[track_caller]
fn check_with(path: &Path, root: &Path, options: &Options, spec: &Spec, expected: Expect) {
    let text = bound(path, options, spec).unwrap_or_else(|error| format!("{error}\n"));
    expected.assert_eq(&common::text(text.as_bytes(), root));
}

#[track_caller]
fn check(path: &Path, root: &Path, spec: &Spec, expected: Expect) {
    check_with(path, root, &Options::default(), spec, expected);
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn a_directory_of_npy_files() {
    let root = directory();
    let path = root.path().join("arrays");
    fs::create_dir(&path).expect("a directory");
    let write = |name: &str, bytes: &[u8]| fs::write(path.join(name), bytes).expect("a file");
    // Column after column: [[1, 2, 3], [4, 5, 6]].
    write("x.npy", &npz::npy("<f4", true, &[2, 3], &bytes(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])));
    write("labels.npy", &npz::npy(">i2", false, &[2], &[0, 1, 0, 0]));
    write("unused.npy", &npz::npy("|O", false, &[2], b"never read"));
    check(
        &path,
        root.path(),
        &spec(&[3], 2),
        expect![[r#"
        x: float32[2, 3] = 1.0000 2.0000 3.0000 4.0000 5.0000 6.0000
        labels: int64[2] = 1.0000 0.0000
    "#]],
    );
    write("labels.npy", &npz::npy("|O", false, &[2], b"\x80\x04never read"));
    check(
        &path,
        root.path(),
        &spec(&[3], 2),
        expect![[r#"
        DIR/arrays: the data do not fit the model:
          array `labels`: elements of type |O (pickled Python objects, which are not read); expected int64
    "#]],
    );
    write("labels.npy", b"\x80\x04\x95never read");
    check(
        &path,
        root.path(),
        &spec(&[3], 2),
        expect![[r#"
        DIR/arrays/labels.npy: a pickle, which is not read: reading one runs the code in it; save the array with numpy.save
    "#]],
    );
    let x = npz::f32s(&[2, 3], &[0.0; 6]);
    write("x.npy", &x[..x.len() - 1]);
    write("labels.npy", &npz::i64s(&[2], &[0, 1]));
    check(
        &path,
        root.path(),
        &spec(&[3], 2),
        expect![[r#"
        DIR/arrays/x.npy: 23 bytes of data; expected 24 for shape [2, 3] of float32
    "#]],
    );
}

#[test]
fn all_faults_of_several_inputs() {
    let root = directory();
    let path = root.path().join("data.npz");
    let both = Spec {
        slots: vec![
            slot("ids", Role::Input, DType::I64, &[2]),
            slot("mask", Role::Input, DType::Bool, &[2]),
            slot("labels", Role::Labels, DType::I64, &[]),
        ],
        ..spec(&[], 3)
    };
    let good = [
        ("ids", npz::npy("<i4", false, &[2, 2], &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])),
        ("mask", npz::npy("|b1", false, &[2, 2], &[1, 0, 1, 1])),
        ("labels", npz::i64s(&[2], &[0, 2])),
    ];
    npz::write(&path, &good, true);
    check(
        &path,
        root.path(),
        &both,
        expect![[r#"
        ids: int64[2, 2] = 1.0000 2.0000 3.0000 4.0000
        mask: bool[2, 2] = 1.0000 0.0000 1.0000 1.0000
        labels: int64[2] = 0.0000 2.0000
    "#]],
    );
    let bad = [
        ("ids", npz::f32s(&[2, 2], &[0.0; 4])),
        ("mask", npz::npy("|b1", false, &[2, 3], &[0; 6])),
        ("labels", npz::i64s(&[3], &[0, 2, 3])),
    ];
    npz::write(&path, &bad, false);
    check(
        &path,
        root.path(),
        &both,
        expect![[r#"
        DIR/data.npz: the data do not fit the model:
          array `ids`: float32 values; expected int64; convert it, for instance with .astype(numpy.int64)
          array `mask`: samples of shape [3]; expected [2]
          array `labels`: 3 samples, but `ids` has 2; expected as many of each
          array `labels`: label 3 at index [2]; expected a class from 0 to 2
    "#]],
    );
}

#[test]
fn safetensors() {
    let root = directory();
    let path = root.path().join("data.safetensors");
    let tensor = |dtype, shape: &[usize], data: Vec<u8>| Tensor::new(dtype, shape.to_vec(), data).expect("a tensor");
    let tensors = Tensors::from([
        ("x".to_owned(), tensor(DType::F16, &[2, 2], vec![0x00, 0x3c, 0x00, 0xc0, 0x00, 0x7c, 0x00, 0x38])),
        ("labels".to_owned(), tensor(DType::U8, &[2], vec![1, 0])),
    ]);
    let whole = encode_safetensors(&tensors).expect("bytes");
    fs::write(&path, &whole).expect("a file");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
            DIR/data.safetensors: the data do not fit the model:
              array `x`: inf at index [1, 0]; expected finite numbers
        "#]],
    );
    fs::write(&path, &whole[..whole.len() - 1]).expect("a file");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
            DIR/data.safetensors: not a valid safetensors file (tensor `labels` lies in the bytes 8 to 10 of 9; is the file cut short?)
        "#]],
    );
    fs::write(&path, [0xff; 16]).expect("a file");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/data.safetensors: not a valid safetensors file (a header of 18446744073709551615 bytes in a file of 16)
    "#]],
    );
}

#[test]
fn tables() {
    let root = directory();
    let path = root.path().join("table.csv");
    let table = |text: &str| fs::write(&path, text).expect("a file");
    table("\u{feff}height,\"wid,th\", label\n1.5,2,0\r\n -3e2 ,\"4\",1\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
            x: float32[2, 2] = 1.5000 2.0000 -300.0000 4.0000
            labels: int64[2] = 0.0000 1.0000
        "#]],
    );
    let options = Options { label_column: Some("height".to_owned()), ..Options::default() };
    check_with(
        &path,
        root.path(),
        &options,
        &spec(&[2], 2),
        expect![[r#"
            DIR/table.csv: the data do not fit the model:
              array `y`: float64 values; expected int64; convert it, for instance with .astype(numpy.int64)
        "#]],
    );
    let options = Options { label_column: Some("colour".to_owned()), ..Options::default() };
    check_with(
        &path,
        root.path(),
        &options,
        &spec(&[2], 2),
        expect![[r#"
            DIR/table.csv: no column is named `colour`; the columns are height, wid,th, label
        "#]],
    );
    table("a,b,c\n1,2,3\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: the data do not fit the model:
          array `x`: samples of shape [3]; expected [2]
          no column holds the labels; expected one named labels, label, y, target, class, or --label-column NAME; the columns are a, b, c
    "#]],
    );
    table("1,2,3\n4,5,6\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: the first line holds no names; expected a header that names the columns
    "#]],
    );
    table("a,a,y\n4,5,6\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: two columns are named `a`; expected different names
    "#]],
    );
    table("a,b,y\r\n1,n/a,0\r\n2,,1\r\n\r\n3,4\r\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
            DIR/table.csv: not a table of numbers:
              line 2, column `b`: `n/a`; expected a number
              line 3, column `b`: ``; expected a number
              line 5: 2 cells; expected 3
        "#]],
    );
    table("a,b,y\n1,2,0\n1,inf,1\n1,2,2\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: the data do not fit the model:
          array `x`: inf at index [1, 1]; expected finite numbers
          array `y`: label 2 at index [2]; expected a class from 0 to 1
    "#]],
    );
    table("a,b,y\n1,2,0.5\n");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: the data do not fit the model:
          array `y`: float64 values; expected int64; convert it, for instance with .astype(numpy.int64)
    "#]],
    );
    table(&format!("a,b,y\n1,2,\"{}", "0\n".repeat(100_000)));
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/table.csv: line 2: a cell of more than 65536 bytes; is a quotation mark open?
    "#]],
    );
}

#[test]
fn a_directory_of_images_for_each_class() {
    let root = directory();
    let path = root.path().join("pets");
    let file = |name: &str| {
        let path = path.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        path
    };
    let red = RgbImage::from_pixel(2, 1, Rgb([255, 0, 51]));
    red.save(file("dog/a.png")).expect("an image");
    GrayImage::from_pixel(4, 2, Luma([102])).save(file("cat/nested/b.bmp")).expect("an image");
    fs::write(file("cat/notes.txt"), "no image").expect("a file");
    fs::write(file(".hidden/c.png"), "no image").expect("a file");
    check(
        &path,
        root.path(),
        &spec(&[3, 1, 2], 2),
        expect![[r#"
        classes cat, dog
        x: float32[2, 3, 1, 2] = 0.4000 0.4000 0.4000 0.4000 0.4000 0.4000 1.0000 1.0000 0.0000 0.0000 0.2000 0.2000
        labels: int64[2] = 0.0000 1.0000
    "#]],
    );
    // Grey by the weights of Pillow: (19595·255 + 7471·51 + 2¹⁵) / 2¹⁶ = 82.
    let normalised = Options { mean: vec![0.5], std: vec![0.25], ..Options::default() };
    check_with(
        &path,
        root.path(),
        &normalised,
        &spec(&[1, 1, 1], 2),
        expect![[r#"
        classes cat, dog
        x: float32[2, 1, 1, 1] = -0.4000 -0.7137
        labels: int64[2] = 0.0000 1.0000
    "#]],
    );
    let channels = Options { mean: vec![1.0, 0.0, 0.0], std: vec![1.0, 2.0], ..Options::default() };
    check_with(
        &path,
        root.path(),
        &channels,
        &spec(&[3, 1, 1], 2),
        expect![[r#"
        DIR/pets: the data do not fit the model:
          std has 2 numbers; expected one, or one for each of the 3 channels of `x`
    "#]],
    );
    check(
        &path,
        root.path(),
        &spec(&[4], 3),
        expect![[r#"
        DIR/pets: the data do not fit the model:
          images fill an input of shape [1, height, width] or [3, height, width], grey or RGB; the model's `x` takes [4]
          2 classes, one a directory (cat, dog); the model has 3
    "#]],
    );
    let open = Spec {
        slots: vec![
            Slot { name: "x".into(), role: Role::Input, dtype: DType::F32, shape: vec![Some(3), None, None] },
            slot("labels", Role::Labels, DType::I64, &[]),
        ],
        ..spec(&[], 2)
    };
    check(
        &path,
        root.path(),
        &open,
        expect![[r#"
        DIR/pets: the data do not fit the model:
          image DIR/pets/dog/a.png: 2 × 1 pixels; expected 4 × 2 as in DIR/pets/cat/nested/b.bmp: the model leaves the size open, so all images need the same
    "#]],
    );
    let png = fs::read(file("dog/a.png")).expect("bytes");
    fs::write(file("dog/cut.png"), &png[..png.len() - 20]).expect("a file");
    fs::write(file("dog/text.jpg"), "no image").expect("a file");
    check(
        &path,
        root.path(),
        &spec(&[3, 1, 2], 2),
        expect![[r#"
            DIR/pets: the data do not fit the model:
              image DIR/pets/dog/cut.png: unexpected end of file
              image DIR/pets/dog/text.jpg: Format error decoding Jpeg: Error parsing image. Illegal start bytes:6E6F
        "#]],
    );
    fs::create_dir(path.join("bird")).expect("a directory");
    check(
        &path,
        root.path(),
        &spec(&[3, 1, 2], 3),
        expect![[r#"
        DIR/pets/bird: no image of this class; expected files .png, .jpg, .jpeg, .bmp, .gif, .webp
    "#]],
    );
}

#[test]
fn images_in_training_and_validation() {
    let root = directory();
    let path = root.path().join("split");
    let image = |name: &str, value: u8| {
        let path = path.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        GrayImage::from_pixel(1, 1, Luma([value])).save(path).expect("an image");
    };
    image("train/no/1.png", 0);
    image("train/yes/1.png", 255);
    image("val/no/1.png", 51);
    image("val/yes/1.webp", 51);
    check(
        &path,
        root.path(),
        &spec(&[1, 1, 1], 2),
        expect![[r#"
        classes no, yes
        x: float32[2, 1, 1, 1] = 0.0000 1.0000
        labels: int64[2] = 0.0000 1.0000
        held out x: float32[2, 1, 1, 1] = 0.2000 0.2000
        held out labels: int64[2] = 0.0000 1.0000
    "#]],
    );
    image("val/maybe/1.png", 0);
    check(
        &path,
        root.path(),
        &spec(&[1, 1, 1], 2),
        expect![[r#"
        DIR/split/val: the classes are maybe, no, yes; expected those of train: no, yes
    "#]],
    );
}

#[test]
fn pickles_are_refused_by_name() {
    let root = directory();
    for name in ["weights.pt", "data.pkl"] {
        let path = root.path().join(name);
        fs::write(&path, b"\x80\x04").expect("a file");
        let error = data::read(&path, &Options::default()).expect_err("a pickle").to_string();
        assert!(
            error.contains(name) && error.contains("a pickle, as Python's pickle and torch.save write it"),
            "{error}"
        );
    }
    let path = root.path().join("renamed.npz");
    let mut archive = zip::ZipWriter::new(File::create(&path).expect("a file"));
    archive.start_file("model/data.pkl", zip::write::SimpleFileOptions::default()).expect("an entry");
    archive.finish().expect("an archive");
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/renamed.npz: a pickle, as Python's pickle and torch.save write it; reading one runs the code in it, so it is not read; save the arrays with numpy.savez or safetensors
    "#]],
    );
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressed bytes");
    encoder.finish().expect("a whole stream")
}

/// An IDX file of bytes that says it has `samples` of one pixel.
fn idx(samples: u32, rank: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x08, rank];
    bytes.extend(samples.to_be_bytes());
    (1..rank).for_each(|_| bytes.extend(1u32.to_be_bytes()));
    bytes.extend(data);
    bytes
}

#[test]
fn idx_files_that_lie() {
    let root = directory();
    let path = root.path().join("mnist");
    fs::create_dir(&path).expect("a directory");
    let write = |name: &str, bytes: &[u8]| fs::write(path.join(name), bytes).expect("a file");
    write("train-labels-idx1-ubyte", &idx(2, 1, &[0, 1]));
    let images = "train-images-idx3-ubyte.gz";
    let spec = spec(&[1, 1], 2);
    // Fewer, more, and none of the bytes that the header announces; then a gzip stream without an end.
    write(images, &gzip(&idx(3, 3, &[7, 8])));
    check(
        &path,
        root.path(),
        &spec,
        expect![[r#"
        DIR/mnist: the data do not fit the model:
          array `x`: 2 bytes of data; expected 3 for shape [3, 1, 1] of uint8
          array `y`: 2 samples, but `x` has 3; expected as many of each
    "#]],
    );
    write(images, &gzip(&idx(1, 3, &[7, 8])));
    check(
        &path,
        root.path(),
        &spec,
        expect![[r#"
        DIR/mnist: the data do not fit the model:
          array `x`: more data than the 1 bytes of shape [1, 1, 1] of uint8
          array `y`: 2 samples, but `x` has 1; expected as many of each
    "#]],
    );
    write(images, &gzip(&idx(u32::MAX, 3, &[])));
    check(
        &path,
        root.path(),
        &spec,
        expect![[r#"
        DIR/mnist: the data do not fit the model:
          array `x`: 0 bytes of data; expected 4294967295 for shape [4294967295, 1, 1] of uint8
          array `y`: 2 samples, but `x` has 4294967295; expected as many of each
    "#]],
    );
    let whole = gzip(&idx(2, 3, &[7, 8]));
    write(images, &whole[..whole.len() - 9]);
    check(
        &path,
        root.path(),
        &spec,
        expect![[r#"
            DIR/mnist: the data do not fit the model:
              array `x`: train-images-idx3-ubyte.gz is damaged or cut short (incomplete deflate stream); take another copy
        "#]],
    );
}

#[test]
fn an_archive_that_would_unpack_to_more_than_it_says() {
    let root = directory();
    let path = root.path().join("bomb.npz");
    // The header announces four million samples more than there are bytes for; the archive itself is honest.
    npz::write(
        &path,
        &[("x", npz::npy("<f4", false, &[1 << 22, 2], &[0; 64])), ("labels", npz::i64s(&[2], &[0, 1]))],
        true,
    );
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/bomb.npz: not a valid .npz file (x.npy: 64 bytes of data; expected 33554432 for shape [4194304, 2] of float32); numpy.savez writes one
    "#]],
    );
    // Sixteen mebibytes of zeros in a shape that the model does not take are not unpacked to find that out.
    npz::write(
        &path,
        &[("x", npz::npy("<f4", false, &[1 << 20, 4], &vec![0; 1 << 24])), ("labels", npz::i64s(&[2], &[0, 1]))],
        true,
    );
    check(
        &path,
        root.path(),
        &spec(&[2], 2),
        expect![[r#"
        DIR/bomb.npz: the data do not fit the model:
          array `x`: samples of shape [4]; expected [2]
          array `labels`: 2 samples, but `x` has 1048576; expected as many of each
    "#]],
    );
}

#[test]
fn a_large_array_is_turned_from_columns_to_rows_in_blocks() {
    let root = directory();
    let path = root.path().join("arrays");
    fs::create_dir(&path).expect("a directory");
    // 20 MB, which is more than a block.
    let (samples, features) = (20_000usize, 1000usize);
    let value = |i: usize, j: usize| (i * 31 + j * 7) as u8;
    let columns: Vec<u8> = (0..features).flat_map(|j| (0..samples).map(move |i| value(i, j))).collect();
    fs::write(path.join("x.npy"), npz::npy("|u1", true, &[samples, features], &columns)).expect("a file");
    let mut source = data::read(&path, &Options::default()).expect("arrays");
    let only = Spec { slots: vec![slot("x", Role::Input, DType::F32, &[features])], classes: None, ..spec(&[], 1) };
    let dataset = Dataset::new(&mut source, &only).expect("samples");
    for i in [0, 1, 16_776, 16_777, 16_778, samples - 1] {
        let row: Vec<f64> = dataset.gather(&dataset.columns()[0], &[i]).expect("a sample").iter_f64().collect();
        let expected: Vec<f64> = (0..features).map(|j| f64::from(value(i, j))).collect();
        assert_eq!(row, expected, "sample {i}");
    }
}
