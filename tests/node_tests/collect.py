"""Writes ONNX's own node tests that have a real tensor among the inputs and among the outputs.

`collect.py DIRECTORY`: for each case `NAME.onnx`, the model, and `NAME.data.onnx`, whose initialisers are the inputs
(`inputs/…`) and the expected outputs (`outputs/…`); `cases.tsv` lists name, operator and the case's tolerances. Models
without standard operators (those of ai.onnx.ml and ai.onnx.preview.training) are left out.
"""
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def is_real(value):
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in REAL


def arrays(kind, values, data):
    for value, array in zip(values, data):
        if isinstance(array, TensorProto):
            array = numpy_helper.to_array(array)
        if isinstance(array, (numpy.ndarray, numpy.generic)):
            yield numpy_helper.from_array(numpy.asarray(array), f"{kind}/{value.name}")


def is_standard(case):
    return any(opset.domain in ("", "ai.onnx") for opset in case.model.opset_import)


def main(directory):
    numpy.seterr(all="ignore")
    cases = [case for case in collect_testcases(None) if case.model is not None and is_standard(case)]
    nodes = {case.name: [node.op_type for node in case.model.graph.node] for case in cases}
    lines = []
    for case in sorted(cases, key=lambda case: case.name):
        graph = case.model.graph
        if not (any(map(is_real, graph.input)) and any(map(is_real, graph.output))):
            continue
        # An expanded case is its operator written in others.
        operators = nodes.get(case.name.partition("_expanded")[0], nodes[case.name])
        operator = operators[0] if len(operators) == 1 else "+".join(sorted(set(operators)))
        inputs, outputs = case.data_sets[0]
        data = [*arrays("inputs", graph.input, inputs), *arrays("outputs", graph.output, outputs)]
        name = case.name.removeprefix("test_")
        onnx.save(case.model, directory / f"{name}.onnx")
        onnx.save(helper.make_model(helper.make_graph([], name, [], [], data)), directory / f"{name}.data.onnx")
        lines.append(f"{name}\t{operator}\t{case.rtol}\t{case.atol}\n")
    (directory / "cases.tsv").write_text("".join(lines))


main(pathlib.Path(sys.argv[1]))
