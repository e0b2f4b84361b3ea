//! What is done to a model that was read: text, bytes again, rewrites, derivatives, layers.

use super::sound;
use fam_onnx::ad::{grad_model, jvp_model};
use fam_onnx::flatness;
use fam_onnx::ir::{Model, verify};
use fam_onnx::limits::Limits;
use fam_onnx::onnx::{self, TextOptions};
use fam_onnx::simplify;

/// Models with more nodes say nothing that smaller ones do not, and take their time.
const NODES: usize = 200;

/// Each pass gives a whole graph; written and read again, the graph has the same bytes.
pub fn transform(data: &[u8]) {
    let Ok(model) = onnx::read_bytes(data, None) else { return };
    if model.graph.nodes.len() > NODES {
        return;
    }
    assert!(!onnx::text(&model, TextOptions::default()).is_empty());
    same_bytes(&model);
    if let Some(graph) = sound(simplify::simplify(&model.graph)) {
        verify(&graph).expect("a simplified graph is whole");
    }
    flatness::layers(&model.graph);
    flatness::parameters(&model.graph);
    let outputs = model.graph.outputs.iter().filter(|id| model.graph.value(**id).fact.dtype.is_float());
    let Some(of) = outputs.map(|id| model.graph.name_of(*id)).next() else { return };
    for wrt in ["inputs", "parameters"] {
        for derivative in [grad_model(&model, of, &[wrt.to_owned()]), jvp_model(&model, of, &[wrt.to_owned()])] {
            if let Some(derivative) = sound(derivative) {
                verify(&derivative.model.graph).expect("a differentiated graph is whole");
                // Reading gives attributes their defaults, which emitted nodes may leave out.
                same_bytes(&read_again(&derivative.model));
            }
        }
    }
}

/// A model that was read, written, read, and written again: the second bytes are the first.
pub fn same_bytes(model: &Model) {
    let again = read_again(model);
    if onnx::to_bytes(model) != onnx::to_bytes(&again) {
        let shown = |model| onnx::text(model, TextOptions { data: true, names: true });
        assert_eq!(shown(model), shown(&again), "written and read again, the model differs");
        panic!("written and read again, the model has the same text and other bytes:\n{}", shown(model));
    }
}

/// What is known of values stands in what is written: inference, which learns more each time it is told more, is not asked.
fn read_again(model: &Model) -> Model {
    let limits = Limits { inference: false, ..Limits::default() };
    onnx::read_bytes_within(&onnx::to_bytes(model), None, &limits).expect("what was written can be read")
}
