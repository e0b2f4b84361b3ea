//! Rewrites compute what the nodes compute that they replace: small graphs run as imported and as simplified.

use std::collections::HashMap;

use fam_onnx::eval::evaluate;
use fam_onnx::ir::{Attrs, Builder, DType, Dim, Fact, Graph, Node, Tensor, Val};
use fam_onnx::ops::Array;
use fam_onnx::simplify::simplify;

/// A node that no rewrite sees.
fn import<'g>(b: &'g Builder, op: &str, inputs: &[Val<'g>], attrs: Attrs) -> Val<'g> {
    let name = b.fresh_name(op);
    let inputs = inputs.iter().map(|v| Some(v.id())).collect();
    let node = Node { name: name.clone(), op: op.to_string(), inputs, attrs, ..Node::default() };
    b.import(node, &[Some(name)], &[None])[0].expect("an output")
}

/// The values of the output `y`, before and after the rewrites.
fn both(graph: &Graph, inputs: &[(&str, &[usize], &[f64])]) -> [Vec<f64>; 2] {
    let dtype = |name: &str| graph.value(graph.find(name).expect("an input")).fact.dtype;
    let feeds: HashMap<String, Array> = inputs
        .iter()
        .map(|(name, shape, data)| {
            (name.to_string(), Array::from_vec(dtype(name), shape, data.to_vec()).expect("as many values"))
        })
        .collect();
    let simplified = simplify(graph).expect("a sound graph");
    [graph, &simplified].map(|g| {
        let y = g.find("y").expect("the output keeps its name");
        assert_eq!(g.outputs, [y]);
        evaluate(g, &feeds).expect("a graph that runs")[&y].data.iter().copied().collect()
    })
}

fn float(shape: &[Dim]) -> Fact {
    Fact::new(DType::F32, shape)
}

#[test]
fn a_product_with_a_shifted_or_oblong_identity_stays() {
    for (shape, k) in [([3, 3], 1), ([2, 3], 0)] {
        let b = Builder::new();
        let like = b.input("like", float(&shape.map(Dim::Fixed)), None);
        let x = b.input("x", float(&[3, 2].map(Dim::Fixed)), None);
        let eye = import(&b, "EyeLike", &[like], Attrs::new().with("k", i64::from(k)));
        b.output(import(&b, "MatMul", &[eye, x], Attrs::new()), "y");
        let graph = b.finish().expect("a sound graph");
        let size = (shape[0] * shape[1]) as usize;
        let like: Vec<f64> = vec![0.0; size];
        let shape = shape.map(|n| n as usize);
        let [plain, rewritten] =
            both(&graph, &[("like", &shape, &like), ("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
        assert_eq!(plain, rewritten);
    }
}

#[test]
fn axes_that_are_joined_move_together_and_split_ones_stay() {
    // What the inner reshape gives, and how many reshapes are left.
    for (inner, left) in [([2, 1, 3, 4], 1), ([4, 3, 2, 1], 2)] {
        let b = Builder::new();
        let x = b.input("x", float(&[2, 3, 2, 2].map(Dim::Fixed)), None);
        let joined = import(&b, "Reshape", &[x, b.ints(&inner)], Attrs::new());
        let moved = import(&b, "Transpose", &[joined], Attrs::new().with("perm", vec![1, 2, 0, 3]));
        b.output(import(&b, "Reshape", &[moved, b.ints(&[3, -1])], Attrs::new()), "y");
        let graph = b.finish().expect("a sound graph");
        let data: Vec<f64> = (0..24).map(f64::from).collect();
        let [plain, rewritten] = both(&graph, &[("x", &[2, 3, 2, 2], &data)]);
        assert_eq!(plain, rewritten);
        let simplified = simplify(&graph).expect("a sound graph");
        assert_eq!(simplified.nodes.iter().filter(|node| node.op == "Reshape").count(), left);
    }
}

#[test]
fn a_sign_stays_inside_a_scatter_that_takes_the_maximum() {
    let b = Builder::new();
    let x = b.input("x", float(&[Dim::Fixed(1)]), None);
    let indices = b.ints(&[0]);
    let zeros = b.constant(Tensor::from_f64(DType::F32, &[1], [0.0]));
    let negated = import(&b, "Neg", &[x], Attrs::new());
    let attrs = Attrs::new().with("axis", 0).with("reduction", "max");
    b.output(import(&b, "ScatterElements", &[zeros, indices, negated], attrs), "y");
    let graph = b.finish().expect("a sound graph");
    let [plain, rewritten] = both(&graph, &[("x", &[1], &[1.0])]);
    assert_eq!(plain, rewritten);
}

/// Of two symbols either may be 1 at run time.
#[test]
fn an_expansion_stays_where_another_symbol_might_not_replace_it() {
    let b = Builder::new();
    let (n, m) = (Dim::symbol("N"), Dim::symbol("M"));
    let x = b.input("x", float(&[Dim::symbol("K")]), None);
    let z = b.input("z", float(&[m]), None);
    let like = b.input("like", float(&[n]), None);
    let shape = import(&b, "Shape", &[like], Attrs::new());
    let wide = import(&b, "Expand", &[x, shape], Attrs::new());
    b.output(import(&b, "Add", &[wide, z], Attrs::new()), "y");
    let graph = b.finish().expect("a sound graph");
    let [plain, rewritten] = both(&graph, &[("x", &[1], &[1.0]), ("z", &[1], &[2.0]), ("like", &[3], &[0.0; 3])]);
    assert_eq!(plain, rewritten);
}

#[test]
fn an_output_keeps_a_name_that_another_node_has() {
    let b = Builder::new();
    let x = b.input("x", float(&[Dim::Fixed(2)]), None);
    let node = Node { name: "y".into(), op: "Exp".into(), inputs: vec![Some(x.id())], ..Node::default() };
    let hidden = b.import(node, &[Some("hidden".into())], &[None])[0].expect("an output");
    let node = Node { name: "last".into(), op: "Tanh".into(), inputs: vec![Some(hidden.id())], ..Node::default() };
    let mut graph = {
        b.import(node, &[Some("y".into())], &[None]);
        b.finish().expect("a sound graph")
    };
    graph.outputs = graph.find("y").into_iter().collect();
    let [plain, rewritten] = both(&graph, &[("x", &[2], &[1.0, 2.0])]);
    assert_eq!(plain, rewritten);
}
