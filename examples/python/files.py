"""Reads what the examples need with nothing but numpy: safetensors files and MNIST's digits."""
import gzip, json, struct

import numpy as np

TYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "BOOL": np.bool_}


def read_safetensors(path):
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = {k: v for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
    part = lambda t: data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]
    return {name: np.frombuffer(part(t), TYPES[t["dtype"]]).reshape(t["shape"]) for name, t in header.items()}


def read_digits(folder, name):
    """Pixels from 0 to 1, and labels."""
    raw = lambda kind: gzip.open(folder / f"{name}-{kind}-ubyte.gz").read()
    pixels, labels = (np.frombuffer(raw(kind), np.uint8) for kind in ("images-idx3", "labels-idx1"))
    return pixels[16:].reshape(-1, 1, 28, 28) / np.float32(255), labels[8:].astype(np.int64)
