//! Sums of products in Einstein's notation.

use super::fact_cx::show;
use super::window::positions;
use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Dim, Fact};
use crate::lower;
use ndarray::{ArrayD, IxDyn};
use std::collections::BTreeMap;

/// Names an axis: a letter, or an axis of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// An equation for operands of known rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Equation {
    /// The labels of each operand's axes.
    pub terms: Vec<Vec<Label>>,
    pub output: Vec<Label>,
}

impl Equation {
    pub fn parse(text: &str, ranks: &[usize]) -> Result<Equation, Fault> {
        let wrong = |expected: &str| Fault::Attribute {
            name: "equation",
            found: text.to_string(),
            expected: expected.to_string(),
        };
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match compact.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (compact.as_str(), None),
        };
        let written: Vec<&str> = left.split(',').collect();
        if written.len() != ranks.len() {
            return Err(wrong(&format!("a term for each of {} operands", ranks.len())));
        }
        let mut widest = 0;
        let mut terms = Vec::new();
        for (term, &rank) in written.iter().zip(ranks) {
            let letters = term.replacen("...", "", 1).chars().count();
            let open = term.contains("...");
            let hidden = rank.checked_sub(letters).filter(|&n| open || n == 0);
            let hidden = hidden.ok_or_else(|| wrong(&format!("a label for each of {rank} axes in {term:?}")))?;
            widest = widest.max(hidden);
            terms.push(labels(term, hidden).ok_or_else(|| wrong("letters, and at most one `...` a term"))?);
        }
        let output = match right {
            Some(right) => labels(right, widest).ok_or_else(|| wrong("letters, and at most one `...` a term"))?,
            None => implicit_output(&terms, widest),
        };
        let known = |label: &Label| terms.iter().flatten().any(|l| l == label);
        let repeated = output.iter().enumerate().any(|(i, label)| output[..i].contains(label));
        if repeated || !output.iter().all(known) {
            return Err(wrong("an output of labels from the operands, each once"));
        }
        Ok(Equation { terms, output })
    }

    /// The size of each label: what the operands agree on, 1 broadcasting.
    pub fn sizes(&self, shapes: &[Vec<Dim>]) -> Result<BTreeMap<Label, Dim>, Fault> {
        let mut sizes: BTreeMap<Label, Dim> = BTreeMap::new();
        for (term, shape) in self.terms.iter().zip(shapes) {
            for (&label, dim) in term.iter().zip(shape) {
                let slot = sizes.entry(label).or_insert_with(|| dim.clone());
                match (slot.fixed(), dim.fixed()) {
                    (Some(a), Some(b)) if a != b && a != 1 && b != 1 => {
                        return Err(Fault::Shape {
                            what: "operand",
                            found: show(shape),
                            expected: format!("size {a} where the label is shared"),
                        });
                    }
                    (Some(1), _) => *slot = dim.clone(),
                    // A known size says more than a symbol.
                    (None, Some(n)) if n != 1 => *slot = dim.clone(),
                    _ => {}
                }
            }
        }
        Ok(sizes)
    }
}

fn labels(term: &str, hidden: usize) -> Option<Vec<Label>> {
    let ellipsis = || (0..hidden).rev().map(Label::Ellipsis);
    let letters = |part: &str| -> Option<Vec<Label>> {
        part.chars().map(|c| c.is_ascii_alphabetic().then_some(Label::Letter(c))).collect()
    };
    match term.split_once("...") {
        None => letters(term),
        Some((before, after)) => Some(letters(before)?.into_iter().chain(ellipsis()).chain(letters(after)?).collect()),
    }
}

/// The ellipsis, then the letters that stand once, in alphabetical order.
fn implicit_output(terms: &[Vec<Label>], widest: usize) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    terms.iter().flatten().for_each(|&label| *counts.entry(label).or_insert(0) += 1);
    let once = counts.into_iter().filter(|(label, n)| matches!(label, Label::Letter(_)) && *n == 1);
    (0..widest).rev().map(Label::Ellipsis).chain(once.map(|(label, _)| label)).collect()
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let dtype = c.dtype(0)?;
    let shapes: Option<Vec<Vec<Dim>>> = (0..c.arity()).map(|i| c.get(i)?.shape.clone()).collect();
    let Some(shapes) = shapes else { return Ok(vec![Fact::unknown(dtype)]) };
    let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
    let equation = Equation::parse(c.attrs.str("equation").unwrap_or(""), &ranks)?;
    let sizes = equation.sizes(&shapes)?;
    let shape = equation.output.iter().map(|label| sizes.get(label).cloned().unwrap_or(Dim::Fixed(1)));
    Ok(vec![Fact::new(dtype, shape.collect::<Vec<_>>())])
}

/// `y[output] = Σ Π operand[its labels]` over every value of every label.
fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let operands = (0..c.inputs.len()).map(|i| c.data(i)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<usize> = operands.iter().map(|x| x.ndim()).collect();
    let equation = Equation::parse(c.attrs.str("equation").unwrap_or(""), &ranks)?;
    let shapes: Vec<Vec<Dim>> = operands.iter().map(|x| super::window::dims(x.shape())).collect();
    let sizes = equation.sizes(&shapes)?;
    let names: Vec<Label> = sizes.keys().copied().collect();
    let extent = super::window::sizes(&sizes.values().cloned().collect::<Vec<_>>());
    let place = |labels: &[Label], at: &[usize], shape: &[usize]| -> IxDyn {
        let one = |(label, &n): (&Label, &usize)| {
            let i = names.iter().position(|name| name == label).map_or(0, |k| at[k]);
            if n == 1 { 0 } else { i }
        };
        IxDyn(&labels.iter().zip(shape).map(one).collect::<Vec<_>>())
    };
    let shape: Vec<usize> = equation
        .output
        .iter()
        .map(|label| names.iter().position(|name| name == label).map_or(1, |k| extent[k]))
        .collect();
    let mut y = ArrayD::zeros(IxDyn(&shape));
    for at in positions(&extent) {
        let factors = equation.terms.iter().zip(&operands).map(|(term, x)| x[place(term, &at, x.shape())]);
        y[place(&equation.output, &at, &shape)] += factors.product::<f64>();
    }
    Ok(vec![Array::new(c.dtype(0), y)])
}

fn cases() -> Vec<Case> {
    let case = |equation: &str, shapes: &[&[usize]]| {
        shapes.iter().fold(Case::new().attr("equation", equation), |case, shape| case.real(shape))
    };
    vec![
        case("ij->ji", &[&[2, 3]]),
        case("ij", &[&[2, 3]]),
        case("ii->i", &[&[3, 3]]),
        case("bii->b", &[&[2, 3, 3]]),
        case("ij->", &[&[2, 3]]),
        case("bd,dm->bm", &[&[2, 3], &[3, 4]]),
        case("bd, md", &[&[2, 3], &[4, 3]]),
        case("bsd,dhk->bhsk", &[&[2, 3, 2], &[2, 2, 3]]),
        case("bqhd,bkhd->bhqk", &[&[2, 2, 1, 3], &[2, 3, 1, 3]]),
        case("i,j->ij", &[&[2], &[3]]),
        case("ij,ij->i", &[&[2, 3], &[2, 3]]),
        case("...ij,...jk->...ik", &[&[2, 1, 2, 3], &[4, 3, 2]]),
        case("...i->...", &[&[2, 3, 2]]),
        case("ai,ib,bj->aj", &[&[2, 3], &[3, 2], &[2, 2]]),
        case("ij,kl->ik", &[&[2, 3], &[2, 2]]),
    ]
}

pub static EINSUM: Op =
    Op { name: "Einsum", facts, tangent: Tangent::Lower(lower::einsum::einsum), eval, cases };
