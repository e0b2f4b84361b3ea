//! The samples of each step of a `fam-onnx train` run, as JSON: `cargo run --example order -- SAMPLES BATCH STEPS [SEED]`.
//! Other programs that drive an artifact repeat the run with them.

use fam_onnx::train::sampler::epoch_order;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let (samples, batch, steps, seed) = match numbers[..] {
        [samples, batch, steps] => (samples, batch, steps, 0),
        [samples, batch, steps, seed] => (samples, batch, steps, seed as u64),
        _ => return Err("usage: order SAMPLES BATCH STEPS [SEED]".into()),
    };
    if batch == 0 || batch > samples {
        return Err(format!("a batch of {batch} out of {samples} samples").into());
    }
    let epochs = (0..).map(|epoch| epoch_order(seed, epoch, samples));
    let full = |order: Vec<usize>| order.chunks_exact(batch).map(<[usize]>::to_vec).collect::<Vec<_>>();
    let batches: Vec<Vec<usize>> = epochs.flat_map(full).take(steps).collect();
    println!("{}", serde_json::to_string(&batches)?);
    Ok(())
}
