"""The gradients that other programs take of evaluate.onnx's objective, against gradient.onnx.

torch: evaluate.onnx is executed node by node with torch operations in float64, and differentiated by autograd, so that nothing
of fam-onnx's differentiation is used. onnx-ad: the package of that name writes the gradient as another ONNX model, which
ONNX Runtime runs in float32. gradient.onnx is run by ONNX Runtime. Prints the largest relative difference over the parameters
for each artifact; exits 1 if one is over 1e-4.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0 onnx-ad==0.3.0

    python benches/peer.py model.fam [...]
    python benches/peer.py --all [--binary target/release/fam-onnx]
"""
import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from torch.nn import functional as F

DTYPES = {1: torch.float64, 11: torch.float64, 7: torch.int64, 6: torch.int64, 9: torch.bool}


def axes_of(x, axes):
    return tuple(int(a) for a in axes) if axes is not None and len(axes) else tuple(range(x.ndim))


def reduce(f):
    """Axes are an input, or an attribute in older opsets."""
    return lambda a, x, axes=None: f(x, axes_of(x, a.get("axes", axes)), bool(a.get("keepdims", 1)))


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
    """By its formula: PyTorch's own takes the statistics as constants in its third derivative."""
    axes = tuple(range(a.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    deviation = ((x - mean).square().mean(axes, keepdim=True) + a.get("epsilon", 1e-5)).rsqrt()
    y = (x - mean) * deviation * scale
    return (y if bias is None else y + bias), mean, deviation


def batch_norm(a, x, scale, bias, mean, variance):
    along = lambda v: v.reshape(-1, *[1] * (x.ndim - 2))
    return (x - along(mean)) * along((variance + a.get("epsilon", 1e-5)).rsqrt() * scale) + along(bias)


def average_pool(a, x):
    n = x.ndim - 2
    f = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    return f(x, a["kernel_shape"], a.get("strides", [1] * n), a.get("pads", [0] * 2 * n)[:n], count_include_pad=bool(a.get("count_include_pad")))


def scatter_nd(a, x, at, updates):
    index = tuple(at.reshape(-1, at.shape[-1]).T)
    updates = updates.reshape(-1, *x.shape[at.shape[-1]:])
    return x.index_put(index, updates, accumulate=a.get("reduction", b"none") == b"add")


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
    "BatchNormalization": batch_norm,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "ScatterND": scatter_nd,
    "ScatterElements": lambda a, x, i, u: x.scatter_add(a.get("axis", 0), i, u) if a.get("reduction") == b"add" else x.scatter(a.get("axis", 0), i, u),
    "GatherElements": lambda a, x, i: x.gather(a.get("axis", 0), i),
    "GatherND": lambda a, x, i: x[tuple(i.movedim(-1, 0))],
    "Split": lambda a, x, sizes=None: x.split([int(n) for n in sizes], a.get("axis", 0)),
    "LessOrEqual": lambda a, x, y: x <= y,
    "GreaterOrEqual": lambda a, x, y: x >= y,
    "ConstantOfShape": lambda a, shape: torch.full([int(n) for n in shape], float(numpy_helper.to_array(a["value"])[0]), dtype=torch.float64),
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
        try:
            made = OPS[node.op_type](attributes, *inputs)
        except RuntimeError as error:
            raise SystemExit(f"{node.name}: {error}")
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


# Model of the fixtures, layer, estimator: every head class, and every way to kappa.
ALL = [
    ("mlp/model", "fc", "exact"), ("mlp/model", "fc1", "exact"), ("mlp/model", "fc1", "hutchinson"),
    ("lenet/model", "fc2", "exact"), ("lenet/model", "conv2", "exact"), ("lenet/model", "conv2", "hutchinson"),
    ("resnet/model", "neck", "exact"), ("tokens/model", "encoder.out", "exact"), ("bert/model", "classifier", "exact"),
    ("flatness/tanh", "fc1", "exact"), ("flatness/tanh", "fc1", "gauss-newton"), ("flatness/gelu-layer-norm", "fc1", "exact"),
    ("flatness/conv2d", "conv1", "exact"), ("flatness/conv2d-smooth", "conv2", "exact"), ("flatness/transposed2d", "first", "exact"),
    ("flatness/attention", "qkv", "exact"), ("flatness/attention", "qkv", "hutchinson"), ("flatness/tied-smooth", "tied", "exact"),
    ("flatness/einsum", "weight", "exact"), ("flatness/segmentation", "mix", "exact"),
]


def by_torch(artifact, manifest, feeds):
    graphs, named = manifest["graphs"], manifest["graphs"]["gradient"]["gradients"]
    variables = {k: tensor(v) for k, v in feeds.items()}
    wanted = [variables[name].requires_grad_() for name in named]
    values = objective(artifact / graphs["evaluate"]["path"], variables)
    found = torch.autograd.grad(values[graphs["evaluate"]["objective"]], wanted, allow_unused=True)
    return {name: None if g is None else g.numpy() for name, g in zip(named, found)}


def by_onnx_ad(artifact, manifest, feeds):
    from onnx_ad import reverse

    graphs, named = manifest["graphs"], manifest["graphs"]["gradient"]["gradients"]
    output = graphs["evaluate"]["objective"]
    model = onnx.load(artifact / graphs["evaluate"]["path"])
    for port in model.graph.input:  # shapes as they are fed
        for dim, size in zip(port.type.tensor_type.shape.dim, feeds[port.name].shape if port.name in feeds else ()):
            dim.dim_value = size
    adjoint = reverse(onnx.shape_inference.infer_shapes(model, data_prop=True), inputs=list(named), outputs=[output], layout="onnx")
    session = onnxruntime.InferenceSession(adjoint.SerializeToString(), quiet(), providers=["CPUExecutionProvider"])
    taken = {port.name for port in session.get_inputs()}
    given = {k: v for k, v in feeds.items() if k in taken} | {f"adj_{output}": np.ones(1, np.float32)}
    found = session.run([f"adj_{name}" for name in named], given)
    return {name: g[..., 0] for name, g in zip(named, found)}


def quiet():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def compare(artifact, peer, batch, classes):
    """The largest difference of a parameter's gradient, relative; and the parameters."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    graph, rng = manifest["graphs"]["gradient"], np.random.default_rng(0)
    session = onnxruntime.InferenceSession(artifact / graph["path"], quiet(), providers=["CPUExecutionProvider"])
    feeds = random_feeds(session, rng, batch, classes)
    feeds.update({k: v for k, v in load_file(artifact / "parameters.safetensors").items() if k in feeds})
    named = graph["gradients"]
    ours = dict(zip(named, session.run(list(named.values()), feeds)))
    theirs = peer(artifact, manifest, feeds)
    whole = sum(float(np.square(g, dtype=np.float64).sum()) for g in theirs.values() if g is not None) ** 0.5
    off = lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-2 * whole)
    return max(float(off(ours[n], np.zeros(ours[n].shape) if g is None else g)) for n, g in theirs.items()), len(named)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", type=pathlib.Path, nargs="*")
    parser.add_argument("--all", action="store_true", help="inject the fixtures")
    root = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("--binary", default=root / "target/release/fam-onnx")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--classes", type=int, default=3)
    args = parser.parse_args()
    peers = {"torch": by_torch}
    if importlib.util.find_spec("onnx_ad"):
        peers["onnx-ad"] = by_onnx_ad
    print(f"| artifact | parameters | {' | '.join(peers)} |\n|{'---|' * (2 + len(peers))}")
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [(str(path), path) for path in args.artifacts]
        for model, layer, estimator in ALL if args.all else ():
            path = pathlib.Path(folder) / f"{len(artifacts)}.fam"
            file = root / "fixtures" / f"{model}.onnx"
            subprocess.run([args.binary, "inject", file, "--layer", layer, "--lambda", "0.1", "--estimator", estimator, "-o", path, "-q"],
                           check=True, stdout=subprocess.DEVNULL)
            artifacts.append((f"{model.removesuffix('/model')} `{layer}`, {estimator}", path))
        failed = False
        for name, path in artifacts:
            cells = []
            for peer in peers.values():
                try:
                    off, parameters = compare(path, peer, args.batch, args.classes)
                    cells.append(f"{off:.0e}")
                    failed |= not off <= 1e-4
                except (Exception, SystemExit) as error:
                    failed |= peer is by_torch
                    cells.append(f"{type(error).__name__}: {str(error).splitlines()[0][:90]}")
            print(f"| {name} | {parameters} | {' | '.join(cells)} |", flush=True)
    sys.exit(failed)


main()
