"""Writes models of one fused operator each: make.py DIRECTORY.

For each case `NAME.onnx`, the model, and `NAME.data.onnx`, whose initialisers are the inputs (`inputs/…`) and what ONNX
Runtime computes of them (`outputs/…`).
"""
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
# Operators of other domains.
DOMAINS = {"SimplifiedLayerNormalization": "", "Conv": ""} | dict.fromkeys(
    ["Scaler", "Normalizer", "ArrayFeatureExtractor", "LinearRegressor", "LinearClassifier"], "ai.onnx.ml"
)
# Outputs that a node must have, asked for or not.
LEAST = {"GroupQueryAttention": 3}
random = np.random.default_rng(5)


def real(*shape):
    return random.normal(size=shape).astype(np.float32)


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


def cases():
    """Name, operator, inputs (None: left out), outputs that are asked for, attributes."""
    x = real(2, 3, 8)
    yield "gelu", "Gelu", [x], 1, {}
    yield "bias_gelu", "BiasGelu", [x, real(8)], 1, {}
    yield "fast_gelu", "FastGelu", [x], 1, {}
    yield "fast_gelu_bias", "FastGelu", [x, real(8)], 1, {}
    yield "quick_gelu", "QuickGelu", [x], 1, {"alpha": 1.5}
    yield "matmul", "FusedMatMul", [real(2, 4, 3), real(2, 5, 4)], 1, {"transA": 1, "transB": 1, "alpha": 0.5}
    batch = {"transBatchA": 1, "transBatchB": 1}
    yield "matmul_batch", "FusedMatMul", [real(3, 2, 4), real(4, 2, 5)], 1, batch
    yield "matmul_batch_a", "FusedMatMul", [real(4, 2, 3), real(2, 4, 5)], 1, {"transBatchA": 1, "transA": 1}
    yield "transpose_matmul", "TransposeMatMul", [real(4, 3), real(4, 5)], 1, {"transA": 1}
    gemm = {"transB": 1, "alpha": 0.7, "activation": "LeakyRelu", "activation_alpha": 0.2}
    yield "gemm", "FusedGemm", [real(3, 4), real(5, 4), real(5)], 1, gemm
    conv = {"activation": "Relu", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    yield "conv", "FusedConv", [real(2, 3, 5, 5), real(4, 3, 3, 3), real(4)], 1, conv
    clip = {"activation": "Clip", "activation_params": [-0.5, 2.0], "auto_pad": "SAME_UPPER"}
    yield "conv_sum", "FusedConv", [real(1, 2, 4, 4), real(3, 2, 3, 3), real(3), real(1, 3, 4, 4)], 1, clip
    norm = {"epsilon": 1e-5}
    yield "skip_norm", "SkipLayerNormalization", [x, real(2, 3, 8), real(8), real(8), real(8)], 1, norm
    yield "skip_norm_sum", "SkipLayerNormalization", [x, real(2, 3, 8), real(8), real(8)], (0, 3), norm
    yield "skip_norm_broadcast", "SkipLayerNormalization", [x, real(3, 8), real(8)], 1, norm
    simplified = [x, real(2, 3, 8), real(8), real(8)]
    yield "skip_simplified", "SkipSimplifiedLayerNormalization", simplified, (0, 3), norm
    yield "simplified", "SimplifiedLayerNormalization", [x, real(8)], 1, {"axis": -1, "stash_type": 1, **norm}
    ids = ints([1, 0, 4], [2, 2, 3])
    tables = [real(5, 8), real(4, 8), real(2, 8), real(8), real(8)]
    embed = [ids, ints([0, 1, 1], [0, 0, 1]), *tables, ints([1, 1, 0], [1, 1, 1])]
    yield "embed", "EmbedLayerNormalization", embed, 3, norm
    yield "embed_words", "EmbedLayerNormalization", [ids, None, *tables[:2], None, *tables[3:]], 2, norm
    inner = {"axis": 3, "is_inner_broadcast": 1}
    yield "bias_softmax", "BiasSoftmax", [real(2, 3, 4, 5), real(2, 1, 1, 5)], 1, inner
    outer = {"axis": 2, "is_inner_broadcast": 0}
    yield "bias_softmax_outer", "BiasSoftmax", [real(2, 3, 4, 5), real(3, 4, 5)], 1, outer
    cache = [real(6, 2), real(6, 2)]
    places = ints([0, 1, 2], [3, 1, 5], dtype=np.int64)
    yield "rotary", "RotaryEmbedding", [real(2, 2, 3, 4), places, *cache], 1, {}
    offset = ints(2, dtype=np.int64)
    yield "rotary_offset", "RotaryEmbedding", [x, offset, *cache], 1, {"interleaved": 1}
    heads = {"num_heads": 2}
    weights = [real(8, 24), real(24)]
    yield "attention", "Attention", [x, *weights], 1, heads
    yield "attention_mask", "Attention", [x, *weights, ints([1, 1, 0], [1, 1, 1])], 1, heads
    yield "attention_lengths", "Attention", [x, *weights, ints(2, 3)], 1, heads
    causal = heads | {"unidirectional": 1}
    yield "attention_past", "Attention", [x, *weights, None, real(2, 2, 2, 2, 4)], 2, causal
    yield "attention_bias", "Attention", [x, *weights, None, None, real(1, 2, 3, 3)], 1, heads | {"scale": 0.3}
    sizes = heads | {"qkv_hidden_sizes": [8, 8, 4]}
    yield "attention_sizes", "Attention", [x, real(8, 20), real(20)], 1, sizes
    keys, values = real(2, 4, 8), real(2, 4, 8)
    yield "multi_head", "MultiHeadAttention", [x, keys, values, real(24)], 1, heads
    masked = [x, keys, values, None, ints([1, 1, 0, 1], [1, 1, 1, 0]), real(2, 2, 3, 4)]
    yield "multi_head_mask", "MultiHeadAttention", masked, 1, heads
    past = [x, real(2, 3, 8), real(2, 3, 8), None, None, None, real(2, 2, 2, 4), real(2, 2, 2, 4)]
    yield "multi_head_past", "MultiHeadAttention", past, 3, causal
    group = [real(2, 3, 64), real(2, 3, 32), real(2, 3, 32), None, None, ints(2, 2), np.array(3, np.int32)]
    shared = {"num_heads": 4, "kv_num_heads": 2}
    yield "group_query", "GroupQueryAttention", group, 3, shared
    rotary = [*group, real(6, 8), real(6, 8)]
    turned = shared | {"do_rotary": 1, "local_window_size": 2}
    yield "group_query_rotary", "GroupQueryAttention", rotary, 3, turned
    cached = [real(2, 1, 64), real(2, 1, 32), real(2, 1, 32), real(2, 2, 4, 16), real(2, 2, 4, 16)]
    yield "group_query_cache", "GroupQueryAttention", [*cached, ints(4, 2), np.array(5, np.int32)], 1, shared
    whole = [*cached, ints(4, 4), np.array(5, np.int32)]
    yield "group_query_cache_full", "GroupQueryAttention", whole, 3, shared
    long = [real(6, 8), real(6, 8)]
    yield "group_query_cache_rotary", "GroupQueryAttention", [*whole, *long], 3, turned | {"local_window_size": 3}
    yield "group_query_buffer", "GroupQueryAttention", [*cached, ints(2, 2), np.array(3, np.int32)], 1, shared
    packed = [real(2, 3, 128), None, None, None, None, ints(2, 2), np.array(3, np.int32)]
    yield "group_query_packed", "GroupQueryAttention", packed, 3, shared
    yield "group_query_smooth", "GroupQueryAttention", group, 1, shared | {"smooth_softmax": 1}
    sink = [*group, None, None, None, None, real(4)]
    yield "group_query_sink", "GroupQueryAttention", sink, 1, shared
    yield "inverse", "Inverse", [real(2, 4, 4)], 1, {}
    yield "inverse_pivots", "Inverse", [np.array([[0, 2, 1], [1, 0, 0], [3, 1, 0]], np.float32)], 1, {}
    image = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}
    yield "nhwc_conv", "NhwcConv", [real(2, 5, 5, 3), real(4, 3, 3, 3), real(4)], 1, image
    yield from few_bits()
    yield from scikit_learn()
    yield "trilu", "Trilu", [real(3, 4), np.array(1)], 1, {"upper": 1}


def few_bits():
    """Rows of weights in blocks of 16, packed in bytes; the last block may be filled up."""
    for bits, columns in ((4, 32), (4, 40), (8, 32)):
        blocks = -(-columns // 16)
        weights = Packed(random.integers(0, 256, (5, blocks, 16 * bits // 8), np.uint8))
        scales = np.abs(real(5 * blocks)) * 0.1
        zeros = Packed(random.integers(0, 256, 5 * -(-blocks * bits // 8), np.uint8))
        sizes = {"K": columns, "N": 5, "bits": bits, "block_size": 16}
        inputs = [real(2, 3, columns), weights, scales]
        yield f"matmul_{bits}_bits_{columns}", "MatMulNBits", inputs, 1, sizes
        yield f"matmul_{bits}_bits_{columns}_zeros", "MatMulNBits", [*inputs, zeros], 1, sizes


class Packed(np.ndarray):
    """An initialiser."""

    def __new__(cls, array):
        return np.asarray(array).view(cls)


def scikit_learn():
    rows = real(3, 4)
    shift = {"offset": [0.1, -0.2, 0.3, 0.5], "scale": [2.0, 0.5, 1.5, 1.0]}
    yield "scaler", "Scaler", [rows], 1, shift
    yield "scaler_one", "Scaler", [rows], 1, {"offset": [0.5], "scale": [2.0]}
    for norm in ("MAX", "L1", "L2"):
        yield f"normalizer_{norm}", "Normalizer", [rows], 1, {"norm": norm}
    places = ints([2, 0], dtype=np.int64)
    yield "feature_extractor", "ArrayFeatureExtractor", [rows, places], 1, {}
    yield "feature_extractor_row", "ArrayFeatureExtractor", [real(4), places], 1, {}
    linear = {"coefficients": [0.5, -1.0, 2.0, 0.25, 1.0, 1.5, -0.5, -2.0], "intercepts": [0.1, -0.3]}
    yield "linear_regressor", "LinearRegressor", [rows], 1, linear | {"targets": 2}
    for post in ("NONE", "LOGISTIC", "SOFTMAX"):
        labelled = linear | {"classlabels_ints": [5, 7], "post_transform": post, "multi_class": 1}
        yield f"linear_classifier_{post}", "LinearClassifier", [rows], (1, 0), labelled


def softmax(x, axis):
    """Over all axes from `axis` on."""
    exp = np.exp(x - x.max())
    return exp / exp.sum(axis=tuple(range(axis, x.ndim)), keepdims=True)


def channels_last(inputs, attributes):
    """By the standard operator."""
    x, *rest = inputs
    made = model("Conv", [x.transpose(0, 3, 1, 2), *rest], 1, attributes)
    feeds = {f"x{k}": array for k, array in enumerate([x.transpose(0, 3, 1, 2), *rest])}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, feeds)[0].transpose(0, 2, 3, 1)]


# What has no kernel for the CPU.
BY_HAND = {
    "BiasSoftmax": lambda inputs, attributes: [softmax(inputs[0] + inputs[1], attributes["axis"])],
    "NhwcConv": channels_last,
}


def run(operator, inputs, made, attributes):
    feeds = {f"x{k}": array for k, array in enumerate(inputs) if array is not None and not isinstance(array, Packed)}
    names = [output.name for output in made.graph.output]
    if operator in BY_HAND:
        return feeds, dict(zip(names, BY_HAND[operator](inputs, attributes)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return feeds, dict(zip(names, session.run(names, feeds)))


def info(name, array):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def model(operator, inputs, outputs, attributes, results_of=None):
    names = [f"x{k}" if array is not None else "" for k, array in enumerate(inputs)]
    wanted = range(outputs) if isinstance(outputs, int) else outputs
    least = LEAST.get(operator, 0)
    results = [f"y{k}" if k in wanted or k < least else "" for k in range(max(max(wanted) + 1, least))]
    domain = DOMAINS.get(operator, MICROSOFT)
    node = helper.make_node(operator, names, results, "node", domain=domain, **attributes)
    given = [info(name, array) for name, array in zip(names, inputs) if name and not isinstance(array, Packed)]
    packed = [(name, array) for name, array in zip(names, inputs) if isinstance(array, Packed)]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in packed]
    untyped = helper.make_empty_tensor_value_info
    # In the order in which they are asked for.
    asked = [f"y{k}" for k in wanted]
    made = [info(name, results_of[name]) if results_of else untyped(name) for name in asked]
    graph = helper.make_graph([node], operator, given, made, held)
    versions = {"": 17, MICROSOFT: 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def main(directory):
    for name, operator, inputs, outputs, attributes in cases():
        feeds, results = run(operator, inputs, model(operator, inputs, outputs, attributes), attributes)
        onnx.save(model(operator, inputs, outputs, attributes, results), directory / f"{name}.onnx")
        data = [numpy_helper.from_array(array, f"inputs/{key}") for key, array in feeds.items()]
        data += [numpy_helper.from_array(array, f"outputs/{key}") for key, array in results.items()]
        graph = helper.make_graph([], name, [], [], data)
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), directory / f"{name}.data.onnx")


main(pathlib.Path(sys.argv[1]))
