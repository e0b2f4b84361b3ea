"""Trains an artifact with nothing but onnxruntime and numpy.

    fam-onnx demo
    python train.py fam-onnx-demo/lenet.fam fam-onnx-demo/mnist --rate 0.02 --steps 300
"""
import argparse, json, pathlib

import numpy as np
import onnxruntime

from files import read_digits, read_safetensors


def draw(probe, batch, random):
    """What a probe or a dropout's mask takes this step: random signs, or ones with their probability."""
    shape = [batch if size == "batch" else size for size in probe["shape"]]
    if probe["distribution"] == "rademacher":
        return random.choice(np.array([-1, 1], np.float32), shape)
    return (random.random(shape) < probe["probability"]).astype(np.float32)


def train(artifact, x, y, batches, rate):
    """Loss and κ of each step; the parameters and the optimiser's state at the end."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    graph, (images,), labels = manifest["graphs"]["train"], manifest["inputs"], manifest["labels"]
    session = onnxruntime.InferenceSession(artifact / graph["path"], providers=["CPUExecutionProvider"])
    taken, random = {i.name for i in session.get_inputs()}, np.random.default_rng(0)
    probes = [probe for layer in manifest["layers"] for probe in layer["probes"]] + manifest.get("masks", [])
    tensors = read_safetensors(artifact / "parameters.safetensors")
    record = []
    for batch in batches:
        feeds = {images: x[batch], labels: y[batch], graph["learning_rate"]: np.array(rate, np.float32)}
        feeds |= {p["name"]: draw(p, len(batch), random) for p in probes if p["name"] in taken}
        loss, *rest = session.run([graph["loss"], *graph["kappa"], *graph["updates"].values()], tensors | feeds)
        kappa, new = rest[: len(graph["kappa"])], rest[len(graph["kappa"]) :]
        tensors.update(zip(graph["updates"], new))
        record.append({"loss": float(loss), "kappa": [float(k) for k in kappa]})
    return record, tensors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=pathlib.Path)
    parser.add_argument("digits", type=pathlib.Path, help="a directory with MNIST's IDX files")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.02, help="the learning rate")
    parser.add_argument("--batches", type=pathlib.Path, help="JSON, the samples of each step; else they are drawn")
    parser.add_argument("--record", type=pathlib.Path, help="write loss and κ of each step here, as JSON")
    args = parser.parse_args()

    x, y = read_digits(args.digits, "train")
    draw = np.random.default_rng(0)
    drawn = [draw.choice(len(x), 64, replace=False) for _ in range(args.steps)]
    batches = json.loads(args.batches.read_text()) if args.batches else drawn
    record, tensors = train(args.artifact, x, y, batches, args.rate)
    print(f"step {len(record)}: loss {record[-1]['loss']:.4f}, κ {record[-1]['kappa']}")
    if args.record:
        args.record.write_text(json.dumps(record))
