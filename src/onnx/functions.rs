//! Local functions are inlined: their names get the call's name in front, their attributes what the call gives.

use super::fault::ModelFault;
use super::proto::FunctionProto;
use super::raw::{Expander, RawAttr, RawGraph, RawNode, domain};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A call that is being inlined.
pub(super) struct Call<'c> {
    /// What the inlined nodes' names begin with.
    pub name: String,
    pub attrs: BTreeMap<String, RawAttr>,
    /// Names of the body → names of the graph that the call stands in.
    names: RefCell<HashMap<String, String>>,
    function: String,
    outer: Option<&'c Call<'c>>,
}

impl Call<'_> {
    /// The name in the caller's graph; one made in the body is new there.
    pub fn rename(&self, name: &str, taken: &RefCell<HashSet<String>>) -> String {
        if name.is_empty() {
            return String::new();
        }
        if let Some(known) = self.names.borrow().get(name) {
            return known.clone();
        }
        let base = format!("{}/{name}", self.name);
        let mut new = base.clone();
        let mut n = 0;
        while !taken.borrow_mut().insert(new.clone()) {
            n += 1;
            new = format!("{base}_{n}");
        }
        self.names.borrow_mut().insert(name.to_string(), new.clone());
        new
    }

    /// Names of the functions that are being inlined, outermost first.
    fn path(call: Option<&Call>) -> Vec<String> {
        let mut path = call.map_or(Vec::new(), |c| Call::path(c.outer));
        path.extend(call.map(|c| c.function.clone()));
        path
    }
}

impl<'a> Expander<'a> {
    /// Puts the function's body in place of `node`, which calls it.
    pub fn inline(
        &self,
        node: RawNode,
        function: &'a FunctionProto,
        outer: Option<&Call>,
        depth: usize,
        into: &mut RawGraph,
    ) {
        let key = format!("{}::{}{}", function.domain(), function.name(), function.overload());
        let mut path = Call::path(outer);
        let recursive = path.contains(&key);
        path.push(key.clone());
        if recursive {
            return self.fault(ModelFault::RecursiveFunction { function: key, path });
        }
        for (found, expected) in
            [(node.inputs.len(), function.input.len()), (node.outputs.len(), function.output.len())]
        {
            if found > expected {
                let name = node.name.clone();
                return self.fault(ModelFault::FunctionArity { node: name, function: key, found, expected });
            }
        }
        let opset = self.import_domains(function).unwrap_or(node.opset);
        let mut names = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            names.insert(formal.clone(), node.inputs.get(i).cloned().unwrap_or_default());
        }
        // A formal output that is a formal input as well cannot take the output's name.
        let mut passed = Vec::new();
        for (formal, actual) in function.output.iter().zip(&node.outputs).filter(|(_, actual)| !actual.is_empty()) {
            match names.get(formal) {
                Some(input) => passed.push((input.clone(), actual.clone())),
                None => {
                    names.insert(formal.clone(), actual.clone());
                }
            }
        }
        let mut attrs = node.attrs.clone();
        for default in &function.attribute_proto {
            if !attrs.contains_key(default.name()) {
                match self.attribute(default, &node, None, opset, depth + 1) {
                    Ok(value) => {
                        attrs.insert(default.name().to_string(), value);
                    }
                    Err(fault) => self.fault(fault),
                }
            }
        }
        let call = Call { name: node.name.clone(), attrs, names: RefCell::new(names), function: key, outer };
        self.nodes(&function.node, Some(&call), opset, depth + 1, into);
        for (k, (input, output)) in passed.into_iter().enumerate() {
            into.nodes.push(RawNode {
                name: format!("{}/Identity_{k}", node.name),
                op: "Identity".to_string(),
                domain: String::new(),
                inputs: vec![input],
                outputs: vec![output],
                attrs: BTreeMap::new(),
                metadata: node.metadata.clone(),
                opset,
            });
        }
    }

    /// Adds the domains that the function imports to the model's; gives its version of the standard operators.
    fn import_domains(&self, function: &FunctionProto) -> Option<i64> {
        let mut standard = None;
        for import in &function.opset_import {
            match domain(import.domain()) {
                "" => standard = Some(import.version()),
                other => {
                    let mut domains = self.domains.borrow_mut();
                    let version = domains.entry(other.to_string()).or_insert(import.version());
                    *version = import.version().max(*version);
                }
            }
        }
        standard
    }
}
