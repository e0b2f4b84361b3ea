//! Convolutions whose image is the result, as their gradient in the image is, where the image is small: ONNX Runtime 1.32
//! multiplies an image at a time, and products of sixteen columns take twice as long as one of them all.
//!
//! `y[n, c, q] = Σ_{m,t} x[n, m, p(q, t)] · w[m, c, t]`: the places `p` that each place `q` reads are gathered, one row of
//! channels each, and multiplied by the filters. A row of zeros stands behind the image for places outside of it.

use super::insertion::Insertion;
use crate::ir::{Attrs, DType, Dim, Fact, Graph, Node, Tensor, ValueId, fixed};
use crate::ops::{Windows, inside, positions};

/// Places of the largest image, fitted by benches/small_images.py, and the fewest of its channels.
const PLACES: usize = 64;
const CHANNELS: i64 = 16;

/// The same function with such convolutions as products.
pub(crate) fn small_images(graph: Graph) -> Graph {
    if !graph.nodes.iter().any(|node| Small::of(&graph, node).is_some()) {
        return graph;
    }
    Insertion::rewritten(graph, |to, node| match Small::of(&to.graph, &node) {
        Some(small) => small.write(to, node),
        None => to.put(node),
    })
}

/// `ConvTranspose(x[N, M, …], w[M, C, k…])`, one place apart, in one group.
struct Small {
    x: ValueId,
    w: ValueId,
    batch: Dim,
    m: i64,
    c: i64,
    /// Spatial sizes of `x` and of the result.
    from: Vec<usize>,
    to: Vec<usize>,
    /// Of the convolution from the result to `x`.
    windows: Windows,
}

impl Small {
    fn of(graph: &Graph, node: &Node) -> Option<Small> {
        if node.op != "ConvTranspose" || !node.domain.is_empty() || node.inputs.len() != 2 {
            return None;
        }
        let fact = |id: ValueId| &graph.value(id).fact;
        let (x, w) = (node.input(0)?, node.input(1)?);
        let (image, filter) = (fact(x).shape.as_deref()?, fixed(fact(w).shape.as_deref()?)?);
        let result = fact(node.output(0)?).shape.as_deref()?;
        let (from, to) = (small(image.get(2..)?)?, small(result.get(2..)?)?);
        let [m, c, kernel @ ..] = filter.as_slice() else { return None };
        let windows = Windows::of(&node.attrs, kernel.to_vec()).ok()?;
        let one_group = node.attrs.int("group").unwrap_or(1) == 1 && node.attrs.get("output_shape").is_none();
        // A filter of more taps than this mostly reads outside of the image.
        let several = (2..=4 * PLACES as i64).contains(&windows.taps());
        let simple = one_group && several && windows.strides.iter().all(|&s| s == 1);
        let fits = fact(x).dtype == DType::F32 && from.len() == kernel.len() && to.len() == kernel.len();
        let taken = simple && fits && *c >= CHANNELS;
        taken.then(|| Small { x, w, batch: image[0].clone(), m: *m, c: *c, from, to, windows })
    }

    /// `p(q, t)` along all axes, the number of the row of zeros where it is outside.
    fn places(&self) -> Vec<i64> {
        let Windows { pads, dilations, .. } = &self.windows;
        let outside: usize = self.from.iter().product();
        let read = |q: &[usize], t: &[usize]| {
            let along = |axis: usize| q[axis] as i64 + pads[axis].0 - t[axis] as i64 * dilations[axis];
            let at = inside(&(0..q.len()).map(along).collect::<Vec<_>>(), &self.from)?;
            Some(at.iter().zip(&self.from).fold(0, |place, (i, n)| place * n + i))
        };
        let of = |q: Vec<usize>| self.windows.each_tap().map(move |t| read(&q, &t).unwrap_or(outside) as i64);
        positions(&self.to).flat_map(of).collect()
    }

    fn write(&self, to: &mut Insertion, node: Node) {
        let (m, c) = (self.m, self.c);
        let [from, result] = [&self.from, &self.to].map(|sizes| sizes.iter().product::<usize>() as i64);
        let taps = self.windows.taps();
        let name = |what: &str| format!("{}/{what}", node.name);
        let float = |dims: &[&Dim]| Fact::new(DType::F32, dims.iter().map(|&d| d.clone()).collect::<Vec<_>>());
        let [of_m, of_c, of_from, of_result, of_taps] = [m, c, from, result, taps].map(Dim::Fixed);
        let batch = &self.batch;
        let ints = |to: &mut Insertion, values: &[i64]| {
            to.constant(
                &name("const"),
                Fact::new(DType::I64, [Dim::from(values.len())]),
                Tensor::ints(&[values.len()], values),
            )
        };
        let turned = || Attrs::new().with("perm", [0, 2, 1]);

        let flat = ints(to, &[-1, m, from]);
        let mut rows =
            to.node("Reshape", &name("Reshape"), &[self.x, flat], Attrs::new(), float(&[batch, &of_m, &of_from]));
        rows = to.node("Transpose", &name("Transpose"), &[rows], turned(), float(&[batch, &of_from, &of_m]));
        let places = self.places();
        if places.contains(&from) {
            let behind = ints(to, &[0, 0, 0, 0, 1, 0]);
            let padded = Dim::Fixed(from + 1);
            rows = to.node("Pad", &name("Pad"), &[rows, behind], Attrs::new(), float(&[batch, &padded, &of_m]));
        }
        let places = ints(to, &places);
        let gathered = Dim::Fixed(result * taps);
        rows = to.node(
            "Gather",
            &name("Gather"),
            &[rows, places],
            Attrs::new().with("axis", 1),
            float(&[batch, &gathered, &of_m]),
        );
        let flat = ints(to, &[-1, taps * m]);
        let positions = batch.clone() * of_result.clone();
        let width = Dim::Fixed(taps * m);
        rows = to.node("Reshape", &name("Reshape"), &[rows, flat], Attrs::new(), float(&[&positions, &width]));

        let pairs = Dim::Fixed(m * c);
        let flat = ints(to, &[m * c, taps]);
        let mut filters =
            to.node("Reshape", &name("Reshape"), &[self.w, flat], Attrs::new(), float(&[&pairs, &of_taps]));
        filters = to.node(
            "Transpose",
            &name("Transpose"),
            &[filters],
            Attrs::new().with("perm", [1, 0]),
            float(&[&of_taps, &pairs]),
        );
        let flat = ints(to, &[taps * m, c]);
        filters = to.node("Reshape", &name("Reshape"), &[filters, flat], Attrs::new(), float(&[&width, &of_c]));

        let product = to.node("MatMul", &name("MatMul"), &[rows, filters], Attrs::new(), float(&[&positions, &of_c]));
        let flat = ints(to, &[-1, result, c]);
        let product =
            to.node("Reshape", &name("Reshape"), &[product, flat], Attrs::new(), float(&[batch, &of_result, &of_c]));
        let product =
            to.node("Transpose", &name("Transpose"), &[product], turned(), float(&[batch, &of_c, &of_result]));
        let image: Vec<i64> = [-1, c].into_iter().chain(self.to.iter().map(|&n| n as i64)).collect();
        let image = ints(to, &image);
        to.put(Node {
            op: "Reshape".to_string(),
            inputs: vec![Some(product), Some(image)],
            attrs: Attrs::new(),
            ..node
        });
    }
}

/// The sizes of an image with no more than [`PLACES`].
fn small(sizes: &[Dim]) -> Option<Vec<usize>> {
    let sizes: Vec<usize> = fixed(sizes)?.iter().map(|&n| n.max(0) as usize).collect();
    (1..=PLACES).contains(&sizes.iter().product()).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::ir::Builder;
    use crate::ops::Array;
    use std::collections::HashMap;

    /// Shapes of image and filter, attributes.
    type Case = (&'static [usize], &'static [usize], &'static [(&'static str, &'static [i64])]);

    /// A transposed convolution of that image, filter and attributes.
    fn graph(image: &[usize], filter: &[usize], attrs: Attrs) -> Graph {
        let b = Builder::new();
        let input = |name: &str, shape: &[usize], batch: Option<Dim>| {
            let shape = batch.into_iter().chain(shape.iter().map(|&n| Dim::from(n))).collect::<Vec<_>>();
            b.input(name, Fact::new(DType::F32, shape), None)
        };
        let x = input("x", &image[1..], Some(Dim::symbol("N")));
        let w = input("w", filter, None);
        b.output(b.op("ConvTranspose", &[x, w], attrs), "y");
        b.finish().expect("a sound graph")
    }

    fn operators(graph: &Graph) -> Vec<&str> {
        graph.nodes.iter().map(|node| node.op.as_str()).collect()
    }

    #[test]
    fn the_product_is_the_convolution() {
        let cases: [Case; 6] = [
            (&[2, 3, 4, 4], &[3, 16, 3, 3], &[("pads", &[1, 1, 1, 1])]),
            (&[1, 2, 2, 5], &[2, 17, 3, 2], &[]),
            (&[2, 3, 6, 5], &[3, 16, 3, 3], &[("pads", &[2, 0, 1, 1]), ("dilations", &[2, 1])]),
            (&[3, 2, 9], &[2, 16, 4], &[("pads", &[3, 2])]),
            (&[2, 2, 2, 3, 3], &[2, 16, 2, 1, 3], &[("strides", &[1, 1, 1])]),
            (&[2, 3, 3, 3], &[3, 16, 3, 3], &[("pads", &[2, 2, 2, 2])]),
        ];
        for (image, filter, attrs) in cases {
            let attrs = attrs.iter().fold(Attrs::new(), |attrs, (name, values)| attrs.with(name, *values));
            let before = graph(image, filter, attrs);
            let after = small_images(before.clone());
            assert!(!operators(&after).contains(&"ConvTranspose"), "{image:?} {filter:?}");
            crate::ir::verify(&after).expect("a sound graph");
            let numbers = |shape: &[usize], k: usize| {
                let data = (0..shape.iter().product::<usize>()).map(|i| ((i * k + i * i) % 11) as f64 - 5.0).collect();
                Array::from_vec(DType::F32, shape, data).expect("as many numbers")
            };
            let feeds = HashMap::from([("x".to_string(), numbers(image, 3)), ("w".to_string(), numbers(filter, 7))]);
            let [expected, found] =
                [&before, &after].map(|g| evaluate(g, &feeds).expect("a graph that runs")[&before.outputs[0]].clone());
            assert_eq!(found, expected, "{image:?} {filter:?}");
        }
    }

    #[test]
    fn others_stay() {
        let cases: [Case; 5] = [
            (&[2, 3, 9, 9], &[3, 16, 3, 3], &[("pads", &[1, 1, 1, 1])]),
            (&[2, 3, 4, 4], &[3, 15, 3, 3], &[]),
            (&[2, 3, 4, 4], &[3, 16, 1, 1], &[]),
            (&[2, 3, 4, 4], &[3, 16, 3, 3], &[("strides", &[2, 1]), ("pads", &[1, 1, 1, 1])]),
            (&[2, 3, 4, 4], &[3, 16, 3, 3], &[("output_shape", &[4, 4])]),
        ];
        for (image, filter, attrs) in cases {
            let attrs = attrs.iter().fold(Attrs::new(), |attrs, (name, values)| attrs.with(name, *values));
            let before = graph(image, filter, attrs);
            assert_eq!(operators(&small_images(before.clone())), operators(&before), "{image:?} {filter:?}");
        }
    }
}
