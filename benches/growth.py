"""How the time and the memory of kappa and its gradient grow: with the batch n, the layer's neurons d and inputs m, the classes
C, the layers behind it, the side of an image. Writes growth.svg and the table of slopes in growth.md into docs.

Two nets: Linear(m, d), depth × (ReLU, Linear(d, d)) but for the last, Linear(d, C); and a 3×3 convolution of 8 to 16 channels,
ReLU, the mean over the image, Linear(16, C). One size varies, the others stay. A point is a process of its own for each way: the
median of its runs, and what they add to the process at most. Kappa's part is the difference to the plain gradient; slopes are
fitted to the upper half of the points on logarithmic scales.

torch is not needed: onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 matplotlib==3.11.2

    cargo build --release && python benches/growth.py
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BASE = {"n": 128, "d": 128, "m": 128, "C": 10, "depth": 1, "side": 16}
VARIED = {
    "n": [32, 64, 128, 256, 512, 1024],
    "d": [32, 64, 128, 256, 512, 1024],
    "m": [32, 64, 128, 256, 512, 1024, 2048],
    "C": [4, 8, 16, 32, 64, 128],
    "depth": [1, 2, 4, 8, 16],
    "side": [8, 16, 32, 64],
}
# Powers of the dearest term: `C n d min(d, m)` and `d² m`; probes of the sample's own `n d m`, the head's `n d²`.
ALGEBRA = {
    ("exact", "n"): "1", ("exact", "d"): "2 up to m, then 1", ("exact", "m"): "1 up to d, then 0", ("exact", "C"): "1",
    ("exact", "depth"): "1", ("exact", "side"): "2",
    ("hutchinson", "n"): "1", ("hutchinson", "d"): "1", ("hutchinson", "m"): "1", ("hutchinson", "C"): "1",
    ("hutchinson", "depth"): "1", ("hutchinson", "side"): "2",
}  # fmt: skip
WAYS = {"plain": ("exact", 0.0), "exact": ("exact", 0.1), "hutchinson": ("hutchinson", 0.1)}


def model(at, axis):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng, weights, nodes = np.random.default_rng(0), {}, []
    weight = lambda name, *shape: weights.update({name: (rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32)})
    gemm = lambda name, x, y: nodes.append(helper.make_node("Gemm", [x, f"{name}.weight"], [y], transB=1, name=f"/{name}/Gemm"))
    if axis == "side":
        shape = ["batch", 8, at["side"], at["side"]]
        weight("layer.weight", 16, 8, 3, 3)
        nodes += [
            helper.make_node("Conv", ["x", "layer.weight"], ["z"], pads=[1] * 4, name="/layer/Conv"),
            helper.make_node("Relu", ["z"], ["h"], name="/Relu"),
            helper.make_node("GlobalAveragePool", ["h"], ["g"], name="/GlobalAveragePool"),
            helper.make_node("Flatten", ["g"], ["last"], name="/Flatten"),
        ]
        width = 16
    else:
        shape, width = ["batch", at["m"]], at["d"]
        weight("layer.weight", at["d"], at["m"])
        gemm("layer", "x", "z0")
        for k in range(at["depth"]):
            end = k + 1 == at["depth"]
            nodes.append(helper.make_node("Relu", [f"z{k}"], ["last" if end else f"h{k}"], name=f"/Relu_{k}"))
            if not end:
                weight(f"behind{k}.weight", at["d"], at["d"])
                gemm(f"behind{k}", f"h{k}", f"z{k + 1}")
    weight("out.weight", at["C"], width)
    gemm("out", "last", "logits")
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    initialisers = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "net", [value("x", shape)], [value("logits", ["batch", at["C"]])], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def point(artifact, n, classes):
    """Runs gradient.onnx; prints the median seconds and the megabytes."""
    import numpy as np
    import onnxruntime
    from safetensors.numpy import load_file

    start = memory("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = onnxruntime.InferenceSession(artifact / "gradient.onnx", options, providers=["CPUExecutionProvider"])
    parameters, rng = load_file(artifact / "parameters.safetensors"), np.random.default_rng(0)
    feeds = {}
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else n for size in port.shape]
        if port.name in parameters:
            feeds[port.name] = parameters[port.name]
        elif port.type == "tensor(int64)":
            feeds[port.name] = rng.integers(0, classes, shape)
        elif not shape:
            feeds[port.name] = np.float32(0.1)
        else:
            drawn = rng.standard_normal(shape)
            feeds[port.name] = (np.sign(drawn) if port.name.startswith("probe") else drawn).astype(np.float32)
    times, end = [], time.perf_counter() + 1.0
    session.run(None, feeds)
    while len(times) < 5 or (len(times) < 200 and time.perf_counter() < end):
        began = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - began)
    print(json.dumps([statistics.median(times), memory("VmHWM") - start]))


def measure(program, axis, size):
    """way → seconds and megabytes."""
    import onnx

    at = {**BASE, axis: size}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        onnx.save(model(at, axis), folder / "net.onnx")
        for way, (estimator, strength) in WAYS.items():
            artifact = folder / f"{way}.fam"
            command = [program, "-q", "inject", folder / "net.onnx", "--layer", "layer", "--lambda", str(strength)]
            subprocess.run([*command, "--estimator", estimator, "-o", artifact], check=True, stdout=subprocess.DEVNULL)
            ran = subprocess.run(
                [sys.executable, __file__, "--point", artifact, str(at["n"]), str(at["C"])], check=True, capture_output=True
            )
            found[way] = json.loads(ran.stdout)
    return found


def slope(sizes, values):
    import numpy as np

    half = len(sizes) // 2
    points = [(s, v) for s, v in zip(sizes[half:], values[half:]) if v > 0]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(points)).T, 1)[0])


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, len(results), figsize=(2.6 * len(results), 5.4), sharey="row")
    for column, (axis, found) in enumerate(results.items()):
        for row, (unit, factor) in enumerate((("milliseconds", 1e3), ("MB", 1.0))):
            plot = axes[row][column]
            for way in WAYS:
                plot.plot(VARIED[axis][: len(found)], [factor * f[way][row] for f in found], marker="o", markersize=3, label=way)
            plot.set(xscale="log", yscale="log")
            sizes = VARIED[axis][: len(found)]
            plot.set_xticks(sizes, sizes, fontsize=7)
            plot.xaxis.set_minor_formatter(ticker.NullFormatter())
            plot.grid(alpha=0.3)
            if column == 0:
                plot.set_ylabel(unit)
        axes[1][column].set_xlabel({"side": "side of the image", "depth": "layers behind"}.get(axis, axis))
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=HERE.parent / "target/release/fam-onnx")
    parser.add_argument("--only", action="append", choices=VARIED)
    parser.add_argument("--docs", type=pathlib.Path, default=HERE.parent / "docs")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        return point(pathlib.Path(args.point[0]), int(args.point[1]), int(args.point[2]))

    import onnxruntime

    results = {}
    for axis in args.only or VARIED:
        results[axis] = [measure(args.program, axis, size) for size in VARIED[axis]]
        print(axis, [{way: f"{1e3 * f[way][0]:.3g} ms" for way in WAYS} for f in results[axis]], flush=True)
    text = lambda value: "–" if value is None else f"{value:.2f}"
    lines = ["| varied | way | sizes | κ's milliseconds, first and last | slope | by the algebra | MB, first and last |", "|" + "---|" * 7]
    for axis, found in results.items():
        for way in ("exact", "hutchinson"):
            extra = [1e3 * (f[way][0] - f["plain"][0]) for f in found]
            sizes = VARIED[axis]
            lines.append(f"| {axis} | {way} | {sizes[0]} … {sizes[-1]} | {extra[0]:.3g}, {extra[-1]:.3g} | {text(slope(sizes, extra))} "
                         f"| {ALGEBRA[way, axis]} | {found[0][way][1]:.0f}, {found[-1][way][1]:.0f} |")  # fmt: skip
    print("\n".join(lines))
    if args.only:
        return
    base = ", ".join(f"{k} = {v}" for k, v in BASE.items())
    (args.docs / "growth.md").write_text(
        "How κ and its gradient grow, in time and memory, when one size varies and the others stay at "
        f"{base} (side: of the image of a convolution; depth: layers behind the one whose κ it is). One thread, float32, ONNX "
        f"Runtime {onnxruntime.__version__}; written by `benches/growth.py`, which says how. κ's time is the difference to the "
        "plain gradient's, slopes are of the upper half of the points on logarithmic scales. Where the slope is below the "
        "algebra's, small products run less efficiently than large ones, or the cost of nodes is not yet small.\n\n"
        + "\n".join(lines) + "\n\n![time and memory of a gradient with κ and without](growth.svg)\n"
    )
    draw(results, args.docs / "growth.svg")


if __name__ == "__main__":
    main()
