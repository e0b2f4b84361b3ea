"""The gradient of a convolution in its image: ONNX Runtime's ConvTranspose and the product of gathered places that
src/simplify/small_images.rs writes, beside PyTorch's, over sizes of images; and the number of places up to which the product is
taken (`PLACES` there), refitted.

Medians of runs that take turns, one thread. Prints a table and the fit.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

    python benches/small_images.py [--turns 15]
"""
import argparse
import itertools
import statistics

from convolution import interleaved, ints, session

import numpy as np
import onnxruntime
import torch
from onnx import helper

# Batch, channels of the image, channels of the cotangent, image, kernel; one place apart, padded to the same size.
SHAPES = [
    (64, 512, 512, 2, 3),
    (16, 96, 96, 3, 3),
    (32, 16, 16, 4, 3),
    (32, 64, 64, 4, 3),
    (8, 256, 256, 4, 3),
    (32, 512, 512, 4, 3),
    (32, 128, 128, 4, 5),
    (32, 32, 32, 6, 5),
    (64, 256, 256, 6, 3),
    (32, 512, 512, 7, 3),
    (32, 16, 16, 8, 3),
    (32, 64, 64, 8, 3),
    (32, 128, 64, 8, 3),
    (1, 256, 256, 8, 3),
    (32, 256, 256, 8, 3),
    (32, 64, 64, 12, 3),
    (32, 128, 128, 12, 3),
    (32, 64, 64, 16, 3),
    (32, 128, 128, 16, 3),
]


def transposed(n, c, m, size, k):
    node = helper.make_node("ConvTranspose", ["ct", "w"], ["y"], pads=[k // 2] * 4)
    return session([node], {"ct": (n, m, size, size), "w": (m, c, k, k)}, {})


def product(n, c, m, size, k):
    places, taps = size * size, k * k
    read = np.full((size, size, k, k), places, np.int64)
    for y, x, a, b in itertools.product(range(size), range(size), range(k), range(k)):
        row, column = y + k // 2 - a, x + k // 2 - b
        if 0 <= row < size and 0 <= column < size:
            read[y, x, a, b] = row * size + column
    node = helper.make_node
    return session(
        [
            node("Reshape", ["ct", "flat"], ["r0"]),
            node("Transpose", ["r0"], ["r1"], perm=[0, 2, 1]),
            node("Pad", ["r1", "behind"], ["r2"]),
            node("Gather", ["r2", "read"], ["r3"], axis=1),
            node("Reshape", ["r3", "rows"], ["r4"]),
            node("Reshape", ["w", "pairs"], ["w0"]),
            node("Transpose", ["w0"], ["w1"], perm=[1, 0]),
            node("Reshape", ["w1", "filters"], ["w2"]),
            node("MatMul", ["r4", "w2"], ["y0"]),
            node("Reshape", ["y0", "apart"], ["y1"]),
            node("Transpose", ["y1"], ["y2"], perm=[0, 2, 1]),
            node("Reshape", ["y2", "image"], ["y"]),
        ],
        {"ct": (n, m, size, size), "w": (m, c, k, k)},
        {"flat": ints(-1, m, places), "behind": ints(0, 0, 0, 0, 1, 0), "read": read.reshape(-1), "rows": ints(-1, taps * m),
         "pairs": ints(m * c, taps), "filters": ints(taps * m, c), "apart": ints(-1, places, c), "image": ints(-1, c, size, size)},
    )  # fmt: skip


def measure(shape, turns):
    n, c, m, size, k = shape
    rng = np.random.default_rng(0)
    ct, w = rng.standard_normal((n, m, size, size), np.float32), rng.standard_normal((m, c, k, k), np.float32)
    tensors = torch.tensor(ct), torch.zeros(n, c, size, size), torch.tensor(w)
    by_torch = lambda: torch.ops.aten.convolution_backward(
        *tensors, None, [1, 1], [k // 2] * 2, [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]
    feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in {"ct": ct, "w": w}.items()}
    ways, expected = {"torch": by_torch}, by_torch().numpy()
    for make in (transposed, product):
        made = make(*shape)
        run = lambda made=made: made.run_with_ort_values(None, feeds)[0]
        assert np.abs(run().numpy() - expected).max() <= 1e-4 * np.abs(expected).max(), (make.__name__, shape)
        ways[make.__name__] = run
    return interleaved(ways, turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| batch | channels | image | kernel | ConvTranspose | product | PyTorch |\n|" + "---|" * 7)
    found = []
    for shape in SHAPES:
        n, c, m, size, k = shape
        ms = measure(shape, args.turns)
        found.append((size * size, ms))
        print(f"| {n} | {m} → {c} | {size}² | {k}² | {ms['transposed']:.2f} | {ms['product']:.2f} | {ms['torch']:.2f} |", flush=True)

    def cost(limit):
        """Milliseconds over the better of both, as a geometric mean."""
        chosen = [ms["product" if places <= limit else "transposed"] / min(ms["transposed"], ms["product"]) for places, ms in found]
        return statistics.geometric_mean(chosen)

    best = min(sorted({places for places, _ in found}), key=cost)
    print(f"\nproducts up to {best} places: {cost(best):.3f} of the better way; up to 64: {cost(64):.3f}")


if __name__ == "__main__":
    main()
