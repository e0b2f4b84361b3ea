//! Sequences and optionals whose elements are known when the model is read: their tensors take their place, and the
//! operators on them are gone.

use super::raw::{RawAttr, RawNode};
use crate::ir::{Attrs, Builder, DType, Tensor, Val};

/// What a name stands for that is no tensor.
#[derive(Clone)]
pub(super) enum Held<'g> {
    Sequence(Vec<Val<'g>>),
    /// An optional without an element; one with an element is the element.
    Nothing,
}

/// What an operator on sequences or optionals gives.
pub(super) enum Made<'g> {
    Held(Held<'g>),
    Tensor(Val<'g>),
}

/// An input of such an operator.
pub(super) enum Given<'g> {
    Held(Held<'g>),
    Tensor(Val<'g>),
    Absent,
}

/// A node on its way into a graph.
pub(super) struct Site<'g, 'a> {
    pub b: &'g Builder,
    pub node: &'a RawNode,
}

impl Site<'_, '_> {
    fn int(&self, name: &str) -> Option<i64> {
        match self.node.attrs.get(name) {
            Some(RawAttr::Plain(crate::ir::Attr::Int(v))) => Some(*v),
            _ => None,
        }
    }
}

/// The node's output, where its inputs say it; `None` for other operators, and where only a run could tell.
pub(super) fn resolve<'g>(d: &Site<'g, '_>, given: &[Given<'g>]) -> Option<Made<'g>> {
    use Given::{Absent, Held as H, Tensor as T};
    let sequence = |list: Vec<Val<'g>>| Some(Made::Held(Held::Sequence(list)));
    match (d.node.op.as_str(), given) {
        ("SequenceConstruct", all) => sequence(all.iter().map(tensor).collect::<Option<_>>()?),
        ("SequenceEmpty", []) => sequence(Vec::new()),
        ("SequenceInsert", [H(Held::Sequence(list)), T(x), rest @ ..]) => {
            let mut list = list.clone();
            let at = place(rest.first(), list.len(), list.len())?;
            list.insert(at, *x);
            sequence(list)
        }
        ("SequenceErase", [H(Held::Sequence(list)), rest @ ..]) => {
            let mut list = list.clone();
            let at = place(rest.first(), list.len().checked_sub(1)?, list.len())?;
            (at < list.len()).then(|| list.remove(at))?;
            sequence(list)
        }
        ("SequenceAt", [H(Held::Sequence(list)), at]) => {
            let at = place(Some(at), 0, list.len())?;
            list.get(at).map(|v| Made::Tensor(*v))
        }
        ("SequenceLength", [H(Held::Sequence(list))]) => {
            Some(Made::Tensor(d.b.constant(Tensor::ints(&[], &[list.len() as i64]))))
        }
        ("SplitToSequence", [T(x), rest @ ..]) => sequence(split(d, *x, rest.first())?),
        ("ConcatFromSequence", [H(Held::Sequence(list))]) => concat(d, list).map(Made::Tensor),
        ("Identity" | "Optional" | "OptionalGetElement", [H(held)]) => Some(Made::Held(held.clone())),
        ("Optional" | "OptionalGetElement", [T(x)]) => Some(Made::Tensor(*x)),
        ("Optional", [] | [Absent]) => Some(Made::Held(Held::Nothing)),
        ("OptionalHasElement", [] | [Absent] | [H(Held::Nothing)]) => Some(Made::Tensor(truth(d, false))),
        ("OptionalHasElement", [_]) => Some(Made::Tensor(truth(d, true))),
        _ => None,
    }
}

fn tensor<'g>(given: &Given<'g>) -> Option<Val<'g>> {
    match given {
        Given::Tensor(val) => Some(*val),
        Given::Held(_) | Given::Absent => None,
    }
}

fn truth<'g>(d: &Site<'g, '_>, holds: bool) -> Val<'g> {
    d.b.constant(Tensor::from_f64(DType::Bool, &[], [f64::from(u8::from(holds))]))
}

/// A position in a sequence of `n` elements, counted from the front.
fn place(at: Option<&Given>, default: usize, n: usize) -> Option<usize> {
    match at {
        None | Some(Given::Absent) => Some(default),
        Some(Given::Tensor(val)) => {
            let at = *val.known_ints()?.first()?;
            let at = if at < 0 { at.checked_add(n as i64)? } else { at };
            usize::try_from(at).ok().filter(|&at| at <= n)
        }
        Some(Given::Held(_)) => None,
    }
}

/// At most so many parts of a split stand in a graph.
const PARTS: i64 = 1024;

fn split<'g>(d: &Site<'g, '_>, x: Val<'g>, sizes: Option<&Given<'g>>) -> Option<Vec<Val<'g>>> {
    let b = d.b;
    let shape = x.fact().shape?;
    let axis = crate::ops::from_front(d.int("axis").unwrap_or(0), shape.len()).ok()?;
    let whole = shape[axis].fixed();
    let given = sizes.and_then(tensor);
    let sizes: Vec<i64> = match given {
        None => vec![1; usize::try_from(whole.filter(|&n| n <= PARTS)?).ok()?],
        Some(sizes) if sizes.fact().rank()? == 0 => {
            let (size, whole) = (*sizes.known_ints()?.first()?, whole?);
            let parts = whole.checked_add(size - 1)?.checked_div(size).filter(|&n| n <= PARTS && size > 0)?;
            (0..parts).map(|k| size.min(whole - k * size)).collect()
        }
        Some(sizes) => sizes.known_ints()?,
    };
    let squeezed = given.is_none() && d.int("keepdims") == Some(0);
    let scope = b.current_scope();
    b.scope(&d.node.name);
    let inputs = [Some(x), Some(b.ints(&sizes))];
    let parts = match sizes.len() {
        0 => Vec::new(),
        n => b.node("Split", &inputs, Attrs::new().with("axis", axis as i64), n),
    };
    let whole = |v: Val<'g>| if squeezed { v.squeeze(&[axis as i64]) } else { v };
    let parts = parts.into_iter().map(whole).collect();
    b.scope(&scope);
    Some(parts)
}

fn concat<'g>(d: &Site<'g, '_>, list: &[Val<'g>]) -> Option<Val<'g>> {
    let stacks = d.int("new_axis") == Some(1);
    let rank = list.first()?.fact().rank()? + usize::from(stacks);
    let axis = crate::ops::from_front(d.int("axis")?, rank).ok()? as i64;
    let scope = d.b.current_scope();
    d.b.scope(&d.node.name);
    let parts: Vec<Val> = list.iter().map(|v| if stacks { v.unsqueeze(&[axis]) } else { *v }).collect();
    let out = d.b.op("Concat", &parts, Attrs::new().with("axis", axis));
    d.b.scope(&scope);
    Some(out)
}
