"""The gradient of a convolution in its filter: the two ways that are written, beside PyTorch's, over classes of shapes; and the
number of columns from which on the second is taken (`COLUMNS` in src/linear/exchanged.rs), refitted.

- columns: the image's windows picked by a grouped convolution with the identity, a product an image, a sum;
- exchanged: one convolution, batch and channels exchanged, the cotangent as its filter.

Medians of runs that take turns, one thread. Prints a table and the fit.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

    python benches/convolution.py [--turns 15]
"""
import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

# Batch, channels in and out, image, kernel, stride, padding, groups.
SHAPES = [
    (64, 2, 6, 28, 5, 1, 2, 1),
    (64, 6, 16, 14, 5, 1, 0, 1),
    (8, 2, 16, 64, 3, 1, 1, 1),
    (32, 3, 16, 32, 3, 1, 1, 1),
    (16, 3, 16, 96, 3, 2, 1, 1),
    (16, 3, 64, 64, 7, 2, 3, 1),
    (64, 4, 8, 28, 3, 1, 1, 1),
    (64, 8, 8, 28, 3, 1, 1, 1),
    (8, 16, 16, 64, 3, 1, 1, 1),
    (8, 32, 16, 64, 3, 1, 1, 1),
    (32, 16, 64, 32, 3, 1, 1, 1),
    (32, 64, 64, 32, 3, 1, 1, 1),
    (32, 64, 128, 32, 3, 2, 1, 1),
    (32, 128, 128, 16, 3, 1, 1, 1),
    (32, 256, 256, 8, 3, 1, 1, 1),
    (32, 512, 512, 4, 3, 1, 1, 1),
    (32, 64, 64, 16, 3, 1, 1, 4),
    (16, 72, 72, 24, 3, 2, 1, 72),
    (16, 96, 96, 12, 5, 2, 2, 96),
    (16, 240, 240, 6, 5, 1, 2, 240),
    (16, 576, 576, 3, 5, 1, 2, 576),
]


def session(nodes, inputs, constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ints(*values):
    return np.array(values, np.int64)


def columns(n, c, m, size, k, stride, pad, groups):
    out = (size + 2 * pad - k) // stride + 1
    taps, positions, each = k * k, out * out, c // groups
    identity = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, k, k), (c, 1, 1, 1))
    node = helper.make_node
    rows = {"cols": ints(n, groups, each * taps, positions), "rows": ints(n, groups, m // groups, positions)}
    return session(
        [
            node("Conv", ["x", "identity"], ["c0"], group=c, strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[k, k]),
            node("Reshape", ["c0", "cols"], ["c1"]),
            node("Reshape", ["ct", "rows"], ["r0"]),
            node("Transpose", ["r0"], ["r1"], perm=[0, 1, 3, 2]),
            node("MatMul", ["c1", "r1"], ["q0"]),
            node("ReduceSum", ["q0", "zero"], ["q1"], keepdims=0),
            node("Transpose", ["q1"], ["q2"], perm=[0, 2, 1]),
            node("Reshape", ["q2", "shape"], ["y"]),
        ],
        {"x": (n, c, size, size), "ct": (n, m, out, out)},
        {"identity": identity, **rows, "zero": ints(0), "shape": ints(m, each, k, k)},
    )


def exchanged(n, c, m, size, k, stride, pad, groups):
    out = (size + 2 * pad - k) // stride + 1
    each = c // groups
    unread = size + 2 * pad - (out - 1) * stride - k
    # Axes of size 1 take part in no transposition.
    last = [each] if each > 1 else []
    sizes = {"split": [groups, each], "image": [size, size, *last], "filter": [out, out, *[1 for _ in last]]}
    split = [n] + [axis for axis in sizes["split"] if axis > 1]
    order = {(True, True): [1, 0, 3, 4, 2], (True, False): [1, 0, 2, 3], (False, True): [0, 2, 3, 1]}[groups > 1, each > 1]
    ends = [pad - unread, pad - unread]
    node = helper.make_node
    return session(
        [
            node("Reshape", ["x", "split"], ["x0"]),
            node("Transpose", ["x0"], ["x1"], perm=order),
            node("Reshape", ["x1", "image"], ["x2"]),
            node("Transpose", ["ct"], ["c0"], perm=[1, 0, 2, 3]),
            node("Reshape", ["c0", "filter"], ["c1"]),
            node("Conv", ["x2", "c1"], ["q0"], group=groups, kernel_shape=sizes["filter"][:2] + [1 for _ in last],
                 dilations=[stride, stride] + [1 for _ in last],
                 pads=[pad, pad] + [0 for _ in last] + ends + [0 for _ in last]),
            node("Reshape", ["q0", "taps"], ["q1"]),
            node("Transpose", ["q1"], ["y"], perm=[0, 3, 1, 2]),
        ],
        {"x": (n, c, size, size), "ct": (n, m, out, out)},
        {"split": ints(*split, size, size), "image": ints(1, groups * n, *sizes["image"]),
         "filter": ints(m, n, *sizes["filter"]), "taps": ints(m, k, k, each)},
    )  # fmt: skip


def measure(shape, turns):
    n, c, m, size, k, stride, pad, groups = shape
    out = (size + 2 * pad - k) // stride + 1
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size), np.float32)
    ct = rng.standard_normal((n, m, out, out), np.float32)
    tensors = torch.tensor(ct), torch.tensor(x), torch.zeros(m, c // groups, k, k)
    by_torch = lambda: torch.ops.aten.convolution_backward(
        *tensors, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups, [False, True, False]
    )[1]
    feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in {"x": x, "ct": ct}.items()}
    ways = {"torch": by_torch}
    expected = by_torch().numpy()
    for make in (columns, exchanged):
        made = make(*shape)
        run = lambda made=made: made.run_with_ort_values(None, feeds)[0]
        assert np.abs(run().numpy() - expected).max() <= 1e-4 * np.abs(expected).max(), (make.__name__, shape)
        ways[make.__name__] = run
    return interleaved(ways, turns)


def interleaved(ways, turns):
    """Milliseconds of each way, the medians of runs that take turns."""
    seconds = {way: [] for way in ways}
    for _ in range(turns):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - began)
    return {way: 1e3 * statistics.median(s) for way, s in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| batch | channels | image | kernel | stride | groups | C/group · taps | columns | exchanged | PyTorch |")
    print("|" + "---|" * 10)
    found = []
    for shape in SHAPES:
        n, c, m, size, k, stride, _, groups = shape
        ms = measure(shape, args.turns)
        width = c // groups * k * k
        found.append((width, groups == c > 1, ms))
        print(f"| {n} | {c} → {m} | {size}² | {k}² | {stride} | {groups} | {width} "
              f"| {ms['columns']:.2f} | {ms['exchanged']:.2f} | {ms['torch']:.2f} |", flush=True)  # fmt: skip

    def cost(limit):
        """Milliseconds over the better of both, as a geometric mean; a channel a group is always exchanged."""
        ratios = [
            ms["exchanged" if depthwise or width >= limit else "columns"] / min(ms["columns"], ms["exchanged"])
            for width, depthwise, ms in found
        ]
        return statistics.geometric_mean(ratios)

    limits = sorted({width for width, depthwise, _ in found if not depthwise})
    best = min(limits, key=cost)
    print(f"\nexchanged from {best} columns on: {cost(best):.3f} of the better way; from 64 on: {cost(64):.3f}")


if __name__ == "__main__":
    main()
