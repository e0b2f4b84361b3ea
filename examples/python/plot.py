"""Plots loss and κ of runs over their steps:

    python plot.py FAM=lenet.fam.run plain=lenet-plain.fam.run -o curves.svg

A run is a directory of `fam-onnx train`, or a JSON file that the other examples write with --record.
"""
import argparse, json, pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def read(path):
    """Loss and κ (of the first layer) of each step: two lists of (step, value)."""
    if path.is_dir():
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "lr" in line]  # the others are validations
        kappa = [(s["step"], next((v for k, v in s.items() if k.startswith("kappa")), None)) for s in steps]
        return [(s["step"], s["loss"]) for s in steps], [(step, k) for step, k in kappa if k is not None]
    record = json.loads(path.read_text())
    kappa = [(step, s["kappa"][0]) for step, s in enumerate(record, 1) if s["kappa"]]
    return [(step, s["loss"]) for step, s in enumerate(record, 1)], kappa


def plot(runs, path):
    """`runs`: name → what `read` gives."""
    pyplot.rcParams.update({"svg.hashsalt": "fam-onnx", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    styles = ["-", "--", "-.", (0, (6, 4)), ":", (0, (1, 3))]
    for axis, which, label in zip(axes, (0, 1), ("loss", "κ")):
        for (name, curves), style in zip(runs.items(), styles * len(runs)):
            axis.plot(*zip(*curves[which]), linestyle=style, label=name)
        axis.set(xlabel="step", ylabel=label, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("curves.svg"))
    args = parser.parse_args()
    plot({name: read(pathlib.Path(run)) for name, _, run in (run.partition("=") for run in args.runs)}, args.output)
