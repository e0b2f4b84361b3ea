//! Artifacts for ONNX Runtime's training API: that API at work on them, against the same training by this program's own graphs.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::step::{exact, f32s, fixtures, initial, model, model_path, plan, scalar, session, values};
use common::{fam_onnx, npz, ort_training_python, run, text};
use expect_test::{Expect, expect};
use fam_onnx::artifact::manifest::{Dim, Probe};
use fam_onnx::artifact::ort_training::{self, Checkpoint, External};
use fam_onnx::artifact::{self, Options, Plan};
use fam_onnx::flatness::Estimator;
use fam_onnx::onnx;
use fam_onnx::optim::{Adam, Optimizer};
use fam_onnx::tensor::{DType, Tensor, Tensors};
use fam_onnx::train::data::{self, Content};
use serde_json::Value;

const STEPS: usize = 100;
const BATCH: usize = 16;

/// Steps of one fixture by both.
struct Case {
    directory: tempfile::TempDir,
    plan: Plan,
    rate: f32,
    x: Vec<f32>,
    labels: Vec<i64>,
    /// One a step, by name.
    probes: BTreeMap<String, Vec<Vec<f32>>>,
    sample: Vec<usize>,
}

/// A random number in [0, 1) after the other, the same everywhere.
fn uniform() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    }
}

impl Case {
    fn new(fixture: &str, options: &Options, rate: f32) -> Case {
        let model = model(fixture);
        let plan = plan(&model, options);
        let fact = &model.graph.value(model.graph.inputs[0]).fact;
        let sample = fact.shape.iter().flatten().skip(1).map(|d| d.fixed().expect("a number") as usize);
        let sample: Vec<usize> = sample.collect();
        let mut uniform = uniform();
        let size: usize = sample.iter().product();
        let x: Vec<f32> = (0..STEPS * BATCH * size).map(|_| 3.0 * uniform() - 1.5).collect();
        // What a small net learns within the steps: in which quarter the mean is the largest.
        let quarter = |x: &[f32]| x.iter().sum::<f32>();
        let label = |x: &[f32]| {
            let quarters = x.chunks(size.div_ceil(4)).map(quarter).enumerate();
            quarters.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(k, _)| k as i64)
        };
        let labels = x.chunks(size).map(label).collect();
        let mut signs = |n: usize| (0..n).map(|_| if uniform() < 0.5 { -1.0 } else { 1.0 }).collect::<Vec<f32>>();
        let probes = plan
            .manifest
            .probes()
            .map(|p| (p.name.clone(), (0..STEPS).map(|_| signs(probe_shape(p).iter().product())).collect()));
        let probes = probes.collect();
        let case = Case { directory: tempfile::tempdir().expect("a directory"), plan, rate, x, labels, probes, sample };
        let prepared = ort_training::prepare(&case.plan, options).expect("an artifact");
        let names: Vec<String> = case.plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
        let inference = onnx::without_weights(&model_path(fixture), &names).expect("a model");
        ort_training::write(&prepared, &inference, &case.artifact(), false).expect("a written artifact");
        case
    }

    fn artifact(&self) -> PathBuf {
        self.directory.path().join("model.fam")
    }

    fn probe_shape(&self, name: &str) -> Vec<usize> {
        probe_shape(self.plan.manifest.probes().find(|p| p.name == name).expect("a probe"))
    }

    /// The whole training by ONNX Runtime's API; its record.
    fn by_the_api(&self) -> Value {
        let shape = |rows: usize| -> Vec<usize> { std::iter::once(rows).chain(self.sample.iter().copied()).collect() };
        let rows = STEPS * BATCH;
        let mut arrays = vec![("x", npz::f32s(&shape(rows), &self.x)), ("labels", npz::i64s(&[rows], &self.labels))];
        for (name, signs) in &self.probes {
            let shape: Vec<usize> = std::iter::once(STEPS).chain(self.probe_shape(name)).collect();
            arrays.push((name, npz::f32s(&shape, &signs.concat())));
        }
        let data = self.directory.path().join("data.npz");
        npz::write(&data, &arrays, false);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/ort_training.py");
        let (steps, rate) = (STEPS.to_string(), self.rate.to_string());
        run(Command::new(ort_training_python()).arg(script).arg(self.artifact()).arg(data).args([steps, rate]));
        let record = std::fs::read_to_string(self.artifact().join("losses.json")).expect("losses");
        serde_json::from_str(&record).expect("JSON")
    }

    /// The first batch's inputs and labels among `feeds`.
    fn feed(&self, step: usize, feeds: &mut Tensors) {
        let size: usize = self.sample.iter().product();
        let rows = step * BATCH..(step + 1) * BATCH;
        let x: Vec<f64> = self.x[rows.start * size..rows.end * size].iter().map(|v| f64::from(*v)).collect();
        let shape: Vec<usize> = std::iter::once(BATCH).chain(self.sample.iter().copied()).collect();
        feeds.insert("x".to_owned(), f32s(&shape, &x));
        let labels = self.labels[rows].iter().flat_map(|v| v.to_le_bytes()).collect();
        feeds.insert("labels".to_owned(), Tensor::new(DType::I64, vec![BATCH], labels).expect("labels"));
        for (name, signs) in &self.probes {
            let signs: Vec<f64> = signs[step].iter().map(|v| f64::from(*v)).collect();
            feeds.insert(name.clone(), f32s(&self.probe_shape(name), &signs));
        }
    }

    /// The same training with `train.onnx`: loss and κ of each step, and the last parameters.
    fn by_ourselves(&self) -> (Vec<[f64; 2]>, Tensors) {
        let graph = &self.plan.manifest.graphs.train;
        let mut session = session("train.onnx", common::step::graph(&self.plan, "train.onnx"));
        let mut tensors = initial(&self.plan);
        let mut record = Vec::new();
        for step in 0..STEPS {
            self.feed(step, &mut tensors);
            tensors.insert(graph.learning_rate.clone(), Tensor::scalar(self.rate));
            let results = common::step::run(&mut session, &tensors);
            record.push([scalar(&results, &graph.loss), scalar(&results, &graph.kappa[0])]);
            for (name, new) in &graph.updates {
                tensors.insert(name.clone(), results[new].clone());
            }
        }
        (record, tensors)
    }
}

fn probe_shape(probe: &Probe) -> Vec<usize> {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(n) => *n,
        Dim::Symbol(_) => BATCH,
    };
    probe.shape.iter().map(dim).collect()
}

fn arrays(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let arrays = data::read(path, &data::Options::default()).expect("arrays").arrays.into_iter();
    let arrays = arrays.map(|array| match array.content {
        Content::Numbers(stored) => (array.name, values(&stored.tensor().expect("whole data"))),
        other => panic!("{} is {other:?}", array.name),
    });
    arrays.collect()
}

/// The largest difference, relative to the larger of 1 and the expected value.
fn off(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    off.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}

/// Everything that is promised of one artifact.
fn check(name: &str, case: &Case) {
    let api = case.by_the_api();
    let (ours, tensors) = case.by_ourselves();
    let of = |key: &str| -> Vec<f64> {
        let steps = api["steps"].as_array().expect("steps").iter();
        steps.map(|step| step[key].as_f64().expect("a number")).collect()
    };
    let column = |k: usize| ours.iter().map(|row| row[k]).collect::<Vec<f64>>();
    let (loss, kappa) = (off(&of("loss"), &column(0)), off(&of("kappa"), &column(1)));
    let (first, last) = (ours[0][0], ours[STEPS - 1][0]);
    eprintln!("{name}: loss {first:.4} → {last:.4}, off by {loss:.1e}, κ off by {kappa:.1e}");
    assert!(loss <= 1e-4, "{name}: losses differ by {loss:e}");
    assert!(kappa <= 1e-3, "{name}: κ differs by {kappa:e}");
    assert!(last < first, "{name}: the loss rises from {first} to {last}");

    let without = &api["unregularised"][0];
    assert_eq!(without["loss"], without["objective"], "{name}: λ is set to 0");
    assert_ne!(api["steps"][0]["loss"], api["steps"][0]["objective"], "{name}: λ is not 0 at first");

    let gradients = arrays(&case.artifact().join("accumulated.npz"));
    let both = gradients.iter().filter_map(|(key, both)| Some((key.strip_prefix("both/")?, both)));
    for (parameter, both) in both {
        let [first, second] = ["first", "second"].map(|which| &gradients[&format!("{which}/{parameter}")]);
        let sum: Vec<f64> = first.iter().zip(second).map(|(a, b)| a + b).collect();
        assert!(off(both, &sum) <= 1e-5, "{name}: gradients of {parameter} accumulate");
    }

    // The checkpoint that the API saved, read here.
    let trained = Checkpoint::read(&case.artifact().join("trained")).expect("a checkpoint");
    assert_eq!(trained.step, STEPS as u64, "{name}");
    for (parameter, tensor) in trained.trainable.iter().chain(&trained.frozen) {
        if let Some(own) = tensors.get(parameter) {
            let found = Tensor::new(tensor.dtype, tensor.shape.clone(), tensor.bytes.to_vec()).expect("a whole tensor");
            assert!(off(&values(&found), &values(own)) <= 2e-3, "{name}: {parameter} after training");
        }
    }

    // Its weights in the model, by this program and by the API.
    let exported = artifact::export(&case.artifact().join("trained"), None, false).expect("a model");
    let exported = onnx::read_bytes(&exported.what.to_bytes(), None).expect("a model");
    let mut feeds = Tensors::new();
    case.feed(0, &mut feeds);
    let logits = values(&common::step::run(&mut session("exported", &exported), &feeds)["logits"]);
    for (which, theirs) in arrays(&case.artifact().join("logits.npz")) {
        assert!(off(&theirs, &logits) <= 1e-4, "{name}: logits of the {which} model");
    }
}

fn sgd(layer: &str) -> Options {
    exact(&[(layer, 0.01)])
}

/// With an ε above the gradients' rounding errors, which Adam would otherwise blow up to whole steps.
fn adamw(layer: &str) -> Options {
    let adamw = Adam { betas: [0.9, 0.999], eps: 1e-5, weight_decay: 0.01, decoupled: true };
    Options { optimizer: Optimizer::Adam(adamw), ..sgd(layer) }
}

#[test]
fn mlp() {
    check("mlp, SGD", &Case::new("mlp", &sgd("fc2"), 0.1));
    check("mlp, AdamW", &Case::new("mlp", &adamw("fc2"), 0.01));
}

#[test]
fn mlp_with_probes_and_clipping() {
    let estimated = |options| Options { estimator: Some(Estimator::Hutchinson), clip_norm: Some(0.5), ..options };
    check("mlp, estimated, SGD", &Case::new("mlp", &estimated(sgd("fc1")), 0.1));
    check("mlp, estimated, AdamW", &Case::new("mlp", &estimated(adamw("fc1")), 0.01));
}

#[test]
fn lenet() {
    check("lenet, SGD", &Case::new("lenet", &sgd("fc2"), 0.05));
    check("lenet, AdamW", &Case::new("lenet", &adamw("fc2"), 2e-4));
}

#[test]
fn resnet_with_frozen_batch_norm_and_frozen_weights() {
    let frozen = |globs: &[&str], options| Options { freeze: globs.iter().map(|g| g.to_string()).collect(), ..options };
    let some = frozen(&["conv1.*", "layer1.0.conv?.weight"], sgd("neck"));
    check("resnet, frozen, SGD", &Case::new("resnet", &some, 0.005));
    // Adam makes whole steps of the differences that rounding errors at a ReLU's kink make in the gradients behind it.
    let early = frozen(&["conv1.*", "bn1.*", "layer*"], adamw("neck"));
    check("resnet, frozen, AdamW", &Case::new("resnet", &early, 1e-3));
    check("resnet, all but its statistics, AdamW", &Case::new("resnet", &adamw("neck"), 1e-5));
}

#[test]
fn resnet_with_batch_norm_that_trains() {
    let trained = |options| Options { train_batch_norm: true, ..options };
    // With larger steps this net is chaotic where all of it trains: started from weights that differ by 2e-7, the program's
    // own graphs are 1e-3 apart after some 25 to 90 steps, with and without κ.
    check("resnet, all trained, SGD", &Case::new("resnet", &trained(sgd("neck")), 1e-4));
    check("resnet, all trained, AdamW", &Case::new("resnet", &trained(adamw("neck")), 1e-5));
    let early = ["conv1.*", "bn1.*", "layer*"].map(str::to_owned).to_vec();
    let last = |options| Options { freeze: early.clone(), ..trained(options) };
    check("resnet, trained, SGD", &Case::new("resnet", &last(sgd("neck")), 0.05));
    check("resnet, trained, AdamW", &Case::new("resnet", &last(adamw("neck")), 1e-3));
}

#[test]
fn bert() {
    check("bert, SGD", &Case::new("bert", &sgd("classifier"), 0.05));
    check("bert, AdamW", &Case::new("bert", &adamw("classifier"), 1e-3));
}

#[test]
fn data_beside_the_checkpoint() {
    let case = Case::new("mlp", &sgd("fc2"), 0.1);
    let path = case.artifact().join("checkpoint");
    let inside = Checkpoint::read(&path).expect("a checkpoint");
    let written = inside.write(&path, External::Always).expect("a checkpoint");
    assert_eq!(written, [path.clone(), case.artifact().join("checkpoint.data")]);
    let beside = Checkpoint::read(&path).expect("a checkpoint");
    assert_eq!((&beside.trainable, &beside.frozen), (&inside.trainable, &inside.frozen));
    check("mlp, external data", &case);
    std::fs::write(case.artifact().join("checkpoint.data"), b"short").expect("a file");
    let error = Checkpoint::read(&path).expect_err("a file that is too short").to_string();
    assert!(error.ends_with("reach beyond the data file"), "{error}");
}

/// Bytes that differ from a checkpoint's anywhere are read or refused.
#[test]
fn damaged_checkpoints() {
    let case = Case::new("mlp", &sgd("fc2"), 0.1);
    let whole = std::fs::read(case.artifact().join("checkpoint")).expect("a checkpoint");
    let path = case.directory.path().join("damaged");
    let mut refused = 0;
    for at in (0..whole.len()).filter(|at| *at < 256 || at % 17 == 0 || whole.len() - at < 512) {
        for bytes in [flipped(&whole, at), whole[..at].to_vec()] {
            std::fs::write(&path, bytes).expect("a file");
            refused += usize::from(Checkpoint::read(&path).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}

fn flipped(whole: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[at] ^= 0xff;
    bytes
}

/// What a command line prints in a directory, and its exit code.
fn shows(directory: &Path, line: &str, expected: Expect) {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let output = fam_onnx(&arguments).current_dir(directory).output().expect("the program");
    let code = output.status.code().expect("an exit code");
    let (stdout, stderr) = (text(&output.stdout, directory), text(&output.stderr, directory));
    expected.assert_eq(&format!("{stdout}{stderr}[exit {code}]\n"));
}

#[test]
fn what_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    for name in ["mlp", "tokens"] {
        std::fs::copy(model_path(name), place.path().join(format!("{name}.onnx"))).expect("a copy");
    }
    let inject = "inject mlp.onnx --layer fc2 --lambda 0.1 --format ort-training";
    shows(
        place.path(),
        &format!("{inject} --momentum 0.9 --weight-decay 1e-4"),
        expect![[r#"
        error: ONNX Runtime's training API cannot train this:
          it has no SGD with momentum; it has plain SGD, Adam without weight decay, and AdamW
        [exit 1]
    "#]],
    );
    assert_eq!(std::fs::read_dir(place.path()).expect("a directory").count(), 2);

    let output = fam_onnx(&inject.split_whitespace().collect::<Vec<_>>()).current_dir(place.path()).output();
    assert!(output.expect("the program").status.success());
    shows(
        place.path(),
        inject,
        expect![[r#"
        error: mlp.fam exists already
        hint: choose another directory with -o, or replace this one with --force
        [exit 1]
    "#]],
    );
    shows(
        place.path(),
        "train mlp.fam --data none.npz",
        expect![[r#"
        error: DIR/mlp.fam/manifest.json: an artifact for ONNX Runtime's training API, which trains it; this program exports its checkpoints
        [exit 1]
    "#]],
    );
    shows(
        place.path(),
        "export mlp.onnx -o out.onnx",
        expect![[r#"
        error: mlp.onnx: it does not begin as a checkpoint of ONNX Runtime's training API does ("ODTC")
        [exit 1]
    "#]],
    );
    std::fs::create_dir_all(place.path().join("a/b/c/d")).expect("directories");
    std::fs::copy(place.path().join("mlp.fam/checkpoint"), place.path().join("a/b/c/d/checkpoint")).expect("a copy");
    shows(
        place.path(),
        "export a/b/c/d/checkpoint -o out.onnx",
        expect![[r#"
        error: a/b/c/d/checkpoint: neither its directory nor the two above hold the artifact that it belongs to
        hint: --artifact DIR names it
        [exit 1]
    "#]],
    );
    shows(
        place.path(),
        "export a/b/c/d/checkpoint --artifact mlp.fam -o out.onnx",
        expect![[r#"
        out.onnx with the weights of a/b/c/d/checkpoint
        [exit 0]
    "#]],
    );
    let other = "inject tokens.onnx --layer head.fc --lambda 0.1 --format ort-training";
    let output = fam_onnx(&other.split_whitespace().collect::<Vec<_>>()).current_dir(place.path()).output();
    assert!(output.expect("the program").status.success());
    shows(
        place.path(),
        "export a/b/c/d/checkpoint --artifact tokens.fam -o out.onnx",
        expect![[r#"
        error: a/b/c/d/checkpoint: its weights are those of another model than tokens.fam/model.onnx
        hint: --artifact DIR names the artifact that it belongs to
        [exit 1]
    "#]],
    );
}

/// An artifact gives the model back before it is trained, whatever the model.
#[test]
fn export_gives_the_model_back() {
    for name in fixtures() {
        let options = Options { estimator: None, ..exact(&[("penultimate", 0.1)]) };
        let model = model(&name);
        if name.contains("conv") {
            continue;
        }
        let plan = plan(&model, &options);
        let prepared = ort_training::prepare(&plan, &options).expect("an artifact");
        let names: Vec<String> = plan.manifest.parameters.iter().map(|p| p.name.clone()).collect();
        let inference = onnx::without_weights(&model_path(&name), &names).expect("a model");
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("model.fam");
        ort_training::write(&prepared, &inference, &directory, false).expect("a written artifact");
        let exported = artifact::export(&directory, None, false).expect("a model");
        let back = onnx::read_bytes(&exported.what.to_bytes(), None).expect("a model");
        assert_eq!(onnx::compact(&model.graph), onnx::compact(&back.graph), "{name}");
    }
}
