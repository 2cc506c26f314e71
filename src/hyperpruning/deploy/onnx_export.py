"""A network as ONNX: one step with the state in and out, or whole sequences. Needs the extra `onnx`.

The graph of a step has matrix products, which ONNX Runtime's dynamic quantisation turns into int8; that of sequences
has ONNX's own LSTM, GRU and RNN, and a Scan over the steps for recurrent highway layers.
"""

from __future__ import annotations

import logging
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperpruning.deploy.parts import Layer, Linear, Mixture, NetworkParts, network_parts
from hyperpruning.files import write_atomic
from hyperpruning.models.softmaxes import PROBABILITY_FLOOR

OPSET, IR_VERSION = 18, 10
PRECISIONS = ("exact", "int8")
# the places of torch's gates in ONNX's order: i, o, f, c for LSTM and z, r, h for GRU
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}


def export_onnx(network: nn.Module, path: Path | str, *, sequences: bool = False, precision: str = "exact") -> Path:
    """Write a network as ONNX.

    Inputs of a step: `x`, tokens (B,) int64 or vectors (B, I); `h0`, `h1`, ... (B, H) for each layer, for an LSTM also
    `c0`, `c1`, ...; outputs: `output` as of `Decoder.step`, `h0_next`, `c0_next`, ... Whole sequences: `x` is (T, B) or
    (T, B, I), and `output` has one answer for each step in front, or one for the sequence for a classifier or
    forecaster.

    Args:
        network: as of `Decoder`; the mean over the steps of a classifier needs `sequences`.
        path: of the file.
        sequences: whole sequences instead of one step.
        precision: "exact", or "int8" by ONNX Runtime's dynamic quantisation, with 7 bits for the weights: the sums of 8
            bits saturate on AVX2. It quantises matrix products and LSTMs, not GRUs, RNNs and what is in a Scan.

    Raises:
        TypeError: a network that the decoder does not know.
        ValueError: the packages of the extra `onnx` are missing, no such precision, or one step of a network that reads
            the mean over the steps.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision of ONNX must be one of {', '.join(PRECISIONS)}, got {precision!r}. Choose one.")
    for package in ("onnx", "onnxruntime")[: 1 if precision == "exact" else 2]:
        if find_spec(package) is None:
            raise ValueError(f"ONNX needs the package {package}, got none. Run pip install 'hyperpruning[onnx]'.")
    parts = network_parts(network)
    if parts.pooled and not sequences:
        raise ValueError(
            'pool of a network as one step of ONNX must be "last", got "mean". Export whole sequences (--sequences).'
        )
    content = _model(parts, sequences).SerializeToString()
    write_atomic(Path(path), content if precision == "exact" else _quantised(content))
    return Path(path)


def _quantised(content: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        exact, rounded = Path(folder) / "exact.onnx", Path(folder) / "int8.onnx"
        exact.write_bytes(content)
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # its advice to preprocess the graph
        try:
            quantize_dynamic(exact, rounded, weight_type=QuantType.QInt8, reduce_range=True)
        finally:
            logging.disable(disabled)
        return rounded.read_bytes()


def _model(parts: NetworkParts, sequences: bool) -> Any:
    from onnx import TensorProto, checker, helper

    graph = Graph()
    below, inputs, outputs = _standardised(graph, parts), list[Any](), list[Any]()
    lead: list[Any] = ["T", "B"] if sequences else ["B"]
    kind, shape = (TensorProto.FLOAT, [*lead, parts.inputs]) if parts.embedding is None else (TensorProto.INT64, lead)
    inputs.append(helper.make_tensor_value_info("x", kind, shape))
    for number, layer in enumerate(parts.layers):
        names = [f"h{number}", f"c{number}"][: 2 if layer.cell == "lstm" else 1]
        below, *ends = (_sequence if sequences else _step)(graph, layer, below, names)
        for name, end in zip(names, ends, strict=True):
            graph.add("Identity", end, name=f"{name}_next")
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", layer.hidden]))
            outputs.append(helper.make_tensor_value_info(f"{name}_next", TensorProto.FLOAT, ["B", layer.hidden]))
    answer = _answer(graph, parts, below, sequences)
    graph.add("Identity", answer, name="output")
    outputs.insert(0, helper.make_tensor_value_info("output", TensorProto.FLOAT, _shape(parts, lead)))
    made = helper.make_graph(graph.nodes, "network", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def _shape(parts: NetworkParts, lead: list[Any]) -> list[Any]:
    """The shape of the output."""
    head = parts.head.decoder if isinstance(parts.head, Mixture) else parts.head
    if parts.embedding is not None or head is None:
        return [*lead, parts.hidden if head is None else len(head.bias)]
    return ["B", parts.horizon, parts.inputs] if parts.horizon else ["B", len(head.bias)]


class Graph:
    """Nodes and constants of a graph that grows.

    Args:
        prefix: of the names.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.prefix = prefix

    def add(self, operator: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or their names."""
        from onnx import helper

        names = [name or f"{self.prefix}n{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        name = f"{self.prefix}constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def linear(self, x: str, linear: Linear) -> str:
        """W x + b for the last axis of x."""
        product = self.add("MatMul", x, self.constant(linear.weight.T.numpy()))
        return str(self.add("Add", product, self.constant(linear.bias.numpy())))

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts of the last axis."""
        return [x] if parts == 1 else list(self.add("Split", x, outputs=parts, axis=-1, num_outputs=parts))


def _standardised(graph: Graph, parts: NetworkParts) -> str:
    if parts.embedding is not None:
        return str(graph.add("Gather", graph.constant(parts.embedding.numpy()), "x"))
    if parts.mean is None or parts.deviation is None:
        return "x"
    centred = graph.add("Sub", "x", graph.constant(parts.mean.numpy()))
    return str(graph.add("Div", centred, graph.constant(parts.deviation.numpy())))


def _step(graph: Graph, layer: Layer, x: str, names: list[str]) -> tuple[str, ...]:
    """h, and the state after a step: h, or h and c."""
    a, b = graph.linear(x, layer.input), graph.linear(names[0], layer.recurrent[0])
    if layer.cell == "lstm":
        i, f, g, o = graph.split(graph.add("Add", a, b), 4)
        i, f, o, g = (*(graph.add("Sigmoid", gate) for gate in (i, f, o)), graph.add("Tanh", g))
        c = graph.add("Add", graph.add("Mul", f, names[1]), graph.add("Mul", i, g))
        h = graph.add("Mul", o, graph.add("Tanh", c))
        return h, h, c
    if layer.cell == "gru":
        (r, z, n), (hr, hz, hn) = graph.split(a, 3), graph.split(b, 3)
        r, z = (graph.add("Sigmoid", graph.add("Add", one, two)) for one, two in ((r, hr), (z, hz)))
        fresh = graph.add("Tanh", graph.add("Add", n, graph.add("Mul", r, hn)))
        h = graph.add("Add", fresh, graph.add("Mul", z, graph.add("Sub", names[0], fresh)))
        return h, h
    if layer.cell.startswith("rnn"):
        h = graph.add("Tanh" if layer.cell == "rnn_tanh" else "Relu", graph.add("Add", a, b))
        return h, h
    h = _highway(graph, layer, graph.add("Add", a, b), names[0])
    return h, h


def _highway(graph: Graph, layer: Layer, gates: str, s: str) -> str:
    """The state of a recurrent highway layer after all micro-steps."""
    one = graph.constant(np.ones((), np.float32))
    for depth, recurrent in enumerate(layer.recurrent):
        gates = graph.linear(s, recurrent) if depth else gates
        h, t, *others = graph.split(gates, 2 if layer.cell == "rhn" else 3)
        transform = graph.add("Sigmoid", t)
        carry = graph.add("Sigmoid", others[0]) if others else graph.add("Sub", one, transform)
        s = graph.add("Add", graph.add("Mul", graph.add("Tanh", h), transform), graph.add("Mul", s, carry))
    return s


def _sequence(graph: Graph, layer: Layer, x: str, names: list[str]) -> tuple[str, ...]:
    """The outputs of all steps (T, B, H), and the last state."""
    if layer.cell not in OPERATORS:
        return _scanned(graph, layer, x, names[0])
    order = [torch.arange(layer.hidden) + gate * layer.hidden for gate in ORDER[layer.cell]]
    rows = torch.cat(order)
    biases = torch.cat([layer.input.bias[rows], layer.recurrent[0].bias[rows]])
    weights = [graph.constant(value[None].numpy()) for value in _in_order(layer, rows)]
    axis = graph.constant(np.array([0], np.int64))
    starts = [graph.add("Unsqueeze", name, axis) for name in names]
    attributes: dict[str, Any] = {"hidden_size": layer.hidden}
    if layer.cell == "gru":
        attributes["linear_before_reset"] = 1  # as torch: the reset gate multiplies R h + b
    if layer.cell == "rnn_relu":
        attributes["activations"] = ["Relu"]
    inputs = [x, *weights, graph.constant(biases[None].numpy()), "", *starts]
    outputs, *ends = graph.add(OPERATORS[layer.cell], *inputs, outputs=1 + len(names), **attributes)
    squeezed = [graph.add("Squeeze", end, axis) for end in ends]
    return graph.add("Squeeze", outputs, graph.constant(np.array([1], np.int64))), *squeezed


def _in_order(layer: Layer, rows: Tensor) -> tuple[Tensor, Tensor]:
    return layer.input.weight[rows], layer.recurrent[0].weight[rows]


def _scanned(graph: Graph, layer: Layer, x: str, start: str) -> tuple[str, ...]:
    from onnx import TensorProto, helper

    body = Graph(prefix=f"{start}_")
    state, step = f"{start}_state", f"{start}_input"
    h, _ = _step(body, layer, step, [state])
    body.add("Identity", h, name=f"{start}_after")
    body.add("Identity", h, name=f"{start}_out")
    sizes = {state: layer.hidden, step: layer.input.weight.shape[1]}
    sizes |= {f"{start}_after": layer.hidden, f"{start}_out": layer.hidden}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in sizes.items()]
    scanned = helper.make_graph(body.nodes, f"{start}_step", infos[:2], infos[2:], body.constants)
    end, outputs = graph.add("Scan", start, x, outputs=2, body=scanned, num_scan_inputs=1)
    return outputs, end


def _answer(graph: Graph, parts: NetworkParts, below: str, sequences: bool) -> str:
    if isinstance(parts.head, Mixture):
        return _mixed(graph, parts.head, below)
    if parts.head is None:
        return below
    if sequences and parts.embedding is None:  # a classifier or forecaster answers once
        if parts.pooled:
            below = graph.add("ReduceMean", below, graph.constant(np.array([0], np.int64)), keepdims=0)
        else:
            below = graph.add("Gather", below, graph.constant(np.array(-1, np.int64)), axis=0)
    answer = graph.linear(below, parts.head)
    if parts.horizon and parts.mean is not None and parts.deviation is not None:
        shape = graph.constant(np.array([-1, parts.horizon, parts.inputs], np.int64))
        scaled = graph.add("Mul", graph.add("Reshape", answer, shape), graph.constant(parts.deviation.numpy()))
        answer = graph.add("Add", scaled, graph.constant(parts.mean.numpy()))
    return answer


def _mixed(graph: Graph, mixture: Mixture, h: str) -> str:
    """Log-probabilities as of `MixtureOfSoftmaxes`: a sum over the experts."""
    experts = len(mixture.prior.bias)
    priors = graph.split(graph.add("Softmax", graph.linear(h, mixture.prior), axis=-1), experts)
    latents = graph.split(graph.add("Tanh", graph.linear(h, mixture.latent)), experts)
    terms = [
        graph.add("Mul", prior, graph.add("Softmax", graph.linear(latent, mixture.decoder), axis=-1))
        for prior, latent in zip(priors, latents, strict=True)
    ]
    total = graph.add("Sum", *terms)
    floor = graph.constant(np.array(PROBABILITY_FLOOR, np.float32))
    return str(graph.add("Log", graph.add("Add", total, floor)))
