"""Time of a layer's kappa, and of its gradient, against the layer's size: figures 4 and 5 of the FAM paper.

A d x d layer behind which stand a ReLU and a linear map to 10 classes, softmax cross-entropy. fam-onnx writes the graphs,
exact and with one Hutchinson probe, ONNX Runtime runs them; beside them the full Hessian in PyTorch, by torch.func and by
autograd with vectorised rows, as the paper's code has it, up to where it fits. Writes layer_sizes.svg and the table in
layer_sizes.md into docs.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 matplotlib==3.11.2

    cargo build --release && python benches/layer_sizes.py --budget 300
    python benches/layer_sizes.py --largest 256 --budget 60
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.func import hessian
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
BATCH, CLASSES = 64, 10
WAYS = {
    "plain step": ("exact", 0.0, "gradient.onnx"),
    "exact, value": ("exact", 0.1, "evaluate.onnx"),
    "exact, with gradient": ("exact", 0.1, "gradient.onnx"),
    "hutchinson, value": ("hutchinson", 0.1, "evaluate.onnx"),
    "hutchinson, with gradient": ("hutchinson", 0.1, "gradient.onnx"),
}
MEMORY = 2e9  # bytes that a full Hessian may take


def weights(size, rng):
    scale = lambda *shape: (rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32)
    return {"layer.weight": scale(size, size), "out.weight": scale(CLASSES, size)}


def model(size, parameters):
    nodes = [
        helper.make_node("Gemm", ["x", "layer.weight"], ["z"], transB=1, name="/layer/Gemm"),
        helper.make_node("Relu", ["z"], ["h"], name="/Relu"),
        helper.make_node("Gemm", ["h", "out.weight"], ["logits"], transB=1, name="/out/Gemm"),
    ]
    value = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
    initialisers = [numpy_helper.from_array(v, k) for k, v in parameters.items()]
    graph = helper.make_graph(nodes, "layer", [value("x", size)], [value("logits", CLASSES)], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def median(run, limit):
    """Median seconds of a call, after one to warm up, for at most `limit` seconds."""
    run()
    times, end = [], time.perf_counter() + limit
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def graphs(program, size, folder, threads, limit):
    rng = np.random.default_rng(size)
    parameters = weights(size, rng)
    path = folder / f"{size}.onnx"
    onnx.save(model(size, parameters), path)
    feeds = {"x": rng.standard_normal((BATCH, size)).astype(np.float32), "labels": rng.integers(0, CLASSES, BATCH)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    found = {}
    for way, (estimator, strength, file) in WAYS.items():
        artifact = folder / f"{size}-{estimator}-{strength}.fam"
        if not artifact.exists():
            command = [program, "-q", "inject", path, "--layer", "layer", "--lambda", str(strength), "-o", artifact]
            subprocess.run([*command, "--estimator", estimator], check=True, stdout=subprocess.DEVNULL)
        probes = json.loads((artifact / "manifest.json").read_text())["layers"][0]["probes"]
        signs = {
            p["name"]: np.sign(rng.standard_normal([BATCH if d == "batch" else d for d in p["shape"]])).astype(np.float32)
            for p in probes
        }
        session = onnxruntime.InferenceSession(artifact / file, options, providers=["CPUExecutionProvider"])
        inputs = {i.name for i in session.get_inputs()}
        known = {k: v for k, v in {**feeds, **parameters, **signs}.items() if k in inputs}
        found[way] = median(lambda: session.run(None, known), limit)
    return found


def by_func(loss, w):
    return hessian(loss)(w)


def by_autograd(loss, w):
    return torch.autograd.functional.hessian(loss, w, vectorize=True, create_graph=True)


def full_hessians(size, limit):
    if 4 * size**4 * 3 > MEMORY:
        return {}
    rng = np.random.default_rng(size)
    parameters = {k: torch.from_numpy(v) for k, v in weights(size, rng).items()}
    x = torch.from_numpy(rng.standard_normal((BATCH, size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, CLASSES, BATCH))
    loss = lambda w: F.cross_entropy(F.relu(x @ w.T) @ parameters["out.weight"].T, labels)

    def kappa(way, w):
        traces = torch.einsum("atbt->ab", way(loss, w).reshape(size, size, size, size))
        return ((w @ w.T) * traces).sum()

    w = parameters["layer.weight"].clone().requires_grad_()
    found = {}
    for name, way in (("torch.func", by_func), ("autograd", by_autograd)):
        found[f"full Hessian by {name}, value"] = median(lambda: kappa(way, w.detach()), limit)
        if size <= 32:  # the gradient keeps every row's graph
            found[f"full Hessian by {name}, with gradient"] = median(lambda: torch.autograd.grad(kappa(way, w), w), limit)
    return found


def table(rows, ways):
    text = lambda s: "–" if s is None else f"{1e3 * s:.3g}"
    lines = ["| layer | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    lines += [f"| {n}×{n} | " + " | ".join(text(found.get(way)) for way in ways) + " |" for n, found in rows.items()]
    return "\n".join(lines)


def draw(rows, ways, path):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "layer_sizes"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, ending, title in zip(axes, ("value", "with gradient"), ("κ", "κ and its gradient")):
        for way in ways:
            if way != "plain step" and not way.endswith(ending):
                continue
            points = [(n * n, found[way]) for n, found in rows.items() if way in found]
            axis.plot(*zip(*points), marker="o", markersize=3, label=way.rsplit(", ", 1)[0])
        axis.set(xscale="log", yscale="log", xlabel="weights of the layer", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=HERE.parent / "target/release/fam-onnx")
    parser.add_argument("--largest", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=300, help="seconds in all, about")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = [n for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if n <= args.largest]
    start, rows = time.perf_counter(), {}
    spent = lambda: time.perf_counter() - start > args.budget
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            rows[n] = graphs(args.program, n, pathlib.Path(folder), args.threads, args.budget / len(sizes) / 20)
            print(n, {k: f"{1e3 * v:.3g} ms" for k, v in rows[n].items()}, flush=True)
            if spent():
                break
    for n in rows:
        found = {} if spent() else full_hessians(n, args.budget / 50)
        rows[n].update(found)
        print(n, {k: f"{1e3 * v:.3g} ms" for k, v in found.items()}, flush=True)
    ways = list(dict.fromkeys(way for found in rows.values() for way in found))
    head = f"Milliseconds a call, median; batch {BATCH}, {CLASSES} classes, float32, {args.threads} threads, ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}."
    (args.out / "layer_sizes.md").write_text(f"{head}\n\n{table(rows, ways)}\n\n![The same as curves](layer_sizes.svg)\n")
    draw(rows, ways, args.out / "layer_sizes.svg")


main()
