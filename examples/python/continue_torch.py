"""A torch model trained with FAM and back again: exported, trained by fam-onnx, its weights put into the state_dict.

    python continue_torch.py fam-onnx-demo/mnist
"""
import pathlib, subprocess, sys, tempfile

import torch
from torch import nn

from files import read_digits, read_safetensors


def train_with_fam(model, example, data, layer, *options):
    """Trains `model` in place; `options` go to `fam-onnx train`."""
    with tempfile.TemporaryDirectory() as folder:
        file, artifact, run = (f"{folder}/model{end}" for end in (".onnx", ".fam", ".run"))
        # In the exporter's inference mode; README.md says how batch norm is kept.
        names = {"input_names": ["x"], "output_names": ["logits"]}
        torch.onnx.export(model.eval(), (example,), file, dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}}, **names)
        subprocess.run(["fam-onnx", "inject", file, "--layer", layer, "--lambda", "0.01", "--optimizer", "adamw", "-o", artifact], check=True)
        subprocess.run(["fam-onnx", "train", artifact, "--data", data, "-o", run, *options], check=True)
        (weights,) = pathlib.Path(run).glob("best/parameters.safetensors")
        trained = {name: torch.from_numpy(value.copy()) for name, value in read_safetensors(weights).items()}
    # Beside the parameters there is the optimiser's state, which torch does not know.
    model.load_state_dict({name: trained[name] for name in model.state_dict()})


def accuracy(model, x, labels):
    with torch.no_grad():
        return (model(torch.from_numpy(x)).argmax(1) == torch.from_numpy(labels)).float().mean().item()


if __name__ == "__main__":
    digits = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    test = read_digits(digits, "t10k")
    before = accuracy(model, *test)
    train_with_fam(model, torch.zeros(2, 1, 28, 28), digits, "9", "--val", "0.1", "--epochs", "5", "--lr", "2e-3")
    after = accuracy(model, *test)
    print(f"accuracy on the test digits: {before:.3f} before, {after:.3f} after")
    sys.exit(after < 0.85)
