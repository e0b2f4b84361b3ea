//! The training loop on a tiny artifact made by hand (`tests/common/make_toy_artifact.py`): softmax regression with the
//! exact κ, against the same mathematics in f64.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use common::{fam_onnx, npz, runtime, text, toy_artifact, toy_data, toy_npz};
use expect_test::expect;
use fam_onnx::{
    tensor::{Tensors, read_safetensors},
    train::{
        Config, End, Event, Figures, LastBatch, Resume, Schedule, StepRecord, Trainer, Validation, lambda_factor,
        run::Run, sampler,
    },
};
use ndarray::{Array1, Array2, Axis};

/// Softmax regression with κ and SGD with momentum, as the artifact has it.
struct Reference {
    weight: Array2<f64>,
    bias: Array1<f64>,
    weight_velocity: Array2<f64>,
    bias_velocity: Array1<f64>,
}

struct Forward {
    probabilities: Array2<f64>,
    loss: f64,
    kappa: f64,
}

impl Reference {
    fn new(tensors: &Tensors) -> Reference {
        let values = |name: &str| tensors[name].iter_f64().collect::<Vec<f64>>();
        Reference {
            weight: Array2::from_shape_vec((3, 4), values("fc.weight")).expect("12 values"),
            bias: values("fc.bias").into(),
            weight_velocity: Array2::zeros((3, 4)),
            bias_velocity: Array1::zeros(3),
        }
    }

    fn forward(&self, x: &Array2<f64>, labels: &[usize]) -> Forward {
        let z = x.dot(&self.weight.t()) + &self.bias;
        let mut probabilities = z.mapv(f64::exp);
        for mut row in probabilities.rows_mut() {
            let sum = row.sum();
            row /= sum;
        }
        let n = labels.len() as f64;
        let loss = -labels.iter().zip(probabilities.rows()).map(|(&y, p)| p[y].ln()).sum::<f64>() / n;
        let norms = self.weight.mapv(|w| w * w).sum_axis(Axis(1));
        let kappa = x.rows().into_iter().zip(probabilities.rows()).map(|(x, p)| {
            let mean = self.weight.t().dot(&p);
            x.dot(&x) * (p.dot(&norms) - mean.dot(&mean))
        });
        let kappa = kappa.sum::<f64>() / n;
        Forward { probabilities, loss, kappa }
    }

    /// The gradient of the loss in closed form, that of κ by central differences: nothing in common with the graph.
    fn step(&mut self, x: &Array2<f64>, labels: &[usize], lr: f64, lambda: f64) -> Forward {
        let forward = self.forward(x, labels);
        let mut dz = forward.probabilities.clone();
        for (mut row, &y) in dz.rows_mut().into_iter().zip(labels) {
            row[y] -= 1.0;
        }
        dz /= labels.len() as f64;
        let mut weight_gradient = dz.t().dot(x);
        let mut bias_gradient = dz.sum_axis(Axis(0));
        const H: f64 = 1e-5;
        for index in 0..15 {
            let mut shifted = |by: f64| {
                let target = match index {
                    0..12 => &mut self.weight[[index / 4, index % 4]],
                    _ => &mut self.bias[index - 12],
                };
                let before = *target;
                *target += by;
                let kappa = self.forward(x, labels).kappa;
                match index {
                    0..12 => self.weight[[index / 4, index % 4]] = before,
                    _ => self.bias[index - 12] = before,
                }
                kappa
            };
            let slope = (shifted(H) - shifted(-H)) / (2.0 * H);
            match index {
                0..12 => weight_gradient[[index / 4, index % 4]] += lambda * slope,
                _ => bias_gradient[index - 12] += lambda * slope,
            }
        }
        self.weight_velocity = &self.weight_velocity * 0.9 + weight_gradient;
        self.bias_velocity = &self.bias_velocity * 0.9 + bias_gradient;
        self.weight.scaled_add(-lr, &self.weight_velocity);
        self.bias.scaled_add(-lr, &self.bias_velocity);
        forward
    }
}

fn batch(x: &[f32], labels: &[i64], indices: &[usize]) -> (Array2<f64>, Vec<usize>) {
    let rows = Array2::from_shape_fn((indices.len(), 4), |(i, j)| f64::from(x[4 * indices[i] + j]));
    (rows, indices.iter().map(|&i| labels[i] as usize).collect())
}

#[track_caller]
fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs() / expected.abs().max(1e-3);
    assert!(error <= tolerance, "{what}: {found}, expected {expected} (relative error {error:.1e})");
}

fn config(artifact: &Path, data: &Path) -> Config {
    Config {
        artifact: artifact.to_owned(),
        data: data.to_owned(),
        batch_size: 16,
        lr: 0.05,
        log_every: 1,
        threads: Some(1),
        ..Config::default()
    }
}

/// Runs to the end, or to `stop_after` steps.
fn train(trainer: Trainer, run: &Run, stop_after: Option<u64>) -> (End, Vec<StepRecord>, Vec<Figures>) {
    let stop = AtomicBool::new(false);
    let (mut steps, mut validations) = (Vec::new(), Vec::new());
    let outcome = trainer
        .run(run, &stop, &mut |event| match event {
            Event::Step { record, .. } => {
                steps.push(record.clone());
                if Some(record.step) == stop_after {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            Event::Validation { figures, .. } => validations.push(figures.clone()),
            _ => {}
        })
        .expect("a run without errors");
    (outcome.end, steps, validations)
}

fn new_run(config: &Config, directory: &Path) -> (Trainer, Run) {
    let trainer = Trainer::new(&runtime(), config).expect("a trainer");
    let run = Run::create(directory, config, trainer.manifest(), false).expect("a run directory");
    (trainer, run)
}

fn resume(run: &Run, config: &Config) -> Trainer {
    Trainer::resume(&runtime(), run, config, Resume::SameData, &mut |_| {}).expect("a trainer")
}

#[test]
fn every_step_is_the_mathematics() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let config = Config {
        epochs: Some(8),
        lambda: Some(0.3),
        lambda_warmup: 10,
        schedule: Schedule::Cosine,
        warmup: 5,
        ..config(&artifact, &data)
    };
    let (trainer, run) = new_run(&config, &directory.path().join("run"));
    let (end, steps, _) = train(trainer, &run, None);
    assert_eq!(end, End::Finished);
    // 100 samples make 6 batches of 16; the other 4 wait for another order.
    assert_eq!(steps.len(), 8 * 6);

    let mut reference =
        Reference::new(&read_safetensors(&artifact.join("parameters.safetensors")).expect("parameters"));
    let (x, labels) = toy_data(100);
    for record in &steps {
        let done = record.step - 1;
        let order = sampler::epoch_order(0, done / 6, 100);
        let first = (done % 6) as usize * 16;
        let (x, labels) = batch(&x, &labels, &order[first..first + 16]);
        let lr = Schedule::Cosine.learning_rate(0.05, done, 48, 5);
        let lambda = 0.3 * lambda_factor(done, 10);
        let forward = reference.step(&x, &labels, lr, lambda);
        let what = |name: &str| format!("step {} {name}", record.step);
        close(&what("loss"), record.loss, forward.loss, 1e-5);
        close(&what("kappa"), record.kappa[0].1, forward.kappa, 1e-5);
        close(&what("objective"), record.objective, forward.loss + lambda * forward.kappa, 1e-5);
        close(&what("lr"), record.lr, lr, 1e-12);
    }
    let last =
        read_safetensors(&run.latest().expect("a checkpoint").join("parameters.safetensors")).expect("parameters");
    let expected = reference.weight.iter().zip(last["fc.weight"].iter_f64());
    expected.for_each(|(expected, found)| close("fc.weight", found, *expected, 1e-4));
    let expected = reference.weight_velocity.iter().zip(last["fc.weight.momentum"].iter_f64());
    expected.for_each(|(expected, found)| close("fc.weight.momentum", found, *expected, 1e-3));
}

/// Lines of metrics without speeds, and without the title, which is the run's name.
fn without_speeds(text: &str) -> Vec<u8> {
    let header: Vec<&str> = text.lines().next().unwrap_or_default().split(',').collect();
    let speed = header.iter().position(|name| *name == "examples_per_second");
    let kept = text.lines().filter(|line| !line.starts_with("# ") && !line.contains("`examples_per_second`"));
    let lines = kept.map(|line| match speed {
        Some(speed) => line.split(',').enumerate().filter(|(at, _)| *at != speed).map(|(_, cell)| cell).collect(),
        None => line.split(",\"examples_per_second\"").next().unwrap_or(line).to_owned(),
    });
    lines.collect::<Vec<String>>().join("\n").into_bytes()
}

/// Every file of a run, by its path; without speeds, which differ from run to run.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = match name.as_str() {
            "metrics.jsonl" | "metrics.csv" | "summary.md" => without_speeds(&String::from_utf8(bytes).expect("text")),
            // It has the time of every event; `tests/metrics.rs` compares the rest.
            _ if name.contains("tfevents") => continue,
            _ => bytes,
        };
        found.insert(path.strip_prefix(directory).expect("a prefix").to_owned(), bytes);
    }
    found
}

/// An interrupt leaves a checkpoint of its own, so which ones are kept differs; what both runs have is the same.
#[track_caller]
fn assert_same_run(run: &Run, whole: &Run, steps: u64) {
    let (found, expected) = (files(&run.directory), files(&whole.directory));
    assert!(expected.contains_key(&Path::new(&format!("checkpoints/step-{steps}/parameters.safetensors")).to_owned()));
    for (path, bytes) in &expected {
        if path.starts_with("checkpoints") && !found.contains_key(path) {
            continue;
        }
        assert!(found.get(path) == Some(bytes), "{} differs in {}", path.display(), run.directory.display());
    }
}

#[test]
fn micro_batches_make_the_step_of_the_large_batch() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let large = Config { steps: Some(40), batch_size: 32, last_batch: LastBatch::Keep, ..config(&artifact, &data) };
    let (trainer, large_run) = new_run(&large, &directory.path().join("large"));
    let (_, expected, _) = train(trainer, &large_run, None);
    // 100 samples: steps of 32, 32, 32 and 4; a step of 32 is four micro-batches, that of 4 one smaller one.
    let small = Config { batch_size: 8, accumulate: 4, ..large };
    let (trainer, run) = new_run(&small, &directory.path().join("small"));
    assert_eq!((trainer.plan().batch, trainer.plan().steps_per_epoch), (32, 4));
    let (end, steps, _) = train(trainer, &run, Some(13));
    assert_eq!((end, steps.len()), (End::Interrupted, 13));
    let (_, rest, _) = train(resume(&run, &small), &run, None);
    let found = [steps, rest].concat();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let what = |name: &str| format!("step {} {name}", found.step);
        assert_eq!(found.epoch, expected.epoch);
        close(&what("loss"), found.loss, expected.loss, 1e-5);
        close(&what("kappa"), found.kappa[0].1, expected.kappa[0].1, 1e-5);
        close(&what("objective"), found.objective, expected.objective, 1e-5);
    }
    let last = |run: &Run| {
        read_safetensors(&run.latest().expect("a checkpoint").join("parameters.safetensors")).expect("parameters")
    };
    for (name, expected) in last(&large_run) {
        let pairs = last(&run)[&name].iter_f64().zip(expected.iter_f64()).collect::<Vec<_>>();
        pairs.iter().for_each(|(found, expected)| close(&name, *found, *expected, 1e-4));
    }
    let (trainer, whole) = new_run(&small, &directory.path().join("whole"));
    train(trainer, &whole, None);
    assert_same_run(&run, &whole, 40);
}

#[test]
fn the_average_of_the_weights_is_pytorchs() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let config = Config {
        steps: Some(23),
        ema: Some(0.9),
        checkpoint_every: Some(1),
        keep: 100,
        val: Some(Validation::Fraction(0.2)),
        ..config(&artifact, &data)
    };
    let (trainer, whole) = new_run(&config, &directory.path().join("whole"));
    let (_, _, validations) = train(trainer, &whole, None);
    let at = |step: u64, file: &str| {
        read_safetensors(&whole.checkpoints().join(format!("step-{step}/{file}.safetensors"))).expect("tensors")
    };
    // AveragedModel copies the weights at its first update.
    let mut expected: Vec<f64> = at(1, "parameters")["fc.weight"].iter_f64().collect();
    assert_eq!(at(1, "average")["fc.weight"], at(1, "parameters")["fc.weight"]);
    for step in 2..=23 {
        let weights = at(step, "parameters");
        expected.iter_mut().zip(weights["fc.weight"].iter_f64()).for_each(|(a, w)| *a = 0.9 * *a + 0.1 * w);
    }
    let found = at(23, "average");
    assert!(found.keys().eq(["fc.bias", "fc.weight"]), "state is not averaged");
    found["fc.weight"].iter_f64().zip(&expected).for_each(|(found, e)| close("average", found, *e, 1e-5));

    // Validation is of the average.
    let weights = fam_onnx::train::run::weights(&whole.checkpoints().join("step-20")).expect("weights");
    let averaged = weights.clone().averaged().expect("an average");
    let options = fam_onnx::runtime::Options { threads: Some(1), ..Default::default() };
    let (manifest, graphs) = (&weights.manifest, &weights.graphs);
    let mut evaluator =
        fam_onnx::train::Evaluator::open(&runtime(), manifest, graphs, &options, 0, None).expect("a graph");
    let mut source = fam_onnx::train::data::read(&data, &Default::default()).expect("data");
    let dataset = fam_onnx::train::data::Dataset::new(&mut source, evaluator.spec()).expect("samples");
    let (_, apart) = sampler::split(0, 100, 20);
    let mut loss = |tensors: &Tensors| {
        evaluator.hold(tensors).expect("parameters");
        evaluator.evaluate(&dataset, &apart, 16).expect("figures").loss
    };
    // 80 samples train in 5 batches an epoch: the fourth evaluation is after step 20.
    assert_eq!(loss(&averaged.tensors), validations[3].loss);
    assert_ne!(loss(&weights.tensors), validations[3].loss);

    let exported = directory.path().join("averaged.safetensors");
    let export = ["export", "--ema", "--format", "safetensors", "-o"];
    common::run(fam_onnx(&export).args([&exported, &whole.checkpoints().join("step-23")]));
    assert_eq!(read_safetensors(&exported).expect("tensors"), found);

    let (trainer, run) = new_run(&config, &directory.path().join("run"));
    train(trainer, &run, Some(7));
    train(resume(&run, &config), &run, None);
    assert_same_run(&run, &whole, 23);
}

#[test]
fn a_resumed_run_is_the_uninterrupted_run_byte_for_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let config = Config {
        steps: Some(33),
        val: Some(Validation::Fraction(0.2)),
        schedule: Schedule::OneCycle,
        checkpoint_every: Some(4),
        keep: 2,
        ..config(&artifact, &data)
    };
    let (trainer, whole) = new_run(&config, &directory.path().join("whole"));
    let (_, straight, validations) = train(trainer, &whole, None);
    // 80 samples train in 5 batches an epoch.
    assert_eq!((straight.len(), validations.len()), (33, 7));

    // In the middle of an epoch, at the end of one, and one step before the end.
    for stops in [vec![13], vec![5, 10], vec![1, 2, 32]] {
        let name = format!("stopped-{stops:?}");
        let (mut trainer, run) = new_run(&config, &directory.path().join(name));
        let mut steps = Vec::new();
        for stop in stops {
            let (end, some, _) = train(trainer, &run, Some(stop));
            assert_eq!(end, End::Interrupted);
            steps.extend(some);
            trainer = resume(&run, &config);
        }
        let (end, rest, _) = train(trainer, &run, None);
        assert_eq!(end, End::Finished);
        steps.extend(rest);
        let figures = |steps: &[StepRecord]| {
            steps.iter().map(|s| (s.step, s.epoch, s.loss, s.kappa.clone(), s.objective, s.lr)).collect::<Vec<_>>()
        };
        assert_eq!(figures(&steps), figures(&straight));
        assert_same_run(&run, &whole, 33);
    }
}

#[test]
fn a_run_goes_on_with_other_options() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let first = Config { steps: Some(5), ..config(&artifact, &data) };
    let (trainer, run) = new_run(&first, &directory.path().join("run"));
    train(trainer, &run, None);
    // 100 samples are 2 batches of 40: the 5 that are done are more than the epoch has.
    let larger = Config { steps: Some(9), batch_size: 40, ..first.clone() };
    let (end, steps, _) = train(resume(&run, &larger), &run, None);
    assert_eq!((end, steps.len(), steps[0].step, steps[0].epoch), (End::Finished, 4, 6, 2));
    let shorter = Config { steps: Some(3), ..first };
    let (end, steps, _) = train(resume(&run, &shorter), &run, None);
    assert_eq!((end, steps.len()), (End::Finished, 0));
}

#[test]
fn training_ends_when_validation_does_not_improve() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let config = Config {
        epochs: Some(50),
        val: Some(Validation::Fraction(0.2)),
        metric: Some("loss".to_owned()),
        lr: 0.0,
        patience: Some(3),
        ..config(&artifact, &data)
    };
    let (trainer, run) = new_run(&config, &directory.path().join("run"));
    let (end, _, validations) = train(trainer, &run, None);
    // Nothing moves: the first evaluation is the best and three more bring nothing.
    assert_eq!((end, validations.len()), (End::NoImprovement, 4));
    let (end, steps, _) = train(resume(&run, &config), &run, None);
    assert_eq!((end, steps.len()), (End::NoImprovement, 0));
}

#[test]
fn evaluation_is_the_mathematics() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let reference = Reference::new(&read_safetensors(&artifact.join("parameters.safetensors")).expect("parameters"));
    let (x, labels) = toy_data(100);
    let (x, labels) = batch(&x, &labels, &(0..100).collect::<Vec<_>>());
    let forward = reference.forward(&x, &labels);
    let hits =
        forward.probabilities.rows().into_iter().zip(&labels).filter(|(p, y)| p.iter().all(|&q| q <= p[**y])).count();

    // 100 samples in batches of 32: the last one is smaller and counts for less.
    let output = fam_onnx(&["evaluate", "--json", "--batch-size", "32", "--lambda", "2", "--data"])
        .args([&data, &artifact])
        .output()
        .expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let figure = |name: &str| document["figures"][name].as_f64().expect("a number");
    close("loss", figure("loss"), forward.loss, 1e-6);
    close("kappa", figure("kappa"), forward.kappa, 1e-5);
    close("objective", figure("objective"), forward.loss + 2.0 * forward.kappa, 1e-5);
    close("accuracy", figure("accuracy"), hits as f64 / 100.0, 1e-12);
}

#[test]
fn probes_are_drawn_afresh_and_estimate_kappa() {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), true);
    let data = toy_npz(directory.path(), 100);
    let reference = Reference::new(&read_safetensors(&artifact.join("parameters.safetensors")).expect("parameters"));
    let (x, labels) = toy_data(100);
    let (x, labels) = batch(&x, &labels, &(0..100).collect::<Vec<_>>());
    let exact = reference.forward(&x, &labels).kappa;

    let weights = fam_onnx::train::run::weights(&artifact).expect("weights");
    let options = fam_onnx::runtime::Options { threads: Some(1), ..Default::default() };
    let mut source = fam_onnx::train::data::read(&data, &Default::default()).expect("data");
    let mut dataset = None;
    let mut estimate = |seed: u64| {
        let (manifest, graphs) = (&weights.manifest, &weights.graphs);
        let mut evaluator =
            fam_onnx::train::Evaluator::open(&runtime(), manifest, graphs, &options, seed, None).expect("a graph");
        evaluator.hold(&weights.tensors).expect("parameters");
        let spec = evaluator.spec().clone();
        let dataset =
            dataset.get_or_insert_with(|| fam_onnx::train::data::Dataset::new(&mut source, &spec).expect("samples"));
        evaluator.evaluate(dataset, &(0..100).collect::<Vec<_>>(), 10).expect("figures").kappa[0].1
    };
    assert_eq!(estimate(7), estimate(7), "the same seed gives the same probes");
    let estimates: Vec<f64> = (0..200).map(&mut estimate).collect();
    let n = estimates.len() as f64;
    let mean = estimates.iter().sum::<f64>() / n;
    let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let standard_error = (variance / n).sqrt();
    assert!(standard_error > 0.0);
    assert!((mean - exact).abs() < 4.0 * standard_error, "mean {mean} ± {standard_error}, exact {exact}");
}

/// stderr of a command that must end with this exit code.
#[track_caller]
fn fails(arguments: &[&str], paths: &[&Path], code: i32, directory: &Path) -> String {
    let output = fam_onnx(arguments).args(paths).output().expect("a process");
    let stderr = text(&output.stderr, directory);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "errors go to stderr");
    stderr
}

#[test]
fn every_fault_of_the_data_is_named_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let artifact = toy_artifact(dir, false);
    let bad = dir.join("bad.npz");
    let arguments = ["train", "--data"];

    let mut x = vec![0.5; 5 * 30];
    x[5 * 7 + 2] = f32::NAN;
    let mut labels = vec![1; 31];
    labels[20] = 3;
    npz::write(&bad, &[("x", npz::f32s(&[30, 5], &x)), ("labels", npz::i64s(&[31], &labels))], false);
    expect![[r#"
        error: DIR/bad.npz: the data do not fit the model:
          array `x`: samples of shape [5]; expected [4]
          array `labels`: 31 samples, but `x` has 30; expected as many of each
          array `x`: NaN at index [7, 2]; expected finite numbers
          array `labels`: label 3 at index [20]; expected a class from 0 to 2
    "#]]
    .assert_eq(&fails(&arguments, &[&bad, &artifact], 1, dir));

    let text_array = npz::npy("<U1", false, &[30], &[0; 120]);
    npz::write(&bad, &[("images", text_array.clone()), ("y", npz::f32s(&[30], &[0.0; 30]))], false);
    expect![[r#"
        error: DIR/bad.npz: the data do not fit the model:
          there is no array for the input `x`; expected one named `x`; the file has images, y
          array `y`: float32 values; expected int64; convert it, for instance with .astype(numpy.int64)
    "#]]
    .assert_eq(&fails(&arguments, &[&bad, &artifact], 1, dir));

    let huge: Vec<u8> = [1e300f64; 8].iter().flat_map(|v| v.to_be_bytes()).collect();
    npz::write(&bad, &[("x", npz::npy(">f8", false, &[2, 4], &huge)), ("labels", text_array)], false);
    expect![[r#"
        error: DIR/bad.npz: the data do not fit the model:
          array `labels`: elements of type <U1; expected int64
          array `x`: 1e300 at index [0, 0]; expected a value that float32 can hold
    "#]]
    .assert_eq(&fails(&arguments, &[&bad, &artifact], 1, dir));

    fs::write(&bad, "not a zip archive").expect("a file");
    expect![[r#"
        error: DIR/bad.npz: not a valid .npz file (invalid Zip archive: Could not find EOCD); numpy.savez writes one
    "#]]
    .assert_eq(&fails(&arguments, &[&bad, &artifact], 1, dir));
    expect![[r#"
        error: DIR/none.npz: No such file or directory (os error 2)
    "#]]
    .assert_eq(&fails(&arguments, &[&dir.join("none.npz"), &artifact], 1, dir));
    expect![[r#"
        error: DIR/toy.fam: not data that can be read; expected an .npz file, a directory of .npy files, a directory of IDX files (train-images…, train-labels…), a .safetensors file, a directory with a directory of images for each class or a .csv file
    "#]].assert_eq(&fails(&arguments, &[&artifact, &artifact], 1, dir));
    assert!(!dir.join("toy.fam.run").exists(), "a run begins only when everything is right");
}

#[test]
fn wrong_usage_is_told_from_a_failed_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let artifact = toy_artifact(dir, false);
    let data = toy_npz(dir, 100);
    let paths: [&Path; 2] = [&data, &artifact];
    let fails = |arguments: &[&str], code| {
        let mut all = arguments.to_vec();
        all.push("--data");
        fails(&all, &paths, code, dir)
    };
    expect![[r#"
        error: DIR/toy.npz: 100 samples are left to train on, fewer than one batch of 200; use a smaller batch size
        hint: --batch-size 100 or less
    "#]]
    .assert_eq(&fails(&["train", "--batch-size", "200"], 1));
    expect![[r#"
        error: the option batch-size is 0; expected a number above 0
    "#]]
    .assert_eq(&fails(&["train", "--batch-size", "0"], 2));
    expect![[r#"
        error: the option patience is given without validation data; expected val beside it, a file or a fraction of the data
    "#]].assert_eq(&fails(&["train", "--patience", "3"], 2));
    expect![[r#"
        error: the metric `f1` is not measured; expected one of loss, objective, kappa, accuracy
    "#]]
    .assert_eq(&fails(&["train", "--val", "0.1", "--metric", "f1"], 2));
    expect![[r#"
        error: step 2: the objective is NaN; the last checkpoint before it is DIR/nan/checkpoints/step-1
        hint: try a smaller --lr, a smaller --lambda, a --warmup or --lambda-warmup (--resume goes on from the last checkpoint); inject with --clip-norm keeps the gradient in bounds
    "#]].assert_eq(&fails(
        &[
            "train",
            "--lr",
            "1e30",
            "-q",
            "-o",
            &dir.join("nan").display().to_string(),
        ],
        1,
    ));
    expect![[r#"
        error: DIR/nan: it exists already
        hint: go on with this run: fam-onnx train --resume DIR/nan; or replace it with --force, or choose another directory with -o
    "#]]
    .assert_eq(&fails(&["train", "-o", &dir.join("nan").display().to_string()], 1));
    expect![[r#"
        error: the argument '--epochs <N>' cannot be used with '--steps <N>'

        Usage: fam-onnx train --epochs <N> --data <FILE> <ARTIFACT>

        For more information, try '--help'.
    "#]]
    .assert_eq(&fails(&["train", "--epochs", "1", "--steps", "1"], 2));
    let plain = toy_artifact(&dir.join("plain"), true);
    let output = fam_onnx(&["train", "--lambda", "1", "--data"]).args([&data, &plain]).output().expect("a process");
    expect![[r#"
        error: DIR/plain/toy.fam: the artifact was made with λ = 0: its training graph has no FAM part, and λ cannot be set to 1; inject anew with --lambda
    "#]].assert_eq(&text(&output.stderr, dir));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_the_state() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), false);
    let data = toy_npz(directory.path(), 100);
    let run = directory.path().join("run");
    let mut process = fam_onnx(&["train", "--steps", "1000000000", "--checkpoint-every", "1000000000", "--data"])
        .args([&data, &artifact])
        .arg("-o")
        .arg(&run)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    let mut stderr = BufReader::new(process.stderr.take().expect("a pipe")).lines();
    stderr
        .find(|line| line.as_ref().is_ok_and(|line| line.starts_with("step 1 ")))
        .expect("a first step")
        .expect("text");
    common::run(Command::new("kill").args(["-INT", &process.id().to_string()]));
    let rest: Vec<String> = stderr.map(|line| line.expect("text")).collect();
    assert_eq!(process.wait().expect("an end").code(), Some(130));
    let last = rest.join("\n");
    assert!(last.contains("error: interrupted after step "), "{last}");
    assert!(last.contains("hint: go on with: fam-onnx train --resume "), "{last}");
    assert!(Run::open(&run).expect("a run").latest().is_some());
}
