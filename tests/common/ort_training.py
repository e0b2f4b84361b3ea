"""Drives an artifact with ONNX Runtime's training API, without torch: ort_training.py ARTIFACT DATA.npz STEPS RATE

DATA holds `x` and `labels` of STEPS batches one behind the other, and probes by their names, a step a row. Writes into ARTIFACT:
`losses.json`, `trained` (a checkpoint), `inference.onnx`, `logits.npz` (what that model gives for the first batch), and
`accumulated.npz` (gradients after two steps without a reset, and after one).
"""
import json
import os
import pathlib
import sys

import numpy as np
from onnxruntime import InferenceSession
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_inference_collection import OrtValue, get_ort_device_type

artifact, data, steps, rate = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
# Where a checkpoint's data stand in a file of their own, the API exports to relative paths only.
os.chdir(artifact)
manifest = json.loads(pathlib.Path("manifest.json").read_text())
device = C.OrtDevice(get_ort_device_type("cpu", 0), C.OrtDevice.default_memory(), 0)
options = C.SessionOptions()
options.intra_op_num_threads = 1


def load(checkpoint):
    state = C.load_checkpoint(checkpoint)
    module = C.Module("training_model.onnx", state, "eval_model.onnx", device, options)
    return state, module, C.Optimizer("optimizer_model.onnx", state, device, options)


def feeds(step, names):
    def batch(name):
        rows = data[name]
        size = len(rows) // steps
        return rows[step * size : (step + 1) * size] if name in ("x", "labels") else rows[step]

    return [batch(name) for name in names]


def scalars(outputs, names):
    return {name: float(value.numpy()) for name, value in zip(names, outputs)}


def train_step(module, step):
    outputs = C.OrtValueVector()
    module.train_step(feeds(step, manifest["training"]["inputs"]), outputs)
    return scalars(outputs, manifest["training"]["outputs"])


def gradients(state):
    trained = (p["name"] for p in manifest["parameters"] if p["trainable"])
    return {name: state.get_parameter(name).grad.numpy().copy() for name in trained}


# Two batches accumulated, and the second alone after a reset.
state, module, _ = load("checkpoint")
train_step(module, 0)
first = gradients(state)
train_step(module, 1)
both = gradients(state)
module.lazy_reset_grad()
train_step(module, 1)
second = gradients(state)
kinds = {"first": first, "both": both, "second": second}
np.savez("accumulated.npz", **{f"{kind}/{name}": g for kind, all in kinds.items() for name, g in all.items()})

state, module, optimizer = load("checkpoint")
optimizer.set_learning_rate(rate)
record = []
for step in range(steps):
    record.append(train_step(module, step))
    optimizer.optimizer_step()
    module.lazy_reset_grad()
evaluated = C.OrtValueVector()
module.eval_step(feeds(0, manifest["eval"]["inputs"]), evaluated)
C.save_checkpoint(state, "trained", True)

predictions = manifest["eval"]["outputs"][1:]
module.export_model_for_inferencing("inference.onnx", predictions)
session = InferenceSession("inference.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(predictions, {"x": feeds(0, ["x"])[0]})
np.savez("logits.npz", exported=logits, evaluated=evaluated[1].numpy())

# λ is a parameter that can be set: without it the objective is the loss.
unregularised = []
for layer in manifest["layers"]:
    if layer["lambda_input"]:
        zero = OrtValue.ortvalue_from_numpy(np.array(0, np.float32))
        state.copy_parameter_from(layer["lambda_input"], zero._ortvalue)
        unregularised = [train_step(module, 0)]
pathlib.Path("losses.json").write_text(json.dumps({"steps": record, "unregularised": unregularised}))
