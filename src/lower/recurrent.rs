//! LSTM, GRU and RNN as Scans: a direction a Scan, what comes of the input alone in front of it, as one product.

use crate::control::{self, Sequence};
use crate::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Val};
use crate::ops::{Activation, Cell, Cx, Settings};

/// What a step reads besides the states and its slice.
#[derive(Clone, Copy)]
struct Weights<'g> {
    /// `Rᵀ ∈ R^{H×GH}`
    recurrent: Val<'g>,
    /// The candidate's recurrent bias of a GRU that resets behind its weight, `[H]`.
    candidate_bias: Option<Val<'g>>,
    /// `p_i, p_o, p_f ∈ R^H`
    peepholes: Option<[Val<'g>; 3]>,
}

/// One direction's step.
struct Step<'a> {
    settings: &'a Settings,
    activations: &'a [Activation],
    hidden: Dim,
}

/// Y (`[T, D, N, H]`), the last output (`[D, N, H]`) and, of an LSTM, the last cell state
pub fn recurrent<'g>(c: &Cx<'g>) -> Vec<Val<'g>> {
    let x = c.x(0);
    let settings = match Settings::of(c.op(), c.attrs()) {
        Ok(settings) => settings,
        Err(fault) => {
            c.fault(fault);
            return vec![x; 3];
        }
    };
    let time_first = |v: Val<'g>| if settings.batch_first { v.permute(&[1, 0, 2]) } else { v };
    let x = time_first(x);
    let directions: Vec<Vec<Val<'g>>> = (0..settings.reversed.len()).map(|d| direction(c, &settings, d, x)).collect();
    let joined = |k: usize, axis: i64| {
        let parts: Vec<Val<'g>> = directions.iter().map(|outputs| outputs[k].unsqueeze(&[axis])).collect();
        match parts.as_slice() {
            [one] => *one,
            _ => c.b.op("Concat", &parts, Attrs::new().with("axis", axis)),
        }
    };
    let all = || joined(0, 1);
    let mut outputs = vec![match (c.has_out(0), settings.batch_first) {
        (false, _) => x,
        (true, false) => all(),
        (true, true) => all().permute(&[2, 0, 1, 3]),
    }];
    outputs.extend((1..=settings.cell.states()).map(|k| if c.has_out(k) { time_first(joined(k, 0)) } else { x }));
    outputs
}

/// Outputs of all steps (`[T, N, H]`), and the last states (`[N, H]`), of one direction.
fn direction<'g>(c: &Cx<'g>, settings: &Settings, d: usize, x: Val<'g>) -> Vec<Val<'g>> {
    let of = |v: Val<'g>| v.slice(0, d as i64, d as i64 + 1).squeeze(&[0]);
    let (w, r) = (of(c.x(1)), of(c.x(2)));
    let hidden = c.attrs().int("hidden_size").filter(|&n| n > 0).map_or(r.dim(1), Dim::Fixed);
    let gates = settings.cell.gates();
    let part = |v: Val<'g>, from: usize, to: usize| {
        let at = |k: usize| c.b.dim_value(&(hidden.clone() * Dim::from(k)));
        let part = c.b.op("Slice", &[v, at(from), at(to), c.b.ints(&[0])], Attrs::new());
        c.b.refine_fact(part, &Fact::new(v.dtype(), [hidden.clone() * Dim::from(to - from)]));
        part
    };
    // A vector of so many parts: where only the attribute says how many units there are, it says its size, too.
    let vector = |i: usize, parts: usize| {
        let v = of(c.x(i));
        c.b.refine_fact(v, &Fact::new(v.dtype(), [hidden.clone() * Dim::from(parts)]));
        v
    };
    let bias = c.has(3).then(|| vector(3, 2 * gates));
    let (own, back) = (bias.map(|b| part(b, 0, gates)), bias.map(|b| part(b, gates, 2 * gates)));
    let behind = settings.cell == Cell::Gru && settings.resets_behind;
    let input_bias = own.zip(back).map(|(own, back)| match behind {
        false => own + back,
        true => {
            own + c.b.op(
                "Concat",
                &[part(back, 0, 2), c.b.zeros(back.dtype(), std::slice::from_ref(&hidden))],
                Attrs::new().with("axis", 0),
            )
        }
    });
    let projected = x.matmul(w.transpose());
    let projected = input_bias.map_or(projected, |bias| projected + bias);
    let weights = Weights {
        recurrent: r.transpose(),
        candidate_bias: back.filter(|_| behind).map(|back| part(back, 2, 3)),
        peepholes: c.has(7).then(|| vector(7, 3)).map(|p| [part(p, 0, 1), part(p, 1, 2), part(p, 2, 3)]),
    };
    let start = |i: usize| match c.has(i) {
        true => of(if settings.batch_first { c.x(i).permute(&[1, 0, 2]) } else { c.x(i) }),
        false => c.b.zeros(x.dtype(), &[x.dim(1), hidden.clone()]),
    };
    let starts: Vec<Val<'g>> = (0..settings.cell.states()).map(|k| start(5 + k)).collect();
    let step = Step { settings, activations: &settings.activations[d], hidden: hidden.clone() };
    let inside = c.has(4).then(|| inside(c.x(4), &x.dim(0)));
    if x.dim(0).is_one() {
        let first = |v: Val<'g>| v.squeeze(&[0]);
        let mut outputs = step.masked(first(projected), weights, &starts, inside.map(first));
        outputs[0] = outputs[0].unsqueeze(&[0]);
        return outputs;
    }
    let mut outputs = step.scan(c.b, projected, weights, &starts, inside, settings.reversed[d]);
    outputs.rotate_right(1);
    outputs
}

/// Which steps lie inside of each sequence: `[T, N, 1]`.
fn inside<'g>(lengths: Val<'g>, steps: &Dim) -> Val<'g> {
    let times = lengths.builder().range(steps).unsqueeze(&[1, 2]);
    times.lt(lengths.cast(DType::I64).unsqueeze(&[0, 2]))
}

impl Step<'_> {
    /// All steps: the last states, then the outputs of each.
    fn scan<'g>(
        &self,
        b: &'g Builder,
        projected: Val<'g>,
        weights: Weights<'g>,
        starts: &[Val<'g>],
        inside: Option<Val<'g>>,
        reversed: bool,
    ) -> Vec<Val<'g>> {
        let sequence = |value: Val<'g>| Sequence { value, axis: 0, reversed };
        let sequences: Vec<Sequence> = [Some(projected), inside].into_iter().flatten().map(sequence).collect();
        control::scan(b, self.body(projected, weights, starts, inside), starts, &sequences, &[(0, reversed)])
    }

    fn body<'g>(&self, projected: Val<'g>, weights: Weights<'g>, starts: &[Val<'g>], inside: Option<Val<'g>>) -> Graph {
        let body = Builder::new();
        body.scope(&format!("{}/step/", projected.builder().current_scope()));
        let names = ["h", "c"];
        let states: Vec<Val> = starts
            .iter()
            .zip(names)
            .map(|(start, name)| body.input(name, Fact { ints: None, ..start.fact() }, None))
            .collect();
        let slice = |name: &str, v: Val<'g>| {
            body.input(name, Fact::new(v.dtype(), v.shape().get(1..).unwrap_or_default()), None)
        };
        let x = slice("x", projected);
        let inside = inside.map(|v| slice("inside", v));
        let weights = Weights {
            recurrent: body.capture(weights.recurrent),
            candidate_bias: weights.candidate_bias.map(|v| body.capture(v)),
            peepholes: weights.peepholes.map(|all| all.map(|v| body.capture(v))),
        };
        let made = self.masked(x, weights, &states, inside);
        for (state, name) in made[1..].iter().zip(names) {
            body.output(*state, &format!("{name}.next"));
        }
        body.output(made[0], "y");
        body.finish().unwrap_or_else(|error| {
            projected.builder().fault(error);
            Graph::default()
        })
    }

    /// The output and the new states; outside of a sequence the output is 0 and the states stay.
    fn masked<'b>(
        &self,
        x: Val<'b>,
        weights: Weights<'b>,
        states: &[Val<'b>],
        inside: Option<Val<'b>>,
    ) -> Vec<Val<'b>> {
        let next = self.cell(x, weights, states);
        match inside {
            None => std::iter::once(next[0]).chain(next.iter().copied()).collect(),
            Some(inside) => {
                let kept = next.iter().zip(states).map(|(next, before)| inside.select(*next, *before));
                std::iter::once(inside.select(next[0], x.like(0.0))).chain(kept).collect()
            }
        }
    }

    fn cell<'b>(&self, x: Val<'b>, weights: Weights<'b>, states: &[Val<'b>]) -> Vec<Val<'b>> {
        match self.settings.cell {
            Cell::Rnn => vec![self.activate(0, x + states[0].matmul(weights.recurrent))],
            Cell::Lstm => self.lstm(x, weights, states[0], states[1]),
            Cell::Gru => vec![self.gru(x, weights, states[0])],
        }
    }

    /// `i = f(a_i + p_i ⊙ c)`, `f = f(a_f + p_f ⊙ c)`, `c' = f ⊙ c + i ⊙ g(a_c)`, `o = f(a_o + p_o ⊙ c')`,
    /// `h' = o ⊙ h(c')` with `a = W x + R h + b`
    fn lstm<'b>(&self, x: Val<'b>, weights: Weights<'b>, h: Val<'b>, c: Val<'b>) -> Vec<Val<'b>> {
        let gates = self.split(x + h.matmul(weights.recurrent), 4);
        let seen = |gate: usize, k: usize, c: Val<'b>| match weights.peepholes {
            Some(peepholes) => gates[gate] + peepholes[k] * c,
            None => gates[gate],
        };
        let i = self.activate(0, seen(0, 0, c));
        let f = if self.settings.couples { 1.0 - i } else { self.activate(0, seen(2, 2, c)) };
        let next = f * c + i * self.activate(1, gates[3]);
        let o = self.activate(0, seen(1, 1, next));
        vec![o * apply(self.activations[2], next), next]
    }

    /// `z = f(a_z)`, `r = f(a_r)`, `h' = (1 − z) ⊙ g(W x + R (r ⊙ h) + b) + z ⊙ h`, or `r ⊙ (R h + b_R)` in the candidate
    fn gru<'b>(&self, x: Val<'b>, weights: Weights<'b>, h: Val<'b>) -> Val<'b> {
        let of_x = self.split(x, 3);
        let candidate = |r: Val<'b>, of_h: Val<'b>| match weights.candidate_bias {
            Some(bias) => r * (of_h + bias),
            None => r * of_h,
        };
        let (z, sum) = if self.settings.resets_behind {
            let of_h = self.split(h.matmul(weights.recurrent), 3);
            let r = self.activate(0, of_x[1] + of_h[1]);
            (self.activate(0, of_x[0] + of_h[0]), of_x[2] + candidate(r, of_h[2]))
        } else {
            let columns = self.split(weights.recurrent, 3);
            let r = self.activate(0, of_x[1] + h.matmul(columns[1]));
            (self.activate(0, of_x[0] + h.matmul(columns[0])), of_x[2] + (r * h).matmul(columns[2]))
        };
        (1.0 - z) * self.activate(1, sum) + z * h
    }

    /// Equal parts of the last axis of a matrix.
    fn split<'b>(&self, v: Val<'b>, parts: usize) -> Vec<Val<'b>> {
        let b = v.builder();
        let sizes = b.shape_value(&vec![self.hidden.clone(); parts]);
        b.node("Split", &[Some(v), Some(sizes)], Attrs::new().with("axis", 1), parts)
    }

    fn activate<'b>(&self, which: usize, x: Val<'b>) -> Val<'b> {
        let clipped = match self.settings.clip {
            Some(c) => x.builder().op("Clip", &[x, x.like(-c), x.like(c)], Attrs::new()),
            None => x,
        };
        apply(self.activations[which], clipped)
    }
}

fn apply(activation: Activation, x: Val<'_>) -> Val<'_> {
    let op = |name: &str, attrs: Attrs| x.builder().op(name, &[x], attrs);
    let with = |name: &str, alpha: f64| op(name, Attrs::new().with("alpha", alpha as f32));
    match activation {
        Activation::Relu => op("Relu", Attrs::new()),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Affine(a, b) => x * a + b,
        Activation::LeakyRelu(a) => with("LeakyRelu", a),
        Activation::ThresholdedRelu(a) => with("ThresholdedRelu", a),
        Activation::ScaledTanh(a, b) => (x * b).tanh() * a,
        Activation::HardSigmoid(a, b) => op("HardSigmoid", Attrs::new().with("alpha", a as f32).with("beta", b as f32)),
        Activation::Elu(a) => with("Elu", a),
        Activation::Softsign => op("Softsign", Attrs::new()),
        Activation::Softplus => op("Softplus", Attrs::new()),
    }
}
