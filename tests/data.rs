//! The readers of data: what NumPy and MNIST's tools write comes out as the same numbers.

mod common;

use std::{fs, io::Write, path::Path};

use common::npz;
use expect_test::{Expect, expect};
use fam_onnx::{
    tensor::DType,
    train::data::{self, Array, Content, Dataset, Options, Role, Slot, Source, Spec, Stored},
};

fn show(array: Array) -> String {
    let (name, image) = (array.name, if array.image { " image" } else { "" });
    match array.content {
        Content::Numbers(stored) => match stored.tensor() {
            Ok(tensor) => {
                let values: Vec<f64> = tensor.iter_f64().collect();
                format!("{name}: {}{:?}{image} = {values:?}\n", tensor.dtype(), tensor.shape())
            }
            Err(why) => format!("{name}: {why}\n"),
        },
        Content::Images(images) => format!("{name}: {} images\n", images.files.len()),
        Content::Unsupported(found) => format!("{name}: {found} is not supported\n"),
    }
}

fn read(path: &Path) -> Result<Source, data::Error> {
    data::read(path, &Options::default())
}

fn check(path: &Path, expected: Expect) {
    let text = match read(path) {
        Ok(source) => {
            let held_out = source.held_out.into_iter().flatten().map(|array| format!("held out {}", show(array)));
            source.arrays.into_iter().map(show).chain(held_out).collect()
        }
        Err(error) => common::text(format!("{error}\n").as_bytes(), path.parent().expect("a directory")),
    };
    expected.assert_eq(&text);
}

#[test]
fn npz_in_every_type_and_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("all.npz");
    let be = |values: &[f32]| values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
    let arrays = [
        ("f4", npz::f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("f4 big-endian", npz::npy(">f4", false, &[3], &be(&[1.5, -2.5, 1e30]))),
        // Column after column: [[1, 2, 3], [4, 5, 6]].
        (
            "f4 Fortran",
            npz::npy("<f4", true, &[2, 3], &[1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].map(f32::to_le_bytes).concat()),
        ),
        ("f4 both", npz::npy(">f4", true, &[2, 1, 2], &be(&[1.0, 3.0, 2.0, 4.0]))),
        ("f2", npz::npy("<f2", false, &[2], &[0x00, 0x3c, 0x00, 0xc0])),
        ("f8", npz::npy("<f8", false, &[1], &0.1f64.to_le_bytes())),
        ("i1", npz::npy("|i1", false, &[2], &[0xff, 0x7f])),
        ("i2", npz::npy(">i2", false, &[2], &[0xff, 0xfe, 0x01, 0x00])),
        ("i4", npz::npy("<i4", false, &[1], &(-7i32).to_le_bytes())),
        ("i8", npz::i64s(&[2], &[-1, 1 << 40])),
        ("u1", npz::npy("|u1", false, &[2], &[0, 255])),
        ("u2", npz::npy("<u2", false, &[1], &[0x39, 0x30])),
        ("u4", npz::npy("<u4", false, &[1], &u32::MAX.to_le_bytes())),
        ("u8", npz::npy("<u8", false, &[1], &(1u64 << 50).to_le_bytes())),
        ("bool", npz::npy("|b1", false, &[2], &[0, 1])),
        ("scalar", npz::f32s(&[], &[7.0])),
        ("empty", npz::f32s(&[0, 3], &[])),
        ("text", npz::npy("<U2", false, &[1], &[0; 8])),
    ];
    npz::write(&path, &arrays, false);
    check(
        &path,
        expect![[r#"
        f4: float32[2, 3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        f4 big-endian: float32[3] = [1.5, -2.5, 1.0000000150474662e30]
        f4 Fortran: float32[2, 3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        f4 both: float32[2, 1, 2] = [1.0, 2.0, 3.0, 4.0]
        f2: float16[2] = [1.0, -2.0]
        f8: float64[1] = [0.1]
        i1: int8[2] = [-1.0, 127.0]
        i2: int16[2] = [-2.0, 256.0]
        i4: int32[1] = [-7.0]
        i8: int64[2] = [-1.0, 1099511627776.0]
        u1: uint8[2] = [0.0, 255.0]
        u2: uint16[1] = [12345.0]
        u4: uint32[1] = [4294967295.0]
        u8: uint64[1] = [1125899906842624.0]
        bool: bool[2] = [0.0, 1.0]
        scalar: float32[] = [7.0]
        empty: float32[0, 3] = []
        text: <U2 is not supported
    "#]],
    );
    let text = |path: &Path| read(path).expect("arrays").arrays.into_iter().map(show).collect::<String>();
    let stored = text(&path);
    npz::write(&path, &arrays, true);
    assert_eq!(text(&path), stored);
}

#[test]
fn damaged_npz() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bad.npz");
    let whole = npz::f32s(&[2], &[1.0, 2.0]);
    let cases: [(&[u8], Expect); 4] = [
        (
            b"\x93NUMPY",
            expect![[r#"
            DIR/bad.npz: not a valid .npz file (x.npy: cut short); numpy.savez writes one
        "#]],
        ),
        (
            b"nothing of the kind",
            expect![[r#"
            DIR/bad.npz: not a valid .npz file (x.npy: it does not begin as an .npy file does); numpy.savez writes one
        "#]],
        ),
        (
            &whole[..whole.len() - 1],
            expect![[r#"
            DIR/bad.npz: not a valid .npz file (x.npy: 7 bytes of data; expected 8 for shape [2] of float32); numpy.savez writes one
        "#]],
        ),
        (
            b"\x93NUMPY\x01\x00\x03\x00{ }",
            expect![[r#"
            DIR/bad.npz: not a valid .npz file (x.npy: its header has no field 'descr'); numpy.savez writes one
        "#]],
        ),
    ];
    for (bytes, expected) in cases {
        npz::write(&path, &[("x", bytes.to_vec())], false);
        check(&path, expected);
    }
}

/// An IDX file of bytes.
fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x08, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressed bytes");
    encoder.finish().expect("a whole stream")
}

#[test]
fn idx_directory_with_and_without_gzip() {
    let directory = tempfile::tempdir().expect("a directory");
    let mnist = directory.path().join("mnist");
    fs::create_dir(&mnist).expect("a directory");
    let write = |name: &str, bytes: &[u8]| fs::write(mnist.join(name), bytes).expect("a file");
    check(
        &mnist,
        expect![[r#"
            DIR/mnist: not data that can be read; expected an .npz file, a directory of .npy files, a directory of IDX files (train-images…, train-labels…), a .safetensors file, a directory with a directory of images for each class or a .csv file
        "#]],
    );
    write("train-images-idx3-ubyte", &idx(&[2, 1, 2], &[0, 51, 102, 255]));
    check(
        &mnist,
        expect![[r#"
        DIR/mnist: there is no file train-labels-idx…; expected one beside the other IDX files
    "#]],
    );
    write("train-labels-idx1-ubyte.gz", &gzip(&idx(&[2], &[9, 0])));
    check(
        &mnist,
        expect![[r#"
        x: uint8[2, 1, 2] image = [0.0, 51.0, 102.0, 255.0]
        y: uint8[2] = [9.0, 0.0]
    "#]],
    );
    write("t10k-images.idx3-ubyte.gz", &gzip(&idx(&[1, 1, 2], &[255, 0])));
    write("t10k-labels.idx1-ubyte", &[0, 0, 0x0C, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    check(
        &mnist,
        expect![[r#"
        x: uint8[2, 1, 2] image = [0.0, 51.0, 102.0, 255.0]
        y: uint8[2] = [9.0, 0.0]
        held out x: uint8[1, 1, 2] image = [255.0, 0.0]
        held out y: int32[1] = [-1.0]
    "#]],
    );
    write("t10k-labels.idx1-ubyte", &[0, 0, 0x0C, 1, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]);
    check(
        &mnist,
        expect![[r#"
        DIR/mnist/t10k-labels.idx1-ubyte: 4 bytes of data; expected 8 for shape [2] of int32
    "#]],
    );
}

fn spec(shape: &[Option<usize>]) -> Spec {
    let slot = |name: &str, role, dtype, shape: &[Option<usize>]| Slot {
        name: name.to_owned(),
        role,
        dtype,
        shape: shape.to_vec(),
    };
    Spec {
        slots: vec![slot("pixels", Role::Input, DType::F32, shape), slot("labels", Role::Labels, DType::I64, &[])],
        classes: Some(10),
        ignore_index: Some(-100),
        label_range: None,
        batch: None,
    }
}

fn bind(arrays: Vec<Array>, spec: &Spec, expected: Expect) {
    let options = Options::default();
    let mut source = Source { path: "data".into(), arrays, held_out: None, classes: None, header: None, options };
    let text = match Dataset::new(&mut source, spec) {
        Ok(dataset) => dataset
            .columns()
            .iter()
            .map(|column| {
                let all: Vec<usize> = (0..dataset.samples()).collect();
                let tensor = dataset.gather(column, &all).expect("samples");
                let values: Vec<f64> = tensor.iter_f64().collect();
                format!("{} {}: {}{:?} = {values:?}\n", column.role, column.name, tensor.dtype(), tensor.shape())
            })
            .collect(),
        Err(error) => format!("{error}\n"),
    };
    expected.assert_eq(&text);
}

#[test]
fn arrays_become_what_the_graph_takes() {
    use fam_onnx::tensor::Tensor;
    let tensor =
        |dtype, shape: &[usize], data: &[u8]| Tensor::new(dtype, shape.to_vec(), data.to_vec()).expect("a tensor");
    let array = |name: &str, tensor, image| Array {
        name: name.to_owned(),
        content: Content::Numbers(Stored::of(tensor)),
        image,
    };
    let images = || array("x", tensor(DType::U8, &[2, 1, 2], &[0, 51, 102, 255]), true);
    let labels = || array("y", tensor(DType::U8, &[2, 1], &[9, 0]), false);

    // Image bytes become 0 … 1, with a channel axis or flattened; labels lose an axis of length 1.
    bind(
        vec![images(), labels()],
        &spec(&[Some(1), Some(1), Some(2)]),
        expect![[r#"
            input pixels: float32[2, 1, 1, 2] = [0.0, 0.20000000298023224, 0.4000000059604645, 1.0]
            labels labels: int64[2] = [9.0, 0.0]
        "#]],
    );
    bind(
        vec![images(), labels()],
        &spec(&[Some(2)]),
        expect![[r#"
        input pixels: float32[2, 2] = [0.0, 0.20000000298023224, 0.4000000059604645, 1.0]
        labels labels: int64[2] = [9.0, 0.0]
    "#]],
    );
    // Other bytes stay numbers, and any size fits a free dimension.
    let bytes = array("pixels", tensor(DType::U8, &[2, 2], &[0, 51, 102, 255]), false);
    let ignored = array("labels", tensor(DType::I8, &[2], &[9, (-100i8) as u8]), false);
    bind(
        vec![bytes, ignored],
        &spec(&[None]),
        expect![[r#"
        input pixels: float32[2, 2] = [0.0, 51.0, 102.0, 255.0]
        labels labels: int64[2] = [9.0, -100.0]
    "#]],
    );
    // Channels last is not channels first, although the numbers would fill it.
    let image = array("x", tensor(DType::U8, &[2, 2, 2, 3], &[0; 24]), true);
    bind(
        vec![image, labels()],
        &spec(&[Some(3), Some(2), Some(2)]),
        expect![[r#"
            data: the data do not fit the model:
              array `x`: samples of shape [2, 2, 3]; expected [3, 2, 2]
        "#]],
    );
    let large = array("y", tensor(DType::U64, &[2], &[0xff; 16]), false);
    bind(
        vec![images(), large],
        &spec(&[Some(2)]),
        expect![[r#"
        data: the data do not fit the model:
          array `y`: 18446744073709551615 at index [0]; expected a value that int64 can hold
    "#]],
    );
    let none = array("y", tensor(DType::I64, &[0], &[]), false);
    let scalar = array("x", tensor(DType::F32, &[], &[0; 4]), false);
    bind(
        vec![scalar, none],
        &spec(&[Some(2)]),
        expect![[r#"
        data: the data do not fit the model:
          array `x`: a single number; expected an array whose first axis counts the samples
          array `y`: no samples
    "#]],
    );
}

/// Bytes of 0 … 23 of a type, each little-endian.
fn counted(code: &str) -> Vec<Vec<u8>> {
    let of = |k: u8| match code {
        "f2" => half::f16::from_f32(f32::from(k)).to_le_bytes().to_vec(),
        "f4" => f32::from(k).to_le_bytes().to_vec(),
        "f8" => f64::from(k).to_le_bytes().to_vec(),
        "b1" => vec![k % 2],
        _ => {
            let size = usize::from(code.as_bytes()[1] - b'0');
            u64::from(k).to_le_bytes()[..size].to_vec()
        }
    };
    (0..24).map(of).collect()
}

#[test]
fn byte_order_and_column_order_are_only_layout() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = [2, 3, 4];
    for code in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"] {
        let plain = counted(code);
        let columns: Vec<Vec<u8>> = (0..24).map(|k| plain[(k % 2) * 12 + (k / 2 % 3) * 4 + k / 6].clone()).collect();
        let file = |order: char, fortran: bool| {
            let values = if fortran { &columns } else { &plain };
            let turned = |value: &Vec<u8>| {
                let mut value = value.clone();
                if order == '>' {
                    value.reverse();
                }
                value
            };
            npz::npy(&format!("{order}{code}"), fortran, &shape, &values.iter().flat_map(turned).collect::<Vec<u8>>())
        };
        let values = |path: &Path| {
            let array = read(path).expect("data").arrays.pop().expect("an array");
            let Content::Numbers(stored) = array.content else { panic!("{code} is no array of numbers") };
            let tensor = stored.tensor().expect("a tensor");
            assert_eq!(tensor.shape(), shape);
            (tensor.dtype(), tensor.iter_f64().collect::<Vec<f64>>())
        };
        let expected: Vec<f64> = (0..24).map(|k| f64::from(if code == "b1" { k % 2 } else { k })).collect();
        for (order, fortran) in [('<', false), ('<', true), ('>', false), ('>', true)] {
            let folder = directory.path().join("arrays");
            fs::create_dir_all(&folder).expect("a directory");
            fs::write(folder.join("x.npy"), file(order, fortran)).expect("a file");
            let (dtype, found) = values(&folder);
            assert_eq!(found, expected, "{order}{code}, Fortran order {fortran}");
            for deflate in [false, true] {
                let path = directory.path().join("x.npz");
                npz::write(&path, &[("x", file(order, fortran))], deflate);
                assert_eq!(values(&path), (dtype, expected.clone()), "{order}{code}, {fortran}, {deflate}");
            }
        }
    }
}
