//! Loop and Scan.

use super::{Case, Op, Tangent};
use crate::control::{Repeat, round_tangents};
use crate::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Tensor, Val};

fn input<'g>(b: &'g Builder, name: &str, shape: &[i64]) -> Val<'g> {
    b.input(name, Fact::new(DType::F64, shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>()), None)
}

fn finished(b: Builder) -> Graph {
    b.finish().unwrap_or_default()
}

/// `h' = tanh(x W) · cos(h)`, `y = h'²` with `W` a state that stays.
fn recurrence() -> Graph {
    let b = Builder::new();
    let (h, w) = (input(&b, "h", &[2, 3]), input(&b, "w", &[2, 3]));
    let x = input(&b, "slice", &[2, 2]);
    let next = x.matmul(w).tanh() * h.cos();
    b.output(next, "h.next");
    b.output(w, "w.next");
    b.output(next.square(), "y");
    finished(b)
}

/// Two sequences, two stacks and no state: `u = a ⊙ c`, `v = sin(a)`.
fn pairs() -> Graph {
    let b = Builder::new();
    let (a, c) = (input(&b, "a", &[3]), input(&b, "c", &[3]));
    b.output(a * c, "u");
    b.output(a.sin(), "v");
    finished(b)
}

/// A body with a Scan in it: `h' = h · Π tanh(x)`, the product by the inner one.
fn nested() -> Graph {
    let inner = Builder::new();
    let (p, e) = (input(&inner, "p", &[]), input(&inner, "e", &[]));
    inner.output(p * e.tanh() + inner.captured("h", Fact::new(DType::F64, [])).sin(), "p.next");
    let b = Builder::new();
    let (h, x) = (input(&b, "h", &[]), input(&b, "slice", &[3]));
    let attrs = Attrs::new().with("num_scan_inputs", 1).with("body", finished(inner));
    b.output(b.op("Scan", &[h, x], attrs), "h.next");
    finished(b)
}

/// A body with an If in it, one branch of which passes on what the other computes with: `h' = Σh > 0 ? x : x ⊙ sin(h)`
fn branching() -> Graph {
    let b = Builder::new();
    let (h, x) = (input(&b, "h", &[3]), input(&b, "slice", &[3]));
    let branch = |f: &dyn Fn(&Builder)| {
        let b = Builder::new();
        f(&b);
        finished(b)
    };
    let yes = branch(&|b| drop(b.output(b.capture(x), "yes")));
    let no = branch(&|b| drop(b.output(b.capture(x) * b.capture(h).sin(), "no")));
    let attrs = Attrs::new().with("then_branch", yes).with("else_branch", no);
    b.output(b.op("If", &[h.sum_all().gt(h.like(0.0))], attrs), "h.next");
    finished(b)
}

fn scan_cases() -> Vec<Case> {
    let sequences = || Case::new().attr("num_scan_inputs", 1);
    vec![
        sequences().attr("body", recurrence()).real(&[2, 3]).real(&[2, 3]).real(&[4, 2, 2]).outputs(3),
        sequences()
            .attr("body", recurrence())
            .attr("scan_input_axes", [-1])
            .attr("scan_input_directions", [1])
            .attr("scan_output_axes", [1])
            .attr("scan_output_directions", [1])
            .real(&[2, 3])
            .real(&[2, 3])
            .real(&[2, 2, 3])
            .outputs(3),
        sequences().attr("body", recurrence()).real(&[2, 3]).real(&[2, 3]).real(&[1, 2, 2]).outputs(3),
        Case::new()
            .attr("num_scan_inputs", 2)
            .attr("scan_input_directions", [0, 1])
            .attr("scan_input_axes", [0, 1])
            .attr("body", pairs())
            .real(&[4, 3])
            .real(&[3, 4])
            .outputs(2),
        sequences().attr("body", nested()).real(&[]).real(&[2, 3]).outputs(1),
        sequences().attr("body", branching()).distinct(&[3]).distinct(&[4, 3]).outputs(1),
    ]
}

/// `h' = sin(h) · (1 + i) + w`, `y = h ⊙ h'`, until `Σh' > limit`, if there is one.
fn counted(limit: Option<f64>) -> Graph {
    let b = Builder::new();
    let i = b.input("i", Fact::new(DType::I64, []), None);
    let condition = b.input("condition", Fact::new(DType::Bool, []), None);
    let (h, w) = (input(&b, "h", &[3]), input(&b, "w", &[3]));
    let next = h.sin() * (i.cast(DType::F64) + 1.0) + w;
    let goes_on = limit.map_or(condition, |limit| next.sum_all().le(next.like(limit)));
    b.output(goes_on, "condition.next");
    b.output(next, "h.next");
    b.output(w, "w.next");
    b.output(h * next, "y");
    finished(b)
}

fn loop_cases() -> Vec<Case> {
    let truth = || Tensor::from_f64(DType::Bool, &[], [1.0]);
    let body = |limit| move |case: Case| case.attr("body", counted(limit)).real(&[3]).real(&[3]).outputs(3);
    vec![
        body(None)(Case::new().ints(&[], &[4]).data(truth())),
        body(None)(Case::new().const_ints(&[], &[3]).absent()),
        body(Some(30.0))(Case::new().ints(&[], &[4]).data(truth())),
        body(Some(-30.0))(Case::new().ints(&[], &[4]).data(truth())),
    ]
}

pub static LOOP: Op = Op {
    name: "Loop",
    facts: Repeat::facts,
    tangent: Tangent::Joint(round_tangents),
    eval: Repeat::eval,
    cases: loop_cases,
};

pub static SCAN: Op = Op {
    name: "Scan",
    facts: Repeat::facts,
    tangent: Tangent::Joint(round_tangents),
    eval: Repeat::eval,
    cases: scan_cases,
};
