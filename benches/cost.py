"""What `inspect` predicts of κ's cost, beside what ONNX Runtime takes: a table in Markdown.

Time: the shortest of train.onnx's steps with κ over the shortest without, in processor time of one thread, run in turn.
FLOPs: those of κ and its gradient, predicted, over those of the nodes that `inject` adds.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0

    python benches/cost.py [--binary target/release/fam-onnx] [--rounds 60] [--only lenet]
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

import nets

# Model, batch, layer; the constants of the prediction are fitted on the first part.
FITTED = [
    ("lenet", 64, "fc3"), ("lenet", 64, "fc2"), ("lenet", 64, "fc1"), ("lenet", 64, "conv2"),
    ("mlp-784-1024-512-10", 128, "fc3"), ("mlp-784-1024-512-10", 128, "fc2"),
    ("resnet", 64, "fc"), ("resnet", 64, "neck"),
    ("tokens", 64, "head.fc"), ("tokens", 64, "encoder.out"), ("tokens", 64, "encoder.proj"),
]
HELD_OUT = [
    ("wide-cnn", 64, "fc2"), ("wide-cnn", 64, "fc1"), ("wide-cnn", 64, "conv3"),
    ("mlp-256-512-512-512-512-512-512-512-512-10", 32, "fc8"), ("mlp-256-512-512-512-512-512-512-512-512-10", 32, "fc4"),
    ("encoder-192", 32, "fc"), ("encoder-192", 32, "down"), ("encoder-192", 32, "out"),
    ("convnext", 32, "fc"), ("convnext", 32, "down"),
]
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": bool, "tensor(double)": np.float64}


def ports(path):
    """Inputs of a graph that has no session: name, type, shape."""
    graph = onnx.load(path).graph
    names = {1: "tensor(float)", 7: "tensor(int64)", 9: "tensor(bool)", 11: "tensor(double)"}
    dims = lambda port: [d.dim_value if d.HasField("dim_value") else d.dim_param for d in port.type.tensor_type.shape.dim]
    return [SimpleNamespace(name=p.name, type=names[p.type.tensor_type.elem_type], shape=dims(p)) for p in graph.input]


def feeds(artifact, ports, batch):
    """Of every input: initial parameters, and random data."""
    rng = np.random.default_rng(0)
    initial = load_file(artifact / "parameters.safetensors")
    manifest = json.loads((artifact / "manifest.json").read_text())
    values = {}
    for port in ports:
        shape = [n if isinstance(n, int) else batch for n in port.shape]
        if port.name in initial:
            values[port.name] = initial[port.name]
        elif port.name == manifest["labels"]:
            values[port.name] = rng.integers(0, 2, shape).astype(DTYPES[port.type])
        elif not shape:
            values[port.name] = np.array(1e-3, DTYPES[port.type])
        else:
            values[port.name] = np.sign(rng.standard_normal(shape)).astype(DTYPES[port.type]) * rng.random(shape, np.float32)
    return values


class Step:
    def __init__(self, artifact, batch):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        for name, value in feeds(artifact, self.session.get_inputs(), batch).items():
            self.binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        for port in self.session.get_outputs():
            if all(isinstance(n, int) for n in port.shape):
                value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(port.shape, DTYPES[port.type], "cpu")
                self.binding.bind_ortvalue_output(port.name, value)
            else:
                self.binding.bind_output(port.name)

    def __call__(self):
        self.session.run_with_iobinding(self.binding)


def times(artifacts, batch, rounds):
    """The first's shortest step in milliseconds of processor time, and the ratio of the second's shortest to it."""
    steps = [Step(a, batch) for a in artifacts]
    taken = [[], []]
    for round in range(-10, rounds):
        for step, of in zip(steps, taken):
            start = time.thread_time()
            step()
            if round >= 0:
                of.append(time.thread_time() - start)
    # What else the machine does, in shared caches too, makes steps longer, never shorter.
    plain, fam = map(min, taken)
    return 1e3 * plain, fam / plain


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=nets.ROOT / "target/release/fam-onnx")
    parser.add_argument("--rounds", type=int, default=60, help="0: only operations")
    parser.add_argument("--only", help="one model")
    parser.add_argument("--limit", type=float, default=20, help="plain steps above which a way is left out")
    args = parser.parse_args()

    def tool(*arguments):
        return json.loads(subprocess.run([args.binary, *arguments, "--json"], check=True, capture_output=True).stdout)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for title, cases in (("fitted", FITTED), ("held out", HELD_OUT)):
            print(f"\n| {title}: model, layer | estimator | plain step, ms | steps with κ: predicted | measured | ratio | FLOPs |")
            print("|---|---|---|---|---|---|---|")
            for name, batch, layer in cases:
                if args.only in (None, name):
                    case(tool, folder, name, batch, layer, args)


def case(tool, folder, name, batch, layer, args):
    file = nets.model_file(name, folder, batch)
    found = next(l for l in tool("inspect", file)["layers"] if l["name"] == layer)
    for offer in found["estimators"]:
        if offer["overhead"] is None or offer["estimator"] == "gauss-newton" or offer["overhead"] > args.limit:
            continue
        artifacts = []
        for lam in ("0", "0.01"):
            artifacts.append(folder / f"{name}-{layer}-{offer['estimator']}-{lam}.fam")
            report = tool("inject", file, "--layer", layer, "--lambda", lam, "--momentum", "0.9",
                          "--estimator", offer["estimator"], "-o", artifacts[-1])
        flops, predicted = offer["flops"] / report["fam"]["flops"], 1 + offer["overhead"]
        if args.rounds == 0:
            print(f"| {name} `{layer}` | {offer['estimator']} | | {predicted:.2f} | | | {flops:.2f} |", flush=True)
            continue
        plain, ratio = times(artifacts, batch, args.rounds)
        print(f"| {name} `{layer}` | {offer['estimator']} | {plain:.2f} | {predicted:.2f} | {ratio:.2f} "
              f"| {predicted / ratio:.2f} | {flops:.2f} |", flush=True)


if __name__ == "__main__":
    main()
