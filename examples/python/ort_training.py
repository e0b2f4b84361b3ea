"""Trains an artifact of `inject --format ort-training` with ONNX Runtime's training API, without torch.

    pip install onnxruntime-training-cpu==1.19.2        # CPython 3.8 to 3.11
    fam-onnx inject lenet.onnx --layer fc2 --lambda 0.01 --format ort-training -o lenet-ort.fam
    python ort_training.py lenet-ort.fam fam-onnx-demo/mnist --rate 0.1 --steps 300
    fam-onnx export lenet-ort.fam/trained -o lenet-fam.onnx
"""
import argparse, json, pathlib

import numpy as np
from onnxruntime.capi import _pybind_state as api  # `import onnxruntime.training` would import torch
from onnxruntime.capi.onnxruntime_inference_collection import OrtValue, get_ort_device_type
from files import read_digits


class Trainer:
    def __init__(self, artifact):
        self.artifact, self.manifest = artifact, json.loads((artifact / "manifest.json").read_text())
        path = lambda role: str(artifact / self.manifest[role]["path"])
        device, options = api.OrtDevice(get_ort_device_type("cpu", 0), api.OrtDevice.default_memory(), 0), api.SessionOptions()
        self.state = api.load_checkpoint(str(artifact / self.manifest["checkpoint"]))
        self.module = api.Module(path("training"), self.state, path("eval"), device, options)
        self.optimizer = api.Optimizer(path("optimizer"), self.state, device, options)

    def step(self, batch, rate):
        """One step; what `training.outputs` names: the loss, κ of each layer, the objective. `batch` is in the order of
        `training.inputs`."""
        outputs = api.OrtValueVector()
        self.module.train_step(batch, outputs)
        self.optimizer.set_learning_rate(rate)
        self.optimizer.optimizer_step()
        self.module.lazy_reset_grad()
        return {name: float(value.numpy()) for name, value in zip(self.manifest["training"]["outputs"], outputs)}

    def set_lambda(self, value):
        for layer in self.manifest["layers"]:
            value = OrtValue.ortvalue_from_numpy(np.array(value, np.float32))
            self.state.copy_parameter_from(layer["lambda_input"], value._ortvalue)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=pathlib.Path)
    parser.add_argument("digits", type=pathlib.Path, help="a directory with MNIST's IDX files")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.1, help="the learning rate")
    parser.add_argument("--batches", type=pathlib.Path, help="JSON, the samples of each step; else they are drawn")
    parser.add_argument("--record", type=pathlib.Path, help="write loss and κ of each step here, as JSON")
    args = parser.parse_args()

    x, y = read_digits(args.digits, "train")
    draw = np.random.default_rng(0)
    drawn = [draw.choice(len(x), 64, replace=False) for _ in range(args.steps)]
    batches = json.loads(args.batches.read_text()) if args.batches else drawn
    trainer = Trainer(args.artifact)
    steps = [trainer.step([x[batch], y[batch]], args.rate) for batch in batches]
    print(f"step {len(steps)}: loss {steps[-1]['loss']:.4f}, κ {steps[-1]['kappa']:.3f}")
    api.save_checkpoint(trainer.state, str(args.artifact / "trained"), True)
    if args.record:
        args.record.write_text(json.dumps([{"loss": s["loss"], "kappa": [s["kappa"]]} for s in steps]))
