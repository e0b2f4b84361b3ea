"""The models that cost.py and memory.py take: fixtures, and nets that are made on the spot with a fixed batch.

torch==2.15.0 onnx==1.23.2
"""
import pathlib
import warnings

import torch
from torch import nn
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH = 64  # where the first axis is symbolic


class WideNet(nn.Module):
    """Three convolutions on 3×32×32, the widest with 128 channels, and two linear layers."""

    def __init__(self, width=64):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.conv3, self.pool = nn.Conv2d(width, 2 * width, 3, padding=1), nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(32 * width, 256), nn.Linear(256, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(F.relu(conv(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Encoder(nn.Module):
    """A block of a transformer of width 192 on 48 positions."""

    def __init__(self, width=192, heads=4):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(16, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.fc, self.heads = nn.Linear(width, 10), heads

    def forward(self, x):
        x = self.embed(x)
        n, t, d = x.shape
        q, k, v = (y.reshape(n, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, 2))
        mixed = (q @ k.transpose(2, 3) * (d // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return self.fc((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


class ConvNext(nn.Module):
    """A stem, a block of ConvNeXt (7×7 by channel, LayerNorm, two linear layers) of width 64, and a linear layer."""

    def __init__(self, width=64):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.mix(x).permute(0, 2, 3, 1)))))
        return self.fc((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def linear(sizes):
    net = nn.Sequential()
    for k, (m, d) in enumerate(zip(sizes, sizes[1:]), 1):
        net.add_module(f"fc{k}", nn.Linear(m, d))
        if k + 1 < len(sizes):
            net.add_module(f"relu{k}", nn.ReLU())
    return net, (sizes[0],)


MADE = {
    "wide-cnn": lambda: (WideNet(), (3, 32, 32)),
    "encoder-192": lambda: (Encoder(), (48, 16)),
    "convnext": lambda: (ConvNext(), (3, 64, 64)),
}


def model_file(name, folder, batch):
    """A fixture; or a net of linear layers of the sizes in its name, or one of MADE, at that batch."""
    if name in ("lenet", "resnet", "tokens"):
        return ROOT / "fixtures" / name / "model.onnx"
    file = folder / f"{name}-{batch}.onnx"
    if not file.exists():
        torch.manual_seed(0)
        made = MADE.get(name, lambda: linear([int(n) for n in name.split("-")[1:]]))
        net, sample = made()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net.eval(), (torch.randn(batch, *sample),), str(file), dynamo=False, opset_version=17)
    return file
