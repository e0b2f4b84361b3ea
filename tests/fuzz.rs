//! The bodies of the fuzz targets over their seeds and over the same changes of these each time; `FUZZ_CHANGES=N` takes other
//! numbers of them. `cargo fuzz` runs the same bodies for hours (`fuzz/README.md`).

#[path = "../fuzz/src/graphs/mod.rs"]
#[allow(dead_code, unused_imports)]
mod graphs;
#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/seeds.rs"]
mod seeds;
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Changes of seeds that a target takes: a few seconds' worth, and always the same ones.
fn changes(name: &str) -> u64 {
    let asked = std::env::var("FUZZ_CHANGES").ok().and_then(|n| n.parse().ok());
    asked.unwrap_or(match name {
        "derivative" | "inject" => 100,
        "transform" => 500,
        _ => 3_000,
    })
}

/// The bytes of an input that fails are kept where they can be looked at.
fn run(name: &str, target: targets::Target, what: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.failed"));
        std::fs::write(&path, bytes).expect("the failing input");
        panic!("{name}: {what} fails; its bytes are in {}", path.display());
    }
}

fn smoke(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(other, _)| *other == name).expect("a target of that name");
    let seeds = seeds::seeds(name);
    for (k, seed) in seeds.iter().enumerate() {
        run(name, *target, &format!("seed {k}"), seed);
    }
    for number in 0..changes(name) {
        let seed = |n: u64| &seeds[n as usize % seeds.len()];
        let bytes = mutate::mutate(seed(number), seed(number / 7), number);
        run(name, *target, &format!("change {number}"), &bytes);
    }
}

macro_rules! smoke {
    ($($target:ident)+) => {
        $(#[test]
        fn $target() {
            smoke(stringify!($target));
        })+

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($target)),+];
            assert_eq!(targets::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), run);
        }
    };
}

smoke! { arrays config derivative idx images inject model ort_checkpoint table tensors transform }

/// The artifacts of a fuzzer in an ordinary build; graphs are made small.
#[test]
#[ignore = "FUZZ_INPUTS names a directory that has one for each target"]
fn inputs_of_a_fuzzer() {
    let root = std::path::PathBuf::from(std::env::var("FUZZ_INPUTS").expect("a directory of fuzz/artifacts"));
    let mut failed = Vec::new();
    for (name, target) in targets::TARGETS {
        for path in
            std::fs::read_dir(root.join(name)).into_iter().flatten().map(|entry| entry.expect("an entry").path())
        {
            let bytes = std::fs::read(&path).expect("an input");
            let graph = || {
                let fails = |plan: &graphs::Plan| graphs::failure(plan);
                let (property, _) = fails(&graphs::draw(&bytes))?;
                let small =
                    graphs::shrink(graphs::draw(&bytes), |plan| fails(plan).is_some_and(|(p, _)| p == property));
                Some(format!("{property}: {}\n{}", fails(&small)?.1, small.show()))
            };
            if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                let what = if *name == "derivative" { graph() } else { None };
                failed.push(format!("{}\n{}", path.display(), what.unwrap_or_default()));
            }
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
}

/// What fuzzing found, made small: each was a crash, a blow of memory or a broken promise.
mod found {
    use super::targets;

    /// Shapes behind an operator that nobody knows, from which inference makes others the second time.
    #[test]
    fn an_unknown_operator_in_a_recurrent_net() {
        targets::transform(include_bytes!("../fuzz/found/unknown-operator.onnx"));
    }

    /// 65,408 × 65,535 pixels, where the model leaves the size open: batches of that size were made.
    #[test]
    fn an_image_that_claims_to_be_huge() {
        targets::images(
            b"\x03GIF89a\x80\xff\xff\xff\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
        );
    }
}
