//! Einsum in terms of sums, transpositions and matrix products, one operand after the other.

use crate::ir::{Dim, Val, count};
use crate::ops::{Cx, Equation, Label};

/// A value and the labels of its axes, each once.
#[derive(Clone)]
struct Operand<'g> {
    value: Val<'g>,
    labels: Vec<Label>,
}

pub fn einsum<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let operands: Vec<Val<'g>> = (0..c.arity()).map(|i| c.x(i)).collect();
    let ranks: Vec<usize> = operands.iter().map(|x| x.rank()).collect();
    let equation = match Equation::parse(c.attrs().str("equation").unwrap_or(""), &ranks) {
        Ok(equation) => equation,
        Err(fault) => {
            c.fault(fault);
            return operands;
        }
    };
    let mut left: Option<Operand<'g>> = None;
    for (k, (value, labels)) in operands.into_iter().zip(&equation.terms).enumerate() {
        let needed_later = |label: &Label| {
            equation.output.contains(label) || equation.terms[k + 1..].iter().any(|term| term.contains(label))
        };
        let right = diagonal(Operand { value, labels: labels.clone() });
        left = Some(match left {
            None => right,
            Some(left) => product(left, right, &needed_later),
        });
    }
    let Some(result) = left.map(|operand| summed(operand, &|label| equation.output.contains(label))) else {
        return Vec::new();
    };
    vec![result.ordered(&equation.output)]
}

impl<'g> Operand<'g> {
    fn axis(&self, label: &Label) -> Option<usize> {
        self.labels.iter().position(|own| own == label)
    }

    /// The value with its axes in the order of `labels`.
    fn ordered(&self, labels: &[Label]) -> Val<'g> {
        let perm: Vec<i64> = labels.iter().filter_map(|label| self.axis(label)).map(|a| a as i64).collect();
        let same = perm.iter().enumerate().all(|(i, &p)| i as i64 == p);
        if same { self.value } else { self.value.permute(&perm) }
    }

    fn dims(&self, labels: &[Label]) -> Vec<Dim> {
        let shape = self.value.shape();
        labels.iter().filter_map(|label| self.axis(label).and_then(|a| shape.get(a).cloned())).collect()
    }
}

/// Of axes with equal labels the diagonal: elsewhere zero, then summed.
fn diagonal(mut operand: Operand<'_>) -> Operand<'_> {
    let b = operand.value.builder();
    while let Some((first, second)) = repeated(&operand.labels) {
        let rank = operand.labels.len();
        let along = |axis: usize| {
            let others: Vec<i64> = (0..rank as i64).filter(|&a| a != axis as i64).collect();
            b.range(&operand.value.dim(axis as i64)).unsqueeze(&others)
        };
        let on = along(first).equal(along(second));
        operand.value = on.select(operand.value, operand.value.like(0.0)).sum(&[second as i64]);
        operand.labels.remove(second);
    }
    operand
}

fn repeated(labels: &[Label]) -> Option<(usize, usize)> {
    (0..labels.len()).find_map(|i| (i + 1..labels.len()).find(|&j| labels[i] == labels[j]).map(|j| (i, j)))
}

fn summed<'g>(operand: Operand<'g>, keep: &dyn Fn(&Label) -> bool) -> Operand<'g> {
    let axes: Vec<i64> = (0..operand.labels.len()).filter(|&a| !keep(&operand.labels[a])).map(|a| a as i64).collect();
    Operand { value: operand.value.sum(&axes), labels: operand.labels.into_iter().filter(|l| keep(l)).collect() }
}

/// The product of two operands, summed over the labels that nothing needs afterwards.
fn product<'g>(a: Operand<'g>, b: Operand<'g>, needed: &dyn Fn(&Label) -> bool) -> Operand<'g> {
    let a = summed(a, &|label| needed(label) || b.labels.contains(label));
    let b = summed(b, &|label| needed(label) || a.labels.contains(label));
    let shared = |label: &Label| a.labels.contains(label) && b.labels.contains(label);
    let pick = |labels: &[Label], f: &dyn Fn(&Label) -> bool| -> Vec<Label> {
        labels.iter().filter(|label| f(label)).copied().collect()
    };
    let batch = pick(&a.labels, &|label| shared(label) && needed(label));
    let inner = pick(&a.labels, &|label| shared(label) && !needed(label));
    let rows = pick(&a.labels, &|label| !shared(label));
    let columns = pick(&b.labels, &|label| !shared(label));
    let labels = [batch.clone(), rows.clone(), columns.clone()].concat();
    if inner.is_empty() {
        return Operand { value: outer(&a, &b, &batch, &rows, &columns), labels };
    }
    let (a, b) = (grown(&a, &b, &inner), grown(&b, &a, &inner));
    let depth = count(&a.dims(&inner));
    // Against one matrix, the rows need not be one axis.
    let merge = !batch.is_empty() || rows.is_empty();
    let row_dims = if merge { vec![count(&a.dims(&rows))] } else { a.dims(&rows) };
    let left: Vec<Dim> = [a.dims(&batch), row_dims, vec![depth.clone()]].concat();
    let right: Vec<Dim> = [b.dims(&batch), vec![depth, count(&b.dims(&columns))]].concat();
    let left = a.ordered(&[batch.clone(), rows.clone(), inner.clone()].concat()).reshape(&left);
    let right = b.ordered(&[batch.clone(), inner, columns.clone()].concat()).reshape(&right);
    let matrix = left.matmul(right);
    let common: Vec<Dim> = matrix.shape().into_iter().take(batch.len()).collect();
    let dims: Vec<Dim> = [common, a.dims(&rows), b.dims(&columns)].concat();
    Operand { value: matrix.reshape(&dims), labels }
}

/// Every product of an element of `a` and one of `b` in the same place of the batch.
fn outer<'g>(a: &Operand<'g>, b: &Operand<'g>, batch: &[Label], rows: &[Label], columns: &[Label]) -> Val<'g> {
    let (first, last) = (batch.len() as i64, (batch.len() + rows.len()) as i64);
    let behind: Vec<i64> = (last..last + columns.len() as i64).collect();
    let between: Vec<i64> = (first..last).collect();
    let left = a.ordered(&[batch, rows].concat()).unsqueeze(&behind);
    left * b.ordered(&[batch, columns].concat()).unsqueeze(&between)
}

/// An axis of size 1 that the other operand has larger takes part in every term of the sum.
fn grown<'g>(operand: &Operand<'g>, other: &Operand<'g>, inner: &[Label]) -> Operand<'g> {
    let mut shape = operand.value.shape();
    for label in inner {
        if let (Some(own), Some(theirs)) = (operand.axis(label), other.axis(label))
            && shape[own].is_one()
        {
            shape[own] = other.value.dim(theirs as i64);
        }
    }
    Operand { value: operand.value.expand(&shape), labels: operand.labels.clone() }
}
