"""Recurrent, physics, graph and flow models; scikit-learn's, JAX's and Keras's where their exporters are installed."""
import math

import numpy as np
import torch
from torch import nn

from common import entry, image


class Recurrent(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.cell = cell(5, 6, batch_first=True, **options)
        width = 6 * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@entry("lstm", "recurrent")
def _():
    return Recurrent(nn.LSTM, num_layers=2, bidirectional=True), image(2, 4, 5)


@entry("gru", "recurrent")
def _():
    return Recurrent(nn.GRU), image(2, 4, 5)


@entry("rnn", "recurrent", opset=14)
def _():
    return Recurrent(nn.RNN, nonlinearity="relu", bidirectional=True), image(2, 4, 5)


@entry("lstm-dynamo", "recurrent", exporter="dynamo", opset=18, dynamic=False)
def _():
    return Recurrent(nn.LSTM), image(2, 4, 5)


@entry("pinn", "physics")
def _():
    layers = [nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)]
    return nn.Sequential(*layers), image(8, 2)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)])

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.sin(5 * layer(x))
        return self.layers[-1](x)


@entry("siren", "physics", exporter="dynamo", opset=18)
def _():
    return Siren(), image(8, 2)


class Residual(nn.Module):
    """The residual of Burgers' equation, with derivatives by forward differences of a network."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 12), nn.Softplus(), nn.Linear(12, 1))

    def forward(self, x):
        step = torch.tensor([[0.1, 0.0]])
        u, after, before = self.net(x), self.net(x + step), self.net(x - step)
        first, second = (after - before) / 0.2, (after - 2 * u + before) / 0.01
        return u * first - 0.1 * second


@entry("burgers", "physics", opset=13)
def _():
    return Residual(), image(4, 2)


class Spectral(nn.Module):
    """A layer of a Fourier neural operator with its transform as matrices."""

    def __init__(self, n=16, modes=4, width=4):
        super().__init__()
        angle = 2 * math.pi * torch.arange(n)[:, None] * torch.arange(modes)[None] / n
        self.register_buffer("cos", torch.cos(angle))
        self.register_buffer("sin", torch.sin(angle))
        self.real, self.imag = (nn.Parameter(torch.randn(width, width, modes) / width) for _ in range(2))
        self.lift, self.local, self.head = nn.Conv1d(1, width, 1), nn.Conv1d(width, width, 1), nn.Conv1d(width, 1, 1)

    def forward(self, x):
        x = self.lift(x)
        re, im = x @ self.cos, -(x @ self.sin)
        a = torch.einsum("bik,iok->bok", re, self.real) - torch.einsum("bik,iok->bok", im, self.imag)
        b = torch.einsum("bik,iok->bok", re, self.imag) + torch.einsum("bik,iok->bok", im, self.real)
        back = (a @ self.cos.T - b @ self.sin.T) / x.shape[-1]
        return self.head(nn.functional.gelu(back + self.local(x)))


@entry("fourier-operator", "physics")
def _():
    return Spectral(), image(2, 1, 16)


class GraphNet(nn.Module):
    """Two rounds of messages along edges, summed where they meet."""

    def __init__(self, reduce):
        super().__init__()
        self.message = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])
        self.head = nn.Linear(4, 2)
        self.reduce = reduce

    def forward(self, x, source, target):
        for layer in self.message:
            sent = torch.tanh(layer(torch.cat([x[source], x[target]], 1)))
            place = target[:, None].expand(-1, sent.shape[1])
            if self.reduce == "sum":
                x = x + torch.zeros_like(x).scatter_add(0, place, sent)
            else:
                x = x + torch.zeros_like(x).scatter_reduce(0, place, sent, self.reduce)
        return self.head(x)


def graph(reduce):
    edges = {"source": torch.tensor([0, 1, 2, 3, 4, 0]), "target": torch.tensor([1, 2, 0, 4, 3, 3])}
    return GraphNet(reduce), {"x": torch.randn(5, 4)} | edges


entry("graph-sum", "graph net", opset=16, dynamic=False)(lambda: graph("sum"))
entry("graph-max", "graph net", opset=18, dynamic=False)(lambda: graph("amax"))


@entry("graph-attention", "graph net", dynamic=False)
def _():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.score, self.head = nn.Linear(4, 6), nn.Linear(12, 1), nn.Linear(6, 2)

        def forward(self, x, adjacency):
            h = self.lift(x)
            n = h.shape[0]
            pairs = torch.cat([h[:, None].expand(n, n, 6), h[None].expand(n, n, 6)], -1)
            score = nn.functional.leaky_relu(self.score(pairs).squeeze(-1), 0.2)
            return self.head(torch.softmax(score.masked_fill(adjacency == 0, -1e9), -1) @ h)

    return Net(), {"x": torch.randn(5, 4), "adjacency": (torch.rand(5, 5) > 0.4).long() | torch.eye(5).long()}


class Coupling(nn.Module):
    """Affine couplings; the result is the log-likelihood."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(
            [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4)) for _ in range(3)]
        )

    def forward(self, x):
        log_det = 0.0
        for net in self.nets:
            a, b = x.chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            scale = torch.tanh(scale)
            x = torch.cat([b * torch.exp(scale) + shift, a], -1)
            log_det = log_det + scale.sum(-1)
        return log_det - 0.5 * (x**2).sum(-1)


@entry("flow", "flow")
def _():
    return Coupling(), image(4, 4)


@entry("neural-ode", "flow", exporter="dynamo", opset=18)
def _():
    class Ode(nn.Module):
        def __init__(self):
            super().__init__()
            self.field = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x):
            for _ in range(4):
                k1 = self.field(x)
                k2 = self.field(x + 0.125 * k1)
                x = x + 0.25 * k2
            return x

    return Ode(), image(2, 3)


@entry("mlp-half", "MLP", half=True)
def _():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)), image(4, 6)


@entry("mlp-opset9", "MLP", opset=9)
def _():
    return nn.Sequential(nn.Linear(6, 8), nn.SELU(), nn.Linear(8, 3), nn.LogSoftmax(1)), image(4, 6)


@entry("conv1d", "convolution", opset=10)
def _():
    layers = [nn.Conv1d(3, 4, 3), nn.PReLU(4), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(28, 3)]
    return nn.Sequential(*layers), image(2, 3, 16)


@entry("sklearn-mlp", "scikit-learn", exporter=None)
def _():
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor

    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4)).astype(np.float32)
    fitted = MLPRegressor(hidden_layer_sizes=(8, 8), max_iter=20, activation="tanh").fit(x, np.sin(x.sum(1)))
    return to_onnx(fitted, x[:1], target_opset=15), {"X": torch.from_numpy(x[:3])}


@entry("sklearn-classifier", "scikit-learn", exporter=None)
def _():
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    fitted = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20)).fit(x, labels)
    options = {id(fitted): {"zipmap": False}}
    return to_onnx(fitted, x[:1], target_opset=15, options=options), {"X": torch.from_numpy(x[:3])}


@entry("keras-mlp", "Keras", exporter=None)
def _():
    import os
    import tempfile

    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import onnx

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "gelu"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((6,), batch_size=2, name="x"), *layers])
    model(np.zeros((2, 6), np.float32))
    with tempfile.TemporaryDirectory() as directory:
        model.export(f"{directory}/model.onnx", format="onnx", verbose=False)
        made = onnx.load(f"{directory}/model.onnx")
    return made, {made.graph.input[0].name: torch.randn(2, 6)}


@entry("jax-mlp", "JAX", exporter=None)
def _():
    import jax
    import jax.numpy as jnp
    from jax2onnx import to_onnx

    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    w, v = jax.random.normal(keys[0], (6, 8)), jax.random.normal(keys[1], (8, 3))
    made = to_onnx(lambda x: jax.nn.softmax(jnp.tanh(x @ w) @ v), [("batch", 6)])
    return made, {made.graph.input[0].name: torch.randn(2, 6)}
