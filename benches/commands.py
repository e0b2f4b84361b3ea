"""Time and memory of whole commands against nodes and bytes of the model: a table in Markdown.

    python benches/commands.py [--tool PATH] [--runs N] [--large] [--directory DIR]

The models are made here: chains of linear layers with ReLU and a residual of 8 inputs each, and stacks of a few wide layers,
their weights in the model file, in one file beside it, or in a file each. Time is user and system time of the process and
time by the clock, the least of `--runs`; memory is the largest resident set. `--large` adds 100,000 nodes and 1 to 5 GB of
weights; files beside models are sparse, so that 6 GB of disk are enough. `--disk` is another table: weights of random
numbers, nothing of them in the system's cache, and the time by the clock until everything is on the disk, beside that of
copying the files; it needs the right to drop caches and 16 GB of disk. Needs numpy and onnx.
"""

import argparse
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

# The resident set of a process counts from its parent's on, so that the one that measures stays small.
if "--make" in sys.argv:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

INLINE, ONE, MANY, DENSE = "in the model", "in one file", "in a file each", "in one file, random"


def layer(name, x, out, nodes, initializers, weights):
    weight, bias = f"{name}.weight", f"{name}.bias"
    initializers.extend([weights(weight), weights(bias)])
    nodes.append(helper.make_node("Gemm", [x, weight, bias], [out], name=f"/{name}/Gemm", transB=1))


def model(layers, width, weights):
    """`x ← relu(W x + b) + x`, three nodes a layer, then a classifier; `weights(name, shape)` makes a tensor."""
    nodes, initializers, x = [], [], "x"
    square = lambda name: weights(name, [width, width] if name.endswith("weight") else [width])
    last = lambda name: weights(name, [10, width] if name.endswith("weight") else [10])
    for k in range(layers):
        scope = f"/layer.{k}"
        layer(f"layer.{k}", x, f"{scope}/Gemm", nodes, initializers, square)
        nodes.append(helper.make_node("Relu", [f"{scope}/Gemm"], [f"{scope}/Relu"], name=f"{scope}/Relu"))
        nodes.append(helper.make_node("Add", [f"{scope}/Relu", x], [f"{scope}/Add"], name=f"{scope}/Add"))
        x = f"{scope}/Add"
    layer("fc", x, "logits", nodes, initializers, last)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inside(name, shape):
    rng = np.random.default_rng(len(name))
    return numpy_helper.from_array(rng.uniform(-0.1, 0.1, shape).astype(np.float32), name)


class Beside:
    """Tensors whose data is a hole in a sparse file, or random."""

    def __init__(self, directory, each, dense=False):
        self.directory, self.each, self.dense, self.end = directory, each, dense, 0

    def __call__(self, name, shape):
        size = 4 * int(np.prod(shape))
        location, offset = (f"{name}.bin", 0) if self.each else ("weights.bin", self.end)
        self.end = -(-(offset + size) // 4096) * 4096
        with open(self.directory / location, "ab") as file:
            file.truncate(offset + size)
        if self.dense:
            with open(self.directory / location, "r+b") as file:
                file.seek(offset)
                file.write(np.random.default_rng(offset).uniform(-0.1, 0.1, shape).astype(np.float32).tobytes())
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in [("location", location), ("offset", offset), ("length", size)]:
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def measured(command):
    """Seconds of the process and by the clock, and the process's largest resident set in MB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{error.decode()}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1000


def make(directory, layers, width, where):
    """Writes the model; prints its nodes and the bytes of its weights."""
    made = model(layers, width, inside if where == INLINE else Beside(directory, where == MANY, where == DENSE))
    onnx.save(made, directory / "model.onnx")
    print(len(made.graph.node), sum(4 * int(np.prod(t.dims)) for t in made.graph.initializer))


def made(directory, layers, width, where):
    """The model's nodes and the bytes of its weights."""
    command = [sys.executable, __file__, "--make", directory, str(layers), str(width), where]
    return map(int, subprocess.run(command, check=True, capture_output=True).stdout.split())


def rows(tool, runs, directory, layers, width, where):
    path = directory / "model.onnx"
    nodes, size = made(directory, layers, width, where)
    out, artifact, back = directory / "out.onnx", directory / "a.fam", directory / "back.onnx"
    commands = {
        "print": ["print", path],
        "inspect": ["inspect", path],
        "grad": ["grad", path, "--of", "logits", "--wrt", "parameters", "-o", out],
        "jvp": ["jvp", path, "--of", "logits", "--wrt", "x", "-o", out],
        "inject": ["inject", path, "--layer", "fc", "--lambda", "0.1", "-o", artifact],
        "export": ["export", artifact, "-o", back],
    }
    cells = [f"{nodes:,}", f"{size / 1e6:,.0f} MB {where}"]
    for name, command in commands.items():
        # Its copy of the weights and the artifact's would take twice the disk.
        if name == "export" and size > 4e9:
            cells.append("–")
            continue
        found = []
        for _ in range(runs):
            if name == "inject" and artifact.exists():
                shutil.rmtree(artifact)
            found.append(measured([tool, *command]))
        work, clock, memory = zip(*found)
        cells.append(f"{min(work):.2f} / {min(clock):.2f} s, {max(memory):,.0f} MB")
        for left in [out, out.with_suffix(".onnx.data")]:
            left.unlink(missing_ok=True)
    return cells, list(commands)


def from_disk(command, runs):
    """Seconds by the clock until what the command writes is on the disk, from a cold cache, and its largest resident set."""
    seconds, memory = float("inf"), 0.0
    for _ in range(runs):
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        started = time.monotonic()
        _, _, more = measured(command)
        os.sync()
        seconds, memory = min(seconds, time.monotonic() - started), max(memory, more)
    return seconds, memory


def disk_row(tool, runs, directory, layers, width):
    """Commands that read every weight, beside `cp`; `grad` links the weights and reads none."""
    path, out, artifact = directory / "model.onnx", directory / "out.onnx", directory / "a.fam"
    nodes, size = made(directory, layers, width, DENSE)
    commands = {
        "cp": ["cp", directory / "weights.bin", directory / "copy.bin"],
        "grad": [tool, "grad", path, "--of", "logits", "--wrt", "parameters", "-o", out],
        "inject": [tool, "inject", path, "--layer", "fc", "--lambda", "0.1", "--force", "-o", artifact],
        "export": [tool, "export", artifact, "-o", out],
    }
    cells = [f"{nodes:,}", f"{size / 1e6:,.0f} MB"]
    for name, command in commands.items():
        seconds, memory = from_disk(command, runs)
        rate = "" if name == "grad" else f"{size / 1e9 / seconds:.2f} GB/s, "
        cells.append(f"{seconds:.2f} s, {rate}{memory:,.0f} MB")
        for left in [directory / "copy.bin", out, out.with_suffix(".onnx.data")]:
            left.unlink(missing_ok=True)
    return cells, list(commands)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="target/release/fam-onnx")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--directory", help="where the models are made")
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        directory, layers, width, where = arguments.make
        return make(pathlib.Path(directory), int(layers), int(width), where)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    sizes = [(33, 8, INLINE), (333, 8, INLINE), (3333, 8, INLINE), (12, 1024, INLINE), (12, 1024, MANY)]
    if arguments.large:
        sizes += [(33333, 8, INLINE), (60, 2048, INLINE), (115, 2048, ONE), (115, 2048, MANY), (300, 2048, ONE)]
    if arguments.disk:
        sizes = [(60, 2048, DENSE), (300, 2048, DENSE)]
    header = None
    for layers, width, where in sizes:
        directory = pathlib.Path(tempfile.mkdtemp(dir=arguments.directory))
        try:
            if where == DENSE:
                cells, commands = disk_row(arguments.tool, arguments.runs, directory, layers, width)
            else:
                cells, commands = rows(arguments.tool, arguments.runs, directory, layers, width, where)
        finally:
            shutil.rmtree(directory)
        if header is None:
            header = ["nodes", "weights", *commands]
            print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
