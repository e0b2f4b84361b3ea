"""Small models in old opsets, one file each; `tests/onnx.rs` reads them. Made with onnx 1.23.2: python make.py"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
F, I = TensorProto.FLOAT, TensorProto.INT64


def value(name, shape, dtype=F):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(name, opset, nodes, inputs, outputs, ints=(), floats=(), functions=(), domains=(), ir=8, **kwargs):
    weights = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in dict(ints).items()]
    rng = np.random.default_rng(0)
    for k, shape in dict(floats).items():
        weights.append(numpy_helper.from_array(rng.integers(-4, 5, shape).astype(np.float32), k))
    graph = helper.make_graph(nodes, name, inputs, outputs, weights, **kwargs)
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, v) for d, v in domains]
    made = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=ir)
    # Outputs get their inferred shapes: the checker wants them.
    outputs = onnx.shape_inference.infer_shapes(made).graph.output
    for declared, inferred in zip(made.graph.output, outputs):
        declared.CopyFrom(inferred)
    (HERE / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))


def one(name, opset, op, ins, outs, inputs, outputs, ints=(), floats=(), **attrs):
    model(name, opset, [helper.make_node(op, ins, outs, name="n", **attrs)], inputs, outputs, ints, floats)


x4, y = value("x", ["N", 4, 6, 7]), value("y", None)
one("squeeze_11", 11, "Squeeze", ["x"], ["y"], [value("x", ["N", 1, 3, 1])], [y], axes=[-3, 3])
one("unsqueeze_11", 11, "Unsqueeze", ["x"], ["y"], [value("x", ["N", 3])], [y], axes=[0, -1])
one("reduce_mean_11", 11, "ReduceMean", ["x"], ["y"], [x4], [y], axes=[-1, 2], keepdims=0)
one("reduce_sum_11", 11, "ReduceSum", ["x"], ["y"], [x4], [y], axes=[1])
one("reduce_max_12", 12, "ReduceMax", ["x"], ["y"], [x4], [y])
one("reduce_l2_18", 18, "ReduceL2", ["x", "axes"], ["y"], [x4], [y], ints={"axes": [-2]}, noop_with_empty_axes=0)
one("split_11", 11, "Split", ["x"], ["a", "b"], [x4], [value("a", None), value("b", None)], axis=-2, split=[2, 4])
one("split_11_even", 11, "Split", ["x"], ["a", "b"], [x4], [value("a", None), value("b", None)], axis=1)
one("split_11_open", 11, "Split", ["x"], ["a", "b"], [value("x", ["N", 3])], [value("a", None), value("b", None)])
one("split_18", 18, "Split", ["x"], ["a", "b", "c"], [x4], [value(n, None) for n in "abc"], axis=3, num_outputs=3)
one("slice_9", 9, "Slice", ["x"], ["y"], [x4], [value("y", ["N", 2, 6, 2])], starts=[1, -2], ends=[3, 100], axes=[1, -1])
one("slice_9_all", 9, "Slice", ["x"], ["y"], [x4], [y], starts=[0, 1], ends=[9, 3])
one("pad_10", 10, "Pad", ["x"], ["y"], [x4], [y], pads=[0, 0, 1, 2, 0, 0, 3, 4], value=1.5)
one("pad_10_reflect", 10, "Pad", ["x"], ["y"], [x4], [y], pads=[0, 0, 1, 2, 0, 0, 3, 4], mode="reflect")
one("pad_18_axes", 18, "Pad", ["x", "pads", "", "axes"], ["y"], [x4], [y], ints={"pads": [1, 2], "axes": [-1]})
one("clip_10", 10, "Clip", ["x"], ["y"], [x4], [y], max=1.0)
one("dropout_7_mask", 7, "Dropout", ["x"], ["y", "mask"], [x4], [value("y", ["N", 4, 6, 7]), value("mask", ["N", 4, 6, 7])], ratio=0.25)
one("dropout_10", 10, "Dropout", ["x"], ["y"], [x4], [y])
one("top_k_9", 9, "TopK", ["x"], ["y", "i"], [x4], [y, value("i", None, I)], k=2)
one("upsample_7", 7, "Upsample", ["x"], ["y"], [value("x", [1, 2, 3, 3])], [y], scales=[1.0, 1.0, 2.0, 3.0], mode="linear")
scales = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, 1, 1.7, 2.5], np.float32)))
for op, opset in [("Upsample", 9), ("Resize", 10)]:
    nodes = [scales, helper.make_node(op, ["x", "s"], ["y"], name="n")]
    model(f"{op.lower()}_{opset}", opset, nodes, [value("x", [1, 4, 3, 3])], [y])
one("softmax_11", 11, "Softmax", ["x"], ["y"], [x4], [y])
one("softmax_11_last", 11, "Softmax", ["x"], ["y"], [x4], [y], axis=-1)
one("softmax_11_ones", 11, "LogSoftmax", ["x"], ["y"], [value("x", ["N", 4, 1, 1])], [y], axis=1)
one("hardmax_12_fixed", 12, "Hardmax", ["x"], ["y"], [value("x", [2, 3, 4])], [y], axis=1)
bn = {k: [4] for k in ["scale", "bias", "mean"]} | {"var": [4]}
one("batch_norm_7", 7, "BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y"], [x4, value("var", [4])], [y],
    floats={k: v for k, v in bn.items() if k != "var"}, spatial=1)
one("batch_norm_9_train", 9, "BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y", "m", "v", "sm", "sv"],
    [x4], [y, value("m", [4]), value("v", [4])], floats=bn)
one("batch_norm_7_spatial", 7, "BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y"], [x4], [y], floats=bn,
    spatial=0)
one("scatter_9", 9, "Scatter", ["x", "i", "u"], ["y"], [value("x", [3, 3])], [y], ints={"i": [[0, 1, 1]]},
    floats={"u": [1, 3]}, axis=-1)
one("group_norm_18", 18, "GroupNormalization", ["x", "s", "b"], ["y"], [x4], [value("y", ["N", 4, 6, 7])], floats={"s": [2], "b": [2]},
    num_groups=2)
one("grid_sample_16", 16, "GridSample", ["x", "g"], ["y"], [x4, value("g", ["N", 3, 3, 2])], [y], mode="bicubic")
one("dft_17", 17, "DFT", ["x"], ["y"], [value("x", [1, 5, 1])], [y])
one("cast_like_15", 15, "CastLike", ["x", "t"], ["y"], [x4, value("t", [1], TensorProto.DOUBLE)],
    [value("y", None, TensorProto.DOUBLE)])
one("roi_align_10", 10, "RoiAlign", ["x", "r", "b"], ["y"],
    [value("x", [1, 2, 6, 6]), value("r", [1, 4]), value("b", [1], I)], [y], output_height=2, output_width=2)
for how in ["SAME_UPPER", "SAME_LOWER", "VALID"]:
    end = how.lower()
    one(f"conv_11_{end}", 11, "Conv", ["x", "w"], ["y"], [x4], [y], floats={"w": [2, 4, 3, 2]}, auto_pad=how,
        strides=[2, 3], dilations=[1, 2])
    one(f"conv_transpose_11_{end}", 11, "ConvTranspose", ["x", "w"], ["y"], [x4], [y], floats={"w": [4, 2, 3, 2]},
        auto_pad=how, strides=[2, 3])
    one(f"max_pool_11_{end}", 11, "MaxPool", ["x"], ["y"], [x4], [y], kernel_shape=[3, 2], auto_pad=how, strides=[2, 2])
    one(f"average_pool_7_{end}", 7, "AveragePool", ["x"], ["y"], [x4], [y], kernel_shape=[3, 2], auto_pad=how)
xs = value("x", ["N", 4, "H", "W"])
one("conv_11_same_open", 11, "Conv", ["x", "w"], ["y"], [xs], [y], floats={"w": [2, 4, 3, 2]}, auto_pad="SAME_UPPER",
    strides=[2, 2])
one("conv_11_same_stride_1", 11, "Conv", ["x", "w"], ["y"], [xs], [y], floats={"w": [2, 4, 3, 2]}, auto_pad="SAME_LOWER")
one("conv_transpose_11_shape", 11, "ConvTranspose", ["x", "w"], ["y"], [x4], [y], floats={"w": [4, 2, 3, 3]},
    output_shape=[12, 15], strides=[2, 2])
one("lp_pool_11", 11, "LpPool", ["x"], ["y"], [x4], [y], kernel_shape=[2, 2])
one("gemm_9", 9, "Gemm", ["x", "w", "b"], ["y"], [value("x", ["N", 4])], [y], floats={"w": [4, 3], "b": [3]})
one("transpose_9", 9, "Transpose", ["x"], ["y"], [x4], [y])
one("arg_max_11", 11, "ArgMax", ["x"], ["y"], [x4], [value("y", None, I)], axis=-1)
one("flatten_9", 9, "Flatten", ["x"], ["y"], [x4], [y])

# An initialiser listed as an input says nothing before IR version 4, and is a default from there on.
node = helper.make_node("Add", ["x", "w"], ["y"])
for ir in [3, 4]:
    model(f"default_ir_{ir}", 9, [node], [value("x", ["N", 2]), value("w", [2])], [y], floats={"w": [2]}, ir=ir)

# Local functions: an attribute passed on, one with a default, an input left out, an inner call, names that clash.
scale = helper.make_function(
    "local", "Scale", ["a"], ["b"],
    [helper.make_node("Constant", [], ["t"]), helper.make_node("Mul", ["a", "t"], ["b"], name="mul")],
    [helper.make_opsetid("", 17)], ["by"])
ref = scale.node[0].attribute.add()
ref.name, ref.ref_attr_name, ref.type = "value_float", "by", onnx.AttributeProto.FLOAT
squash = helper.make_function(
    "local", "Squash", ["a", "low"], ["b"],
    [helper.make_node("Scale", ["a"], ["t"], domain="local", by=0.5), helper.make_node("Clip", ["t", "low"], ["u"]),
     helper.make_node("Softmax", ["u"], ["b"])],
    [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)], [])
squash.attribute_proto.add().CopyFrom(helper.make_attribute("axis", 1))
ref = squash.node[2].attribute.add()
ref.name, ref.ref_attr_name, ref.type = "axis", "axis", onnx.AttributeProto.INT
model(
    "functions", 17,
    [helper.make_node("Squash", ["x"], ["first/t"], domain="local", name="first"),
     helper.make_node("Squash", ["first/t", "zero"], ["y"], domain="local", name="second", axis=2),
     helper.make_node("FusedGelu", ["y"], ["z"], domain="com.example", name="custom")],
    [value("x", ["N", 3, 4])], [value("y", ["N", 3, 4]), value("z", ["N", 3, 4])], floats={"zero": []},
    functions=[scale, squash], domains=[("local", 1), ("com.example", 1)])

# Subgraphs capture outer values, also across a level.
inner = helper.make_graph(
    [helper.make_node("Add", ["x", "w"], ["inner_y"], name="inner_add")], "inner", [], [value("inner_y", ["N", 2])])
deep = helper.make_graph(
    [helper.make_node("If", ["c"], ["mid"], name="inner_if", then_branch=inner,
                      else_branch=helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "other", [],
                                                    [value("r", ["N", 2])]))],
    "outer_then", [], [value("mid", ["N", 2])])
flat = helper.make_graph([helper.make_node("ReduceMax", ["x"], ["m"], name="max", axes=[-1]),
                          helper.make_node("Mul", ["x", "m"], ["p"], name="mul")], "outer_else", [],
                         [value("p", ["N", 2])])
model("subgraphs", 12, [helper.make_node("If", ["c"], ["y"], name="if", then_branch=deep, else_branch=flat)],
      [value("x", ["N", 2]), value("c", [], TensorProto.BOOL)], [value("y", ["N", 2])], floats={"w": [2]})

# Nodes out of order, without names, and dimensions that are open or expressions.
model(
    "unsorted", 13,
    [helper.make_node("Relu", ["b"], ["y"]), helper.make_node("Add", ["a", "a"], ["b"]),
     helper.make_node("Neg", ["x"], ["a"])],
    [value("x", [None, "?", "n"])], [value("y", [None, None, "n"])])
