"""What `inspect` predicts of κ's cost, beside what ONNX Runtime takes: a table in Markdown.

Time: the median of train.onnx's steps with κ over that of steps without, run in turn on one thread. FLOPs: those of κ and
its gradient, predicted, over those of the nodes that `inject` adds.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0

    python benches/cost.py [--binary target/release/fam-onnx] [--rounds 60] [--only lenet]
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
CASES = [
    ("lenet", "fc3"), ("lenet", "fc2"), ("lenet", "fc1"), ("lenet", "conv2"),
    ("mlp-784-1024-512-10", "fc3"), ("mlp-784-1024-512-10", "fc2"),
    ("resnet", "fc"), ("resnet", "neck"),
    ("tokens", "head.fc"), ("tokens", "encoder.out"), ("tokens", "encoder.proj"),
]
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": bool, "tensor(double)": np.float64}
BATCH = 64


def model_file(name, folder):
    """A fixture, or a net of linear layers of these sizes with ReLU between, at a batch of 128."""
    if not name.startswith("mlp-"):
        return ROOT / "fixtures" / name / "model.onnx"
    import torch

    sizes = [int(n) for n in name.split("-")[1:]]
    file = folder / f"{name}.onnx"
    if not file.exists():
        torch.manual_seed(0)
        net = torch.nn.Sequential()
        for k, (m, d) in enumerate(zip(sizes, sizes[1:]), 1):
            net.add_module(f"fc{k}", torch.nn.Linear(m, d))
            if k + 1 < len(sizes):
                net.add_module(f"relu{k}", torch.nn.ReLU())
        torch.onnx.export(net, (torch.randn(128, sizes[0]),), str(file), dynamo=False)
    return file


def feeds(artifact, session):
    """Of every input: initial parameters, and random data."""
    rng = np.random.default_rng(0)
    initial = load_file(artifact / "parameters.safetensors")
    manifest = json.loads((artifact / "manifest.json").read_text())
    values = {}
    for port in session.get_inputs():
        shape = [n if isinstance(n, int) else BATCH for n in port.shape]
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
    def __init__(self, artifact):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        for name, value in feeds(artifact, self.session).items():
            self.binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        for port in self.session.get_outputs():
            if all(isinstance(n, int) for n in port.shape):
                value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(port.shape, DTYPES[port.type], "cpu")
                self.binding.bind_ortvalue_output(port.name, value)
            else:
                self.binding.bind_output(port.name)

    def __call__(self):
        self.session.run_with_iobinding(self.binding)


def times(artifacts, rounds):
    """The ratio of the second's median to the first's."""
    steps = [Step(a) for a in artifacts]
    taken = [[], []]
    for round in range(-10, rounds):
        for step, of in zip(steps, taken):
            start = time.perf_counter()
            step()
            if round >= 0:
                of.append(time.perf_counter() - start)
    plain, fam = map(statistics.median, taken)
    return 1e3 * plain, fam / plain


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=ROOT / "target/release/fam-onnx")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", help="one model")
    args = parser.parse_args()

    def tool(*arguments):
        return json.loads(subprocess.run([args.binary, *arguments, "--json"], check=True, capture_output=True).stdout)

    print("| model | layer | estimator | plain step, ms | steps with κ: predicted | measured | FLOPs |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, layer in CASES:
            if args.only not in (None, name):
                continue
            file = model_file(name, folder)
            found = next(l for l in tool("inspect", file)["layers"] if l["name"] == layer)
            for offer in found["estimators"]:
                if offer["overhead"] is None or offer["estimator"] == "gauss-newton":
                    continue
                artifacts = []
                for lam in ("0", "0.01"):
                    artifacts.append(folder / f"{name}-{layer}-{offer['estimator']}-{lam}.fam")
                    report = tool("inject", file, "--layer", layer, "--lambda", lam, "--momentum", "0.9",
                                  "--estimator", offer["estimator"], "-o", artifacts[-1])
                plain, ratio = times(artifacts, args.rounds)
                flops = offer["flops"] / report["fam"]["flops"]
                print(f"| {name} | `{layer}` | {offer['estimator']} | {plain:.2f} | {1 + offer['overhead']:.2f} "
                      f"| {ratio:.2f} | {flops:.2f} |", flush=True)


if __name__ == "__main__":
    main()
