//! Named rewrites that the builder applies as nodes are made, and passes over whole graphs.
//!
//! A rewrite is a function from a node about to be made to the value it equals, or `None`; its identity stands in its
//! doc line. Each either shrinks the graph or moves a negation, a scale or an expansion towards the outputs, so that
//! they meet and cancel; no rewrite undoes another.

mod algebra;
mod dead;
mod insertion;
mod layout;
mod negation;
mod products;
mod range;
mod rebuild;
mod scalars;
mod small_images;
mod step_function;
mod sums;

pub use dead::dead_code;
pub(crate) use dead::{direct_outputs, into_part, part, without_dead_code};
pub(crate) use range::{Range, extend as extend_ranges};
pub(crate) use rebuild::rebuild;
pub use rebuild::simplify;
pub(crate) use small_images::small_images;
pub(crate) use step_function::STEP;

use crate::ir::{Attrs, Builder, Graph, Val, ValueId};

/// A node about to be made.
pub(crate) struct Site<'g, 'a> {
    b: &'g Builder,
    op: &'a str,
    inputs: &'a [Option<Val<'g>>],
    attrs: &'a Attrs,
}

type Rewrite = for<'g> fn(&Site<'g, '_>) -> Option<Val<'g>>;

/// Tried in this order; the first that applies is taken.
const REWRITES: &[Rewrite] = &[
    algebra::neutral,
    algebra::constant_factors,
    algebra::mean,
    algebra::common_factor,
    algebra::inverse,
    layout::nothing_to_do,
    layout::same_again,
    layout::joined_axes,
    layout::expanded_operand,
    layout::sum_of_parts,
    sums::reduced_size_one,
    sums::one_sum,
    sums::sum_without_ones,
    sums::reshaped_sum,
    sums::sum_of_reshaped,
    negation::double,
    negation::in_sum,
    negation::outwards,
    products::transposed_operand,
    products::transposed_product,
    products::identity_matrix,
    products::symmetric_factor,
    products::scaled_factor,
];

/// What is done to a graph that is finished, for the sake of the runtimes that take it. Values keep
/// their numbers and names.
pub(crate) fn emitted(graph: Graph) -> Graph {
    scalars::scalars_of_rank(step_function::step_functions(graph))
}

/// What `op(inputs; attrs)` equals in simpler terms, if a rewrite applies.
pub fn rewrite<'g>(b: &'g Builder, op: &str, inputs: &[Option<Val<'g>>], attrs: &Attrs) -> Option<Val<'g>> {
    let site = Site { b, op, inputs, attrs };
    REWRITES.iter().find_map(|rule| rule(&site))
}

impl<'g> Site<'g, '_> {
    fn x(&self, i: usize) -> Option<Val<'g>> {
        self.inputs.get(i).copied().flatten()
    }

    fn is(&self, ops: &[&str]) -> bool {
        ops.contains(&self.op)
    }

    /// The node again with other inputs.
    fn with(&self, inputs: &[Val<'g>]) -> Val<'g> {
        self.b.op(self.op, inputs, self.attrs.clone())
    }

    /// The node again with input `i` replaced.
    fn replacing(&self, i: usize, by: Val<'g>) -> Val<'g> {
        let mut inputs = self.inputs.to_vec();
        inputs[i] = Some(by);
        self.b.node(self.op, &inputs, self.attrs.clone(), 1)[0]
    }
}

/// What a value is made of.
struct Made {
    inputs: Vec<Option<ValueId>>,
    attrs: Attrs,
}

impl Made {
    fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

/// The node that makes `v`, if it is of that operator.
fn made_by(v: Val<'_>, op: &str) -> Option<Made> {
    v.builder().read(|g| {
        let node = g.node(g.value(v.id()).producer?);
        let made = || Made { inputs: node.inputs.clone(), attrs: node.attrs.clone() };
        (node.op == op && node.domain.is_empty()).then(made)
    })
}

/// `x` where `v = op(x)`.
fn operand<'g>(v: Val<'g>, op: &str) -> Option<Val<'g>> {
    let input = v.builder().read(|g| {
        let node = g.node(g.value(v.id()).producer?);
        if node.op == op && node.domain.is_empty() { node.input(0) } else { None }
    });
    input.map(|id| v.builder().val(id))
}

/// The number in a constant whose elements are all equal.
fn splat(v: Val<'_>) -> Option<f64> {
    let data = v.builder().constant_data(v)?;
    if data.len() > 64 {
        return None;
    }
    let all = data.to_f64();
    let first = *all.first()?;
    all.iter().all(|x| x.to_bits() == first.to_bits()).then_some(first)
}

/// Whether both shapes are known and equal.
fn same_shape(a: Val<'_>, b: Val<'_>) -> bool {
    a.builder().read(|g| match (&g.value(a.id()).fact.shape, &g.value(b.id()).fact.shape) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    })
}
