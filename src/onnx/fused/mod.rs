//! Fused operators of ONNX Runtime (domain `com.microsoft`), which its optimisers leave in models, and those of
//! `ai.onnx.ml` around scikit-learn's models of real numbers: standard operators take their place when a model is read.
//! One family a file.
//!
//! What computes with integers, or has no counterpart among the standard operators, stays as it is.

mod activation;
mod attention;
mod embedding;
mod inverse;
mod normalization;
mod product;
mod quantised;
mod rotary;
mod scikit_learn;
mod softmax;

use super::normalise::{Draft, normalise};
use super::raw::RawGraph;
use crate::ir::{Attrs, Builder, Dim, Val};
use crate::ops::Fault;

/// Gives a value for each output that the node has.
pub(super) type Lowering = for<'g> fn(&Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault>;

/// The lowering of an operator, if it is one of those.
pub(super) fn lowering(domain: &str, op: &str) -> Option<Lowering> {
    // ONNX Runtime registers this one in the standard domain as well.
    if domain.is_empty() && op == "SimplifiedLayerNormalization" {
        return Some(normalization::simplified);
    }
    if domain == "ai.onnx.ml" {
        return Some(match op {
            "Scaler" => scikit_learn::scaler,
            "Normalizer" => scikit_learn::normalizer,
            "ArrayFeatureExtractor" => scikit_learn::array_feature_extractor,
            "LinearRegressor" => scikit_learn::linear_regressor,
            "LinearClassifier" => scikit_learn::linear_classifier,
            "ZipMap" => scikit_learn::zip_map,
            _ => return None,
        });
    }
    if domain != "com.microsoft" {
        return None;
    }
    Some(match op {
        "Gelu" => activation::gelu,
        "BiasGelu" => activation::bias_gelu,
        "FastGelu" => activation::fast_gelu,
        "QuickGelu" => activation::quick_gelu,
        "BiasSplitGelu" => activation::bias_split_gelu,
        "BiasAdd" => activation::bias_add,
        "FusedMatMul" | "TransposeMatMul" => product::matmul,
        "FusedGemm" => product::gemm,
        "FusedConv" => product::conv,
        "NhwcConv" | "NhwcFusedConv" => product::channels_last,
        "MatMulNBits" => quantised::matmul,
        "Inverse" => inverse::inverse,
        "SkipLayerNormalization" => normalization::skip,
        "SimplifiedLayerNormalization" => normalization::simplified,
        "SkipSimplifiedLayerNormalization" => normalization::skip_simplified,
        "EmbedLayerNormalization" => embedding::embed_layer_normalization,
        "BiasSoftmax" => softmax::bias_softmax,
        "RotaryEmbedding" => rotary::rotary_embedding,
        "Attention" => attention::attention,
        "MultiHeadAttention" => attention::multi_head,
        "GroupQueryAttention" => attention::group_query,
        "Trilu" | "GatherND" | "DequantizeLinear" | "QuantizeLinear" => same,
        _ => return None,
    })
}

/// Outputs that are tables of numbers by their labels lose their type: they are read as tensors of the numbers.
pub(super) fn untype_tables(graph: &mut RawGraph) {
    let tables = graph.nodes.iter().filter(|node| node.domain == "ai.onnx.ml" && node.op == "ZipMap");
    let names: Vec<&String> = tables.flat_map(|node| &node.outputs).collect();
    for output in graph.outputs.iter_mut().filter(|output| names.iter().any(|name| *name == output.name())) {
        output.r#type = None;
    }
}

/// A fused node.
pub(super) struct Fused<'g, 'd> {
    pub b: &'g Builder,
    draft: &'d Draft<'g>,
}

impl<'g, 'd> Fused<'g, 'd> {
    pub fn new(draft: &'d Draft<'g>) -> Fused<'g, 'd> {
        Fused { b: draft.builder, draft }
    }

    fn get(&self, i: usize) -> Option<Val<'g>> {
        self.draft.input(i)
    }

    fn x(&self, i: usize) -> Result<Val<'g>, Fault> {
        self.draft.needs(i, "it")
    }

    /// Input `i`, whose shape has so many dimensions.
    fn ranked<const N: usize>(&self, i: usize) -> Result<(Val<'g>, [Dim; N]), Fault> {
        let (x, shape) = self.shaped(i)?;
        let found = shape.len();
        let shape = shape.try_into().map_err(|_| Fault::Rank { index: i, found, expected: N.to_string() })?;
        Ok((x, shape))
    }

    /// Input `i` and its shape.
    fn shaped(&self, i: usize) -> Result<(Val<'g>, Vec<Dim>), Fault> {
        let x = self.x(i)?;
        let shape = x.fact().shape.ok_or_else(|| unsupported(&format!("the rank of input {i} is not known")))?;
        Ok((x, shape))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.draft.attrs.int(name).unwrap_or(default)
    }

    fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.draft.attrs.float(name).unwrap_or(default))
    }

    /// Whether the node has output `k`.
    fn has_out(&self, k: usize) -> bool {
        self.draft.outputs.get(k).is_some_and(Option::is_some)
    }

    /// The standard operator `op` with some of the node's attributes and inputs, as if the file had it.
    fn standard(
        &self,
        op: &str,
        inputs: &[Option<Val<'g>>],
        attrs: Attrs,
        outputs: usize,
    ) -> Result<Vec<Val<'g>>, Fault> {
        let mut draft = Draft {
            builder: self.b,
            name: self.draft.name.clone(),
            op: op.to_string(),
            inputs: inputs.to_vec(),
            outputs: self.draft.outputs.clone(),
            attrs,
            opset: self.draft.opset,
            metadata: self.draft.metadata.clone(),
            doubtful: Vec::new(),
            made: Vec::new(),
        };
        draft.drop_absent();
        normalise(&mut draft)?;
        Ok(self.b.node(&draft.op, &draft.inputs, draft.attrs, outputs))
    }

    /// The node's attributes without some.
    fn attrs_without(&self, names: &[&str]) -> Attrs {
        let mut attrs = self.draft.attrs.clone();
        names.iter().for_each(|name| drop(attrs.remove(name)));
        attrs
    }
}

/// The standard operator of the same name.
fn same<'g>(f: &Fused<'g, '_>) -> Result<Vec<Val<'g>>, Fault> {
    f.standard(&f.draft.op, &f.draft.inputs, f.draft.attrs.clone(), f.draft.outputs.len())
}

fn unsupported(what: &str) -> Fault {
    Fault::Unsupported { what: what.to_string() }
}

/// Refuses a node that has one of these inputs, by their names.
fn without(f: &Fused, inputs: &[(usize, &str)]) -> Result<(), Fault> {
    match inputs.iter().find(|(i, _)| f.get(*i).is_some()) {
        Some((_, name)) => Err(unsupported(&format!("with {name} it is no function of tensors alone"))),
        None => Ok(()),
    }
}
