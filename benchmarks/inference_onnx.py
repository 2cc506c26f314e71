"""One step of a network in ONNX Runtime, for benchmarks/inference.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

Matrices = list[list[tuple[Tensor, Tensor]]]


class Graph:
    """Nodes and constants of a graph that grows."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or their names."""
        names = [f"n{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        name = f"weight{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def linear(self, x: str, weight: Tensor, bias: Tensor) -> str:
        """W x + b of a row vector."""
        return str(self.add("Add", self.add("MatMul", x, self.constant(weight.T.numpy())), self.constant(bias.numpy())))


def lstm(graph: Graph, x: str, h: str, c: str, matrices: list[tuple[Tensor, Tensor]]) -> tuple[str, str]:
    """h and c after a step."""
    gates = graph.linear(graph.add("Concat", x, h, axis=1), *matrices[0])
    i, f, g, o = graph.add("Split", gates, outputs=4, axis=1, num_outputs=4)
    i, f, o, g = (*(graph.add("Sigmoid", gate) for gate in (i, f, o)), graph.add("Tanh", g))
    cell = graph.add("Add", graph.add("Mul", f, c), graph.add("Mul", i, g))
    return graph.add("Mul", o, graph.add("Tanh", cell)), cell


def gru(graph: Graph, x: str, h: str, matrices: list[tuple[Tensor, Tensor]]) -> str:
    """h after a step."""
    r, z, n = graph.add("Split", graph.linear(x, *matrices[0]), outputs=3, axis=1, num_outputs=3)
    hr, hz, hn = graph.add("Split", graph.linear(h, *matrices[1]), outputs=3, axis=1, num_outputs=3)
    r, z = (graph.add("Sigmoid", graph.add("Add", a, b)) for a, b in ((r, hr), (z, hz)))
    fresh = graph.add("Tanh", graph.add("Add", n, graph.add("Mul", r, hn)))
    return str(graph.add("Add", fresh, graph.add("Mul", z, graph.add("Sub", h, fresh))))


def session(cell: str, layers: Matrices, x: Tensor, *, int8: bool) -> Callable[[], object]:
    """A function that runs one step on one thread; the state goes out and in again."""
    graph, hidden, below = Graph(), len(layers[0][0][0]) // {"lstm": 4, "gru": 3, "softmax": 1}[cell], "x"
    inputs, outputs, size = ["x"], [], {"x": len(x)}
    for number, matrices in enumerate(layers):
        if cell == "softmax":
            below = graph.linear(below, *matrices[0])
            outputs.append(below)
            continue
        names = [f"h{number}", f"c{number}"][: 2 if cell == "lstm" else 1]
        inputs += names
        size |= dict.fromkeys(names, hidden)
        after = lstm(graph, below, *names, matrices) if cell == "lstm" else (gru(graph, below, *names, matrices),)
        outputs += after
        below = after[0]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None]) for name in outputs]
    starts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size[name]]) for name in inputs]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "step", starts, ends, graph.constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        onnx.save(model, path)
        if int8:
            # 7 bits, as its documentation advises: the sums of 8 bits saturate on AVX2
            quantize_dynamic(path, Path(folder) / "int8.onnx", weight_type=QuantType.QInt8, reduce_range=True)
            path = Path(folder) / "int8.onnx"
        runner = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {name: np.zeros((1, size[name]), np.float32) for name in inputs}
    feed["x"] = x[None].numpy()

    def step() -> object:
        after = runner.run(outputs, feed)
        if len(inputs) > 1:
            feed.update(zip(inputs[1:], after, strict=True))
        return after[outputs.index(below)][0]

    return step
