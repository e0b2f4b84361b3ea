//! Activations with their biases.

use super::Fused;
use crate::ir::{Attrs, Val};
use crate::ops::Fault;

type Made<'g> = Result<Vec<Val<'g>>, Fault>;

fn exact<'g>(x: Val<'g>) -> Val<'g> {
    x.builder().op("Gelu", &[x], Attrs::new().with("approximate", "none"))
}

/// y = x Φ(x)
pub fn gelu<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    Ok(vec![exact(f.x(0)?)])
}

/// y = gelu(a + b)
pub fn bias_gelu<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    Ok(vec![exact(f.x(0)? + f.x(1)?)])
}

/// y = x Φ(x) by the hyperbolic tangent, of x + b where there is a b
pub fn fast_gelu<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let x = f.x(0)?;
    let x = f.get(1).map_or(x, |bias| x + bias);
    Ok(vec![f.b.op("Gelu", &[x], Attrs::new().with("approximate", "tanh"))])
}

/// y = x σ(αx)
pub fn quick_gelu<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let x = f.x(0)?;
    Ok(vec![x * (x * f.float("alpha", 1.702)).sigmoid()])
}

/// y = l · gelu(r), where l and r are the halves of x + b along the last axis
pub fn bias_split_gelu<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    let x = f.x(0)? + f.x(1)?;
    let halves =
        f.b.node("Split", &[Some(x)], Attrs::new().with("axis", x.rank() as i64 - 1).with("num_outputs", 2), 2);
    Ok(vec![halves[0] * exact(halves[1])])
}

/// y = x + b + skip
pub fn bias_add<'g>(f: &Fused<'g, '_>) -> Made<'g> {
    Ok(vec![f.x(0)? + f.x(1)? + f.x(2)?])
}
