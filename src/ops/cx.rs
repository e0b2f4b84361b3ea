//! What a tangent rule sees: primal values, tangents, attributes of one node.

use super::Fault;
use crate::ad::{Tan, Tape, tangent_of};
use crate::control::Joint;
use crate::error::{Error, Unsupported};
use crate::ir::{Attrs, Builder, DType, Dim, Fact, Node, NodeId, Tensor, Val, ValueId, count};

pub struct Cx<'g> {
    pub b: &'g Builder,
    tape: &'g Tape<'g>,
    node: Node,
    /// Of the inputs, then of the captures.
    tangents: Vec<Tan<'g>>,
    output: usize,
}

impl<'g> Cx<'g> {
    pub(crate) fn new(b: &'g Builder, tape: &'g Tape<'g>, node: Node, tangents: Vec<Tan<'g>>, output: usize) -> Cx<'g> {
        Cx { b, tape, node, tangents, output }
    }

    /// The first `N` inputs and their tangents. An input left out has no value and a zero tangent.
    pub fn args<const N: usize>(&self) -> ([Val<'g>; N], [Tan<'g>; N]) {
        (std::array::from_fn(|i| self.x(i)), std::array::from_fn(|i| self.dx(i)))
    }

    pub fn arity(&self) -> usize {
        self.node.inputs.len()
    }

    pub fn has(&self, i: usize) -> bool {
        self.node.input(i).is_some()
    }

    /// Input `i`; a zero constant if it is left out (rules ask `has` where it matters).
    pub fn x(&self, i: usize) -> Val<'g> {
        match self.node.input(i) {
            Some(id) => self.b.val(id),
            None => self.b.scalar(DType::F32, 0.0),
        }
    }

    /// The tangent of input `i`.
    pub fn dx(&self, i: usize) -> Tan<'g> {
        self.tangents.get(i).copied().unwrap_or(self.tape.zero())
    }

    /// Output `i` of the forward node.
    pub fn out(&self, i: usize) -> Val<'g> {
        match self.node.output(i) {
            Some(id) => self.b.val(id),
            None => self.b.scalar(DType::F32, 0.0),
        }
    }

    /// Whether output `i` exists.
    pub fn has_out(&self, i: usize) -> bool {
        self.node.output(i).is_some()
    }

    /// Output `i` of the forward node, if it exists.
    pub fn maybe_out(&self, i: usize) -> Option<Val<'g>> {
        self.node.output(i).map(|id| self.b.val(id))
    }

    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// The node in the graph, if it has outputs.
    pub(crate) fn node(&self) -> Option<NodeId> {
        let out = self.node.outputs.iter().flatten().next()?;
        self.b.read(|g| g.value(*out).producer)
    }

    /// What the node's bodies read of the graph around them.
    pub fn captures(&self) -> &[ValueId] {
        &self.node.captures
    }

    pub fn captured_names(&self) -> Vec<String> {
        self.node.captures.iter().map(|&id| self.b.val(id).name()).collect()
    }

    /// The tangent of capture `k`.
    pub fn d_captured(&self, k: usize) -> Tan<'g> {
        self.tangents.get(self.node.inputs.len() + k).copied().unwrap_or(self.tape.zero())
    }

    /// The tangents of `outputs` by a map of several inputs; zero where there is no output.
    pub(crate) fn joint(&self, joint: Joint<'g>, inputs: &[Tan<'g>], outputs: &[Option<Val<'g>>]) -> Vec<Tan<'g>> {
        self.tape.joint(joint, inputs, outputs)
    }

    /// An error of the whole derivative: a node, of this one's bodies or itself, has none.
    pub(crate) fn block(&self, node: Unsupported) {
        self.tape.block(node);
    }

    /// Which output's tangent is asked for.
    pub fn output(&self) -> usize {
        self.output
    }

    pub fn zero(&self) -> Tan<'g> {
        self.tape.zero()
    }

    /// Reports inputs that do not fit the operator; the tangent is of no use then.
    pub fn fault(&self, fault: Fault) -> Tan<'g> {
        let inputs = self.node.inputs.iter().map(|id| match id {
            Some(id) => format!("{:?}", self.b.val(*id)),
            None => "-".to_string(),
        });
        let (node, op) = (self.node.name.clone(), self.node.op.clone());
        self.b.fault(Error::Operator { node, op, inputs: inputs.collect(), fault });
        self.zero()
    }

    /// A zero tangent, and an error of the whole derivative: this node has none, for a reason that only its attributes
    /// or inputs show.
    pub fn blocked(&self, reason: &str) -> Tan<'g> {
        let (node, op) = (self.node.name.clone(), self.node.op.clone());
        self.tape.block(Unsupported { node, op, reason: reason.to_string() });
        self.tape.zero()
    }

    /// The tangent of the asked output as that of `values`, the node's function in terms of other operators. The node
    /// itself stays: of `values` only what derivatives need is computed.
    pub fn through(&self, values: &[Val<'g>]) -> Tan<'g> {
        let Some(&value) = values.get(self.output) else { return self.zero() };
        // A lowering that cannot be made gives the node itself back, beside the reason.
        if self.node.outputs.contains(&Some(value.id())) || self.b.has_fault() {
            return self.zero();
        }
        if let Some(out) = self.node.output(self.output) {
            self.b.refine_fact(value, &Fact { ints: None, ..self.b.val(out).fact() });
        }
        let inputs = self.node.inputs.iter().zip(&self.tangents);
        let known = inputs.filter_map(|(id, &t)| Some(((*id)?, t))).collect();
        tangent_of(self.tape, value, known)
    }

    /// The tangent of an operator that only moves elements of input 0: what `moved` does to the elements' positions
    /// picks from the flat tangent. With `hole`, the position after the last is a zero.
    pub fn by_position(&self, hole: bool, moved: impl FnOnce(Val<'g>, &Dim) -> Val<'g>) -> Tan<'g> {
        let x = self.x(0);
        let n = count(&x.shape());
        let index = moved(self.b.range(&n).reshape(&x.shape()), &n);
        self.b.refine_fact(index, &Fact { dtype: DType::I64, ..self.out(0).fact() });
        let flat = self.dx(0).reshape(&[n]);
        let flat = if hole { flat.pad(vec![(Dim::Fixed(0), Dim::Fixed(1))]) } else { flat };
        flat.gather(index, 0)
    }

    /// The axes from the front that input `i` may mean among the first `count`: one without a condition, or all of them,
    /// each where a run shows that it is meant.
    pub fn axes_meant(&self, i: usize, count: usize) -> Vec<(i64, Option<Val<'g>>)> {
        let rank = self.x(0).rank() as i64;
        match self.ints(i).as_deref() {
            Some(&[axis]) => vec![(if axis < 0 { axis + rank } else { axis }, None)],
            _ => {
                let axis = self.x(i).cast(DType::I64).reshape(&[]);
                let is = |a: i64| axis.equal(axis.like(a as f64)).or(axis.equal(axis.like((a - rank) as f64)));
                (0..count as i64).map(|a| (a, Some(is(a)))).collect()
            }
        }
    }

    /// The elements of integer input `i`, dimensions included.
    pub fn dims(&self, i: usize) -> Option<Vec<Dim>> {
        let fact = self.b.val(self.node.input(i)?).fact();
        fact.ints.map(|ints| ints.to_vec())
    }

    pub fn op(&self) -> &str {
        &self.node.op
    }

    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.node.attrs.int(name).unwrap_or(default)
    }

    pub fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.node.attrs.float(name).unwrap_or(default))
    }

    /// The attribute `axis`, counted from the front of input 0.
    pub fn axis(&self, default: i64) -> i64 {
        let axis = self.int("axis", default);
        if axis < 0 { axis + self.x(0).rank() as i64 } else { axis }
    }

    /// The known elements of integer input `i`.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.node.input(i).and_then(|id| self.b.val(id).known_ints())
    }

    /// The data of input `i` where it is a constant or a weight.
    pub fn data(&self, i: usize) -> Option<Tensor> {
        let id = self.node.input(i)?;
        self.b.read(|g| g.value(id).data.clone())
    }

    /// The axes given by integer input `i`, counted from the front; all axes if it is left out or empty.
    pub fn axes(&self, i: usize) -> Option<Vec<i64>> {
        let rank = self.x(0).rank() as i64;
        match self.node.input(i) {
            None => Some((0..rank).collect()),
            Some(_) => Some(self.ints(i)?.into_iter().map(|a| if a < 0 { a + rank } else { a }).collect()),
        }
    }
}
