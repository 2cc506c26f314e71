"""What a decoder computes, taken from a module: recurrent layers, and what comes before and after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.sequence_model import Forecaster, SequenceModel
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.models.stack import Stack

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "rhn", "uncoupled_rhn")  # numbered as in kernel.c
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1, "rhn": 2, "uncoupled_rhn": 3}


@dataclass(frozen=True)
class Linear:
    """y = W x + b; `name` of the weight (R, C) in the module, bias (R,)."""

    name: str
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Layer:
    """A recurrent layer with G gates in the rows of each matrix.

    Attributes:
        cell: one of `CELLS`.
        hidden: units H.
        input: W (G H, I) and its bias; for an LSTM or RNN the bias is the sum of torch's two.
        recurrent: R (G H, H) and its bias, one for each micro-step.
    """

    cell: str
    hidden: int
    input: Linear
    recurrent: tuple[Linear, ...]

    @property
    def state_size(self) -> int:
        """Entries of the state of one sequence: h, or h and c."""
        return self.hidden * (2 if self.cell == "lstm" else 1)


@dataclass(frozen=True)
class Mixture:
    """A mixture of softmaxes, see `MixtureOfSoftmaxes`."""

    prior: Linear
    latent: Linear
    decoder: Linear


@dataclass(frozen=True)
class NetworkParts:
    """A network.

    Attributes:
        layers: from the bottom up.
        embedding: (V, I); None: inputs are vectors (I,).
        mean: (I,), subtracted from the inputs; None: nothing is.
        deviation: (I,), divides the difference.
        head: after the top layer.
        pooled: whether the head reads the mean of the top layer's outputs so far instead of the last one.
        horizon: steps of a forecast, in the units of the data; 0 for other networks.
    """

    layers: tuple[Layer, ...]
    embedding: Tensor | None = None
    mean: Tensor | None = None
    deviation: Tensor | None = None
    head: Linear | Mixture | None = None
    pooled: bool = False
    horizon: int = 0

    @property
    def inputs(self) -> int:
        """Entries I of an input vector or of an embedding."""
        return self.layers[0].input.weight.shape[1]

    @property
    def hidden(self) -> int:
        """Units of the top layer."""
        return self.layers[-1].hidden

    @property
    def state_size(self) -> int:
        """Entries of the state of one sequence."""
        return sum(layer.state_size for layer in self.layers)

    def linears(self) -> Iterator[Linear]:
        """Every matrix that is multiplied, from the bottom up."""
        for layer in self.layers:
            yield from (layer.input, *layer.recurrent)
        if isinstance(self.head, Mixture):
            yield from (self.head.prior, self.head.latent, self.head.decoder)
        elif self.head is not None:
            yield self.head

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name: what tells one network from another."""
        named: dict[str, Tensor] = {}
        for number, linear in enumerate(self.linears()):
            named |= {f"{number}.weight": linear.weight, f"{number}.bias": linear.bias}
        rest = {"embedding": self.embedding, "mean": self.mean, "deviation": self.deviation}
        return named | {name: value for name, value in rest.items() if value is not None}


def network_parts(network: nn.Module) -> NetworkParts:
    """Take a network apart.

    Args:
        network: `LanguageModel`, `SequenceClassifier`, `Forecaster`, `nn.LSTM`, `nn.GRU`, `nn.RNN`, `RHNLayer` or
            `Stack`.

    Raises:
        TypeError: another module; the sentence names it.
        ValueError: a recurrent module of torch that is bidirectional or has a projection.
    """
    if isinstance(network, LanguageModel):
        layers, embedding = _layers(network.rnn, "rnn."), _copy(network.encoder.weight)
        if isinstance(network.decoder, MixtureOfSoftmaxes):
            parts = {"prior": network.decoder.prior, "latent": network.decoder.latent, "decoder": network.decoder}
            names = {"prior": "decoder.prior", "latent": "decoder.latent", "decoder": "decoder"}
            return NetworkParts(layers, embedding, head=Mixture(**{k: _linear(names[k], v) for k, v in parts.items()}))
        return NetworkParts(layers, embedding, head=_linear("decoder", network.decoder))
    if isinstance(network, SequenceModel):
        horizon = network.sizes["horizon"] if isinstance(network, Forecaster) else 0
        mean, deviation = _copy(network.mean), _copy(network.scale)
        head, pooled = _linear("output", network.output), network.pool == "mean"
        layers = _layers(network.rnn, "rnn.")
        return NetworkParts(layers, mean=mean, deviation=deviation, head=head, pooled=pooled, horizon=horizon)
    return NetworkParts(_layers(network, ""))


def _layers(module: nn.Module, prefix: str) -> tuple[Layer, ...]:
    if isinstance(module, Stack):
        return tuple(layer for number, one in enumerate(module) for layer in _layers(one, f"{prefix}{number}."))
    if isinstance(module, RHNLayer):
        return (_highway_layer(module, prefix),)
    if not isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        raise TypeError(
            "A network for the decoder must be a LanguageModel, SequenceClassifier, Forecaster, nn.LSTM, nn.GRU, "
            f"nn.RNN, RHNLayer or Stack, got {type(module).__name__}. Give its recurrent layers and a head."
        )
    for option in ("bidirectional", "proj_size"):
        if value := getattr(module, option):
            raise ValueError(
                f"{option} of a network for the decoder must be {type(value)(0)!r}, got {value!r} in an "
                f"{type(module).__name__}. Train it without."
            )
    return tuple(_torch_layer(module, number, prefix) for number in range(module.num_layers))


def _torch_layer(module: nn.RNNBase, number: int, prefix: str) -> Layer:
    cell = module.mode.lower()
    names = [f"weight_ih_l{number}", f"weight_hh_l{number}"]
    matrices = [_copy(getattr(module, name)) for name in names]
    zeros = torch.zeros(len(matrices[0]))
    biases = [_copy(getattr(module, f"bias_{part}_l{number}")) if module.bias else zeros for part in ("ih", "hh")]
    if cell != "gru":  # torch adds both to the same sum
        biases = [biases[0] + biases[1], zeros]
    w, r = (Linear(prefix + name, *pair) for name, *pair in zip(names, matrices, biases, strict=True))
    return Layer(cell, module.hidden_size, w, (r,))


def _highway_layer(module: RHNLayer, prefix: str) -> Layer:
    w = Linear(f"{prefix}w", _copy(module.w), torch.zeros(len(module.w)))
    r = [Linear(f"{prefix}r.{d}", _copy(r), _copy(module.b[d])) for d, r in enumerate(module.r)]
    return Layer("rhn" if module.coupled else "uncoupled_rhn", module.hidden_size, w, tuple(r))


def _linear(name: str, module: nn.Linear) -> Linear:
    bias = torch.zeros(module.out_features) if module.bias is None else _copy(module.bias)
    return Linear(f"{name}.weight", _copy(module.weight), bias)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()
