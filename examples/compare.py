"""The same 100 steps from every language: fam-onnx train, Python, Node, C++, the browser, ONNX Runtime's training API.

    python compare.py --fam-onnx ../target/debug/fam-onnx --order ../target/debug/examples/order --ort-training PYTHON

Trains LeNet with FAM on the shipped digits, writes `curves.svg` and `curves.md` (the table) into --output, and fails where a
loss differs from that of `fam-onnx train` by more than 1e-4. This Python needs numpy, onnx, onnxruntime and matplotlib; PYTHON
has onnxruntime-training-cpu 1.19.2; `npm ci` was run in node/ and web/, and build.sh in cpp/.

The LeNet compared is that of 1998, with tanh and average pooling. With ReLU and maximum pooling, some activation of the
thirty million in these steps lies within a rounding error of its kink, and kernels of different builds then go separate ways.
"""
import argparse, json, pathlib, shutil, subprocess, sys

here = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(here / "python"))
import onnx

import plot

STEPS, BATCH, RATE, SAMPLES = 100, 64, 0.002, 1000
INJECT = ["--lambda", "0.01", "--estimator", "exact", "--optimizer", "adamw"]
TOLERANCE = 1e-4

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--fam-onnx", default="fam-onnx", help="the program")
parser.add_argument("--order", required=True, help="the built example order.rs")
parser.add_argument("--ort-training", required=True, help="a Python with ONNX Runtime's training API")
parser.add_argument("--work", type=pathlib.Path, default=here.parent / "target/compare", help="made anew")
parser.add_argument("--output", type=pathlib.Path, default=here.parent / "target/compare/results")
parser.add_argument("--screenshot", type=pathlib.Path, help="where a picture of the page is written")
args = parser.parse_args()


def run(*words, **options):
    subprocess.run([str(word) for word in words], check=True, **options)


work, fixtures = args.work, here.parent / "fixtures"
shutil.rmtree(work, ignore_errors=True)
(work / "training").mkdir(parents=True)
for part in ("images-idx3", "labels-idx1"):  # without the test digits: a run would evaluate on them
    shutil.copy(fixtures / f"mnist/train-{part}-ubyte.gz", work / "training")


def smooth_lenet(path):
    model = onnx.load(fixtures / "lenet/model.onnx")
    for node in model.graph.node:
        node.op_type = {"Relu": "Tanh", "MaxPool": "AveragePool"}.get(node.op_type, node.op_type)
        if node.op_type == "AveragePool":
            for attribute in [a for a in node.attribute if a.name not in ("kernel_shape", "strides", "pads")]:
                node.attribute.remove(attribute)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def inject(model, layer, artifact, *options):
    run(args.fam_onnx, "-q", "inject", model, "--layer", layer, *INJECT, *options, "-o", artifact, stdout=subprocess.DEVNULL)


batches = work / "batches.json"
batches.write_text(subprocess.run([args.order, str(SAMPLES), str(BATCH), str(STEPS)], check=True, capture_output=True, text=True).stdout)

artifacts = {kind: work / f"lenet-{kind}.fam" for kind in ("standard", "ort-training")}
smooth_lenet(work / "lenet.onnx")
for kind, artifact in artifacts.items():
    inject(work / "lenet.onnx", "fc3", artifact, "--format", kind)
rust = work / "rust.run"
training = ["--steps", STEPS, "--batch-size", BATCH, "--lr", RATE, "--log-every", 1, "--device", "cpu"]
run(args.fam_onnx, "-q", "train", artifacts["standard"], "--data", work / "training", "-o", rust, *training, stdout=subprocess.DEVNULL)

record = {name: work / f"{name}.json" for name in ("Python", "Node", "C++", "browser", "ORT training")}
common = ["--rate", RATE, "--batches", batches, "--record"]
digits, standard = fixtures / "mnist", artifacts["standard"]
run(sys.executable, here / "python/train.py", standard, digits, *common, record["Python"])
run(args.ort_training, here / "python/ort_training.py", artifacts["ort-training"], digits, *common, record["ORT training"])
run(args.fam_onnx, "export", artifacts["ort-training"] / "trained", "-o", work / "ort-training.onnx")
run("node", here / "node/train.js", standard, digits, *common, record["Node"], "--model", work / "node.onnx")
run(here / "cpp/train", standard, digits, RATE, STEPS, batches, record["C++"])
run("node", here / "web/build.js", standard, digits)
run("node", here / "web/drive.js", "--steps", STEPS, *common, record["browser"], "--model", work / "browser.onnx")
# The page as it is meant to be used: ReLU, κ of a hidden layer, batches of its own.
inject(fixtures / "lenet/model.onnx", "fc2", work / "lenet-relu.fam")
run("node", here / "web/build.js", work / "lenet-relu.fam", digits)
run("node", here / "web/drive.js", "--steps", 200, *(["--screenshot", args.screenshot] if args.screenshot else []))

runs = {"Rust": plot.read(rust), **{name: plot.read(path) for name, path in record.items()}}
args.output.mkdir(parents=True, exist_ok=True)
plot.plot(runs, args.output / "curves.svg")


def apart(curves, which):
    """The largest difference from `fam-onnx train`."""
    return max(abs(a - b) for (_, a), (_, b) in zip(curves[which], runs["Rust"][which], strict=True))


shown = (1, 25, 50, 75, 100)
lines = [f"| | {' | '.join(f'step {step}' for step in shown)} | largest difference |", "|---|" + "---|" * (len(shown) + 1)]
for name, curves in runs.items():
    losses = " | ".join(f"{curves[0][step - 1][1]:.6f}" for step in shown)
    lines.append(f"| {name} | {losses} | {f'{apart(curves, 0):.1e}' if name != 'Rust' else ''} |")
table = "\n".join(lines) + "\n"
(args.output / "curves.md").write_text(table)
print(table)
models = [work / name for name in ("node.onnx", "browser.onnx", "ort-training.onnx")]
run(sys.executable, here / "python/agree.py", digits, *models)
far = [name for name, curves in runs.items() if not apart(curves, 0) <= TOLERANCE]
sys.exit(f"further than {TOLERANCE} from fam-onnx train: {', '.join(far)}" if far else 0)
