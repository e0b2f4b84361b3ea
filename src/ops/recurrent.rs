//! LSTM, GRU and RNN.

use super::{Array, Case, EvalCx, FactCx, Fault, Op, Tangent};
use crate::ir::{Attr, Attrs, DType, Dim, Fact, Tensor};
use crate::lower::recurrent;

/// A recurrent cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cell {
    Lstm,
    Gru,
    Rnn,
}

impl Cell {
    pub fn of(op: &str) -> Cell {
        match op {
            "LSTM" => Cell::Lstm,
            "GRU" => Cell::Gru,
            _ => Cell::Rnn,
        }
    }

    /// Blocks of rows in the weights.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
            Cell::Rnn => 1,
        }
    }

    /// States that go round: the output, and of an LSTM the cell's.
    pub fn states(self) -> usize {
        if self == Cell::Lstm { 2 } else { 1 }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
            Cell::Gru => &["Sigmoid", "Tanh"],
            Cell::Rnn => &["Tanh"],
        }
    }
}

/// An activation with its parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    /// `α x + β`
    Affine(f64, f64),
    LeakyRelu(f64),
    ThresholdedRelu(f64),
    /// `α tanh(β x)`
    ScaledTanh(f64, f64),
    /// `max(0, min(1, α x + β))`
    HardSigmoid(f64, f64),
    Elu(f64),
    Softsign,
    Softplus,
}

impl Activation {
    /// The activation of that name; it takes its parameters from the lists' fronts.
    fn of(name: &str, alpha: &mut &[f32], beta: &mut &[f32]) -> Result<Activation, Fault> {
        let next = |list: &mut &[f32], default: f64| match list.split_first() {
            Some((first, rest)) => {
                *list = rest;
                f64::from(*first)
            }
            None => default,
        };
        let fault = || Fault::Attribute { name: "activations", found: name.into(), expected: NAMES.into() };
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "affine" => Activation::Affine(next(alpha, 1.0), next(beta, 0.0)),
            "leakyrelu" => Activation::LeakyRelu(next(alpha, f64::from(0.01f32))),
            "thresholdedrelu" => Activation::ThresholdedRelu(next(alpha, 1.0)),
            "scaledtanh" => Activation::ScaledTanh(next(alpha, 1.0), next(beta, 1.0)),
            "hardsigmoid" => Activation::HardSigmoid(next(alpha, f64::from(0.2f32)), next(beta, 0.5)),
            "elu" => Activation::Elu(next(alpha, 1.0)),
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => return Err(fault()),
        })
    }

    fn eval(self, x: f64) -> f64 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Affine(a, b) => a * x + b,
            Activation::LeakyRelu(a) => if x < 0.0 { a * x } else { x },
            Activation::ThresholdedRelu(a) => if x > a { x } else { 0.0 },
            Activation::ScaledTanh(a, b) => a * (b * x).tanh(),
            Activation::HardSigmoid(a, b) => (a * x + b).clamp(0.0, 1.0),
            Activation::Elu(a) => if x < 0.0 { a * x.exp_m1() } else { x },
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

const NAMES: &str = "Relu, Tanh, Sigmoid, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign or \
                     Softplus";

/// What the attributes say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub cell: Cell,
    /// Of each direction, whether it runs from the end.
    pub reversed: Vec<bool>,
    /// Of each direction, in the order f, g, h.
    pub activations: Vec<Vec<Activation>>,
    /// What goes into an activation lies between −clip and clip.
    pub clip: Option<f64>,
    /// The batch comes first.
    pub batch_first: bool,
    /// An LSTM forgets what it does not take in: f = 1 − i.
    pub couples: bool,
    /// A GRU resets behind its recurrent weight, not in front of it.
    pub resets_behind: bool,
}

impl Settings {
    pub fn of(op: &str, attrs: &Attrs) -> Result<Settings, Fault> {
        let cell = Cell::of(op);
        let direction = attrs.str("direction").unwrap_or("forward");
        let reversed = match direction.to_ascii_lowercase().as_str() {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            _ => {
                let expected = "forward, reverse or bidirectional".to_string();
                return Err(Fault::Attribute { name: "direction", found: direction.to_string(), expected });
            }
        };
        let int = |name: &str| attrs.int(name).unwrap_or(0) != 0;
        Ok(Settings {
            cell,
            activations: activations(cell, attrs, reversed.len())?,
            reversed,
            clip: attrs.float("clip").filter(|c| *c > 0.0).map(f64::from),
            batch_first: int("layout"),
            couples: int("input_forget"),
            resets_behind: int("linear_before_reset"),
        })
    }
}

fn activations(cell: Cell, attrs: &Attrs, directions: usize) -> Result<Vec<Vec<Activation>>, Fault> {
    let floats = |name: &str| match attrs.get(name) {
        Some(Attr::Floats(values)) => values.as_slice(),
        _ => &[],
    };
    let (mut alpha, mut beta) = (floats("activation_alpha"), floats("activation_beta"));
    let each = cell.activations().len();
    let names: Vec<&str> = match attrs.get("activations") {
        Some(Attr::Strs(names)) if !names.is_empty() => names.iter().map(String::as_str).collect(),
        _ => cell.activations().repeat(directions),
    };
    if names.len() != each * directions {
        let (found, expected) = (format!("{} names", names.len()), format!("{}", each * directions));
        return Err(Fault::Attribute { name: "activations", found, expected });
    }
    let all: Vec<Activation> =
        names.iter().map(|name| Activation::of(name, &mut alpha, &mut beta)).collect::<Result<_, _>>()?;
    Ok(all.chunks(each).map(<[Activation]>::to_vec).collect())
}

fn facts(c: &FactCx) -> Result<Vec<Fact>, Fault> {
    let settings = Settings::of(c.op, c.attrs)?;
    let (dtype, directions) = (c.dtype(0)?, Dim::from(settings.reversed.len()));
    let hidden = match c.attrs.int("hidden_size").filter(|&n| n > 0) {
        Some(n) => Dim::Fixed(n),
        None => match c.input(2)?.shape.as_deref() {
            Some([_, _, hidden]) => hidden.clone(),
            Some(shape) => return Err(rank(2, shape.len(), 3)),
            None => return Ok(vec![Fact::unknown(dtype); 3]),
        },
    };
    for (i, needed) in [(0, 3), (1, 3), (2, 3), (3, 2), (4, 1), (5, 3), (6, 3), (7, 2)] {
        match c.get(i).and_then(Fact::rank) {
            Some(found) if found != needed => return Err(rank(i, found, needed)),
            _ => {}
        }
    }
    for (i, factor) in [(1, settings.cell.gates()), (2, settings.cell.gates())] {
        let rows = c.input(i)?.shape.as_ref().and_then(|s| s.get(1)?.fixed()).zip(hidden.fixed());
        if let Some((rows, hidden)) = rows.filter(|(rows, hidden)| Some(*rows) != hidden.checked_mul(factor as i64)) {
            let (found, expected) = (rows.to_string(), format!("{factor} × {hidden}"));
            return Err(Fault::Shape { what: "rows of the weights", found, expected });
        }
    }
    let Some([first, second, _]) = c.input(0)?.shape.as_deref() else { return Ok(vec![Fact::unknown(dtype); 3]) };
    let (first, second) = (first.clone(), second.clone());
    let shapes = match settings.batch_first {
        false => [vec![first, directions.clone(), second.clone(), hidden.clone()], vec![directions, second, hidden]],
        true => [vec![first.clone(), second, directions.clone(), hidden.clone()], vec![first, directions, hidden]],
    };
    let [all, last] = shapes.map(|shape| Fact::new(dtype, shape));
    Ok(vec![all, last.clone(), last])
}

fn rank(index: usize, found: usize, expected: usize) -> Fault {
    Fault::Rank { index, found, expected: expected.to_string() }
}

/// One direction of one sample in the reference evaluation.
struct Run<'a> {
    c: &'a EvalCx<'a>,
    settings: &'a Settings,
    hidden: usize,
    direction: usize,
    sample: usize,
}

impl Run<'_> {
    /// Row `row` of the weights (input `i`) times `x`.
    fn times(&self, i: usize, row: usize, x: &[f64]) -> Result<f64, Fault> {
        let w = self.c.input(i)?;
        x.iter().enumerate().map(|(k, x)| Ok(w.at(&[self.direction, row, k])? * x)).sum()
    }

    /// An element of a bias or peephole; 0 where there is none.
    fn vector(&self, i: usize, at: usize) -> Result<f64, Fault> {
        self.c.get(i).map_or(Ok(0.0), |v| v.at(&[self.direction, at]))
    }

    fn initial(&self, i: usize) -> Result<Vec<f64>, Fault> {
        let place = |j: usize| match self.settings.batch_first {
            true => [self.sample, self.direction, j],
            false => [self.direction, self.sample, j],
        };
        (0..self.hidden).map(|j| self.c.get(i).map_or(Ok(0.0), |v| v.at(&place(j)))).collect()
    }

    fn activate(&self, which: usize, x: f64) -> f64 {
        let clipped = self.settings.clip.map_or(x, |c| x.clamp(-c, c));
        self.settings.activations[self.direction][which].eval(clipped)
    }

    /// `W x + Wb`, and `R h + Rb` where `h` is not left out.
    fn linear(&self, gate: usize, j: usize, x: &[f64], h: Option<&[f64]>) -> Result<f64, Fault> {
        let row = gate * self.hidden + j;
        let gates = self.settings.cell.gates();
        let own = self.times(1, row, x)? + self.vector(3, row)?;
        let back = match h {
            Some(h) => self.times(2, row, h)? + self.vector(3, gates * self.hidden + row)?,
            None => 0.0,
        };
        Ok(own + back)
    }

    fn step(&self, x: &[f64], h: &[f64], cell: &[f64]) -> Result<(Vec<f64>, Vec<f64>), Fault> {
        match self.settings.cell {
            Cell::Rnn => {
                let next = (0..self.hidden).map(|j| Ok(self.activate(0, self.linear(0, j, x, Some(h))?)));
                Ok((next.collect::<Result<_, Fault>>()?, cell.to_vec()))
            }
            Cell::Lstm => self.lstm(x, h, cell),
            Cell::Gru => Ok((self.gru(x, h)?, cell.to_vec())),
        }
    }

    fn lstm(&self, x: &[f64], h: &[f64], cell: &[f64]) -> Result<(Vec<f64>, Vec<f64>), Fault> {
        let (mut next, mut kept) = (Vec::new(), Vec::new());
        for (j, &before) in cell.iter().enumerate() {
            let gate = |gate: usize| self.linear(gate, j, x, Some(h));
            let peephole = |k: usize| self.vector(7, k * self.hidden + j);
            let i = self.activate(0, gate(0)? + peephole(0)? * before);
            let f = match self.settings.couples {
                true => 1.0 - i,
                false => self.activate(0, gate(2)? + peephole(2)? * before),
            };
            let c = f * before + i * self.activate(1, gate(3)?);
            let o = self.activate(0, gate(1)? + peephole(1)? * c);
            next.push(o * self.settings.activations[self.direction][2].eval(c));
            kept.push(c);
        }
        Ok((next, kept))
    }

    fn gru(&self, x: &[f64], h: &[f64]) -> Result<Vec<f64>, Fault> {
        let gate =
            |g: usize| (0..self.hidden).map(move |j| Ok(self.activate(0, self.linear(g, j, x, Some(h))?)));
        let z: Vec<f64> = gate(0).collect::<Result<_, Fault>>()?;
        let r: Vec<f64> = gate(1).collect::<Result<_, Fault>>()?;
        let reset: Vec<f64> = r.iter().zip(h).map(|(r, h)| r * h).collect();
        let candidate = |j: usize| {
            let sum = match self.settings.resets_behind {
                false => self.linear(2, j, x, Some(&reset))?,
                true => {
                    let own = self.linear(2, j, x, None)?;
                    own + r[j] * (self.linear(2, j, &[], Some(h))? - self.vector(3, 2 * self.hidden + j)?)
                }
            };
            Ok(self.activate(1, sum))
        };
        (0..self.hidden).map(|j| Ok((1.0 - z[j]) * candidate(j)? + z[j] * h[j])).collect()
    }
}

fn eval(c: &EvalCx) -> Result<Vec<Array>, Fault> {
    let settings = Settings::of(c.op, c.attrs)?;
    let (x, r) = (c.input(0)?, c.input(2)?);
    let ([first, second, width], [_, _, hidden]) = (dims3(x, 0)?, dims3(r, 2)?);
    let (steps, batch) = if settings.batch_first { (second, first) } else { (first, second) };
    let directions = settings.reversed.len();
    let element = |t: usize, n: usize, k: usize| x.at(&if settings.batch_first { [n, t, k] } else { [t, n, k] });
    let shapes = match settings.batch_first {
        false => [vec![steps, directions, batch, hidden], vec![directions, batch, hidden]],
        true => [vec![batch, steps, directions, hidden], vec![batch, directions, hidden]],
    };
    let mut all = ndarray::ArrayD::<f64>::zeros(shapes[0].clone());
    let mut last = [ndarray::ArrayD::<f64>::zeros(shapes[1].clone()), ndarray::ArrayD::zeros(shapes[1].clone())];
    let lengths = c.ints(4);
    for direction in 0..directions {
        for sample in 0..batch {
            let run = Run { c, settings: &settings, hidden, direction, sample };
            let (mut h, mut cell) = (run.initial(5)?, run.initial(6)?);
            let length = lengths.as_ref().and_then(|l| l.get(sample)).map_or(steps, |&l| l.clamp(0, steps as i64) as usize);
            for s in 0..length {
                let t = if settings.reversed[direction] { length - 1 - s } else { s };
                let slice: Vec<f64> = (0..width).map(|k| element(t, sample, k)).collect::<Result<_, _>>()?;
                (h, cell) = run.step(&slice, &h, &cell)?;
                for (j, &h) in h.iter().enumerate() {
                    let at = if settings.batch_first { [sample, t, direction, j] } else { [t, direction, sample, j] };
                    all[at.as_slice()] = h;
                }
            }
            for (array, state) in last.iter_mut().zip([&h, &cell]) {
                for (j, &v) in state.iter().enumerate() {
                    let at = if settings.batch_first { [sample, direction, j] } else { [direction, sample, j] };
                    array[at.as_slice()] = v;
                }
            }
        }
    }
    let [h, cell] = last;
    Ok([all, h, cell].into_iter().map(|data| Array::new(x.dtype, data)).collect())
}

fn dims3(x: &Array, index: usize) -> Result<[usize; 3], Fault> {
    x.shape().try_into().map_err(|_| rank(index, x.shape().len(), 3))
}

/// Sequences of 3 steps, 2 samples of 2 features, and as many hidden units.
fn case(gates: usize, directions: usize) -> Case {
    let case = Case::new().attr("hidden_size", 2);
    case.real(&[3, 2, 2]).real(&[directions, gates * 2, 2]).real(&[directions, gates * 2, 2])
}

fn lengths(case: Case) -> Case {
    case.data(Tensor::from_f64(DType::I32, &[2], [2.0, 3.0]))
}

fn named(case: Case, names: &[&str]) -> Case {
    case.attr("activations", Attr::Strs(names.iter().map(|n| n.to_string()).collect()))
}

fn lstm_cases() -> Vec<Case> {
    let bias = |directions: usize| case(4, directions).real(&[directions, 16]);
    vec![
        case(4, 1).outputs(3),
        lengths(bias(2)).real(&[2, 2, 2]).real(&[2, 2, 2]).real(&[2, 6]).attr("direction", "bidirectional").outputs(3),
        lengths(bias(1)).attr("direction", "reverse").outputs(3),
        Case::new()
            .attr("hidden_size", 3)
            .attr("layout", 1)
            .real(&[2, 1, 2])
            .real(&[1, 12, 2])
            .real(&[1, 12, 3])
            .absent()
            .absent()
            .real(&[2, 1, 3])
            .real(&[2, 1, 3])
            .outputs(3),
        bias(1).attr("input_forget", 1).attr("clip", 1.5).outputs(1),
        named(case(4, 1), &["HardSigmoid", "Softsign", "ScaledTanh"])
            .attr("activation_alpha", Attr::Floats(vec![0.1, 0.5]))
            .attr("activation_beta", Attr::Floats(vec![0.5, 0.75]))
            .outputs(2),
    ]
}

fn gru_cases() -> Vec<Case> {
    let bias = |directions: usize| case(3, directions).real(&[directions, 12]);
    vec![
        case(3, 1).outputs(2),
        lengths(bias(2)).real(&[2, 2, 2]).attr("direction", "bidirectional").attr("linear_before_reset", 1).outputs(2),
        bias(1).attr("direction", "reverse").attr("layout", 0).outputs(2),
        named(bias(1), &["Sigmoid", "Affine"])
            .attr("activation_alpha", Attr::Floats(vec![0.5]))
            .attr("activation_beta", Attr::Floats(vec![0.25]))
            .outputs(1),
    ]
}

fn rnn_cases() -> Vec<Case> {
    vec![
        case(1, 1).outputs(2),
        lengths(case(1, 2).real(&[2, 4])).real(&[2, 2, 2]).attr("direction", "bidirectional").outputs(2),
        named(case(1, 1), &["Softplus"]).attr("direction", "reverse").outputs(2),
        named(case(1, 1), &["Elu"]).attr("activation_alpha", Attr::Floats(vec![0.5])).outputs(1),
    ]
}

pub static LSTM: Op =
    Op { name: "LSTM", facts, tangent: Tangent::Lower(recurrent::recurrent), eval, cases: lstm_cases };
pub static GRU: Op = Op { name: "GRU", facts, tangent: Tangent::Lower(recurrent::recurrent), eval, cases: gru_cases };
pub static RNN: Op = Op { name: "RNN", facts, tangent: Tangent::Lower(recurrent::recurrent), eval, cases: rnn_cases };
