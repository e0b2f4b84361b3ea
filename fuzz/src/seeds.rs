//! Where fuzzing begins: the fixtures, small, and what the formats look like at their shortest.

use std::fs;
use std::path::{Path, PathBuf};

/// Larger seeds make every run of a target slow.
const LARGEST: u64 = 20_000;

/// The seeds of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "model" | "transform" => files("onnx").iter().map(|path| read(path)).collect(),
        "arrays" => arrays(),
        "idx" => idx(),
        "tensors" => tensors(),
        "ort_checkpoint" => ort_checkpoints(),
        "table" => TABLES.iter().flat_map(|text| [0u8, 1].map(|kind| [&[kind], text.as_bytes()].concat())).collect(),
        "config" => CONFIGS.iter().map(|text| text.as_bytes().to_vec()).collect(),
        "images" => images(),
        _ => (0..32u64).map(noise).collect(),
    }
}

const TABLES: &[&str] = &[
    "a,b,label\n1,2,0\n3,4,1\n",
    "1,2\n3,4\n",
    "\"a \"\"x\"\"\";b\r\n1e3;-.5\r\n",
    "x\tlabel\nnan\t1\ninf\t0\n\n",
    "\u{feff}label,x\n9,1\n",
];

const CONFIGS: &[&str] = &[
    "",
    "artifact = \"a.fam\"\ndata = \"d.npz\"\nepochs = 3\nlr = 0.1\nbatch-size = 8\nseed = 1\n",
    "schedule = \"cosine\"\nwarmup = 5\naccumulate = 2\nlast-batch = \"keep\"\nval = 0.1\naugment = \"flip,crop:4,cutout:8\"\n",
    "lambda-sweep = [0.0, 1e-3]\nseeds = 3\ninit = \"random\"\nema = 0.99\nmean = [0.5]\nstd = [0.1]\ndevice = \"cuda:1\"\n",
];

fn fixtures() -> PathBuf {
    // The package is the crate or the one of the targets inside of it.
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|directory| directory.join("fixtures"));
    all.into_iter().find(|path| path.is_dir()).expect("the crate's fixtures")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a fixture")
}

/// The small files below `fixtures/` with that extension, in the order of their names.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![fixtures()];
    while let Some(directory) = open.pop() {
        for path in fs::read_dir(directory).expect("fixtures").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension)
                && path.metadata().is_ok_and(|data| data.len() <= LARGEST)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// An `.npy` file.
fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), data].concat()
}

fn arrays() -> Vec<Vec<u8>> {
    let bare = [
        npy("<f4", "False", "(2, 1)", &[0; 8]),
        npy(">f8", "True", "(1, 2, 3)", &[0; 48]),
        npy("<i8", "False", "(3,)", &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]),
        npy("|u1", "False", "()", &[7]),
        npy("<f2", "False", "(0, 3)", &[]),
        npy("|b1", "False", "(2,)", &[0, 1]),
        npy("<U2", "False", "(1,)", &[0; 8]),
    ];
    let archives = files("npz").into_iter().map(|path| [vec![0], read(&path)].concat());
    bare.iter().flat_map(|bytes| [1, 2].map(|kind| [&[kind], bytes.as_slice()].concat())).chain(archives).collect()
}

fn idx() -> Vec<Vec<u8>> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1][..], &[1, 2, 3, 4]].concat();
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 2][..], &[3, 4]].concat();
    let floats = [&[0, 0, 13, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0x3f, 0x80, 0, 0]].concat();
    let packed = read(&fixtures().join("mnist/train-labels-idx1-ubyte.gz"));
    let pairs = [(images.clone(), labels.clone()), (floats, labels), (images, packed)];
    let mut seeds = Vec::new();
    for (images, labels) in pairs {
        let share = (images.len() * 255).div_ceil((images.len() + labels.len()).max(1)) as u8;
        seeds.extend([0u8, 1, 2, 0x80].map(|kind| [&[kind, share], images.as_slice(), &labels].concat()));
    }
    seeds
}

fn tensors() -> Vec<Vec<u8>> {
    let header = r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"labels":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
    let state = r#"{"version":1,"step":3,"epoch":0,"best":null}"#;
    let manifests = files("json").into_iter().map(|path| read(&path)).chain([MANIFEST.as_bytes().to_vec()]);
    let mut seeds: Vec<Vec<u8>> = manifests.map(|text| [vec![1], text].concat()).collect();
    seeds.push([&[0], safetensors.as_slice()].concat());
    // Nearly all of the rest is the parameters.
    let share = (safetensors.len() * 255).div_ceil(safetensors.len() + state.len()) as u8;
    seeds.extend([2, 3].map(|kind| [&[share & !3 | kind], safetensors.as_slice(), state.as_bytes()].concat()));
    seeds
}

const MANIFEST: &str = r#"{"version":1,"fam_onnx":"0.1.0","source":{"name":"m.onnx","sha256":""},"opset":17,"options":{},
"layers":[{"name":"fc","weight":"w","d":2,"m":3,"lambda":0.1,"lambda_input":"lambda","measure":"neuronwise","estimator":"exact","probes":[]}],
"inputs":["x"],"labels":"labels","loss":"mse","parameters":[{"name":"w","dtype":"float32","shape":[2,3],"trainable":true}],"state":[],
"graphs":{"gradient":{"path":"gradient.onnx","loss":"loss","kappa":["kappa"],"objective":"objective","gradients":{"w":"w.grad"}},
"optimizer":{"path":"optimizer.onnx","learning_rate":"learning_rate","gradients":{"w":"w.grad"},"updates":{"w":"w.next"}},
"train":{"path":"train.onnx","learning_rate":"learning_rate","loss":"loss","kappa":["kappa"],"objective":"objective","updates":{"w":"w.next"}},
"evaluate":{"path":"evaluate.onnx","predictions":["output"],"loss":"loss","kappa":["kappa"],"objective":"objective"}},"files":{}}"#;

fn ort_checkpoints() -> Vec<Vec<u8>> {
    use fam_onnx::artifact::ort_training::{Checkpoint, External};
    use fam_onnx::ir::{DType, Tensor};
    let tensor =
        |name: &str, dtype, n: usize| (name.to_owned(), Tensor::from_f64(dtype, &[n], (0..n).map(|v| v as f64)));
    let checkpoint = Checkpoint {
        trainable: vec![tensor("fc.weight", DType::F32, 4), tensor("fc.bias", DType::F16, 2)],
        frozen: vec![tensor("lambda", DType::F32, 1)],
        properties: [("fam_onnx.model".to_owned(), "0".to_owned())].into(),
        step: 0,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let write = |external: External| {
        let path = directory.path().join("checkpoint");
        let files = checkpoint.write(&path, external).expect("a checkpoint");
        let bytes = read(&path);
        let beside: Vec<u8> = files.iter().filter(|file| **file != path).flat_map(|file| read(file)).collect();
        let share = if beside.is_empty() { 0 } else { (beside.len() * 255).div_ceil(beside.len() + bytes.len()) as u8 };
        [vec![share], beside, bytes].concat()
    };
    vec![write(External::Auto), write(External::Always)]
}

/// Three pixels or so in each format.
fn images() -> Vec<Vec<u8>> {
    let png: &[u8] = &[
        0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0, 0, 1,
        8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 0x0a, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0x60, 0, 0, 0,
        2, 0, 1, 0x48, 0xaf, 0xa4, 0x71, 0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
    ];
    let gif: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let bmp: &[u8] = b"BM:\0\0\0\0\0\0\x006\0\0\0(\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x03\0";
    [(0, png), (2, bmp), (3, gif)].into_iter().map(|(kind, bytes)| [&[kind], bytes].concat()).collect()
}

/// Bytes for the targets that make graphs of them.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..256).map(|_| next()).collect()
}
