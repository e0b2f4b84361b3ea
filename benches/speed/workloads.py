"""What the speed benchmark runs: models in PyTorch, their data, and κ of a layer written by hand."""
import dataclasses
import pathlib
import sys
from typing import Callable

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import models  # noqa: E402


# ---- models ----------------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 1024), nn.Linear(1024, 512), nn.Linear(512, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class WideBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(cin), nn.BatchNorm2d(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False) if stride != 1 or cin != cout else None

    def forward(self, x):
        y = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(y)
        return skip + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """WRN-16-4: Zagoruyko and Komodakis, Wide Residual Networks (2016), table 1."""

    def __init__(self, depth=16, width=4):
        super().__init__()
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False)
        blocks = []
        for stage, (cin, cout) in enumerate(zip(channels, channels[1:])):
            for k in range((depth - 4) // 6):
                blocks.append(WideBlock(cin if k == 0 else cout, cout, 2 if stage and k == 0 else 1))
        self.blocks = nn.Sequential(*blocks)
        self.bn, self.fc = nn.BatchNorm2d(channels[3]), nn.Linear(channels[3], 10)

    def forward(self, x):
        x = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class Encoder(nn.Module):
    """BERT-like: 4 layers, 256 wide, 4 heads, on embedded tokens."""

    def __init__(self, width=256, heads=4, tokens=128, layers=4):
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layer = nn.ModuleList(models.Block(width, heads) for _ in range(layers))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x):
        x = x + self.position
        for block in self.layer:
            x = block(x)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class UNet(nn.Module):
    """Two levels down and up; a mask of one channel."""

    def __init__(self, width=16):
        super().__init__()
        pair = lambda cin, cout: nn.Sequential(
            nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(), nn.Conv2d(cout, cout, 3, padding=1), nn.ReLU()
        )
        self.down1, self.down2, self.bottom = pair(1, width), pair(width, 2 * width), pair(2 * width, 4 * width)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge2, self.merge1 = pair(4 * width, 2 * width), pair(2 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        y = self.merge2(torch.cat([self.up2(c), b], 1))
        return self.out(self.merge1(torch.cat([self.up1(y), a], 1)))


class Autoencoder3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(1, 8, 3, 2, 1), nn.Conv3d(8, 16, 3, 2, 1)
        self.latent, self.grow = nn.Linear(16 * 4**3, 64), nn.Linear(64, 16 * 4**3)
        self.up1, self.up2 = nn.ConvTranspose3d(16, 8, 2, 2), nn.ConvTranspose3d(8, 1, 2, 2)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.grow(self.latent(torch.flatten(x, 1)))
        return self.up2(F.relu(self.up1(F.relu(x).view(-1, 16, 4, 4, 4))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(64, 128, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(self.rnn(x)[0][:, -1])))


def mobilenet():
    import torchvision

    return torchvision.models.mobilenet_v3_small(num_classes=10, dropout=0.0)


# ---- κ by hand ---------------------------------------------------------------------------------------------------------
# `record` keeps what a layer read and gave in the forward pass: a, z.


def square_norms(a):
    return (a * a).flatten(1).sum(1)


def last(record, layer, logits):
    """z is the logits: Σ_r ‖a_r‖² [Σ_s p_s ‖w_s‖² − ‖Wᵀp‖²] / n."""
    a, _ = record
    W, p = layer.weight, torch.softmax(logits, 1)
    return (square_norms(a) * (p @ (W * W).sum(1) - ((p @ W) ** 2).sum(1))).sum() / len(a)


def affine(behind):
    """A linear layer A and nothing else behind it: W ← AW."""

    def kappa(record, layer, logits, model):
        a, _ = record
        p, M = torch.softmax(logits, 1), getattr(model, behind).weight @ layer.weight
        return (square_norms(a) * (p @ (M * M).sum(1) - ((p @ M) ** 2).sum(1))).sum() / len(a)

    return kappa


def one_relu(behind):
    """One ReLU, then a linear layer A: K_c = WWᵀ ∘ A_cA_cᵀ, formed once a step."""

    def kappa(record, layer, logits, model):
        a, z = record
        W, A = layer.weight, getattr(model, behind).weight
        p, mask = torch.softmax(logits, 1), (z > 0).to(z.dtype)
        (n, d), C = z.shape, A.shape[0]
        G = W @ W.T
        K = (G * A[:, :, None] * A[:, None, :]).permute(1, 0, 2).reshape(d, C * d)
        first = (p * ((mask @ K).view(n, C, d) * mask[:, None]).sum(2)).sum(1)
        q = mask * (p @ A)
        return (square_norms(a) * (first - ((q @ G) * q).sum(1))).sum() / n

    return kappa


def pixelwise(record, layer, logits, model):
    """A 1×1 convolution whose output is the logits of a binary cross-entropy: Σ_r ‖a_r‖² σ'(z_r) ‖w‖² / n."""
    a, z = record
    p = torch.sigmoid(z)
    return ((a * a).sum(1, keepdim=True) * p * (1 - p)).sum() * (layer.weight**2).sum() / z.numel()


def hutchinson(record, layer, loss):
    """One probe, signs of their own for each sample: δz_r = ‖a_r‖ W ξ_r, ⟨δz, D²L δz⟩ by autograd twice."""
    a, z = record
    signs = torch.randint(0, 2, a.shape, dtype=a.dtype) * 2 - 1
    v = square_norms(a).sqrt()[:, None] * (signs @ layer.weight.T)
    (g,) = torch.autograd.grad(loss, z, create_graph=True)
    (h,) = torch.autograd.grad((g * v).sum(), z, create_graph=True)
    return (h * v).sum()


def hutchinson_in_weight(record, layer, loss):
    """One probe for a filter, V = W ξ ηᵀ with signs ξ, η: ⟨V, D²L V⟩ by autograd twice."""
    W = layer.weight
    signs = torch.randint(0, 2, (2, W[0].numel()), dtype=W.dtype) * 2 - 1
    v = torch.outer(W.flatten(1) @ signs[0], signs[1]).view_as(W)
    (g,) = torch.autograd.grad(loss, W, create_graph=True)
    (h,) = torch.autograd.grad((g * v).sum(), W, create_graph=True)
    return (h * v).sum()


# ---- workloads -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Workload:
    build: Callable[[], nn.Module]
    batch: int
    sample: tuple
    layer: str
    """Whose κ is trained."""
    estimators: tuple
    loss: str = "softmax-cross-entropy"
    kappa: Callable | None = None
    """(record, layer, logits, model) → κ in closed form; without one, one Hutchinson probe."""
    estimate: Callable = hutchinson
    """The probe: (record, layer, loss) → an estimate of κ."""
    train_batch_norm: bool = False


def small(name, **sizes):
    return lambda: models.build(name, **sizes)


WORKLOADS = {
    "lenet fc2": Workload(small("lenet"), 64, (1, 28, 28), "fc2", ("exact", "hutchinson", "auto"), kappa=one_relu("fc3")),
    "lenet fc3": Workload(
        small("lenet"), 64, (1, 28, 28), "fc3", ("exact", "auto"), kappa=lambda r, l, y, m: last(r, l, y)
    ),
    "lenet conv2": Workload(
        small("lenet"), 64, (1, 28, 28), "conv2", ("exact", "hutchinson", "auto"), estimate=hutchinson_in_weight
    ),
    "mlp fc2": Workload(Mlp, 128, (784,), "fc2", ("exact", "hutchinson", "auto"), kappa=one_relu("fc3")),
    "mlp fc3": Workload(Mlp, 128, (784,), "fc3", ("exact", "auto"), kappa=lambda r, l, y, m: last(r, l, y)),
    "resnet18 w32 neck": Workload(
        small("resnet", width=32, neck=64), 32, (3, 32, 32), "neck", ("exact", "auto"), kappa=affine("fc"), train_batch_norm=True
    ),
    "resnet18 w64 neck": Workload(
        small("resnet", width=64, neck=64), 32, (3, 32, 32), "neck", ("exact", "auto"), kappa=affine("fc"), train_batch_norm=True
    ),
    "wrn-16-4 fc": Workload(
        WideResNet, 32, (3, 32, 32), "fc", ("exact", "auto"), kappa=lambda r, l, y, m: last(r, l, y), train_batch_norm=True
    ),
    "wrn-16-4 blocks.5.conv2": Workload(
        WideResNet, 32, (3, 32, 32), "blocks.5.conv2", ("auto",), train_batch_norm=True, estimate=hutchinson_in_weight
    ),
    "mobilenetv3 classifier.0": Workload(
        mobilenet, 16, (3, 96, 96), "classifier.0", ("hutchinson", "auto"), train_batch_norm=True
    ),
    "encoder pooler": Workload(Encoder, 8, (128, 256), "pooler", ("exact", "hutchinson", "auto")),
    "unet out": Workload(UNet, 8, (1, 64, 64), "out", ("exact", "auto"), loss="bce-with-logits", kappa=pixelwise),
    "unet merge1.0": Workload(
        UNet, 8, (1, 64, 64), "merge1.0", ("auto",), loss="bce-with-logits", estimate=hutchinson_in_weight
    ),
    "autoencoder3d latent": Workload(Autoencoder3d, 16, (1, 16, 16, 16), "latent", ("hutchinson", "auto"), loss="mse"),
    "lstm fc1": Workload(Recurrent, 32, (32, 64), "fc1", ("exact", "hutchinson", "auto"), kappa=one_relu("fc2")),
}


def data(workload, seed=0):
    """A batch: what the model reads, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(workload.batch, *workload.sample, generator=generator)
    if workload.loss == "softmax-cross-entropy":
        return x, torch.randint(0, 10, (workload.batch,), generator=generator)
    if workload.loss == "bce-with-logits":
        return x, (torch.rand(workload.batch, *workload.sample, generator=generator) > 0.5).float()
    return x, torch.rand(workload.batch, *workload.sample, generator=generator)


def criterion(workload):
    return {
        "softmax-cross-entropy": F.cross_entropy,
        "bce-with-logits": F.binary_cross_entropy_with_logits,
        "mse": F.mse_loss,
    }[workload.loss]


def model(workload):
    torch.manual_seed(0)
    return workload.build()
