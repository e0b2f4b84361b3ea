"""One way to make training steps of one workload: makes as many as each line of standard input asks for, and prints their
seconds as JSON. The first line it prints says that it is ready; an empty line asks for the memory that the steps took.

    python worker.py WAY WORKLOAD THREADS [ARTIFACT]

Batches differ from step to step in nothing: what is timed is the step alone.
"""
import json
import os
import pathlib
import sys
import time

way, name, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
artifact = pathlib.Path(sys.argv[4]) if len(sys.argv) > 4 else None
# Threads that spin after a step would take the core from whatever is timed next.
os.environ.update(OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="passive", KMP_BLOCKTIME="0", TORCHINDUCTOR_FX_GRAPH_CACHE="1")


def memory(key):
    """In MB: VmRSS now, VmHWM at most."""
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_step():
    import torch
    import workloads

    torch.set_num_threads(threads)
    start = memory("VmRSS")
    workload = workloads.WORKLOADS[name]
    x, y = workloads.data(workload)
    model = workloads.model(workload).train(workload.train_batch_norm)
    loss_of = workloads.criterion(workload)
    layer = model.get_submodule(workload.layer)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    record = []
    if way in ("torch-kappa", "torch-reference"):
        layer.register_forward_hook(lambda _, a, z: record.append((a[0], z)))

    def plain(forward=model):
        sgd.zero_grad(set_to_none=True)
        loss_of(forward(x), y).backward()
        sgd.step()

    def kappa():
        record.clear()
        sgd.zero_grad(set_to_none=True)
        logits = model(x)
        loss = loss_of(logits, y)
        if workload.kappa is None:
            value = workload.estimate(record[0], layer, loss)
        else:
            value = workload.kappa(record[0], layer, logits, model)
        (loss + 0.01 * value).backward()
        sgd.step()

    def sharpness_aware():
        """Foret et al. (2021): the gradient at w + ρ g/‖g‖."""
        sgd.zero_grad(set_to_none=True)
        loss_of(model(x), y).backward()
        with torch.no_grad():
            parameters = [p for p in model.parameters() if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters]))
            moves = [p.grad * (0.05 / (norm + 1e-12)) for p in parameters]
            torch._foreach_add_(parameters, moves)
        sgd.zero_grad(set_to_none=True)
        loss_of(model(x), y).backward()
        with torch.no_grad():
            torch._foreach_sub_(parameters, moves)
        sgd.step()

    def reference():
        """The layer's whole Hessian, as the paper's code takes it, but with the gradient let through."""
        from torch.func import functional_call, hessian

        sgd.zero_grad(set_to_none=True)
        others = dict(model.named_parameters())
        key = f"{workload.layer}.weight"

        def loss(weight):
            return loss_of(functional_call(model, {**others, key: weight}, (x,)), y)

        w = others[key]
        rows = w.flatten(1)
        traces = torch.einsum("atbt->ab", hessian(loss)(w).reshape(*rows.shape, *rows.shape))
        (loss(w) + 0.01 * ((rows @ rows.T) * traces).sum()).backward()
        sgd.step()

    if way == "torch-compile":
        compiled = torch.compile(model)
        return lambda: plain(compiled), start
    return {"torch": plain, "torch-kappa": kappa, "torch-sam": sharpness_aware, "torch-reference": reference}[way], start


# ---- an artifact -----------------------------------------------------------------------------------------------------


def artifact_step():
    """train.onnx; parameters and state go back in by exchanging two sets of buffers."""
    import numpy as np
    import onnxruntime
    from safetensors.numpy import load_file

    start = memory("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])
    manifest = json.loads((artifact / "manifest.json").read_text())
    updates = manifest["graphs"]["train"]["updates"]
    tensors, data, rng = load_file(artifact / "parameters.safetensors"), np.load(artifact / "batch.npz"), np.random.default_rng(0)
    fixed = {}
    for port in session.get_inputs():
        if port.name in tensors:
            continue
        if port.name in data:
            fixed[port.name] = data[port.name]
        elif port.name == manifest["labels"]:
            fixed[port.name] = data["labels"]
        elif not port.shape:
            fixed[port.name] = np.array(1e-3 if "lambda" not in port.name else 0.01, np.float32)
        else:
            shape = [n if isinstance(n, int) else len(data["labels"]) for n in port.shape]
            fixed[port.name] = np.sign(rng.standard_normal(shape)).astype(np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    inputs, outputs = {port.name for port in session.get_inputs()}, {port.name for port in session.get_outputs()}
    sets = [{n: value(tensors[n]) for n in updates}, {n: value(tensors[n].copy()) for n in updates}]
    bindings = []
    for old, new in (sets, sets[::-1]):
        binding = session.io_binding()
        for port, array in {**{n: t for n, t in tensors.items() if n not in updates}, **fixed}.items():
            if port in inputs:
                binding.bind_ortvalue_input(port, value(array))
        for parameter, output in updates.items():
            if parameter in inputs:
                binding.bind_ortvalue_input(parameter, old[parameter])
            binding.bind_ortvalue_output(output, new[parameter])
        for port in outputs - set(updates.values()):
            binding.bind_output(port)
        bindings.append(binding)
    count = [0]

    def step():
        session.run_with_iobinding(bindings[count[0] % 2])
        count[0] += 1

    return step, start


def training_step():
    """ONNX Runtime's own training API on graphs that it makes of the model: its gradients, its plain SGD."""
    import tempfile

    import numpy as np
    import onnx
    import onnxruntime
    from onnxruntime.training import api, artifacts

    model, data = onnx.load(artifact / "model.onnx"), np.load(artifact / "batch.npz")
    losses = {
        "softmax-cross-entropy": artifacts.LossType.CrossEntropyLoss,
        "bce-with-logits": artifacts.LossType.BCEWithLogitsLoss,
        "mse": artifacts.LossType.MSELoss,
    }
    statistics = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    floats = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model,
            requires_grad=[name for name in floats if name not in statistics],
            frozen_params=[name for name in floats if name in statistics],
            loss=losses[str(data["loss"])],
            optimizer=artifacts.OptimType.SGD,
            artifact_directory=folder,
        )
        start = memory("VmRSS")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        state = api.CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        training, evaluation = f"{folder}/training_model.onnx", f"{folder}/eval_model.onnx"
        module = api.Module(training, state, evaluation, device="cpu", session_options=options)
        optimizer = api.Optimizer(f"{folder}/optimizer_model.onnx", module)
    module.train()

    def step():
        module(data["x"], data["labels"])
        optimizer.step()
        module.lazy_reset_grad()

    return step, start


make = {"artifact": artifact_step, "ort-training": training_step}.get(way, torch_step)
step, start = make()
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if not line.strip():
        print(json.dumps({"memory": memory("VmHWM") - start}), flush=True)
        continue
    seconds = []
    for _ in range(int(line)):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds), flush=True)
