"""What the models of the zoo share: a registry, export with either exporter, torch's own gradients."""
import contextlib
import io
import json
import logging
import pathlib
import warnings
from dataclasses import dataclass, field
from typing import Callable

import numpy as np
import onnx
import torch
from onnx import numpy_helper

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)

ENTRIES = {}


@dataclass
class Entry:
    """A model of the zoo."""

    name: str
    family: str
    make: Callable
    exporter: str = "torchscript"
    opset: int = 17
    # "preserve" keeps batch norm as it is.
    training: str = "eval"
    half: bool = False
    external: bool = False
    dynamic: bool = True
    # "transformers": by ONNX Runtime's optimiser of transformers; "extended": by its own, saved.
    optimise: str = ""
    # Arguments of the exporter beside these.
    more: dict = field(default_factory=dict)


def entry(name, family, **options):
    """Registers a function that gives a module and its inputs by name, or an exported model (`exporter=None`)."""

    def register(make):
        ENTRIES[name] = Entry(name, family, make, **options)
        return make

    return register


def image(*shape):
    return {"x": torch.randn(*shape)}


class Logits(torch.nn.Module):
    """A model of transformers as a function from tensors to a tensor."""

    def __init__(self, model, names, output="logits"):
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *args):
        result = self.model(**dict(zip(self.names, args)), return_dict=True)
        return getattr(result, self.output)


def untie(module):
    """Each layer gets weights of its own: exporters copy tied ones, so that torch's gradient would be a sum of two."""
    seen = set()
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(layer, name, torch.nn.Parameter(parameter.detach().clone()))
            seen.add(id(parameter))


def randomise(module):
    """Parameters and statistics that no two of are equal: the TorchScript exporter merges equal ones."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def export(e, module, inputs, path):
    names = {"input_names": list(inputs), "output_names": ["y"]}
    args = tuple(inputs.values())
    if e.exporter == "torchscript":
        modes = torch.onnx.TrainingMode
        axes = {name: {0: "batch"} for name in [*inputs, "y"]} if e.dynamic else None
        torch.onnx.export(
            module, args, path, dynamo=False, opset_version=e.opset, dynamic_axes=axes,
            training=modes.PRESERVE if e.training == "preserve" else modes.EVAL, **names, **e.more,
        )
    else:
        shapes = tuple({0: torch.export.Dim.AUTO} for _ in args) if e.dynamic else None
        # Arguments of a variadic function are one.
        shapes = (shapes,) if e.dynamic and isinstance(module, Logits) else shapes
        program = torch.onnx.export(
            module, args, dynamo=True, opset_version=e.opset, dynamic_shapes=shapes, verbose=False,
            optimize=e.training != "preserve", **names, **e.more,
        )
        program.save(path)


def optimise(how, path):
    if how == "transformers":
        from onnxruntime.transformers import optimizer

        made = optimizer.optimize_model(path, model_type="bert", num_heads=2, hidden_size=16, opt_level=0)
        made.save_model_to_file(path)
    if how == "extended":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = path + ".optimised"
        options.log_severity_level = 3
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pathlib.Path(path + ".optimised").rename(path)


def gradients(module, inputs):
    """A cotangent of the result, and what it gives for every parameter and float input."""
    leaves = {name: x.clone().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    result = module(*leaves.values())
    cotangent = torch.randn_like(result)
    wanted = {name: x for name, x in leaves.items() if x.is_floating_point()}
    wanted |= {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(result, list(wanted.values()), cotangent, allow_unused=True)
    return cotangent, {name: g for name, g in zip(wanted, found) if g is not None}


def tensor(name, value):
    value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return numpy_helper.from_array(np.ascontiguousarray(value), name)


def kept(module, model, found):
    """Gradients of what the file holds unchanged: exporters fold a norm into a convolution's weights under their old name."""
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    parameters = {name: p.detach().numpy() for name, p in module.named_parameters()}
    folded = {n for n, p in parameters.items() if n in stored and not np.array_equal(stored[n], p)}
    return {name: g for name, g in found.items() if name not in folded}


def write(e, directory):
    """`model.onnx`; `data.onnx`, whose initialisers are inputs, a cotangent and torch's gradients; `about.json`."""
    torch.manual_seed(0)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    made, inputs = e.make()
    if isinstance(made, torch.nn.Module):
        module = made.eval()
        untie(module)
        randomise(module)
        cotangent, found = gradients(module, inputs)
        if e.half:
            cotangent, found = None, {}
            module = module.half()
            inputs = {name: x.half() if x.is_floating_point() else x for name, x in inputs.items()}
        # The exporters print the graph that they refuse.
        with contextlib.redirect_stdout(io.StringIO()):
            export(e, module, inputs, str(path))
    else:
        cotangent, found = None, {}
        onnx.save(made, path)
    optimise(e.optimise, str(path))
    model = onnx.load(path)
    found = kept(module, model, found) if found else found
    if e.external:
        for file in directory.glob("*.data"):
            file.unlink()
        onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=1024)
    data = [tensor(f"inputs/{name}", value) for name, value in inputs.items()]
    data += [tensor("cotangent", cotangent)] if cotangent is not None else []
    data += [tensor(f"grads/{name}", value) for name, value in found.items()]
    graph = onnx.helper.make_graph([], e.name, [], [], data)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), directory / "data.onnx")
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    about = {"family": e.family, "exporter": e.exporter or model.producer_name, "opset": opset}
    (directory / "about.json").write_text(json.dumps(about))
