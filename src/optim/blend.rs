//! Running sums: micro-batches' gradients added up, weights averaged over steps.

use crate::error::Result;
use crate::ir::{Builder, DType, Dim, Fact, Model};

/// Input: how much of the sums is kept, a float32 scalar.
pub const KEEP: &str = "keep";
/// Input: the weight of what is added, a float32 scalar.
pub const WEIGHT: &str = "weight";

/// The names of the `k`-th tensor, of its sum and of its sum afterwards.
pub fn names(k: usize) -> [String; 3] {
    [format!("x{k}"), format!("sum{k}"), format!("sum{k}.next")]
}

/// `s ← keep·s + weight·x` of tensors of these types and shapes.
///
/// # Errors
/// None for float tensors.
pub fn model(tensors: &[(DType, Vec<usize>)]) -> Result<Model> {
    let b = Builder::new();
    let scalar = |name: &str| b.input(name, Fact::new(DType::F32, Vec::<Dim>::new()), None);
    let (keep, weight) = (scalar(KEEP), scalar(WEIGHT));
    for (k, (dtype, shape)) in tensors.iter().enumerate() {
        let [x, sum, next] = names(k);
        let dims: Vec<Dim> = shape.iter().map(|&n| Dim::Fixed(n as i64)).collect();
        let [x, sum] = [x, sum].map(|name| b.input(&name, Fact::new(*dtype, dims.clone()), None));
        b.output(sum * keep.cast(*dtype) + x * weight.cast(*dtype), &next);
    }
    Ok(Model { graph: b.finish()?, opset: 17, ..Model::default() })
}
