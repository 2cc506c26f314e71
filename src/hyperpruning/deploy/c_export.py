"""A network as one C99 file and a header, without dependencies: the kernel of the decoder, and the weights as arrays.

The file allocates nothing and has no variables: the caller owns the state. Each matrix has the format with the fewest
bytes. int8 computes the same bits as `Decoder(network, precision="int8")`.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import Structure, c_float, c_int8, c_int32, c_uint8, c_uint32
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperpruning.deploy.compiler import SOURCE
from hyperpruning.deploy.native_network import CANDIDATES, likely_formats
from hyperpruning.deploy.packing import PAD, Array, Packed, pack, rounded_up
from hyperpruning.deploy.parts import Layer, Linear, Mixture, NetworkParts, network_parts
from hyperpruning.files import write_atomic
from hyperpruning.settings import did_you_mean

TYPES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t"}
TYPES |= {"int32": "int32_t"}
MATRIX = ("values", "offsets", "bases", "starts", "order", "scales", "sums")  # in the order of hp_matrix
CAST = {"values": "(const void *)"}
WIDTH = 120


@dataclass(frozen=True)
class Exported:
    """What `export_c` wrote.

    Attributes:
        source: the C file.
        header: beside it.
        constants: bytes of the weights.
        state: bytes of a state, ``sizeof(NAME_state)``.
    """

    source: Path
    header: Path
    constants: int
    state: int


def export_c(network: nn.Module, path: Path | str, *, precision: str = "exact") -> Exported:
    """Write a network as C.

    Args:
        network: as of `Decoder`, but without a mixture of softmaxes.
        path: of the file, NAME.c; NAME.h is written beside it. The functions are NAME_reset and NAME_step.
        precision: "exact" (float) or "int8".

    Raises:
        TypeError: a network that the decoder does not know.
        ValueError: a mixture of softmaxes, a precision or a name that C cannot have, or weights that are not finite.
    """
    path, parts = Path(path), network_parts(network)
    if precision not in CANDIDATES:
        raise ValueError(
            f"precision of a C file must be one of {', '.join(CANDIDATES)}, got {precision!r}."
            f"{did_you_mean(precision, CANDIDATES) or ' Choose one of these.'}"
        )
    if path.suffix != ".c" or not re.fullmatch(r"[A-Za-z]\w*", path.stem, flags=re.ASCII):
        raise ValueError(f"A C file must be named as a C identifier with .c, got {path.name}. Name it network.c.")
    if isinstance(parts.head, Mixture):
        raise ValueError("A network as C must have one softmax, got a mixture of softmaxes. Use Decoder.")
    if not all(bool(torch.isfinite(value).all()) for value in parts.tensors().values()):
        raise ValueError("A network as C must have finite weights, got inf or nan. Train the network again.")
    source = _Source(path.stem, parts, precision)
    written = Exported(path, path.with_suffix(".h"), source.constants, ctypes.sizeof(source.state))
    write_atomic(written.header, source.header(written).encode())
    write_atomic(path, source.text(written).encode())
    return written


class _Source:
    """The text of the C file.

    Args:
        name: prefix of what is visible.
        parts: of the network.
        precision: "exact" or "int8".
    """

    def __init__(self, name: str, parts: NetworkParts, precision: str) -> None:
        self.name, self.parts, self.precision = name, parts, precision
        self.arrays, self.constants = list[str](), 0
        self.linears = list(parts.linears())
        self.packed = [_smallest(linear.weight, precision) for linear in self.linears]
        self.head = parts.head if isinstance(parts.head, Linear) else None
        self.outputs = len(self.head.bias) if self.head else parts.hidden
        self.state = self._state()

    def header(self, written: Exported) -> str:
        """The header."""
        upper, parts = self.name.upper(), self.parts
        token = "int32_t token" if parts.embedding is not None else "const float *input"
        given = f"a token, 0 to {upper}_INPUTS - 1" if parts.embedding is not None else f"{upper}_INPUTS floats"
        inputs = parts.inputs if parts.embedding is None else len(parts.embedding)
        return (
            f"{self._comment(written)}\n#ifndef {upper}_H\n#define {upper}_H\n#include <stdint.h>\n\n"
            f"#define {upper}_INPUTS {inputs}\n#define {upper}_OUTPUTS {self.outputs}\n\n"
            "/* The state of one sequence, and work space. */\n"
            f"typedef struct {{\n{_declared(self.state)}}} {self.name}_state;\n\n"
            "/* Begin a sequence: a state of zeros. Call it before the first step. */\n"
            f"void {self.name}_reset({self.name}_state *state);\n\n"
            f"/* One step: {given}, to {upper}_OUTPUTS floats.\n"
            " * Returns 0, or 1 for a token outside the vocabulary; the state is then unchanged. */\n"
            f"int {self.name}_step({self.name}_state *state, {token}, float *output);\n\n#endif\n"
        )

    def text(self, written: Exported) -> str:
        """The C file."""
        kernel = re.sub(r"^(int32_t|void) (hp_\w+\()", r"static \1 \2", SOURCE.read_text(), flags=re.MULTILINE)
        matrices = ",\n".join(self._matrix(number, packed) for number, packed in enumerate(self.packed))
        layers = ",\n".join(self._layer(number, layer) for number, layer in enumerate(self.parts.layers))
        parts = self.parts
        for name, value in (("embedding", parts.embedding), ("mean", parts.mean), ("deviation", parts.deviation)):
            if value is not None:
                self._array(name, value)
        if self.head:
            self._array("head_bias", self.head.bias)
        return "\n".join(
            [
                f'{self._comment(written)}\n#include "{written.header.name}"\n',
                kernel,
                *self.arrays,
                f"static const hp_matrix matrices[{len(self.packed)}] = {{\n{matrices}}};\n",
                f"static const hp_layer layers[{len(parts.layers)}] = {{\n{layers}}};\n",
                self._functions(),
            ]
        )

    def _comment(self, written: Exported) -> str:
        kind = "int8 weights and activations" if self.precision == "int8" else "float weights"
        rows = [
            f"/* {self.name}: {len(self.parts.layers)} recurrent layers ({self.parts.layers[0].cell}), {kind}.",
            " *",
            f" * Memory: {written.constants:,} bytes of constants, {written.state:,} bytes for each state. Nothing is",
            " * allocated, and there are no variables outside the state: threads may step different states.",
            " *",
            " * Compile as C99; gcc needs -std=c99 or -ffp-contract=off, clang neither. The instructions are chosen in",
            " * reset: AVX-512, AVX2, NEON or plain C. Written by hyperprune export. */",
        ]
        return "\n".join(rows)

    def _matrix(self, number: int, packed: Packed) -> str:
        fields = []
        for name in MATRIX:
            array = packed.arrays.get(name)
            fields.append("0" if array is None else self._array(f"matrix{number}_{name}", array))
        return f"    {{{packed.format.upper()}, {packed.rows}, {packed.columns}, {packed.groups}, {', '.join(fields)}}}"

    def _layer(self, number: int, layer: Layer) -> str:
        first = next(n for n, linear in enumerate(self.linears) if linear.name == layer.input.name)
        w = self._array(f"layer{number}_input_bias", layer.input.bias)
        r = self._array(f"layer{number}_recurrent_bias", torch.cat([linear.bias for linear in layer.recurrent]))
        sizes = f"{layer.input.weight.shape[1]}, {layer.hidden}, {len(layer.recurrent)}"
        return f"    {{{layer.cell.upper()}, {sizes}, matrices + {first}, matrices + {first + 1}, {w}, {r}}}"

    def _array(self, name: str, value: Tensor | Array) -> str:
        """Add a constant array; return its name."""
        array = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value).reshape(-1)
        self.arrays.append(
            f"static const {TYPES[array.dtype.name]} {name}[{max(1, len(array))}] = {_initial(array)};\n"
        )
        return name

    def _state(self) -> Any:
        """The struct of the state: what the sequence is, then the work space of the kernel."""
        parts, columns = self.parts, max(packed.columns for packed in self.packed)
        plane = rounded_up(columns + PAD, PAD) + PAD
        rows = max(len(layer.input.weight) for layer in parts.layers)
        most = rounded_up(max(packed.rows for packed in self.packed), 16)
        fields: list[tuple[str, Any]] = [("build", c_int32), ("steps", c_uint32), ("h", c_float * parts.state_size)]
        if parts.pooled:
            fields.append(("sum", c_float * parts.hidden))
        floats = {"top": parts.hidden, "vector": parts.inputs, "from_input": rows, "from_state": rows}
        fields += [(name, c_float * size) for name, size in (floats | {"input": plane, "floats": most}).items()]
        fields += [("integers", c_int32 * most), ("signed8", c_int8 * plane)]
        fields += [(name, c_uint8 * size) for name, size in (("unsigned8", plane), ("planes", 4 * plane))]
        fields += [("changes", c_uint8 * (4 * plane))]
        self.plane = plane
        tensors = [parts.embedding, parts.mean, parts.deviation, self.head.bias if self.head else None]
        biases = chain.from_iterable((layer.input, *layer.recurrent) for layer in parts.layers)
        self.constants = 4 * sum(value.numel() for value in tensors if value is not None)
        self.constants += 4 * sum(linear.bias.numel() for linear in biases)
        self.constants += sum(array.nbytes for packed in self.packed for array in packed.arrays.values())
        return type("State", (Structure,), {"_fields_": fields})

    def _functions(self) -> str:
        parts, name = self.parts, self.name
        has = {"embedding": parts.embedding, "mean": parts.mean, "deviation": parts.deviation}
        tokens, late = parts.embedding is not None, parts.pooled
        head = f"matrices + {len(self.packed) - 1}, .head_bias = head_bias" if self.head and not late else "0"
        after = ""
        if late:
            after = _POOLED.replace("HEAD", f"matrices + {len(self.packed) - 1}")
        if parts.horizon:
            after += f"    for (int j = 0; j < {self.outputs}; j++)\n"
            after += f"        output[j] = output[j] * deviation[j % {parts.inputs}] + mean[j % {parts.inputs}];\n"
        return (
            _FUNCTIONS.replace("NAME", name)
            .replace("ARGUMENT", "int32_t token" if tokens else "const float *input")
            .replace("BEFORE", "    const int64_t number = token, *input = &number;\n" if tokens else "")
            .replace("SIZES", f".layers = {len(parts.layers)}, .inputs = {parts.inputs}, .state = {parts.state_size}")
            .replace("OUTPUTS", str(parts.hidden if late else self.outputs))
            .replace("VOCABULARY", str(len(parts.embedding)) if parts.embedding is not None else "0")
            .replace(
                "CONSTANTS",
                ", ".join(f".{key} = {key}" for key, value in has.items() if value is not None) or ".mean = 0",
            )
            .replace("HEAD", head)
            .replace("PLANE", str(self.plane))
            .replace("TARGET", "state->top" if late else "output")
            .replace("AFTER", after)
            .replace("HIDDEN", str(parts.hidden))
            .replace("ROWS", str(self.outputs))
        )


_FUNCTIONS = """\
void NAME_reset(NAME_state *state) {
    memset(state, 0, sizeof *state);
    for (int build = 0; build < BUILDS; build++)
        if (hp_has_build(build)) state->build = build;
}

int NAME_step(NAME_state *state, ARGUMENT, float *output) {
BEFORE    const hp_plan plan = {
        .build = state->build, SIZES, .outputs = OUTPUTS, .vocabulary = VOCABULARY,
        CONSTANTS, .layer = layers, .head = HEAD,
        .vector = state->vector, .from_input = state->from_input, .from_state = state->from_state,
        .work = {state->input, state->signed8, state->unsigned8, state->planes, state->changes, PLANE,
                 state->integers, state->floats}};
    if (hp_step(&plan, 1, input, state->h, TARGET)) return 1;
    state->steps++;
AFTER    return 0;
}
"""
_POOLED = """\
    for (int j = 0; j < HIDDEN; j++) {
        state->sum[j] += state->top[j];
        state->top[j] = state->sum[j] / (float)state->steps;
    }
    hp_product(plan.build, HEAD, &plan.work, state->top, output);
    for (int j = 0; j < ROWS; j++) output[j] += head_bias[j];
"""


def _smallest(weight: Tensor, precision: str) -> Packed:
    """The matrix in the format with the fewest bytes."""
    return min((pack(weight, name) for name in likely_formats(weight, precision)), key=lambda packed: packed.nbytes)


def _declared(struct: Any) -> str:
    types = {c_float: "float", c_int32: "int32_t", c_uint32: "uint32_t", c_int8: "int8_t", c_uint8: "uint8_t"}
    rows = []
    for name, kind in struct._fields_:
        element, size = (kind, "") if kind in types else (kind._type_, f"[{kind._length_}]")
        rows.append(f"    {types[element]} {name}{size};\n")
    return "".join(rows)


def _initial(array: Array) -> str:
    """The initializer of an array, in lines."""
    if array.dtype == np.float32:
        texts = [
            text if set(text) & set(".e") else f"{text}.0" for text in (f"{value:.9g}" for value in array.tolist())
        ]
        texts = [f"{text}f" for text in texts]
    else:
        texts = [str(value) for value in array.tolist()]
    lines, line = list[str](), ""
    for text in texts or ["0"]:
        if len(line) + len(text) + 1 > WIDTH:
            lines.append(line)
            line = ""
        line += f"{text},"
    return "{\n" + "\n".join([*lines, line]) + "}"
