"""The time and memory of a training step with κ and without, beside PyTorch: a table and a plot in docs/.

Every way (workers of worker.py) has a process of its own; one works at a time, and they take turns, so that all of them
meet the same moods of the machine. Times are medians; ratios are medians of the ratios of the same turn.

torch==2.15.0 torchvision==0.30.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0 matplotlib==3.11.2
ONNX Runtime's training API takes plain SGD; every other way SGD with momentum and weight decay.

    cargo build --release && python benches/speed/compare.py --threads 1
    python benches/speed/compare.py --only 'lenet fc2' --no-docs
"""
import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Weights of a layer up to which its whole Hessian is taken.
REFERENCE_LIMIT = 11_000


class Worker:
    def __init__(self, python, *arguments):
        command = [python, HERE / "worker.py", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, line):
        """What it prints next; None if it has died."""
        try:
            if line is not None:
                self.process.stdin.write(f"{line}\n")
                self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else None

    def reason(self):
        self.process.kill()
        lines = [line for line in self.process.stderr.read().splitlines() if line.strip()]
        return lines[-1][:150] if lines else f"exit code {self.process.wait()}"


@dataclasses.dataclass
class Measured:
    seconds: dict
    """way → seconds of each turn."""
    memory: dict
    """way → MB at most, less what stood after the imports."""
    missing: dict
    """way → why."""
    layers: dict
    """way → estimator and predicted overhead."""

    def ratio(self, way, to):
        if way not in self.seconds or to not in self.seconds:
            return None
        return statistics.median(a / b for a, b in zip(self.seconds[way], self.seconds[to]))


# ---- one workload ----------------------------------------------------------------------------------------------------


def export(workload, folder):
    import numpy as np
    import torch
    import workloads

    model = workloads.model(workload)
    x, y = workloads.data(workload)
    mode = torch.onnx.TrainingMode.PRESERVE if workload.train_batch_norm else torch.onnx.TrainingMode.EVAL
    # Sizes are known to both sides: PyTorch sees them in the tensors.
    torch.onnx.export(
        model.eval(), (x,), str(folder / "model.onnx"), dynamo=False, training=mode, input_names=["x"], output_names=["logits"]
    )
    np.savez(folder / "batch.npz", x=x.numpy(), labels=y.numpy(), loss=workload.loss)


def inject(program, workload, folder, strength, estimator):
    directory = folder / f"{estimator}-{strength}"
    command = [program, "--json", "inject", folder / "model.onnx", "-o", directory, "--layer", workload.layer]
    command += ["--lambda", strength, "--estimator", estimator, "--loss", workload.loss]
    command += ["--batch-norm", "train"] if workload.train_batch_norm else []
    command += ["--momentum", "0.9", "--weight-decay", "5e-4"]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(next(line for line in made.stderr.splitlines() if line.startswith("error")))
    (directory / "batch.npz").write_bytes((folder / "batch.npz").read_bytes())
    return directory, json.loads(made.stdout)


def ways(args, key, workload, folder):
    """way → the worker's interpreter and arguments; what is known of κ."""
    found, about = {}, {}
    plain, _ = inject(args.program, workload, folder, "0", "exact" if "exact" in workload.estimators else "hutchinson")
    found["plain"] = (sys.executable, "artifact", key, args.threads, plain)
    for estimator in workload.estimators:
        directory, report = inject(args.program, workload, folder, "0.01", estimator)
        layer = report["layers"][0]
        step = report["forward"]["flops"] + report["plain"]["flops"]
        about[estimator] = {"estimator": layer["estimator"], "flops": 1 + report["fam"]["flops"] / step, "head": layer["head"]}
        found[estimator] = (sys.executable, "artifact", key, args.threads, directory)
    torch_ways = ["torch", "torch-kappa", "torch-sam"] + (["torch-compile"] if args.compile else [])
    if layer["d"] * layer["m"] <= REFERENCE_LIMIT and workload.loss == "softmax-cross-entropy" and not workload.train_batch_norm:
        torch_ways.append("torch-reference")
    for way in torch_ways:
        found[way] = (sys.executable, way, key, args.threads)
    if args.training_python:
        found["ort-training"] = (args.training_python, "ort-training", key, args.threads, folder)
    return found, about


def measure(args, key, workload):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        export(workload, folder)
        found, about = ways(args, key, workload, folder)
        measured = Measured({}, {}, {}, about)
        workers = {}
        for way, command in found.items():
            worker = Worker(*command)
            # The first steps: compilation, arenas, caches.
            if worker.ask(None) is None or worker.ask(1 if way == "torch-reference" else 3) is None:
                measured.missing[way] = worker.reason()
                continue
            workers[way] = worker
            measured.seconds[way] = []
        began = time.perf_counter()
        for turn in range(args.turns):
            if turn >= 15 and time.perf_counter() - began > args.budget:
                break
            for way, worker in workers.items():
                if way == "torch-reference" and turn >= 3:
                    continue
                measured.seconds[way] += worker.ask(1)
        for way, worker in workers.items():
            measured.memory[way] = worker.ask("")["memory"]
            worker.process.kill()
    return measured


# ---- table and plot --------------------------------------------------------------------------------------------------


def text(value, form="{:.2f}"):
    return "–" if value is None else form.format(value)


def geometric_mean(values):
    values = [v for v in values if v is not None]
    return statistics.geometric_mean(values) if values else None


def milliseconds(measured, way):
    return text(1e3 * statistics.median(measured.seconds[way]) if way in measured.seconds else None, "{:.3g}")


def megabytes(measured, way):
    return text(measured.memory.get(way), "{:.0f}")


def nets(results):
    """Each net once, however many of its layers are there."""
    found = {}
    for key, m in results.items():
        found.setdefault(key.rsplit(" ", 1)[0], m)
    return found


def tables(results):
    head = ["net", "plain", "PyTorch", "compiled", "ORT training", "plain / PyTorch", "plain / ORT training", "MB", "MB, PyTorch"]
    rows = [
        [key, milliseconds(m, "plain"), milliseconds(m, "torch"), milliseconds(m, "torch-compile"), milliseconds(m, "ort-training"),
         text(m.ratio("plain", "torch")), text(m.ratio("plain", "ort-training")), megabytes(m, "plain"), megabytes(m, "torch")]
        for key, m in nets(results).items()
    ]  # fmt: skip
    means = [geometric_mean(m.ratio("plain", to) for m in nets(results).values()) for to in ("torch", "ort-training")]
    rows.append(["geometric mean", "", "", "", "", *map(text, means), "", ""])
    plain = lines(head, rows)
    head = ["workload", "head", "estimator", "FAM", "FAM / plain", "FLOPs", "by hand in PyTorch", "FAM / by hand", "SAM in PyTorch", "whole Hessian", "whole Hessian / FAM"]
    rows = []
    for key, m in results.items():
        for way, about in m.layers.items():
            if way not in m.seconds:
                continue
            kind = about["estimator"] + (" (auto)" if way == "auto" else "")
            rows.append([key, about["head"], kind, milliseconds(m, way), text(m.ratio(way, "plain")), text(about["flops"]),
                         milliseconds(m, "torch-kappa"), text(m.ratio(way, "torch-kappa")), milliseconds(m, "torch-sam"),
                         milliseconds(m, "torch-reference"), text(m.ratio("torch-reference", way), "{:.0f}")])  # fmt: skip
    auto = [geometric_mean(m.ratio("auto", to) for m in results.values()) for to in ("plain", "torch-kappa")]
    rows.append(["geometric mean, auto", "", "", "", text(auto[0]), "", "", text(auto[1]), "", "", ""])
    missing = [f"- {key.rsplit(' ', 1)[0]}, {way}: {why}" for key, m in results.items() for way, why in m.missing.items()]
    return plain, lines(head, rows), "\n".join(dict.fromkeys(missing))


def lines(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "speed"
    from matplotlib import pyplot

    kinds = {"plain": "plain", "auto": "FAM", "torch": "plain, PyTorch", "torch-kappa": "κ by hand, PyTorch", "torch-sam": "SAM, PyTorch"}
    figure, axis = pyplot.subplots(figsize=(11, 4.5))
    width = 0.8 / len(kinds)
    for k, (way, label) in enumerate(kinds.items()):
        points = [(i, m.ratio(way, "torch")) for i, m in enumerate(results.values()) if m.ratio(way, "torch")]
        axis.bar([i + (k - 2) * width for i, _ in points], [r for _, r in points], width, label=label)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks(range(len(results)), results, rotation=25, ha="right", fontsize=8)
    axis.set_ylabel("time of a step, in plain steps of PyTorch eager")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/fam-onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=60, help="at most; at least 15")
    parser.add_argument("--budget", type=float, default=30, help="seconds a workload, about, behind 15 turns")
    parser.add_argument("--only", action="append", help="a workload; may be repeated")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--training-python", help="a Python with onnxruntime-training 1.19.2, onnx and torch")
    parser.add_argument("--no-docs", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    import onnxruntime
    import torch
    import workloads

    torch.set_num_threads(args.threads)
    results = {}
    for key, workload in workloads.WORKLOADS.items():
        if args.only and key not in args.only:
            continue
        results[key] = measure(args, key, workload)
        print(key, {way: f"{1e3 * statistics.median(s):.3g} ms" for way, s in results[key].seconds.items()}, results[key].missing, flush=True)
    plain, fam, missing = tables(results)
    print(f"{plain}\n\n{fam}\n\n{missing}")
    if args.no_docs:
        return
    sizes = {key.rsplit(" ", 1)[0]: "×".join(map(str, [w.batch, *w.sample])) for key, w in workloads.WORKLOADS.items() if key in results}
    batches = ", ".join(f"{net}: {size}" for net, size in sizes.items())
    page = (ROOT / "docs/speed.md")
    page.write_text(
        f"Milliseconds a training step (SGD with momentum and weight decay), float32, {args.threads} thread(s) of {processor()}; "
        f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}. Written by `benches/speed/compare.py`; every way "
        "in a process of its own, taking turns; medians. MB: what building and running the steps adds to the process.\n\n"
        f"## Plain steps\n\n{plain}\n\n## Steps with κ\n\n{fam}\n\n![The same as bars](speed.svg)\n\n"
        f"Batches: {batches}.\n" + (f"\nNot there:\n\n{missing}\n" if missing else "")
    )
    draw(results, ROOT / "docs/speed.svg")


if __name__ == "__main__":
    main()
