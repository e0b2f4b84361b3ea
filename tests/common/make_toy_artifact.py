"""Writes a standard artifact by hand: softmax regression z = W x + b, 3 classes, 4 features, with the exact κ of W,
trained by SGD with momentum 0.9. Packages: those of tests/common/mod.rs.

usage: make_toy_artifact.py DIRECTORY [plain]

`plain` makes it as with λ = 0: no FAM part in the training graph, and in evaluate.onnx κ estimated with a probe.
"""

import hashlib
import json
import pathlib
import struct
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

D, M, LAMBDA, MOMENTUM = 3, 4, 0.1, 0.9
OPSET = 17
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PARAMETERS = {"fc.bias": [D], "fc.weight": [D, M]}


class Graph:
    """Nodes and initialisers of one graph; `self("Add", a, b)` appends a node and returns its output's name."""

    def __init__(self):
        self.nodes, self.initializers = [], []

    def __call__(self, op, *inputs, out=None, **attributes):
        out = out or f"{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def save(self, path, inputs, outputs):
        info = lambda ports: [helper.make_tensor_value_info(n, t, s) for n, t, s in ports]
        graph = helper.make_graph(self.nodes, path.stem, info(inputs), info(outputs), self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        checker.check_model(model, full_check=True)
        save(model, path)


def forward(g, kappa="exact"):
    """Loss, κ (exact, from a probe, or none) and objective, and what the gradient needs again."""
    axis = lambda *a: g.constant(f"axis{a}", np.array(a, np.int64))
    last, first = axis(1), axis(0)
    z = g("Gemm", "x", "fc.weight", "fc.bias", transB=1, out="output")
    logp = g("LogSoftmax", z, axis=1)
    p = g("Exp", logp)
    depth = g.constant("depth", np.array(D, np.int64))
    hot = g.constant("hot", np.array([0, 1], np.float32))
    y = g("OneHot", "labels", depth, hot, axis=1)
    picked = g("ReduceSum", g("Mul", logp, y), last, keepdims=0)
    loss = g("Neg", g("ReduceMean", picked, keepdims=0), out="loss")
    if kappa == "none":
        g("Identity", loss, out="objective")
        return dict(p=p, y=y, last=last, first=first)
    # κ = mean_r ‖x_r‖² (Σ_s p_s ‖w_s‖² − ‖Wᵀp‖²)
    a = g("ReduceSum", g("Mul", "x", "x"), last, keepdims=1)
    q = g("ReduceSum", g("Mul", "fc.weight", "fc.weight"), last, keepdims=0)
    pw = g("MatMul", p, "fc.weight")
    spread = g("Sub", g("ReduceSum", g("Mul", p, q), last, keepdims=1), g("ReduceSum", g("Mul", pw, pw), last, keepdims=1))
    if kappa == "probe":
        # The same variance of z under p, along one random δz = W ξ a sample.
        dz = g("MatMul", "probe.fc", g("Transpose", "fc.weight", perm=[1, 0]))
        mean = g("ReduceSum", g("Mul", p, dz), last, keepdims=1)
        spread = g("Sub", g("ReduceSum", g("Mul", p, g("Mul", dz, dz)), last, keepdims=1), g("Mul", mean, mean))
    kappa = g("ReduceMean", g("Mul", a, spread), keepdims=0, out="kappa")
    if "lambda" in [i.name for i in g.initializers]:
        g("Add", loss, g("Mul", "lambda", kappa), out="objective")
    else:
        g("Identity", loss, out="objective")
    return dict(p=p, y=y, a=a, q=q, pw=pw, last=last, first=first)


def backward(g, f, suffix=".grad"):
    n = g("Cast", g("Gather", g("Shape", "x"), g.constant("zero", np.array(0, np.int64))), to=FLOAT)
    if "a" not in f:
        dz = g("Div", g("Sub", f["p"], f["y"]), n)
        w = g("Gemm", dz, "x", transA=1, out="fc.weight" + suffix)
        b = g("ReduceSum", dz, f["first"], keepdims=0, out="fc.bias" + suffix)
        return {"fc.weight": w, "fc.bias": b}
    weight = g("Div", "lambda", n)
    two = g.constant("two", np.array(2, np.float32))
    # ∂κ_r/∂p = a (q − 2 W Wᵀ p)
    u = g("Mul", f["a"], g("Sub", f["q"], g("Mul", two, g("MatMul", f["pw"], g("Transpose", "fc.weight", perm=[1, 0])))))
    pu = g("ReduceSum", g("Mul", f["p"], u), f["last"], keepdims=1)
    dz_kappa = g("Mul", f["p"], g("Sub", u, pu))
    dz = g("Add", g("Div", g("Sub", f["p"], f["y"]), n), g("Mul", weight, dz_kappa))
    # and directly: 2 a (diag(p) − p pᵀ) W
    ap = g("Mul", f["a"], f["p"])
    diagonal = g("Mul", g("Unsqueeze", g("ReduceSum", ap, f["first"], keepdims=0), f["last"]), "fc.weight")
    direct = g("Sub", diagonal, g("MatMul", g("Transpose", ap, perm=[1, 0]), f["pw"]))
    direct = g("Mul", g("Mul", two, weight), direct)
    w = g("Add", g("Gemm", dz, "x", transA=1), direct, out="fc.weight" + suffix)
    b = g("ReduceSum", dz, f["first"], keepdims=0, out="fc.bias" + suffix)
    return {"fc.weight": w, "fc.bias": b}


def update(g, gradients):
    momentum = g.constant("momentum", np.array(MOMENTUM, np.float32))
    for name, gradient in gradients.items():
        v = g("Add", g("Mul", momentum, f"{name}.momentum"), gradient, out=f"{name}.momentum.next")
        g("Sub", name, g("Mul", "learning_rate", v), out=f"{name}.next")


def safetensors(tensors):
    header, data = {}, b""
    for name, value in sorted(tensors.items()):
        raw = value.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def main(directory, plain):
    directory.mkdir(parents=True)
    x, labels = ("x", FLOAT, ["batch", M]), ("labels", INT64, ["batch"])
    parameters = [(n, FLOAT, s) for n, s in PARAMETERS.items()]
    moments = [(f"{n}.momentum", FLOAT, s) for n, s in PARAMETERS.items()]
    lr = ("learning_rate", FLOAT, [])
    lam = [] if plain else [("lambda", FLOAT, [])]
    probe = [("probe.fc", FLOAT, ["batch", M])] if plain else []
    figures = [(n, FLOAT, []) for n in ("loss", "kappa", "objective")]
    training = [f for f in figures if not (plain and f[0] == "kappa")]
    following = [(f"{n}.next", FLOAT, s) for n, _, s in parameters + moments]
    gradients = [(f"{n}.grad", FLOAT, s) for n, _, s in parameters]

    def graph(kappa):
        g = Graph()
        if not plain:
            g.constant("lambda", np.array(LAMBDA, np.float32))
        return g, forward(g, kappa)

    g, _ = graph("probe" if plain else "exact")
    g.save(directory / "evaluate.onnx", [x, labels, *parameters, *lam, *probe], [("output", FLOAT, ["batch", D]), *figures])
    g, f = graph("none" if plain else "exact")
    backward(g, f)
    g.save(directory / "gradient.onnx", [x, labels, *parameters, *lam], [*training, *gradients])
    g = Graph()
    update(g, {n: f"{n}.grad" for n in PARAMETERS})
    g.save(directory / "optimizer.onnx", [*parameters, *gradients, *moments, lr], following)
    g, f = graph("none" if plain else "exact")
    update(g, backward(g, f))
    g.save(directory / "train.onnx", [x, labels, *parameters, *moments, lr, *lam], [*training, *following])
    g = Graph()
    g("Gemm", "x", "fc.weight", "fc.bias", transB=1, out="output")
    g.save(directory / "model.onnx", [x, *parameters], [("output", FLOAT, ["batch", D])])

    random = np.random.default_rng(0)
    values = {n: random.normal(0, 0.5, s) for n, s in PARAMETERS.items()}
    values |= {f"{n}.momentum": np.zeros(s) for n, s in PARAMETERS.items()}
    (directory / "parameters.safetensors").write_bytes(safetensors(values))

    tensor = lambda n, s, **more: {"name": n, "dtype": "float32", "shape": s, **more}
    updates = {n: f"{n}.next" for n, _, _ in sorted(parameters + moments)}
    grads = {n: f"{n}.grad" for n in PARAMETERS}
    figures = {"loss": "loss", "kappa": ["kappa"], "objective": "objective"}
    training = {**figures, "kappa": [] if plain else ["kappa"]}
    probes = [{"name": "probe.fc", "shape": ["batch", M], "distribution": "rademacher"}] if plain else []
    manifest = {
        "version": 1,
        "fam_onnx": "0.1.0",
        "source": {"name": "toy.onnx", "sha256": "0" * 64},
        "opset": OPSET,
        "options": {"layer": ["fc"], "lambda": 0.0 if plain else LAMBDA},
        "layers": [{"name": "fc", "weight": "fc.weight", "d": D, "m": M, "lambda": 0.0 if plain else LAMBDA,
                    "lambda_input": None if plain else "lambda", "measure": "neuronwise",
                    "estimator": "hutchinson" if plain else "exact", "probes": probes}],
        "inputs": ["x"],
        "labels": "labels",
        "loss": "softmax-cross-entropy",
        "parameters": [tensor(n, s, trainable=True) for n, s in PARAMETERS.items()],
        "state": [tensor(n, s) for n, _, s in moments],
        "graphs": {
            "gradient": {"path": "gradient.onnx", **training, "gradients": grads},
            "optimizer": {"path": "optimizer.onnx", "learning_rate": "learning_rate", "gradients": grads, "updates": updates},
            "train": {"path": "train.onnx", "learning_rate": "learning_rate", **training, "updates": updates},
            "evaluate": {"path": "evaluate.onnx", "predictions": ["output"], **figures},
        },
        "files": {f.name: {"sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in sorted(directory.iterdir())},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


main(pathlib.Path(sys.argv[1]), "plain" in sys.argv[2:])
