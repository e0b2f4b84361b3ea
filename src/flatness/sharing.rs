//! Where a cotangent of the head is the same along an axis, as in front of a sum over it. Its expansion is delayed, and
//! what the reverse pass does before the axis is whole again, it does once.

use crate::ad::{Kind, TanNode};
use crate::cost::size_of;
use crate::ir::Dim;
use crate::linear::Linear;
use std::rc::Rc;

/// Of each axis of a place, whether its cotangent varies along it.
pub type Varies = Vec<bool>;

/// Of each place that reaches `end`, by `on_way`, along which axes its cotangent from there varies.
pub fn cotangents(nodes: &[Rc<TanNode<'_>>], on_way: &[bool], end: usize) -> Vec<Option<Varies>> {
    let mut found: Vec<Option<Varies>> = vec![None; nodes.len()];
    found[end] = Some(vec![true; nodes[end].shape.len()]);
    for id in (0..=end).rev().filter(|&id| on_way[id]) {
        let Some(varies) = found[id].clone() else { continue };
        match &nodes[id].kind {
            Kind::Source(_) => {}
            Kind::Sum(x, y) => {
                [*x, *y].into_iter().for_each(|x| join(&mut found[x], at_end(&varies, nodes[x].shape.len())));
            }
            Kind::Apply(map, x) => {
                let back = transposed(map, varies, &nodes[*x].shape, &nodes[id].shape);
                join(&mut found[*x], back);
            }
            // What bodies do is not looked into.
            Kind::Joint(_, inputs) => {
                inputs.iter().flatten().for_each(|&x| join(&mut found[x], vec![true; nodes[x].shape.len()]));
            }
            Kind::Part(x, _) => join(&mut found[*x], vec![true; nodes[*x].shape.len()]),
        }
    }
    found
}

/// The part of the elements of `shape` that such a cotangent holds.
pub fn share(varies: &[bool], shape: &[Dim]) -> f64 {
    shape.iter().zip(varies).filter(|(_, varies)| !**varies).map(|(dim, _)| size_of(dim).max(1.0).recip()).product()
}

fn join(into: &mut Option<Varies>, other: Varies) {
    match into {
        Some(varies) => varies.iter_mut().zip(other).for_each(|(a, b)| *a |= b),
        None => *into = Some(other),
    }
}

/// The last `rank` axes.
fn at_end(varies: &[bool], rank: usize) -> Varies {
    let missing = rank.saturating_sub(varies.len());
    std::iter::repeat_n(true, missing).chain(varies[varies.len().saturating_sub(rank)..].iter().copied()).collect()
}

/// Behind the transpose of a map from shape `from` to shape `to`.
fn transposed(map: &Linear<'_>, varies: Varies, from: &[Dim], to: &[Dim]) -> Varies {
    match map {
        Linear::Neg | Linear::Cast { .. } => varies,
        Linear::Scale(v) | Linear::Quotient(v) | Linear::Mask { cond: v, .. } => {
            let shape = v.shape();
            let mut varies = varies;
            varies.iter_mut().rev().zip(shape.iter().rev()).for_each(|(varies, dim)| *varies |= !dim.is_one());
            at_end(&varies, from.len())
        }
        Linear::Sum { axes, keep } => {
            let mut rest = varies.into_iter();
            let one = |axis: usize| match axes.contains(&(axis as i64)) {
                true => {
                    if *keep {
                        rest.next();
                    }
                    false
                }
                false => rest.next().unwrap_or(true),
            };
            (0..from.len()).map(one).collect()
        }
        Linear::Permute(perm) => {
            let mut back = vec![true; from.len()];
            perm.iter().zip(varies).for_each(|(&p, varies)| back[p as usize] = varies);
            back
        }
        Linear::Reshape(_) => {
            let long = |shape: &[Dim]| -> Vec<Dim> { shape.iter().filter(|dim| !dim.is_one()).cloned().collect() };
            if long(from) != long(to) {
                return vec![true; from.len()];
            }
            let mut kept = to.iter().zip(varies).filter(|(dim, _)| !dim.is_one()).map(|(_, varies)| varies);
            from.iter().map(|dim| dim.is_one() || kept.next().unwrap_or(true)).collect()
        }
        Linear::MatMulRight(v) if v.rank() == 2 && varies.len() == from.len() => {
            let mut varies = varies;
            varies.iter_mut().rev().take(1).for_each(|last| *last = true);
            varies
        }
        _ => vec![true; from.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ad::{Tape, linearise};
    use crate::ir::{Builder, DType, Fact};

    /// Of the cotangent of `x[2, 3, 4]` in `head`.
    fn share_of(head: impl for<'g> Fn(crate::ir::Val<'g>) -> crate::ir::Val<'g>) -> f64 {
        let b = Builder::new();
        let x = b.input("x", Fact::new(DType::F32, [2, 3, 4].map(Dim::Fixed)), None);
        let y = head(x);
        let tape = Tape::new(&b);
        let linear = linearise(&tape, &[y], &[x]).expect("rules");
        let nodes = linear.tape_nodes();
        let source = linear.place_of(x.id()).expect("a place");
        let end = linear.of[0].id().expect("a tangent");
        let found = cotangents(&nodes, &vec![true; nodes.len()], end);
        share(found[source].as_ref().expect("a cotangent"), &nodes[source].shape)
    }

    #[test]
    fn a_cotangent_is_shared_in_front_of_a_sum() {
        let whole = [1, 3, 1].map(Dim::Fixed);
        let other = [4, 6].map(Dim::Fixed);
        assert_eq!(share_of(|x| x * 2.0), 1.0);
        assert_eq!(share_of(|x| x.sum(&[1])), 1.0 / 3.0);
        assert_eq!(share_of(|x| x.permute(&[2, 0, 1]).sum_keep(&[0, 2]) * 2.0), 1.0 / 12.0);
        assert_eq!(share_of(|x| (x * x.like(2.0).expand(&whole)).sum(&[1])), 1.0);
        assert_eq!(share_of(|x| x.reshape(&other).sum(&[0])), 1.0);
        assert_eq!(share_of(|x| x.matmul(x.like(1.0).expand(&[4, 5].map(Dim::Fixed))).sum(&[1, 2])), 1.0 / 3.0);
        assert_eq!(share_of(|x| x.sum_keep(&[1]) + x), 1.0);
    }
}
