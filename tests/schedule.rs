//! Learning rates and the order of samples, which must stay what they are: runs are resumed across versions.

mod common;

use common::step::Oracle;
use expect_test::expect;
use fam_onnx::train::{Schedule, lambda_factor, sampler};

#[test]
fn learning_rates_of_a_run_of_twelve_steps() {
    let schedules = [
        ("constant", Schedule::Constant),
        ("cosine", Schedule::Cosine),
        ("step", Schedule::Step),
        ("one-cycle", Schedule::OneCycle),
        ("linear", Schedule::Linear),
    ];
    let mut text = String::new();
    for warmup in [0, 3] {
        for (name, schedule) in schedules {
            let rates = (0..12).map(|step| format!(" {:.4}", schedule.learning_rate(1.0, step, 12, warmup)));
            text += &format!("{name:<10}warm-up {warmup} {}\n", rates.collect::<String>());
        }
    }
    text += &format!("λ         warm-up 3  {:?}\n", [0, 1, 2, 3].map(|step| lambda_factor(step, 3)));
    expect![[r#"
        constant  warm-up 0  1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000
        cosine    warm-up 0  1.0000 0.9830 0.9330 0.8536 0.7500 0.6294 0.5000 0.3706 0.2500 0.1464 0.0670 0.0170
        step      warm-up 0  1.0000 1.0000 1.0000 1.0000 0.1000 0.1000 0.1000 0.1000 0.0100 0.0100 0.0100 0.0100
        one-cycle warm-up 0  0.0400 0.3498 0.8793 0.9944 0.9330 0.8117 0.6474 0.4626 0.2831 0.1335 0.0346 0.0000
        linear    warm-up 0  1.0000 0.9167 0.8333 0.7500 0.6667 0.5833 0.5000 0.4167 0.3333 0.2500 0.1667 0.0833
        constant  warm-up 3  0.3333 0.6667 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000
        cosine    warm-up 3  0.3333 0.6667 1.0000 1.0000 0.9698 0.8830 0.7500 0.5868 0.4132 0.2500 0.1170 0.0302
        step      warm-up 3  0.3333 0.6667 1.0000 1.0000 1.0000 1.0000 0.1000 0.1000 0.1000 0.0100 0.0100 0.0100
        one-cycle warm-up 3  0.0400 0.2800 0.7600 1.0000 0.9619 0.8536 0.6913 0.5000 0.3087 0.1465 0.0381 0.0000
        linear    warm-up 3  0.3333 0.6667 1.0000 1.0000 0.8889 0.7778 0.6667 0.5556 0.4444 0.3333 0.2222 0.1111
        λ         warm-up 3  [0.3333333333333333, 0.6666666666666666, 1.0, 1.0]
    "#]]
    .assert_eq(&text);
}

#[test]
fn schedules_are_pytorchs() {
    let oracle = Oracle::read("optimisers", "oracle.npz");
    let schedules = [
        ("constant", Schedule::Constant),
        ("cosine", Schedule::Cosine),
        ("step", Schedule::Step),
        ("one-cycle", Schedule::OneCycle),
        ("linear", Schedule::Linear),
    ];
    for (name, schedule) in schedules {
        for (key, warmup) in [(format!("schedule/{name}"), 0), (format!("schedule/{name}/warm"), 6)] {
            let expected = oracle.values(&key);
            assert_eq!(expected.len(), 60);
            for (step, expected) in (0..).zip(expected) {
                let found = schedule.learning_rate(1.0, step, 60, warmup);
                assert!((found - expected).abs() <= 1e-12, "{key}, step {step}: {found}, PyTorch has {expected}");
            }
        }
    }
}

#[test]
fn a_schedule_holds_at_its_borders() {
    for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Step, Schedule::OneCycle, Schedule::Linear] {
        for (step, total, warmup) in [(0, 0, 0), (0, 1, 0), (0, 1, 5), (7, 1, 0), (3, 3, 3), (2, 3, 9)] {
            let rate = schedule.learning_rate(1.0, step, total, warmup);
            assert!((0.0..=1.0).contains(&rate), "{schedule:?} {step} {total} {warmup}: {rate}");
        }
    }
}

#[test]
fn orders_are_permutations_that_follow_from_seed_and_epoch() {
    expect![[r#"
        [9, 2, 3, 4, 6, 7, 0, 1, 5, 8]
        [8, 5, 0, 6, 1, 3, 4, 2, 9, 7]
        [1, 4, 9, 8, 0, 5, 7, 6, 2, 3]
        ([1, 2, 4, 5, 6, 8, 9], [0, 3, 7])"#]]
    .assert_eq(&format!(
        "{:?}\n{:?}\n{:?}\n{:?}",
        sampler::epoch_order(0, 0, 10),
        sampler::epoch_order(0, 1, 10),
        sampler::epoch_order(1, 0, 10),
        sampler::split(0, 10, 3)
    ));
    for samples in [0, 1, 2, 1000] {
        let mut order = sampler::epoch_order(5, 9, samples);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..samples));
        let (rest, apart) = sampler::split(5, samples, samples / 3);
        assert_eq!((apart.len(), rest.len()), (samples / 3, samples - samples / 3));
        let mut all = [rest, apart].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..samples));
    }
}

#[test]
fn every_place_is_equally_likely() {
    // Where sample 0 comes in 6000 orders of 6: 1000 times each, with a standard deviation of 29.
    let mut counts = [0i32; 6];
    for epoch in 0..6000 {
        let order = sampler::epoch_order(3, epoch, 6);
        counts[order.iter().position(|&sample| sample == 0).expect("a permutation")] += 1;
    }
    assert!(counts.iter().all(|count| (count - 1000).abs() < 4 * 29), "{counts:?}");
}
