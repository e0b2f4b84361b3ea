"""The gradient that PyTorch's autograd takes of evaluate.onnx's objective, against gradient.onnx.

evaluate.onnx is executed node by node with torch operations in float64, so that nothing of fam-onnx's differentiation is
used; gradient.onnx is run by ONNX Runtime. Prints the relative difference of every parameter's gradient; exits 1 if one is
over 1e-4.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0

    fam-onnx inject model.onnx --layer fc --lambda 0.1 -o model.fam && python benches/peer.py model.fam
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from torch.nn import functional as F

DTYPES = {1: torch.float64, 11: torch.float64, 7: torch.int64, 6: torch.int64, 9: torch.bool}


def axes_of(x, axes):
    return tuple(int(a) for a in axes) if axes is not None and axes.numel() else tuple(range(x.ndim))


def reduce(f):
    return lambda a, x, axes=None: f(x, axes_of(x, axes), bool(a.get("keepdims", 1)))


def slices(a, x, starts, ends, axes=None, steps=None):
    index = [slice(None)] * x.ndim
    for k in range(len(starts)):
        axis = int(axes[k]) if axes is not None else k
        index[axis] = slice(int(starts[k]), min(int(ends[k]), x.shape[axis]), int(steps[k]) if steps is not None else 1)
    return x[tuple(index)]


def reshape(a, x, shape):
    sizes = [int(n) for n in shape]
    if not a.get("allowzero"):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def expand(a, x, shape):
    return x * torch.ones([int(n) for n in shape], dtype=x.dtype) if x.dtype != torch.bool else x.expand([int(n) for n in shape])


def gemm(a, x, w, c=None):
    x, w = (x.T if a.get("transA") else x), (w.T if a.get("transB") else w)
    y = a.get("alpha", 1.0) * (x @ w)
    return y if c is None else y + a.get("beta", 1.0) * c


def conv(a, x, w, b=None):
    n = w.ndim - 2
    pads = a.get("pads", [0] * 2 * n)
    x = F.pad(x, [p for i in reversed(range(n)) for p in (pads[i], pads[i + n])])
    f = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    return f(x, w, b, a.get("strides", [1] * n), 0, a.get("dilations", [1] * n), a.get("group", 1))


def conv_transpose(a, x, w, b=None):
    n = w.ndim - 2
    pads, f = a.get("pads", [0] * 2 * n), (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    y = f(x, w, b, a.get("strides", [1] * n), 0, a.get("output_padding", [0] * n), a.get("group", 1), a.get("dilations", [1] * n))
    for i in range(n):
        y = y.narrow(2 + i, pads[i], y.shape[2 + i] - pads[i] - pads[i + n])
    return y


def layer_norm(a, x, scale, bias=None):
    axis = a.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def max_pool(a, x):
    """Values and, as ONNX counts them, positions in the whole tensor."""
    pads, n = a.get("pads", [0] * 2 * (x.ndim - 2)), x.ndim - 2
    f = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    y, index = f(x, a["kernel_shape"], a.get("strides", [1] * n), pads[:n], return_indices=True)
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * n)
    return y, index + planes * int(np.prod(x.shape[2:]))


def squeeze(a, x, axes):
    for axis in sorted((int(i) % x.ndim for i in axes), reverse=True):
        x = x.squeeze(axis)
    return x


def unsqueeze(a, x, axes):
    rank = x.ndim + len(axes)
    for axis in sorted(int(i) % rank for i in axes):
        x = x.unsqueeze(axis)
    return x


OPS = {
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="floor"),
    "Neg": lambda a, x: -x,
    "Exp": lambda a, x: x.exp(),
    "Log": lambda a, x: x.log(),
    "Sqrt": lambda a, x: x.sqrt(),
    "Reciprocal": lambda a, x: x.reciprocal(),
    "Erf": lambda a, x: x.erf(),
    "Tanh": lambda a, x: x.tanh(),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Relu": lambda a, x: x.relu(),
    "Softplus": lambda a, x: F.softplus(x),
    "Greater": lambda a, x, y: x > y,
    "Less": lambda a, x, y: x < y,
    "Equal": lambda a, x, y: x == y,
    "And": lambda a, x, y: x & y,
    "Not": lambda a, x: ~x,
    "Where": lambda a, c, x, y: torch.where(c, x, y),
    "MatMul": lambda a, x, y: x @ y,
    "Gemm": gemm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "LogSoftmax": lambda a, x: x.log_softmax(a.get("axis", -1)),
    "ReduceSum": reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMean": reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMax": reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ArgMax": lambda a, x: x.argmax(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1))),
    "Cast": lambda a, x: x.to(DTYPES[a["to"]]),
    "Identity": lambda a, x: x,
    "Transpose": lambda a, x: x.permute(a.get("perm", tuple(reversed(range(x.ndim))))),
    "Reshape": reshape,
    "Flatten": lambda a, x: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Slice": slices,
    "Gather": lambda a, x, i: torch.index_select(x, a.get("axis", 0), i.reshape(-1)).reshape(
        x.shape[: a.get("axis", 0)] + i.shape + x.shape[a.get("axis", 0) + 1 :]
    ),
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.ndim)]),
    "MaxPool": max_pool,
    "LayerNormalization": layer_norm,
    "Pow": lambda a, x, y: x**y,
    "Abs": lambda a, x: x.abs(),
    "Sign": lambda a, x: x.sign(),
}


def tensor(array):
    value = torch.from_numpy(np.array(array))
    return value.double() if value.is_floating_point() else value


def objective(path, feeds):
    graph = onnx.load(path).graph
    values = {i.name: tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    values.update(feeds)
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type not in OPS:
            raise SystemExit(f"{node.name}: {node.op_type} is not written with torch here")
        inputs = [values[name] if name else None for name in node.input]
        made = OPS[node.op_type](attributes, *inputs)
        values.update(zip(node.output, made if isinstance(made, tuple) else (made,)))
    return values


def random_feeds(session, rng, batch, classes):
    feeds = {}
    for port in session.get_inputs():
        shape = [batch if isinstance(d, str) else d for d in port.shape]
        if port.type == "tensor(int64)":
            feeds[port.name] = rng.integers(0, classes, shape)
        elif port.name.startswith("probe."):
            feeds[port.name] = np.sign(rng.standard_normal(shape)).astype(np.float32)
        elif not port.name.startswith("lambda"):
            feeds[port.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=pathlib.Path)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--classes", type=int, default=3)
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text())
    graphs, rng = manifest["graphs"], np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(args.artifact / graphs["gradient"]["path"], options, providers=["CPUExecutionProvider"])
    feeds = random_feeds(session, rng, args.batch, args.classes)
    stored = load_file(args.artifact / "parameters.safetensors")
    feeds.update({k: v for k, v in stored.items() if k in feeds})
    named = graphs["gradient"]["gradients"]
    ours = dict(zip(named, session.run(list(named.values()), feeds)))

    variables = {k: tensor(v) for k, v in feeds.items()}
    wanted = [variables[name].requires_grad_() for name in named]
    values = objective(args.artifact / graphs["evaluate"]["path"], variables)
    theirs = torch.autograd.grad(values[graphs["evaluate"]["objective"]], wanted, allow_unused=True)
    whole = sum(float(g.square().sum()) for g in theirs if g is not None) ** 0.5
    worst = 0.0
    for name, gradient in zip(named, theirs):
        gradient = np.zeros(ours[name].shape) if gradient is None else gradient.numpy()
        off = np.linalg.norm(ours[name] - gradient) / max(np.linalg.norm(gradient), 1e-2 * whole)
        worst = max(worst, float(off))
        print(f"{name}: off by {off:.1e}")
    sys.exit(worst > 1e-4)


main()
