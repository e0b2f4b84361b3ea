"""One training step in PyTorch eager, float32, CPU: plain, and with lambda * kappa in closed form. Prints JSON.

torch==2.15.0

    python benches/pytorch_step.py --threads 2 --runs 100
"""
import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fixtures"))
import models


def lenet(model, x):
    """logits, kappa of fc2: one ReLU, then fc3; K_c = WWᵀ ∘ A_cA_cᵀ."""
    x = F.max_pool2d(F.relu(model.conv1(x)), 2)
    x = F.max_pool2d(F.relu(model.conv2(x)), 2)
    a = F.relu(model.fc1(torch.flatten(x, 1)))
    z = model.fc2(a)
    logits = model.fc3(F.relu(z))
    W, A = model.fc2.weight, model.fc3.weight
    p, mask = torch.softmax(logits, 1), (z > 0).to(z.dtype)
    (n, d), C = z.shape, A.shape[0]
    G = W @ W.T
    K = (G * A[:, :, None] * A[:, None, :]).permute(1, 0, 2).reshape(d, C * d)
    first = (p * ((mask @ K).view(n, C, d) * mask[:, None]).sum(2)).sum(1)
    q = mask * (p @ A)
    return logits, ((a * a).sum(1) * (first - ((q @ G) * q).sum(1))).sum() / n


def resnet(model, x):
    """logits, kappa of neck: an affine head, W <- AW."""
    x = F.relu(model.bn1(model.conv1(x)))
    x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    a = torch.flatten(model.avgpool(x), 1)
    logits = model.fc(model.neck(a))
    p, M = torch.softmax(logits, 1), model.fc.weight @ model.neck.weight
    return logits, ((a * a).sum(1) * (p @ (M * M).sum(1) - ((p @ M) ** 2).sum(1))).sum() / len(a)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18's first stage")
    parser.add_argument("--only", choices=["lenet", "resnet"])
    parser.add_argument("--lambda", dest="lam", type=float, default=0.1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {"torch": torch.__version__, "threads": args.threads, "batch": args.batch, "runs": args.runs, "ms": {}}
    cases = {"lenet": (lenet, {}, (1, 28, 28)), "resnet": (resnet, {"width": args.width, "neck": 64}, (3, 32, 32))}
    for name, (forward, sizes, sample) in cases.items():
        if args.only not in (None, name):
            continue
        x, y = torch.randn(args.batch, *sample), torch.randint(0, 10, (args.batch,))
        steps = {}
        for kind in ("plain", "kappa"):
            model = models.build(name, **sizes).train()
            sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

            def step(kind=kind, model=model, sgd=sgd):
                sgd.zero_grad(set_to_none=True)
                if kind == "plain":
                    F.cross_entropy(model(x), y).backward()
                else:
                    logits, kappa = forward(model, x)
                    (F.cross_entropy(logits, y) + args.lam * kappa).backward()
                sgd.step()

            steps[kind] = step
        times = {kind: [] for kind in steps}
        for run in range(-5, args.runs):
            for kind, step in steps.items():
                start = time.perf_counter()
                step()
                if run >= 0:
                    times[kind].append(1e3 * (time.perf_counter() - start))
        median = {kind: round(statistics.median(t), 4) for kind, t in times.items()}
        ratio = statistics.median(k / p for k, p in zip(times["kappa"], times["plain"]))
        report["ms"][name] = {**sizes, **median, "ratio": round(ratio, 4)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
