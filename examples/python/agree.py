"""Whether models say the same of the test digits: agree.py DIGITS MODEL.onnx …"""
import pathlib, sys

import numpy as np
import onnxruntime

from files import read_digits

digits, models = pathlib.Path(sys.argv[1]), sys.argv[2:]
x, labels = read_digits(digits, "t10k")
run = lambda model: onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
logits = {model: run(model) for model in models}
first = next(iter(logits.values()))
for model, found in logits.items():
    apart = np.abs(found - first).max()
    print(f"{pathlib.Path(model).name}: accuracy {(found.argmax(1) == labels).mean():.4f}, logits within {apart:.1e} of the first's")
    if not apart < 1e-2:
        sys.exit(1)
