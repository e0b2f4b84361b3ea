"""The 5,000 digits of fixtures/mnist as .npz files: N to train on, 2,000 others to test with.

numpy==2.4.6

    python benches/digits.py 1000 OUT        writes OUT/train.npz and OUT/test.npz

The test digits are the same whatever N is (at most 3,000).
"""
import gzip
import pathlib
import sys

import numpy as np

MNIST = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "mnist"
TEST = 2000


def read():
    """All images, float32 from 0 to 1, and labels: the 1,000 of the training files first."""
    raw = lambda name: np.frombuffer(gzip.open(MNIST / f"{name}-ubyte.gz").read(), np.uint8)
    images = [raw(f"{part}-images-idx3")[16:].reshape(-1, 1, 28, 28) for part in ("train", "t10k")]
    labels = [raw(f"{part}-labels-idx1")[8:] for part in ("train", "t10k")]
    return (np.concatenate(images) / np.float32(255)).astype(np.float32), np.concatenate(labels).astype(np.int64)


def split(count):
    """(x, y) of `count` training digits and of the test digits."""
    x, y = read()
    if not 0 < count <= len(x) - TEST:
        raise SystemExit(f"{count} training digits; expected 1 to {len(x) - TEST}")
    return (x[:count], y[:count]), (x[-TEST:], y[-TEST:])


def write(count, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in zip(("train", "test"), split(count)):
        np.savez(directory / f"{name}.npz", x=x, labels=y)


if __name__ == "__main__":
    write(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
