//! Several processes that train together. Without the feature they refuse; with it they do what one process does, started
//! here with Open MPI's `mpirun`.

mod common;

#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_refuse_to_train_each_by_itself() {
    use common::{fam_onnx, text, toy_artifact, toy_npz};
    let directory = tempfile::tempdir().expect("a directory");
    let (artifact, data) = (toy_artifact(directory.path(), false), toy_npz(directory.path(), 100));
    let mut command = fam_onnx(&["train", "--steps", "1", "--data"]);
    command.arg(&data).arg(&artifact).env("OMPI_COMM_WORLD_SIZE", "2");
    let output = command.output().expect("a process");
    expect_test::expect![[r#"
        error: 2 processes were started to train together, but this program is built without MPI, and each would train by itself; build it with MPI: cargo install --locked --path . --features mpi
    "#]].assert_eq(&text(&output.stderr, directory.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.path().join("toy.run").exists());
    // A launcher that starts one process is none.
    let output = command.env("OMPI_COMM_WORLD_SIZE", "1").output().expect("a process");
    assert_eq!(output.status.code(), Some(0));
}

#[cfg(feature = "mpi")]
mod together {
    use std::{
        fs,
        io::{BufRead, BufReader},
        path::{Path, PathBuf},
        process::{Command, Stdio},
    };

    use super::common::{fam_onnx, fixture, npz, run, text, toy_artifact, toy_data, toy_npz};
    use expect_test::expect;
    use fam_onnx::{
        tensor::{Tensors, read_safetensors},
        train::{checkpoint, run::Run},
    };
    use serde_json::Value;

    struct Place {
        directory: tempfile::TempDir,
        artifact: PathBuf,
        data: PathBuf,
    }

    impl Place {
        fn new(samples: usize) -> Place {
            let directory = tempfile::tempdir().expect("a directory");
            let (artifact, data) = (toy_artifact(directory.path(), false), toy_npz(directory.path(), samples));
            Place { directory, artifact, data }
        }

        /// An artifact that `inject` makes of a fixture, with as many samples of this shape.
        fn inject(name: &str, options: &[&str], shape: &[usize]) -> Place {
            let directory = tempfile::tempdir().expect("a directory");
            let place = Place {
                artifact: directory.path().join("model.fam"),
                data: directory.path().join("data.npz"),
                directory,
            };
            let mut inject = fam_onnx(&["inject", "-q"]);
            run(inject.args(options).arg(fixture(name).join("model.onnx")).arg("-o").arg(&place.artifact));
            let numbers: usize = shape.iter().product();
            let (x, labels) = toy_data(numbers.div_ceil(4).max(shape[0]));
            let arrays =
                [("x", npz::f32s(shape, &x[..numbers])), ("labels", npz::i64s(&shape[..1], &labels[..shape[0]]))];
            npz::write(&place.data, &arrays, true);
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// One process, or with several `mpirun` before it.
        fn train(&self, processes: usize, name: &str, more: &[&str]) -> Command {
            let mut command = start(processes);
            command.args(["train", "--threads", "1", "--log-every", "1"]).arg(&self.artifact);
            command.arg("--data").arg(&self.data).args(more).arg("-o").arg(self.path(name));
            command
        }

        fn resume(&self, processes: usize, name: &str, more: &[&str]) -> Command {
            let mut command = start(processes);
            command.args(["train", "--resume"]).arg(self.path(name)).args(more);
            command
        }

        fn says(&self, command: &mut Command) -> (i32, String) {
            let output = command.output().expect("a process");
            (output.status.code().expect("an exit code"), text(&output.stderr, self.directory.path()))
        }

        fn last(&self, name: &str) -> (u64, PathBuf) {
            checkpoint::list(&Run::open(&self.path(name)).expect("a run").checkpoints()).pop().expect("a checkpoint")
        }

        fn weights(&self, name: &str) -> Tensors {
            read_safetensors(&self.last(name).1.join("parameters.safetensors")).expect("tensors")
        }

        fn metrics(&self, name: &str) -> Vec<Value> {
            let text = fs::read_to_string(self.path(name).join("metrics.jsonl")).expect("metrics");
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        }

        /// The same files but for the speed.
        #[track_caller]
        fn assert_same(&self, found: &str, expected: &str) {
            let (step, path) = self.last(found);
            assert_eq!(step, self.last(expected).0);
            for file in ["parameters.safetensors", "state.json"] {
                let read = |path: &Path| fs::read(path.join(file)).expect("a file");
                assert!(read(&path) == read(&self.last(expected).1), "{file} of {found} is not that of {expected}");
            }
            let metrics = |name: &str| {
                let mut lines = self.metrics(name);
                lines.iter_mut().for_each(|line| drop(line["examples_per_second"].take()));
                lines
            };
            assert_eq!(metrics(found), metrics(expected));
        }

        /// The same figures at every step, and the same weights, to rounding.
        #[track_caller]
        fn assert_close(&self, found: &str, expected: &str) {
            let (lines, expected_lines) = (self.metrics(found), self.metrics(expected));
            assert_eq!(lines.len(), expected_lines.len());
            for (line, expected) in lines.iter().zip(&expected_lines) {
                for (name, value) in expected.as_object().expect("an object") {
                    match value {
                        Value::Number(_) if name == "examples_per_second" => {}
                        Value::Number(value) => close(name, line[name].as_f64(), value.as_f64()),
                        Value::Object(figures) => {
                            figures.iter().for_each(|(at, v)| close(at, line[name][at].as_f64(), v.as_f64()));
                        }
                        _ => panic!("{name}: {value}"),
                    }
                }
            }
            for (name, expected) in self.weights(expected) {
                let found = self.weights(found)[&name].iter_f64().collect::<Vec<f64>>();
                expected.iter_f64().zip(found).for_each(|(expected, found)| close(&name, Some(found), Some(expected)));
            }
        }
    }

    #[track_caller]
    fn close(what: &str, found: Option<f64>, expected: Option<f64>) {
        let (found, expected) = found.zip(expected).expect(what);
        assert!((found - expected).abs() <= 2e-5 * expected.abs().max(0.05), "{what}: {found}, expected {expected}");
    }

    fn mpirun() -> Command {
        let mut command = Command::new("mpirun");
        command.args(["--quiet", "--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
        command.env("NO_COLOR", "1");
        command
    }

    const PROGRAM: &str = env!("CARGO_BIN_EXE_fam-onnx");

    fn start(processes: usize) -> Command {
        if processes == 1 {
            return fam_onnx(&[]);
        }
        let mut command = mpirun();
        command.args(["-n", &processes.to_string(), PROGRAM]);
        command
    }

    #[test]
    fn two_processes_are_one_with_twice_the_batch() {
        let place = Place::new(100);
        for (k, accumulate) in ["1", "3"].into_iter().enumerate() {
            // 80 samples: 5 steps an epoch, or 1 and a rest that waits.
            let options = ["--val", "0.2", "--epochs", "8", "--lr", "0.05", "--accumulate", accumulate];
            let [two, one] = [format!("two-{k}"), format!("one-{k}")];
            run(&mut place.train(2, &two, &[&options[..], &["--batch-size", "8"]].concat()));
            run(&mut place.train(1, &one, &[&options[..], &["--batch-size", "16"]].concat()));
            place.assert_close(&two, &one);
            assert_eq!(place.last(&two).0, [40, 8][k]);
        }
        let config = fs::read_to_string(place.path("two-0/config.toml")).expect("a configuration");
        assert!(config.contains("\nprocesses = 2\n"), "{config}");
        assert!(!fs::read_to_string(place.path("one-0/config.toml")).expect("a file").contains("processes"));
    }

    /// The last step of an epoch has 1 sample for three processes, or 4.
    #[test]
    fn shares_of_a_smaller_step() {
        for samples in [97, 100] {
            let place = Place::new(samples);
            let options = ["--epochs", "4", "--last-batch", "keep", "--lambda-warmup", "10"];
            run(&mut place.train(3, "three", &[&options[..], &["--batch-size", "8"]].concat()));
            run(&mut place.train(1, "one", &[&options[..], &["--batch-size", "24"]].concat()));
            place.assert_close("three", "one");
        }
    }

    #[test]
    fn a_resumed_run_is_the_same_to_the_byte() {
        let place = Place::new(100);
        let options = ["--val", "0.2", "--batch-size", "8", "--ema", "0.9", "--schedule", "cosine"];
        let with = |more: &[&'static str]| [&options[..], more].concat();
        run(&mut place.train(2, "whole", &with(&["--steps", "23"])));
        run(&mut place.train(2, "again", &with(&["--steps", "23"])));
        place.assert_same("again", "whole");
        let constant = ["--val", "0.2", "--batch-size", "8", "--accumulate", "2"];
        run(&mut place.train(2, "long", &[&constant[..], &["--steps", "14"]].concat()));
        run(&mut place.train(2, "parts", &[&constant[..], &["--steps", "6"]].concat()));
        run(&mut place.resume(2, "parts", &["--steps", "14"]));
        place.assert_same("parts", "long");
        // Another number of processes goes on, and says so.
        let (code, said) = place.says(&mut place.resume(1, "parts", &["--steps", "16"]));
        assert_eq!(code, 0);
        assert!(said.starts_with("processes: 1, where it was 2\nsteps 15 to 16 on cpu"), "{said}");
    }

    /// Estimates have probes of their own in each process, dropout masks too; running statistics are averaged, so that all
    /// processes go on from what the first one has saved.
    #[test]
    fn what_differs_between_processes_is_averaged() {
        let shape = [48, 20];
        let probes = ["--layer", "fc2", "--lambda", "0.1", "--estimator", "hutchinson", "--momentum", "0.9"];
        let statistics = ["--layer", "neck", "--lambda", "0.01", "--estimator", "hutchinson", "--batch-norm", "train"];
        for place in [Place::inject("mlp", &probes, &shape), Place::inject("resnet", &statistics, &[16, 3, 16, 16])] {
            let options = ["--batch-size", "4", "--lr", "0.01", "--steps"];
            run(&mut place.train(2, "whole", &[&options[..], &["4"]].concat()));
            run(&mut place.train(2, "parts", &[&options[..], &["2"]].concat()));
            run(&mut place.resume(2, "parts", &["--steps", "4"]));
            place.assert_same("parts", "whole");
            run(&mut place.train(1, "one", &["--batch-size", "8", "--lr", "0.01", "--steps", "4"]));
            let value = |name: &str, figure: &str| place.metrics(name)[0][figure].as_f64().expect("a number");
            assert_ne!(value("whole", "kappa"), value("one", "kappa"), "the probes are others");
        }
    }

    #[test]
    fn a_fault_of_one_process_ends_all() {
        let place = Place::new(100);
        let other = tempfile::tempdir().expect("a directory");
        let data = |path: &Path| {
            let mut command = mpirun();
            let options = ["train", "-q", "--threads", "1", "--batch-size", "8", "--steps", "10"];
            command.args(["-n", "1", PROGRAM]).args(options).arg(&place.artifact).arg("-o").arg(place.path("run"));
            command.arg("--data").arg(&place.data).args([":", "-n", "1", PROGRAM]).args(options).arg(&place.artifact);
            command.arg("-o").arg(place.path("run")).arg("--data").arg(path);
            command
        };
        let (code, said) = place.says(&mut data(Path::new("/missing.npz")));
        expect![[r#"
            error: /missing.npz: No such file or directory (os error 2)
        "#]]
        .assert_eq(&said);
        assert_eq!(code, 1);
        let (code, said) = place.says(&mut data(&toy_npz(other.path(), 90)));
        expect![[r#"
            error: the processes that train together do not begin alike: they differ in the data; give all of them the same files
        "#]].assert_eq(&said);
        assert_eq!(code, 1);
        assert!(!place.path("run").exists());

        // All have the same fault, and one says so.
        let (code, said) =
            place.says(&mut place.train(2, "run", &["-q", "--batch-size", "8", "--lr", "1e30", "--steps", "20"]));
        expect![[r#"
            error: step 2: the objective is NaN; no checkpoint was written yet
            hint: try a smaller --lr, a smaller --lambda, a --warmup or --lambda-warmup (--resume begins the run again with them); inject with --clip-norm keeps the gradient in bounds
        "#]].assert_eq(&said);
        assert_eq!(code, 1);
        let (code, said) = place.says(&mut place.train(2, "run", &["--lambda-sweep", "0,1"]));
        expect![[r#"
            error: --lambda-sweep is of one process: start it without mpirun
        "#]]
        .assert_eq(&said);
        assert_eq!(code, 2);

        // The first process cannot write, in the middle of the run.
        fs::write(place.path("run/checkpoints"), "no directory").expect("a file");
        let (code, said) = place.says(&mut place.resume(2, "run", &["-q", "--lr", "0.01"]));
        expect![[r#"
            error: DIR/run/checkpoints/step-6: File exists (os error 17)
        "#]]
        .assert_eq(&said);
        assert_eq!(code, 1);
    }

    #[test]
    fn all_stop_early_together() {
        let place = Place::new(100);
        let options = ["--val", "0.2", "--batch-size", "8", "--lr", "0", "--patience", "2", "--epochs", "50"];
        let output = run(&mut place.train(2, "run", &options));
        let said = text(&output.stdout, place.directory.path());
        assert!(said.starts_with("trained     15 steps, 3 epochs, ended without further improvement\n"), "{said}");
        assert_eq!(said.matches("trained").count(), 1, "one process prints the result: {said}");
    }

    #[test]
    #[ignore = "mpirun stops to read what its processes say, and one that says much then waits until it is killed"]
    fn all_save_and_end_when_terminated() {
        let place = Place::new(100);
        let options = ["--val", "0.2", "--batch-size", "8"];
        let mut command = place.train(2, "run", &[&options[..], &["--steps", "1000000000"]].concat());
        // Time to save the state, between SIGTERM and SIGKILL.
        command.env("OMPI_MCA_odls_base_sigkill_timeout", "10");
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
        let mut stderr = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        stderr.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("step 3 "))).expect("a step").expect("text");
        run(Command::new("kill").args(["-TERM", &process.id().to_string()]));
        let rest: Vec<String> = stderr.map_while(Result::ok).collect();
        assert_ne!(process.wait().expect("an end").code(), Some(0));
        let interrupted = rest.iter().filter(|line| line.contains("interrupted after step")).count();
        assert_eq!(interrupted, 1, "{}", rest.join("\n"));
        let (step, _) = place.last("run");
        let end = (step + 7).to_string();
        run(&mut place.resume(2, "run", &["--steps", &end]));
        run(&mut place.train(2, "whole", &[&options[..], &["--steps", &end]].concat()));
        place.assert_same("run", "whole");
    }
}
