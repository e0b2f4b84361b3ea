"""LeNet on 1,000 digits, plain training: `fam-onnx train` and PyTorch eager with the same initial weights, order and schedule.
Prints JSON: the largest difference of the losses step by step, and for each program steps a second and peak memory.

torch==2.15.0 onnx==1.22.0 numpy==2.4.6 safetensors==0.7.0, Linux

    python benches/pytorch_train.py --fam-onnx target/release/fam-onnx --steps 200 --threads 2 [--optimizer adamw]

Where a ReLU's input is zero up to rounding, the two may fall on different sides; from there on the losses differ by what the
training makes of that, in PyTorch's own float32 and float64 as well. `--model` and `--double` show it: `smooth` is the LeNet
with tanh and average pooling, `mlp` 784-128-64-10 with ReLU, `smooth-mlp` with tanh; `--double` trains in float64, for which
ONNX Runtime has no convolution.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]
OPTIMIZERS = {
    "sgd": ["--momentum", "0.9", "--weight-decay", "5e-4"],
    "adamw": ["--optimizer", "adamw", "--weight-decay", "0.01"],
}
RATES = {"sgd": 0.02, "adamw": 0.002}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fam-onnx", default="fam-onnx")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--lr", type=float, help="default: 0.02, adamw 0.002")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the samples")
    parser.add_argument("--model", choices=["lenet", "smooth", "mlp", "smooth-mlp"], default="lenet")
    parser.add_argument("--double", action="store_true", help="in float64 (mlp, smooth-mlp)")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--pytorch", help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.lr = RATES[args.optimizer] if args.lr is None else args.lr
    return args


def build(args):
    import torch
    from torch import nn

    import models

    torch.manual_seed(0)
    if args.model == "lenet":
        model = models.build("lenet")
    elif args.model == "smooth":
        model = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
        )
    else:
        act = nn.ReLU if args.model == "mlp" else nn.Tanh
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), act(), nn.Linear(128, 64), act(), nn.Linear(64, 10))
    return model.double() if args.double else model


def export(args, path):
    """The model as ONNX; the LeNet is a fixture."""
    import torch

    if args.model == "lenet":
        path.write_bytes((HERE.parent / "fixtures" / "lenet" / "model.onnx").read_bytes())
        return
    x = torch.zeros(2, 1, 28, 28, dtype=torch.float64 if args.double else torch.float32)
    torch.onnx.export(
        build(args).eval(), (x,), path, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
    )


def pytorch(args, directory):
    """The losses, and seconds of all steps but the first ten; in a process of its own, whose memory is PyTorch's."""
    import torch
    from order import epoch_order
    from safetensors.torch import load_file
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    data = np.load(directory / "train.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["labels"])
    model = build(args).train()
    start = load_file(directory / "model.fam" / "parameters.safetensors")
    model.load_state_dict({name: start[name] for name in model.state_dict()})
    lr = args.lr
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=5e-4),
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.01),
    }
    optimizer = make[args.optimizer](model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)
    per_epoch = len(x) // args.batch
    orders = [epoch_order(args.seed, epoch, len(x)) for epoch in range(math.ceil(args.steps / per_epoch))]
    losses = []
    for step in range(args.steps):
        if step == 10:
            since = time.perf_counter()
        epoch, k = divmod(step, per_epoch)
        batch = torch.from_numpy(orders[epoch][k * args.batch : (k + 1) * args.batch])
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return {"losses": losses, "seconds": time.perf_counter() - since, "version": torch.__version__}


def peak(command, **options):
    """What the command prints, and the peak memory of its process in MiB."""
    # wait4 tells of one child; the sum over children would mix them.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return out, usage.ru_maxrss / 1024


def fam_onnx(args, directory):
    fam, run = args.fam_onnx, directory / "run"
    model = directory / "model.onnx"
    inject = [fam, "inject", model, "--layer", "penultimate", "--lambda", "0", "-q", *OPTIMIZERS[args.optimizer]]
    subprocess.run([*map(str, inject), "-o", str(directory / "model.fam")], check=True, stdout=subprocess.DEVNULL)
    command = [fam, "train", directory / "model.fam", "--data", directory / "train.npz", "--steps", args.steps]
    command += ["--batch-size", args.batch, "--lr", args.lr, "--seed", args.seed, "--schedule", "cosine", "--device", "cpu"]
    command += ["--threads", args.threads, "--checkpoint-every", 10**9, "--log-every", 1, "-q", "-o", run]
    _, memory = peak(list(map(str, command)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    seconds = sum(args.batch / line["examples_per_second"] for line in steps[10:])
    return {"losses": [line["loss"] for line in steps], "seconds": seconds}, memory


def main():
    args = arguments()
    if args.export:
        return export(args, pathlib.Path(args.export))
    if args.pytorch:
        return print(json.dumps(pytorch(args, pathlib.Path(args.pytorch))))
    if args.double and "mlp" not in args.model:
        raise SystemExit("--double is for mlp and smooth-mlp")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        subprocess.run([sys.executable, HERE / "digits.py", "1000", directory], check=True)
        if args.double:
            data = np.load(directory / "train.npz")
            np.savez(directory / "train.npz", x=data["x"].astype(np.float64), labels=data["labels"])
        # In a process of its own: the memory that counts is of those that train.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--export", str(directory / "model.onnx")], check=True)
        ours, our_memory = fam_onnx(args, directory)
        out, their_memory = peak([sys.executable, __file__, *sys.argv[1:], "--pytorch", str(directory)])
        theirs = json.loads(out)
    off = [abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    speed = lambda run: round((args.steps - 10) / run["seconds"], 1)
    report = {
        "model": args.model, "dtype": "float64" if args.double else "float32", "seed": args.seed,
        "steps": args.steps, "batch": args.batch, "threads": args.threads, "optimizer": args.optimizer,
        "torch": theirs["version"], "largest_difference": max(off), "at_step": off.index(max(off)) + 1,
        "first_loss": ours["losses"][0], "last_loss": ours["losses"][-1],
        "fam_onnx": {"steps_per_second": speed(ours), "peak_mib": round(our_memory)},
        "pytorch": {"steps_per_second": speed(theirs), "peak_mib": round(their_memory)},
    }
    print(json.dumps(report, indent=2))
    sys.exit(max(off) > args.tolerance)


main()
