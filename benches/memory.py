"""The memory of a step that `inspect` and `inject` predict, beside what ONNX Runtime takes: a table in Markdown.

Measured in a process of its own for each artifact: the peak of resident memory over four steps of train.onnx, less what was
resident before the session was opened. What is fed (parameters, state, a batch) was there before.

torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0, Linux

    python benches/memory.py [--binary target/release/fam-onnx] [--only lenet]
"""
import argparse
import ctypes
import gc
import json
import pathlib
import subprocess
import sys
import tempfile

# Model, batch, layers.
USUAL = [
    ("lenet", 64, ["fc2", "conv2"]),
    ("mlp-784-1024-512-10", 128, ["fc3", "fc2"]),
    ("mlp-784-4096-2048-10", 256, ["fc2"]),
    ("tokens", 64, ["encoder.proj"]),
    ("encoder-192", 32, ["fc", "down", "out"]),
]
LARGER = [
    ("resnet", 64, ["neck"]),
    ("mlp-1024-2048-2048-2048-100", 512, ["fc3"]),
    ("mlp-256-512-512-512-512-512-512-512-512-10", 64, ["fc8", "fc4"]),
    ("wide-cnn", 64, ["fc1", "conv3"]),
    ("convnext", 32, ["fc", "down"]),
]


def resident(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])


def measured(artifact, batch):
    """Bytes, in this process."""
    import onnx
    import onnxruntime

    import cost

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # What the library itself takes at its first use is not the step's.
    f32 = onnx.TensorProto.FLOAT
    square = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["a", "a"], ["b"])], "square",
        [onnx.helper.make_tensor_value_info("a", f32, [64, 64])], [onnx.helper.make_tensor_value_info("b", f32, [64, 64])])
    small = onnx.helper.make_model(square, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    first = onnxruntime.InferenceSession(small.SerializeToString(), options)
    first.run(None, {"a": cost.np.zeros((64, 64), "float32")})
    feeds = cost.feeds(artifact, cost.ports(artifact / "train.onnx"), batch)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    session = onnxruntime.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])
    for _ in range(4):
        session.run(None, feeds)
    return resident("VmHWM") - before


def main():
    import cost
    import nets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=nets.ROOT / "target/release/fam-onnx")
    parser.add_argument("--only", help="one model")
    args = parser.parse_args()

    def tool(*arguments):
        done = subprocess.run([args.binary, *arguments, "--json"], check=True, capture_output=True)
        return json.loads(done.stdout)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for title, cases in (("usual", USUAL), ("larger", LARGER)):
            print(f"\n| {title}: model, layer | κ | measured, MB | `inject`, MB | of measured | `inspect`, MB | of measured |")
            print("|---|---|---|---|---|---|---|")
            for name, batch, layers in cases:
                if args.only not in (None, name):
                    continue
                file = nets.model_file(name, folder, batch)
                found = tool("inspect", file)
                for layer in layers:
                    offers = next(l for l in found["layers"] if l["name"] == layer)["estimators"]
                    ways = [("none", found["memory"])] if layer == layers[0] else []
                    ways += [(o["estimator"], o["memory"]) for o in offers if o["memory"] and o["estimator"] != "gauss-newton"]
                    for way, inspected in ways:
                        artifact = folder / f"{name}-{layer}-{way}.fam"
                        options = ["--lambda", "0"] if way == "none" else ["--lambda", "0.01", "--estimator", way]
                        report = tool("inject", file, "--layer", layer, *options, "-o", artifact)
                        taken = subprocess.run([sys.executable, __file__, "--measure", artifact, str(batch)], check=True, capture_output=True)
                        taken = float(taken.stdout)
                        injected = report["memory"]["step"]
                        print(f"| {name} `{layer}` | {way} | {taken / 1e6:.1f} | {injected / 1e6:.1f} | {injected / taken:.2f} "
                              f"| {inspected / 1e6:.1f} | {inspected / taken:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measured(pathlib.Path(sys.argv[2]), int(sys.argv[3])))
    else:
        main()
