//! What must hold of a graph's names before it is built, and the topological order. All faults are gathered.

use super::fault::ModelFault;
use super::raw::{Free, RawAttr, RawGraph, RawNode};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Checks the graph and its subgraphs, sorts the nodes where they are not in order, and fills in `free`.
/// `nodes_named` keeps node names unique in the whole model.
pub(super) fn check(graph: &mut RawGraph, nodes_named: &mut HashSet<String>, faults: &mut Vec<ModelFault>) {
    let names = graph.nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs).chain([&n.name, &n.op, &n.domain]));
    let given = graph.initializers.iter().map(|(name, _)| name.as_str()).chain(graph.inputs.iter().map(|i| i.name()));
    if let Some(long) = names.map(String::as_str).chain(given).find(|name| name.len() > LONGEST_NAME) {
        let start = long.chars().take(20).collect();
        return faults.push(ModelFault::LongName { start, length: long.len(), limit: LONGEST_NAME });
    }
    for node in &mut graph.nodes {
        unique_name(&mut node.name, nodes_named);
        for attr in node.attrs.values_mut() {
            if let RawAttr::Graph(inner) = attr {
                check(inner, nodes_named, faults);
            }
        }
    }
    let producers = definitions(graph, faults);
    graph.free = free(graph, &producers);
    check_outputs(graph, &producers, faults);
    sort(graph, &producers, faults);
}

/// Bytes of a name at most. Every node of a derivative repeats the name of the one it comes from.
const LONGEST_NAME: usize = 8192;

fn unique_name(name: &mut String, taken: &mut HashSet<String>) {
    let base = name.clone();
    let mut n = 0;
    while !taken.insert(name.clone()) {
        n += 1;
        *name = format!("{base}_{n}");
    }
}

/// Where each name is defined: the index of its node, or `None` for inputs and initialisers.
type Producers = HashMap<String, Option<usize>>;

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Input,
    Initializer,
    Node(usize),
}

impl Place {
    fn describe(self, graph: &RawGraph) -> String {
        match self {
            Place::Input => "as an input".to_string(),
            Place::Initializer => "as an initializer".to_string(),
            Place::Node(at) => format!("by node {:?} ({})", graph.nodes[at].name, graph.nodes[at].op),
        }
    }
}

fn definitions(graph: &RawGraph, faults: &mut Vec<ModelFault>) -> Producers {
    let inputs = graph.inputs.iter().map(|i| (i.name(), Place::Input));
    let initializers = graph.initializers.iter().map(|(name, _)| (name.as_str(), Place::Initializer));
    let outputs = graph.nodes.iter().enumerate().flat_map(|(at, node)| {
        node.outputs.iter().filter(|o| !o.is_empty()).map(move |o| (o.as_str(), Place::Node(at)))
    });
    let mut defined: HashMap<&str, Place> = HashMap::new();
    for (name, place) in inputs.chain(initializers).chain(outputs) {
        if name.is_empty() {
            faults.push(ModelFault::Unnamed { graph: graph.name.clone(), what: "input" });
            continue;
        }
        match defined.get(name).copied() {
            None => {
                defined.insert(name, place);
            }
            // An input that is an initialiser too has it as its default: one definition.
            Some(Place::Input) if place == Place::Initializer => {
                defined.insert(name, place);
            }
            Some(first) => faults.push(ModelFault::DefinedTwice {
                tensor: name.to_string(),
                first: first.describe(graph),
                second: place.describe(graph),
            }),
        }
    }
    let node = |place| match place {
        Place::Node(at) => Some(at),
        Place::Input | Place::Initializer => None,
    };
    defined.into_iter().map(|(name, place)| (name.to_string(), node(place))).collect()
}

fn free(graph: &RawGraph, producers: &Producers) -> Vec<Free> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut free = Vec::new();
    for node in &graph.nodes {
        for name in node.inputs.iter().filter(|n| !n.is_empty()) {
            if !producers.contains_key(name) && seen.insert(name) {
                free.push(Free { tensor: name.clone(), node: node.name.clone(), op: node.op.clone() });
            }
        }
        for inner in node.graphs().flat_map(|g| &g.free) {
            if !producers.contains_key(&inner.tensor) && seen.insert(&inner.tensor) {
                free.push(inner.clone());
            }
        }
    }
    free
}

fn check_outputs(graph: &RawGraph, producers: &Producers, faults: &mut Vec<ModelFault>) {
    let mut seen = HashSet::new();
    for output in &graph.outputs {
        let (graph, tensor) = (graph.name.clone(), output.name().to_string());
        if tensor.is_empty() {
            faults.push(ModelFault::Unnamed { graph, what: "output" });
        } else if !seen.insert(output.name()) {
            faults.push(ModelFault::OutputTwice { graph, tensor });
        } else if !producers.contains_key(&tensor) {
            faults.push(ModelFault::UndefinedOutput { graph, tensor });
        }
    }
}

/// Puts the nodes in topological order, as near to the file's as possible.
fn sort(graph: &mut RawGraph, producers: &Producers, faults: &mut Vec<ModelFault>) {
    let needs: Vec<HashSet<usize>> = graph
        .nodes
        .iter()
        .map(|node| node.reads().filter_map(|name| producers.get(name).copied().flatten()).collect())
        .collect();
    if needs.iter().enumerate().all(|(at, needs)| needs.iter().all(|&n| n < at)) {
        return;
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    let mut open: Vec<usize> = needs.iter().map(HashSet::len).collect();
    for (at, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|&n| users[n].push(at));
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        open.iter().enumerate().filter(|(_, n)| **n == 0).map(|(at, _)| Reverse(at)).collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(at)) = ready.pop() {
        order.push(at);
        for &user in &users[at] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() < needs.len() {
        faults.push(ModelFault::Cycle { nodes: cycle(graph, &needs, &open) });
        return;
    }
    let mut nodes: Vec<Option<RawNode>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    graph.nodes = order.into_iter().filter_map(|at| nodes[at].take()).collect();
}

/// The names along one cycle, its first node again at the end.
fn cycle(graph: &RawGraph, needs: &[HashSet<usize>], open: &[usize]) -> Vec<String> {
    let (mut path, mut place) = (Vec::new(), HashMap::new());
    // Each node left over waits for another one left over: following them comes back.
    let mut at = open.iter().position(|&n| n > 0);
    while let Some(node) = at {
        if let Some(start) = place.insert(node, path.len()) {
            let mut around: Vec<usize> = path.split_off(start);
            around.push(node);
            around.reverse();
            return around.into_iter().map(|n| graph.nodes[n].name.clone()).collect();
        }
        path.push(node);
        at = needs[node].iter().copied().filter(|&n| open[n] > 0).min();
    }
    Vec::new()
}
