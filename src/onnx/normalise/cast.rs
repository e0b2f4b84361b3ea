//! CastLike is Cast to the other tensor's type. `saturate` concerns 8-bit floats alone.

use super::Draft;
use crate::ir::Attrs;
use crate::ops::Fault;

pub fn cast(d: &mut Draft) -> Result<(), Fault> {
    d.take("saturate");
    d.take("round_mode");
    if d.op == "CastLike" {
        let (x, like) = (d.needs(0, "the tensor")?, d.needs(1, "the tensor of the wanted type")?);
        let to = Attrs::new().with("to", i64::from(like.dtype().code()));
        d.become_op("Cast", vec![Some(x)], to);
    }
    Ok(())
}
